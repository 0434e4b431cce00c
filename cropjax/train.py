"""A training run, read from top to bottom in the order in which it happens; its steps are in loop.py."""

import contextlib
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview

from cropjax import tensorboard
from cropjax import workdir as run_folder
from cropjax.checkpoint import Checkpoints
from cropjax.config import (
    build_balance,
    build_batches,
    build_model,
    build_optimizer,
    build_source,
    cells_of,
    example_form,
    label_set,
)
from cropjax.convert import load_torch_state, parts_of
from cropjax.data.prefetch import Prefetch
from cropjax.distributed import same
from cropjax.errors import Stopped, UserError
from cropjax.evaluate import check_evaluation
from cropjax.inference import Inference
from cropjax.location_prior import location_prior
from cropjax.loop import Loop, NotFiniteError, outlived
from cropjax.preemption import Preemption
from cropjax.progress import Progress
from cropjax.sharding import batch_form, local_mesh, make_mesh, place_batch
from cropjax.step import abstract_state, create_state, make_train_step, split_model
from cropjax.watchdog import Watchdog
from cropjax.weights import read_weights
from cropjax.writers import create_writer

RESNET = "upstream's ImageNet weights are at download.openmmlab.com/pretrain/third_party (resnet50_v1c-2cccc1ad.pth)"
PRETRAIN = "upstream's ImageNet weights are in download.openmmlab.com/mmsegmentation/v0.5/pretrain"
# Where the files come from that the configs name.
IMAGENET = {
    "pspnet": RESNET,
    "deeplabv3plus": RESNET,
    "segformer": f"{PRETRAIN}/segformer (mit_b3_20220624-13b1141c.pth and so on)",
    "segnext": f"{PRETRAIN}/segnext (mscan_b_20230227-3ab7d230.pth and so on)",
}

ROLLBACKS = 3  # to one checkpoint, and no more: what fails there again is not the images


def initial_weights(weights, config, say):
    """`weights` as drawn, or as the file `init_from` has them; `say` is told what of the file was used."""
    path = config.init_from
    if not path:
        return weights
    if not Path(path).is_file():
        raise UserError(
            f"init_from: there is no file {path}; {IMAGENET[config.model.name]}, and --config.init_from='' trains from "
            "scratch"
        )
    state_dict, parts = read_weights(path), tuple(config.init_parts)
    source = f"init_from: {path}"
    weights = load_torch_state(weights, state_dict, source=source, parts=parts, classifier=config.init_classifier)
    unused = [part for part in parts_of(state_dict) if part not in parts]
    rest = f"; init_parts leaves out what else is there: {', '.join(unused)}" if unused else ""
    say(f"{source} gives {', '.join(parts)}{rest}")
    return weights


def check_step(train_step, template, config, mesh):
    """Traces the step on shapes alone, so that a size that cannot work raises before anything is written."""
    batch = batch_form(config.train.batch_size, mesh, **example_form(config))
    train_step.eval_shape(template, batch, jax.random.key(config.seed))


def place(batch, mesh):
    """A batch on the devices of `mesh`, and how many records were passed over for it."""
    skipped = int(batch.pop("skipped", np.int32(0)).sum())
    return place_batch(batch, mesh), skipped


def introduce(writer, config, params, prior):
    """What is known of a run before its first step: its config, its parameters, and what the location alone tells."""
    tensorboard.introduce(writer, config)
    writer.write_texts(0, {"parameters": f"```\n{parameter_overview.get_parameter_overview(params)}\n```"})
    if prior:
        writer.write_scalars(0, {"eval/location_prior/miou": prior.summary["miou"]})


