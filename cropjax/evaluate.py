"""A split and a network -> one confusion matrix for each test mode, what it says, and what it cannot say.

    python -m cropjax.evaluate --workdir runs/demo [--checkpoint best]

Prints a table for each mode, and writes what evaluation/report.py lists into the run's folder `evaluation`. The config
is the run's own; --config gives another.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from cropjax import commandline
from cropjax.config import build_source, label_set
from cropjax.data.ahead import usable_cores
from cropjax.data.pipeline import eval_batches
from cropjax.distributed import sum_over_processes, union_over_processes
from cropjax.evaluation.details import Details
from cropjax.evaluation.report import text_of, write_evaluation
from cropjax.inference import Inference
from cropjax.metrics import Scores, confusion_matrix
from cropjax.panels import panel
from cropjax.progress import Progress
from cropjax.restore import restore_run
from cropjax.sharding import local_mesh, local_view, make_mesh, place_batch, replicated
from cropjax.step import weights_of
from cropjax.watchdog import Watchdog

CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "What to evaluate: best, latest, or a step.")


def images_a_batch(config, mesh):
    """This process's part of `eval.batch_size`, filled up to a multiple of its devices: filling changes no metric."""
    devices = local_mesh(mesh).shape["data"]
    return -(-config.eval.batch_size // (devices * jax.process_count())) * devices


def check_evaluation(inference, template, source, config):
    """Traces the network on what it will see of the first record: a window that cannot work raises before training."""
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights_of(template))
    inference.check(weights, source[0]["label"].shape, config.eval.modes)


class Evaluation(NamedTuple):
    """What an evaluation found.

    `scores` {mode: Scores}, `details` {mode: Details} and the images' `sizes` {(height, width)}, of all processes; of
    the first images of this one `pictures` {name: uint8 [h,w',3]}, in the first mode.
    """

    scores: dict
    details: dict
    sizes: set
    pictures: dict


def evaluate(inference, state, source, config, mesh, *, panels=0, details=False, stops=lambda: False):
    """Scores the weights of `state` on every record of `source` under every mode of `eval.modes`: an `Evaluation`.

    `inference` is an `Inference` on this process's part of `mesh`. Each process has every so many-th record, and all
    get the sum; `details`, which the processor counts while the device is at the next batch, if they are asked for.
    `stops` is asked after every batch; where it says yes in one process, all return None. One of several that gets no
    further for `data.patience` seconds ends itself.
    """
    labels, modes = label_set(config), config.eval.modes
    processes, here = jax.process_count(), local_mesh(mesh)
    weights = local_view(weights_of(state), mesh)
    watchdog = Watchdog(config.data.patience, "data.patience")
    batches = eval_batches(
        source,
        batch_size=images_a_batch(config, mesh),
        process_index=jax.process_index(),
        process_count=processes,
        on_record=watchdog.beat,
    )
    count = _counting(labels.num_classes, here)
    found = Evaluation(
        {mode: np.zeros((labels.num_classes, labels.num_classes), np.int64) for mode in modes},
        {mode: Details.none(labels.num_classes) for mode in modes} if details else {},
        set(),
        {},
    )
    done, pending, stopped = 0, [], False

    def collect():
        for mode, matrix, of_images in pending:
            found.scores[mode] += np.asarray(matrix)
            for one in of_images:
                found.details[mode] += one.result()
        pending.clear()

    with (
        Progress(len(source), unit="image", label="evaluate", enabled=jax.process_index() == 0) as progress,
        watchdog,
        ThreadPoolExecutor(usable_cores(), thread_name_prefix="details") as threads,
    ):
        watchdog.beat()
        for batch in batches:
            label = place_batch({"label": batch["label"]}, here)["label"]
            with watchdog.pause():  # for what has a new size a program is compiled
                ids = {mode: inference.ids(weights, batch["image"], mode) for mode in modes}
                matrices = {mode: count(ids[mode], label) for mode in modes}
            if not done:
                with watchdog.pause(counts=True):
                    jax.block_until_ready(matrices)
            collect()  # of the batch before this one: the device has work meanwhile
            for mode, matrix in matrices.items():
                pairs = zip(np.asarray(ids[mode]), batch["label"], strict=True) if details else ()
                pending.append(
                    (mode, matrix, [threads.submit(Details.of, *pair, labels.num_classes) for pair in pairs])
                )
            for i, name in enumerate(batch["names"][: panels - len(found.pictures)]):
                prediction = np.asarray(ids[modes[0]][i])
                found.pictures[name] = small_panel(batch["image"][i], batch["label"][i], prediction, labels)
            found.sizes.add(batch["label"].shape[1:])
            done += len(batch["names"]) * processes
            progress.update(min(done, len(source)))
            watchdog.beat()
            if stopped := stops():
                break
        collect()
    total = sum_over_processes(np.stack([*found.scores.values(), np.full_like(found.scores[modes[0]], stopped)]))
    if total[-1].any():
        return None
    return found._replace(
        scores={mode: Scores.of(matrix) for mode, matrix in zip(modes, total, strict=False)},
        details={mode: one.map(sum_over_processes) for mode, one in found.details.items()},
        sizes=union_over_processes(found.sizes),
    )


