"""What TensorBoard shows of a run before one asks for more.

Its page of custom scalars gets a layout, which says what curves share a chart. Its table of hyperparameters gets the
fields that two runs are compared by; of all runs together TensorBoard finds out itself which of them differ, and shows
these first. It shows five metrics, in the order of their names: so the best score is logged as `best/...`, and the IoU
of the classes, `iou/...`, comes after the scores, `eval/...`.
"""

import re

from cropjax.config import label_set
from cropjax.workdir import compared, fields_of
from cropjax.writers import write_layout


def introduce(writer, config):
    """Writes the settings of a run of `config` and the layout of its curves, at its start."""
    fields = fields_of(config)
    writer.write_hparams(compared(fields))
    lines = "\n".join(f"{name} = {value!r}" for name, value in fields.items())
    writer.write_texts(0, {"config": f"```\n{lines}\n```"})
    write_layout(writer, layout(config))


def layout(config):
    """{category: {chart: patterns of the tags in it}} of what `Loop` and `TrainMetrics` write, but for `best/...`."""
    losses = {"loss": ["train/loss$"]}
    if config.loss.auxiliary_weight:
        losses["parts of the loss"] = ["train/loss_"]
    speed = {"images per second": ["train/images_per_second$"]}
    if config.data.on_error == "skip":
        speed["training files passed over"] = ["train/skipped$"]
    return {
        "Evaluation": {
            "mIoU": ["eval/[^/]+/miou$"],
            "mAcc": ["eval/[^/]+/macc$"],
            "aAcc": ["eval/[^/]+/aacc$"],
        },
        "Training": {**losses, "accuracy of the decode head, %": ["train/accuracy$"]},
        "IoU by class": {name: [f"iou/[^/]+/{re.escape(name)}$"] for name in label_set(config).names},
        "Optimiser": {
            "learning rate": ["train/lr$"],
            "norm of the gradient": ["train/gradient_norm$"],
            "norm of the update": ["train/update_norm$"],
            "norm of the parameters": ["train/parameter_norm$"],
            "norm of BatchNorm's statistics": ["train/statistics_norm$"],
        },
        "Speed": speed,
    }
