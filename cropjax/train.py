"""The training loop, read from top to bottom in the order in which it happens."""

import contextlib
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview

from cropjax import workdir as run_folder
from cropjax.checkpoint import Checkpoints
from cropjax.config import (
    build_balance,
    build_batches,
    build_model,
    build_optimizer,
    build_source,
    example_form,
    label_set,
)
from cropjax.convert import load_torch_state, parts_of
from cropjax.data.prefetch import Prefetch
from cropjax.distributed import same, sum_over_processes
from cropjax.errors import Stopped, UserError
from cropjax.evaluate import check_evaluation, evaluate, make_score, summarize
from cropjax.host_memory import StepMemory
from cropjax.location_prior import location_prior
from cropjax.panels import contact_sheet
from cropjax.preemption import Preemption
from cropjax.progress import Progress
from cropjax.sharding import batch_form, make_mesh, place_batch
from cropjax.step import TrainMetrics, abstract_state, create_state, make_train_step, split_model
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


class NotFiniteError(UserError):
    """A loss or a norm became nan or infinite."""


def itstime(step, every, total):
    """Whether something that happens `every` so many steps, and after the last one, is due after `step` steps."""
    return step % every == 0 or step == total


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
    train_step.eval_shape(template, batch_form(config.train.batch_size, mesh, **example_form(config)))


