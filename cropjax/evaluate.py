"""A split and a network -> one confusion matrix for each test mode, and what it says.

`python -m cropjax.evaluate --config configs/demo.py --workdir runs/demo [--checkpoint best]`
"""

import json
from functools import partial

import cv2
import jax
import numpy as np
from absl import flags

from cropjax import commandline
from cropjax.config import build_source, label_set
from cropjax.data.pipeline import eval_batches
from cropjax.data.transforms import rescaled_size, resize
from cropjax.distributed import sum_over_processes
from cropjax.inference import make_predict
from cropjax.metrics import Scores, confusion_matrix
from cropjax.panels import panel
from cropjax.progress import Progress
from cropjax.restore import restore_run
from cropjax.sharding import batch_form, local_mesh, local_view, make_mesh, place_batch, replicated, split_batch
from cropjax.step import weights_of
from cropjax.watchdog import Watchdog
from cropjax.workdir import write_text

CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "What to evaluate: best, latest, or a step.")


def make_score(graph, config, mesh):
    """The jitted `(weights, batch, mode) -> (confusion int32 [k,k], class ids uint8 [n,h,w])`, on our own devices.

    No process waits for another while it evaluates: their images may be of other sizes, and take other times.
    """
    here = local_mesh(mesh)
    predict = make_predict(graph, config, here)
    classes = label_set(config).num_classes

    @partial(jax.jit, static_argnames="mode", out_shardings=(replicated(here), split_batch(here)))
    def score(weights, batch, mode):
        ids = predict(weights, batch["image"], batch["label"].shape[1:], mode)
        return confusion_matrix(ids, batch["label"], classes), ids

    return score


def images_a_batch(config, mesh):
    """This process's part of `eval.batch_size`, filled up to a multiple of its devices: filling changes no metric."""
    devices = local_mesh(mesh).shape["data"]
    return -(-config.eval.batch_size // (devices * jax.process_count())) * devices


def check_evaluation(score, template, source, config, mesh):
    """Traces `score` on the shape of the first record, so that a window that cannot work raises before training."""
    size = source[0]["label"].shape
    image = (*rescaled_size(size, tuple(config.data.scale)), 3)
    n, here = images_a_batch(config, mesh), local_mesh(mesh)
    batch = batch_form(n, here, image=(image, np.uint8), label=(size, np.uint8))
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _weights(template))
    for mode in config.eval.modes:
        score.eval_shape(weights, batch, mode)


def _weights(state):
    return weights_of(state)


def evaluate(score, state, source, config, mesh, *, panels=0, stops=lambda: False):
    """Scores the weights of `state` on every record of `source` under every mode of `eval.modes`.

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
        scale=tuple(config.data.scale),
        batch_size=images_a_batch(config, mesh),
        process_index=jax.process_index(),
        process_count=processes,
        on_record=watchdog.beat,
    )
    confusion = {mode: np.zeros((labels.num_classes, labels.num_classes), np.int64) for mode in modes}
    pictures, done, pending, stopped = {}, 0, [], False

    def collect():
        for mode, matrix in pending:
            confusion[mode] += np.asarray(matrix)
        pending.clear()

    with Progress(len(source), unit="image", label="evaluate", enabled=jax.process_index() == 0) as progress, watchdog:
        watchdog.beat()
        for batch in batches:
            placed = place_batch({k: batch[k] for k in ("image", "label")}, here)
            with watchdog.pause():  # for what has a new size a program is compiled
                found = {mode: score(weights, placed, mode) for mode in modes}
            if not done:
                with watchdog.pause(counts=True):
                    jax.block_until_ready(found)
            collect()  # of the batch before this one: the device has work meanwhile
            pending += [(mode, matrix) for mode, (matrix, _) in found.items()]
            for i, name in enumerate(batch["names"][: panels - len(pictures)]):
                ids = np.asarray(found[modes[0]][1][i])
                pictures[name] = small_panel(batch["image"][i], batch["label"][i], ids, labels)
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
    image = resize(image, label.shape, cv2.INTER_LINEAR)
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
    scores, _ = evaluate(make_score(graph, config, mesh), state, source, config, mesh)
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