def train(config, workdir):
    """Trains the configured network in `workdir`, evaluates it, and resumes if the folder has a checkpoint.

    Returns the scores of the last evaluation, {mode: Scores}, or None if the run was finished already.

    Raises:
        UserError: what the user can mend.
        NotFiniteError: a loss, a norm or BatchNorm's statistics became nan or infinite, with the range of steps.
        Stopped: by a signal, SIGTERM or SIGUSR1, and saved.
    """
    total = config.train.steps
    began = time.monotonic()

    # --------------------------------------------------------------------------------------------------- devices
    together, rows = config.train.batch_size // config.train.accumulate, cells_of(config.data.crop_size[0], config)
    mesh = make_mesh(**config.mesh, batch_size=together, rows=rows)
    first_process = jax.process_index() == 0

    def say(text):
        if first_process:
            print(text, flush=True)

    # ------------------------------------------------------------------------------------------------------ data
    labels = label_set(config)
    train_source, eval_source = build_source(config, "train"), build_source(config, "eval")

    # -------------------------------------------------------------------------------- network, optimiser, functions
    if config.eval.best.split("/")[0] not in config.eval.modes:
        raise UserError(f"eval.best = {config.eval.best!r} is not a score of eval.modes = {tuple(config.eval.modes)}")
    with Progress(len(train_source), unit="image", label="count classes", enabled=first_process) as counting:
        weights_of_classes, repeats = build_balance(config, train_source, counting)
    if weights_of_classes:
        shown = zip(labels.names, weights_of_classes, strict=True)
        say(f"class weights: {', '.join(f'{name} {weight:.3f}' for name, weight in shown)}")
    graph, weights = split_model(build_model(config))
    direction, schedule = build_optimizer(config)
    form = {"shard_optimizer": config.optim.shard_state, "ema": bool(config.train.ema)}
    template = abstract_state(weights, direction, mesh, **form)
    jitted_step = make_train_step(graph, direction, schedule, config, mesh, weights_of_classes, template)
    check_step(jitted_step, template, config, mesh)
    inference = Inference(graph, config, local_mesh(mesh))
    check_evaluation(inference, template, eval_source, config)

    # --------------------------------------------------------------------------- run folder: resume or start afresh
    checkpoints = Checkpoints(workdir / "checkpoints", best=config.eval.best)
    started = bool(checkpoints.steps())
    if not started:
        weights = initial_weights(weights, config, say)
    # Up to here nothing was written: a mistake leaves no run folder behind.
    with (
        run_folder.prepare(workdir, config, started=started),
        contextlib.closing(checkpoints),
        Preemption(mesh) as preemption,
    ):
        start, state = checkpoints.restore(template) or (0, create_state(weights, direction, mesh, **form))
        early = start < total and outlived(checkpoints.best_so_far(start)[1], start, config.eval)
        if start > total or ((start == total or early) and checkpoints.evaluated(start)):
            checkpoints.release_room()  # of a run that was killed after its last save
            more = "eval.stop_after" if early else "train.steps"
            say(f"{workdir}: finished already, {start} of {total} steps; raise {more} to go on")
            return None
        run_folder.forget_rollbacks(workdir, after=start)
        checkpoints.hold_room(template)
        if start:
            say(f"{workdir}: resuming after step {start}")
        parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(weights["params"]))
        shape = f" as data {mesh.shape['data']} x space {mesh.shape['space']}" if mesh.size > 1 else ""
        say(
            f"{config.model.name}, {parameters / 1e6:.3f} M parameters, "
            f"devices: {mesh.size} x {jax.devices()[0].device_kind}{shape}, "
            f"{len(train_source)} images to train on, {len(eval_source)} to evaluate"
        )
        prior = None
        if config.eval.location_prior:
            count = min(config.eval.location_prior, len(train_source))
            with Progress(count, unit="image", label="location prior", enabled=first_process) as counting:
                prior = location_prior(train_source, eval_source, labels.num_classes, count=count, progress=counting)
            say(f"location prior: mIoU {100 * prior.summary['miou']:.2f}")

        def go_on(start, state):
            """From `start`, the last checkpoint or 0, to the end or a signal: the last step and its scores."""
            position = run_folder.data_position(workdir, start)
            same((position, len(train_source), len(eval_source)), f"data, or the same {workdir / 'rollbacks.json'}")
            with contextlib.ExitStack() as closing:
                batches = build_batches(config, train_source, start_step=position, repeats=repeats)
                batches = Prefetch(batches, partial(place, mesh=mesh), patience=config.data.patience)
                closing.callback(batches.close)
                writer = create_writer(workdir, first_step=start, enabled=first_process)
                closing.callback(writer.close)
                if start == 0:
                    introduce(writer, config, weights["params"], prior)
                loop = Loop(
                    config,
                    mesh,
                    start=start,
                    state=state,
                    batches=batches,
                    eval_source=eval_source,
                    class_names=labels.names,
                    inference=inference,
                    checkpoints=checkpoints,
                    best=checkpoints.best_so_far(start),
                    preemption=preemption,
                    watchdog=closing.enter_context(Watchdog(config.train.patience, "train.patience")),
                    writer=writer,
                    progress=closing.enter_context(Progress(total, start, enabled=first_process)),
                    began=began,
                    say=say,
                )
                return loop.run(jitted_step), loop.scores

        while True:
            try:
                step, scores = go_on(start, state)
                break
            except NotFiniteError as error:
                reason, bad_step = error.args
            del state
            with contextlib.suppress(UserError):  # whatever became of it, what there is decides
                checkpoints.wait()
            if config.train.on_nan == "stop" or not checkpoints.steps():
                raise NotFiniteError(reason)
            start, state = checkpoints.restore(template)
            times = run_folder.add_rollback(workdir, start, bad_step)
            if times > ROLLBACKS:
                raise NotFiniteError(f"{reason}; going back to step {start} has not helped {ROLLBACKS} times")
            say(f"{reason.split(':')[0]}: back to step {start}, and on with the images after those of step {bad_step}")
        checkpoints.wait()

        if preemption.stops:
            signal_name = preemption.asked or "a signal to another process"
            say(f"{workdir}: stopped by {signal_name}, saved after step {step} of {total}; the same command goes on")
            raise Stopped
        checkpoints.release_room()
        for mode, s in scores.items():
            say(f"\n{workdir}, {config.data.eval_split} split, {mode}\n{s.table(labels.names)}")
            if prior:
                say(f"location prior mIoU {100 * prior.summary['miou']:.2f}, network {100 * s.summary['miou']:.2f}")
        return scores