@cache
def _counting(num_classes, mesh):
    """`confusion_matrix` on `mesh`, one for all evaluations of a run: each would compile its own."""
    return jax.jit(partial(confusion_matrix, num_classes=num_classes), out_shardings=replicated(mesh))


def small_panel(image, label, ids, labels, *, width=512):
    """`panel` of one record, thinned out to `width` pixels at most a picture."""
    every = -(-label.shape[1] // width)
    return panel(*(np.ascontiguousarray(x[::every, ::every]) for x in (image, label, ids)), labels)


def summarize(scores):
    """{mode: Scores} -> {"whole/miou": ...}, the values that are logged and that `eval.best` names."""
    return {f"{mode}/{name}": value for mode, s in scores.items() for name, value in s.summary.items()}


def evaluate_run(config, workdir):
    """The command: restores a checkpoint of the run, prints the tables and writes `<workdir>/evaluation/`."""
    mesh = make_mesh(**config.mesh)
    step, graph, state = restore_run(config, workdir, CHECKPOINT.value, mesh)
    source = build_source(config, "eval")
    inference = Inference(graph, config, local_mesh(mesh))
    first = jax.process_index() == 0
    scores, details, sizes, pictures = evaluate(
        inference, state, source, config, mesh, panels=config.eval.panels if first else 0, details=True
    )
    if not first:
        return
    names = label_set(config).names
    about = conditions(config, sizes) | {"run": str(workdir), "step": step, "images": len(source)}
    print("\n" + text_of(scores, details, names, about))
    write_evaluation(workdir / "evaluation", scores, details, names, about, list(pictures.values()))
    print(f"{workdir / 'evaluation'}: tables and pictures")


def conditions(config, sizes):
    """What `evaluation.sentences` says of a config's evaluation, of images of these `sizes`."""
    data, ev = config.data, config.eval
    notes = [
        f"The network sees images fitted into {max(data.scale)} x {min(data.scale)} pixels (data.scale), "
        f"padded to multiples of {ev.size_divisor} (eval.size_divisor)."
    ]
    if ev.pool_window:
        notes.append(
            "Pooled branches see {} x {} pixels around each position (eval.pool_window).".format(*ev.pool_window)
        )
    if ev.norm_images:
        notes.append(f"BatchNorm's statistics are of {ev.norm_images} whole training images (eval.norm_images).")
    return {
        "split": data.eval_split,
        "dtype": ev.dtype,
        "sizes": [list(size) for size in sorted(sizes)],
        "modes": {mode: _how(mode, ev) for mode in ev.modes},
        "notes": notes,
    }


def _how(mode, ev):
    slides, tta = mode.startswith("slide"), mode.endswith("_tta")
    averaged = [f"logits over windows, {ev.blending} blending"] * slides + ["softmax over views"] * tta
    return {
        "window": list(ev.window) if slides else None,
        "stride": list(ev.stride) if slides else None,
        "scales": list(ev.tta_scales) if tta else [1.0],
        "flip": tta and ev.tta_flip,
        "averaged": ", then ".join(averaged) or None,
    }


if __name__ == "__main__":
    commandline.run_on_run(evaluate_run, joins=True)