def place(batch, mesh):
    """A batch on the devices of `mesh`, and how many records were passed over for it."""
    skipped = int(batch.pop("skipped", np.int32(0)).sum())
    return place_batch(batch, mesh), skipped


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
    mesh = make_mesh(**config.mesh, batch_size=config.train.batch_size // config.train.accumulate)
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
    shard_optimizer = config.optim.shard_state
    template = abstract_state(weights, direction, mesh, shard_optimizer=shard_optimizer)
    jitted_step = make_train_step(graph, direction, schedule, config, mesh, weights_of_classes, template)
    check_step(jitted_step, template, config, mesh)
    merge = jax.jit(TrainMetrics.merge)
    score = make_score(graph, config, mesh)
    check_evaluation(score, template, eval_source, config, mesh)

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
        start, state = checkpoints.restore(template) or (
            0,
            create_state(weights, direction, mesh, shard_optimizer=shard_optimizer),
        )
        if start > total or (start == total and checkpoints.evaluated(start)):
            say(f"{workdir}: finished already, {start} of {total} steps; raise train.steps to go on")
            return None
        run_folder.forget_rollbacks(workdir, after=start)
        if start:
            say(f"{workdir}: resuming after step {start}")
        parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(weights["params"]))
        shape = f" as data {mesh.shape['data']} x space {mesh.shape['space']}" if mesh.size > 1 else ""
        say(
            f"{config.model.name}, {parameters / 1e6:.3f} M parameters, "
            f"devices: {mesh.size} x {jax.devices()[0].device_kind}{shape}, "
            f"{len(train_source)} images to train on, {len(eval_source)} to evaluate"
        )
        scores = prior = None

        def location_prior_scores():
            count = min(config.eval.location_prior, len(train_source))
            with Progress(count, unit="image", label="location prior", enabled=first_process) as counting:
                found = location_prior(train_source, eval_source, labels.num_classes, count=count, progress=counting)
            say(f"location prior: mIoU {100 * found.summary['miou']:.2f}")
            return found

        def try_to(save, step, *, last=False):
            """Whether it worked. Where it did not, the run goes on, unless it was the last chance."""
            try:
                save()
            except UserError as error:
                if last:
                    raise
                good = ", ".join(map(str, checkpoints.steps()[-1:])) or "none"
                say(f"step {step}: {error}; training goes on, the last good checkpoint is {good}")
                return False
            return True

        def go_on(state):
            """From step `start` to the end, or until a signal; the last step."""
            nonlocal prior, scores
            writer = create_writer(workdir, first_step=start, enabled=first_process)
            position = run_folder.data_position(workdir, start)
            same((position, len(train_source), len(eval_source)), f"data, or the same {workdir / 'rollbacks.json'}")
            batches = Prefetch(
                build_batches(config, train_source, start_step=position, repeats=repeats),
                partial(place, mesh=mesh),
                patience=config.data.patience,
            )
            window, window_start, window_time, skipped = None, start, 0.0, 0

            def flush(step):
                """Fetches the averages since the last call and checks them; nothing not finite gets past this."""
                nonlocal window, window_start
                values = {name: float(value) for name, value in window.compute().items()}
                bad = [name for name, value in values.items() if not np.isfinite(value)]
                if bad:
                    steps = checkpoints.steps()
                    saved = f"the checkpoint of step {steps[-1]} is good" if steps else "none saved"
                    raise NotFiniteError(
                        f"{', '.join(bad)} became nan or infinite within steps {window_start + 1}...{step} ({saved}): "
                        f"lower optim.lr and take a new --workdir, or look at the data",
                        step,
                    )
                window, window_start = None, step
                return values

            # The order is a contract: step, log, save, evaluate. A checkpoint of step s holds the state after s steps,
            # and the data go on from there; what the evaluation finds is added to it.
            with contextlib.ExitStack() as closing:
                closing.callback(batches.close)
                closing.callback(writer.close)
                watchdog = closing.enter_context(Watchdog(config.train.patience))
                # ------------------------------------------------------------------------------- once, before the loop
                if start == 0:
                    writer.write_hparams(config.to_dict())
                    overview = parameter_overview.get_parameter_overview(weights["params"])
                    writer.write_texts(0, {"parameters": f"```\n{overview}\n```"})
                if config.eval.location_prior and prior is None:
                    prior = location_prior_scores()
                    if start == 0:
                        writer.write_scalars(0, {"eval/location_prior/miou": prior.summary["miou"]})
                # -------------------------------------------------------------------------------------------- the loop
                # A run that was stopped in an evaluation begins with it.
                evaluated = not itstime(start, config.eval.every, total) or start == 0 or checkpoints.evaluated(start)
                progress = closing.enter_context(Progress(total, start, enabled=first_process))
                for step in range(start + 1 if evaluated else start, total + 1):
                    if step == start + 1:
                        with progress.pause(), watchdog.pause():  # no rate should count it
                            batch, skipped = next(batches)
                            train_step = jitted_step.lower(state, batch).compile()
                            memory = StepMemory(train_step)
                            say(f"first step starts after {time.monotonic() - began:.1f} s")
                            state, window = jax.block_until_ready(train_step(state, batch))
                            memory.give_back()
                        say(f"first step done after {time.monotonic() - began:.1f} s")
                    elif step > start:
                        batch, passed = next(batches)
                        skipped += passed
                        # A step waits for nothing that comes from the host or goes to it, but for its batch.
                        with jax.profiler.StepTraceAnnotation("train", step_num=step), jax.transfer_guard("disallow"):
                            state, report = train_step(state, batch)
                        jax.block_until_ready(window)  # of the step before: one step runs, one waits, no more
                        window = report if window is None else merge(window, report)
                        memory.after_step()
                    watchdog.beat()

                    stops = preemption.agreed()
                    evaluates = itstime(step, config.eval.every, total)
                    saves = step > start and (evaluates or stops or itstime(step, config.train.checkpoint_every, total))

                    if saves or (step > start and itstime(step, config.train.log_every, total)):
                        steps = step - max(window_start, start + 1)
                        values = flush(step)
                        seconds, window_time = progress.elapsed - window_time, progress.elapsed
                        if steps:
                            values["images_per_second"] = steps * config.train.batch_size / seconds
                        if config.data.on_error == "skip":
                            values["skipped"], skipped = int(sum_over_processes(np.int64(skipped))), 0
                        writer.write_scalars(step, {f"train/{name}": value for name, value in values.items()})
                        progress.line(step, loss=values["loss"], lr=values["lr"])
                    else:
                        progress.update(step)

                    if saves:
                        with progress.pause(), watchdog.pause():
                            try_to(checkpoints.wait, step)  # the save before: its failure must not cost this one
                            last = stops or step == total
                            saved = try_to(partial(checkpoints.save, step, state), step, last=last)
                            writer.flush()
                            memory.give_back()

                    if evaluates and not stops:
                        with progress.pause(), watchdog.pause():
                            found = evaluate(
                                score,
                                state,
                                eval_source,
                                config,
                                mesh,
                                panels=config.eval.panels,
                                stops=lambda: preemption.asked is not None,
                            )
                            if found is None:
                                preemption.stops = stops = True
                            else:
                                scores, pictures = found
                                results = summarize(scores)
                                per_class = {
                                    f"{mode}/iou/{name}": value
                                    for mode, s in scores.items()
                                    for name, value in zip(labels.names, s.iou, strict=True)
                                }
                                writer.write_scalars(step, {f"eval/{k}": v for k, v in (results | per_class).items()})
                                if pictures:
                                    panels = contact_sheet(list(pictures.values()))
                                    writer.write_images(step, {"eval/panels": panels[None]})
                                say(f"step {step}: " + "  ".join(f"{k} {100 * v:.2f}" for k, v in results.items()))
                                writer.flush()
                                if step == start or saved:
                                    last = step == total
                                    try_to(partial(checkpoints.add_metrics, step, results), step, last=last)
                            if step > start:
                                memory.give_back()
                    if stops:
                        progress.update(step)
                        break
            return step

        while True:
            try:
                step = go_on(state)
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
        for mode, s in scores.items():
            say(f"\n{workdir}, {config.data.eval_split} split, {mode}\n{s.table(labels.names)}")
            if prior:
                say(f"location prior mIoU {100 * prior.summary['miou']:.2f}, network {100 * s.summary['miou']:.2f}")
        return scores
