"""A split and a network -> one confusion matrix for each test mode, and what it says.

`python -m cropjax.evaluate --config configs/demo.py --workdir runs/demo [--checkpoint best]`
"""

import json
from functools import partial

import jax
import numpy as np
from absl import flags

from cropjax import commandline
from cropjax.config import build_source, label_set
from cropjax.data.pipeline import eval_batches
from cropjax.distributed import sum_over_processes
from cropjax.inference import Inference
from cropjax.metrics import Scores, confusion_matrix
from cropjax.panels import panel
from cropjax.progress import Progress
from cropjax.restore import restore_run
from cropjax.sharding import local_mesh, local_view, make_mesh, place_batch, replicated
from cropjax.watchdog import Watchdog
from cropjax.workdir import write_text

CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "What to evaluate: best, latest, or a step.")


def images_a_batch(config, mesh):
    """This process's part of `eval.batch_size`, filled up to a multiple of its devices: filling changes no metric."""
    devices = local_mesh(mesh).shape["data"]
    return -(-config.eval.batch_size // (devices * jax.process_count())) * devices


def check_evaluation(inference, template, source, config):
    """Traces the network on what it will see of the first record: a window that cannot work raises before training."""
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _weights(template))
    inference.check(weights, source[0]["label"].shape, config.eval.modes)


def _weights(state):
    return {part: state[part] for part in ("params", "batch_stats")}


def evaluate(inference, state, source, config, mesh, *, panels=0, stops=lambda: False):
    """Scores the weights of `state` on every record of `source` under every mode of `eval.modes`.

    `inference` is an `Inference` on this process's part of `mesh`.

    Each process has every so many-th record, and all get the sum. `stops` is asked after every batch; where it says
    yes in one process, all return None. One of several that gets no further for `data.patience` seconds ends itself.

    Returns:
        {mode: Scores}, and for the first `panels` records of this process {name: picture} of the first mode, uint8
        [h,w',3].
    """
    labels, modes = label_set(config), config.eval.modes
    processes, here = jax.process_count(), local_mesh(mesh)
    weights = local_view(_weights(state), mesh)
    watchdog = Watchdog(config.data.patience, "data.patience")
    batches = eval_batches(
        source,
        batch_size=images_a_batch(config, mesh),
        process_index=jax.process_index(),
        process_count=processes,
        on_record=watchdog.beat,
    )
    count = jax.jit(partial(confusion_matrix, num_classes=labels.num_classes), out_shardings=replicated(here))
    confusion = {mode: np.zeros((labels.num_classes, labels.num_classes), np.int64) for mode in modes}
    pictures, done, pending, stopped = {}, 0, [], False

    def collect():
        for mode, matrix in pending:
            confusion[mode] += np.asarray(matrix)
        pending.clear()

    with Progress(len(source), unit="image", label="evaluate", enabled=jax.process_index() == 0) as progress, watchdog:
        watchdog.beat()
        for batch in batches:
            label = place_batch({"label": batch["label"]}, here)["label"]
            with watchdog.pause():  # for what has a new size a program is compiled
                ids = {mode: inference.ids(weights, batch["image"], mode) for mode in modes}
                found = {mode: count(ids[mode], label) for mode in modes}
            if not done:
                with watchdog.pause(counts=True):
                    jax.block_until_ready(found)
            collect()  # of the batch before this one: the device has work meanwhile
            pending += found.items()
            for i, name in enumerate(batch["names"][: panels - len(pictures)]):
                pictures[name] = small_panel(batch["image"][i], batch["label"][i], np.asarray(ids[modes[0]][i]), labels)
            done += len(batch["names"]) * processes
            progress.update(min(done, len(source)))
            watchdog.beat()
            if stopped := stops():
                break
        collect()
    total = sum_over_processes(np.stack([*confusion.values(), np.full_like(confusion[modes[0]], stopped)]))
    if total[-1].any():
        return None
    return {mode: Scores.of(matrix) for mode, matrix in zip(modes, total, strict=False)}, pictures


def small_panel(image, label, ids, labels, *, width=512):
    """`panel` of one record, thinned out to `width` pixels at most a picture."""
    every = -(-label.shape[1] // width)
    return panel(*(np.ascontiguousarray(x[::every, ::every]) for x in (image, label, ids)), labels)


def summarize(scores):
    """{mode: Scores} -> {"whole/miou": ...}, the values that are logged and that `eval.best` names."""
    return {f"{mode}/{name}": value for mode, s in scores.items() for name, value in s.summary.items()}


def evaluate_run(config, workdir):
    """The command: restores a checkpoint of the run, prints the tables and writes `<workdir>/evaluation.json`."""
    mesh = make_mesh(**config.mesh)
    step, graph, state = restore_run(config, workdir, CHECKPOINT.value, mesh)
    source = build_source(config, "eval")
    scores, _ = evaluate(Inference(graph, config, local_mesh(mesh)), state, source, config, mesh)
    if jax.process_index() != 0:
        return
    names = label_set(config).names
    for mode, s in scores.items():
        print(f"\n{workdir} step {step}, {config.data.eval_split} split, {len(source)} images, {mode}")
        print(s.table(names))
    report = {
        mode: {
            **{name: _number(value) for name, value in s.summary.items()},
            "iou": {name: _number(value) for name, value in zip(names, s.iou, strict=True)},
            "confusion": s.confusion.tolist(),
        }
        for mode, s in scores.items()
    }
    write_text(workdir / "evaluation.json", json.dumps({"step": step, **report}, indent=1) + "\n")


def _number(value):
    """JSON has no nan: a class that neither occurs nor is predicted has null."""
    return None if np.isnan(value) else float(value)


if __name__ == "__main__":
    commandline.run(evaluate_run, joins=True)
