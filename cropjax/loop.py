"""The loop over the steps of a run: step, log, save, evaluate."""

import contextlib
import time
from functools import partial

import jax
import numpy as np

from cropjax.distributed import sum_over_processes
from cropjax.errors import UserError
from cropjax.evaluate import evaluate, summarize
from cropjax.host_memory import StepMemory
from cropjax.panels import contact_sheet
from cropjax.step import TrainMetrics, run_key


class NotFiniteError(UserError):
    """A loss or a norm became nan or infinite: (what and when, the step after which it was seen)."""


def outlived(best_step, step, ev):
    """Whether `ev.stop_after` times `ev.every` steps have found nothing better than at `best_step`."""
    return 0 < ev.stop_after * ev.every <= step - best_step


def itstime(step, every, total):
    """Whether something that happens `every` so many steps, and after the last one, is due after `step` steps."""
    return step % every == 0 or step == total


class Loop:
    """From the `state` after step `start` to the last step, to a signal, or to `eval.stop_after`.

    The order is a contract: step, log, save, evaluate. A checkpoint of step s holds the state after s steps, and the
    data go on from there; what the evaluation finds is added to it. So a run that was stopped in an evaluation has lost
    nothing, and begins with it.

    `batches` gives (placed batch, records that were passed over for it), `inference` is for this process; `began` is
    when the run did, in `time.monotonic`, and `say` prints. `scores` are those of the last evaluation, {mode: Scores};
    `best` is that of `Checkpoints.best_so_far`.
    """

    def __init__(
        self,
        config,
        mesh,
        *,
        start,
        state,
        batches,
        eval_source,
        class_names,
        inference,
        checkpoints,
        best,
        preemption,
        watchdog,
        writer,
        progress,
        began,
        say,
    ):
        self.config, self.mesh, self.start, self.state = config, mesh, start, state
        self.batches, self.eval_source, self.class_names, self.inference = batches, eval_source, class_names, inference
        self.checkpoints, self.preemption, self.watchdog = checkpoints, preemption, watchdog
        self.best_score, self.best_step = best
        self.writer, self.progress, self.began, self.say = writer, progress, began, say
        self.total, self.scores = config.train.steps, None
        self._merge, self._key = jax.jit(TrainMetrics.merge), run_key(config.seed, mesh)
        # What was measured since the last log line, after which step that was and when, and records passed over since.
        self._window, self._window_start, self._window_time, self._skipped = None, start, 0.0, 0

    def run(self, jitted_step):
        """The step after which it ended.

        Raises:
            NotFiniteError: nothing that is not finite gets into a log line or a checkpoint.
            UserError: the last checkpoint could not be saved.
        """
        due = self.start > 0 and itstime(self.start, self.config.eval.every, self.total)
        first = self.start if due and not self.checkpoints.evaluated(self.start) else self.start + 1
        for step in range(first, self.total + 1):
            if step == self.start + 1:
                self._first_step(jitted_step)
            elif step > self.start:
                self._step(step)
            if self._after_step(step):
                break
        return step

    def _after_step(self, step):
        """Logs, saves and evaluates what is due after `step`. Whether the run stops here."""
        self.watchdog.beat()
        stops = self.preemption.agreed()
        evaluates = itstime(step, self.config.eval.every, self.total)
        new = step > self.start
        saves = new and (evaluates or stops or itstime(step, self.config.train.checkpoint_every, self.total))
        if saves or (new and itstime(step, self.config.train.log_every, self.total)):
            self._log(step)
        else:
            self.progress.update(step)
        saved = self._save(step, last=stops or step == self.total) if saves else not new
        if evaluates and not stops:
            stops = not self._evaluate(step, saved) or outlived(self.best_step, step, self.config.eval)
        if stops:
            self.progress.update(step)
        return stops

    @contextlib.contextmanager
    def _pause(self):
        """For what no rate should count and no watchdog mind."""
        with self.progress.pause(), self.watchdog.pause():
            yield

    # ------------------------------------------------------------------------------------------------------------ step
    def _first_step(self, jitted_step):
        with self._pause():
            batch, self._skipped = next(self.batches)
            self._train_step = jitted_step.lower(self.state, batch, self._key).compile()
            self._memory = StepMemory(self._train_step)
            self.say(f"first step starts after {time.monotonic() - self.began:.1f} s")
            self.state, self._window = jax.block_until_ready(self._train_step(self.state, batch, self._key))
            self._memory.give_back()
        self.say(f"first step done after {time.monotonic() - self.began:.1f} s")

    def _step(self, step):
        batch, skipped = next(self.batches)
        self._skipped += skipped
        # A step waits for nothing that comes from the host or goes to it, but for its batch.
        with jax.profiler.StepTraceAnnotation("train", step_num=step), jax.transfer_guard("disallow"):
            self.state, report = self._train_step(self.state, batch, self._key)
        jax.block_until_ready(self._window)  # of the step before: one step runs, one waits, no more
        self._window = report if self._window is None else self._merge(self._window, report)
        self._memory.after_step()

    # ------------------------------------------------------------------------------------------------------------- log
    def _log(self, step):
        steps = step - max(self._window_start, self.start + 1)
        values = self._averages(step)
        seconds, self._window_time = self.progress.elapsed - self._window_time, self.progress.elapsed
        if steps:
            values["images_per_second"] = steps * self.config.train.batch_size / seconds
        if self.config.data.on_error == "skip":
            values["skipped"], self._skipped = int(sum_over_processes(np.int64(self._skipped))), 0
        self.writer.write_scalars(step, {f"train/{name}": value for name, value in values.items()})
        self.progress.line(step, loss=values["loss"], lr=values["lr"])

    def _averages(self, step):
        """What was measured since the last call, {name: mean}, all of it finite."""
        values = {name: float(value) for name, value in self._window.compute().items()}
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            steps = self.checkpoints.steps()
            saved = f"the checkpoint of step {steps[-1]} is good" if steps else "none saved"
            raise NotFiniteError(
                f"{', '.join(bad)} became nan or infinite within steps {self._window_start + 1}...{step} ({saved}): "
                f"lower optim.lr and take a new --workdir, or look at the data",
                step,
            )
        self._window, self._window_start = None, step
        return values

    # ------------------------------------------------------------------------------------------------------------ save
    def _save(self, step, *, last):
        """Whether it worked."""
        with self._pause():
            self._try_to(self.checkpoints.wait, step)  # the save before: its failure must not cost this one
            saved = self._try_to(partial(self.checkpoints.save, step, self.state), step, last=last)
            self.writer.flush()
            self._memory.give_back()
        return saved

    def _try_to(self, save, step, *, last=False):
        """Whether it worked. Where it did not, the run goes on, unless it was the last chance."""
        try:
            save()
        except UserError as error:
            if last:
                raise
            good = ", ".join(map(str, self.checkpoints.steps()[-1:])) or "none"
            self.say(f"step {step}: {error}; training goes on, the last good checkpoint is {good}")
            return False
        return True

    # -------------------------------------------------------------------------------------------------------- evaluate
    def _evaluate(self, step, saved):
        """Whether it came to its end, and not to a signal; `saved` says whether there is a checkpoint of `step`."""
        with self._pause():
            if step > self.start:
                self._memory.give_back()  # inference asks what is free
            found = evaluate(
                self.inference,
                self.state,
                self.eval_source,
                self.config,
                self.mesh,
                panels=self.config.eval.panels,
                stops=lambda: self.preemption.asked is not None,
            )
            if found is None:
                self.preemption.stops = True
            else:
                self.scores = found.scores
                self._report(step, found.pictures, saved)
            if step > self.start:
                self._memory.give_back()
        return found is not None

    def _report(self, step, pictures, saved):
        results, best = summarize(self.scores), self.config.eval.best
        if results[best] > self.best_score:
            self.best_score, self.best_step = results[best], step
        ends = outlived(self.best_step, step, self.config.eval)
        values = {f"eval/{name}": value for name, value in results.items()}
        values |= {
            f"iou/{mode}/{name}": value
            for mode, scores in self.scores.items()
            for name, value in zip(self.class_names, scores.iou, strict=True)
        }
        if self.best_step:
            values[f"best/{best}"] = self.best_score
        self.writer.write_scalars(step, values)
        if pictures:
            self.writer.write_images(step, {"eval/panels": contact_sheet(list(pictures.values()))[None]})
        self.say(f"step {step}: " + "  ".join(f"{name} {100 * value:.2f}" for name, value in results.items()))
        self.writer.flush()
        if saved:
            add = partial(self.checkpoints.add_metrics, step, results, self.best_step)
            self._try_to(add, step, last=ends or step == self.total)
        if ends and step < self.total:
            since = f"no {best} above that of step {self.best_step} since then"
            self.say(f"step {step}: {since}, training ends (eval.stop_after = {self.config.eval.stop_after})")
