"""The runs of a study: each is trained in a folder of its own, tested in every way, and its results are kept.

Several processes, on machines that share the folder, may work at one study: each takes the next run that nobody is at.
"""

import contextlib
import gc
import time
from pathlib import Path

import jax
from PIL import Image

from cropjax.config import build_source, label_set
from cropjax.errors import UserError
from cropjax.evaluate import conditions, evaluate
from cropjax.inference import Inference
from cropjax.loop import NotFiniteError
from cropjax.panels import contact_sheet
from cropjax.restore import restore_run
from cropjax.sharding import local_mesh, make_mesh
from cropjax.study.results import found_by
from cropjax.train import train
from cropjax.workdir import locked

PICTURES = "panels.png"
CHECKPOINT = "latest"  # the best by one test would favour it


def work(plan, runs, folder, results, *, say=print):
    """Makes of `runs` those whose results are not all there. Returns {run name: why it has none}.

    A run that becomes nan, or needs more memory than there is, is one without results; the others go on. One that
    another process is at is left to it.
    """
    failed, pace = {}, Pace(runs)
    for number, run in enumerate(runs, 1):
        if not results.lacks(run, plan.tests_of(run.cell)):
            pace.had(run)
            continue
        place = Path(folder, run.name)
        place.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(place / "study.lock"))
            except UserError:
                say(f"study: another process is at work on {run.name}")
                continue
            lacking = results.lacks(run, plan.tests_of(run.cell))  # or somebody has just done it
            if lacking:
                say(f"\nstudy: run {number} of {len(runs)}, {run.name}; {pace.text()}")
                with pace.of(run), _told(failed, run.name, say):
                    make(plan, run, lacking, place, results)
    return failed


@contextlib.contextmanager
def _told(failed, name, say):
    try:
        yield
    except (NotFiniteError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, NotFiniteError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        failed[name] = str(error).splitlines()[0]
        say(f"study: {name} has no results: {failed[name]}")
    finally:
        jax.clear_caches()  # the next run has other programs
        gc.collect()


def make(plan, run, tests, place, results):
    """Trains the run in the folder `place`, or what is left of it, and keeps what those `tests` find."""
    train(run.config, place)
    configs = plan.tests_of(run.cell)
    for test in tests:
        results.put(run, place, {test: look(configs[test], place, pictures=test == next(iter(configs)))})


def look(config, place, *, pictures=False):
    """What one test finds of the trained run in `place`; of its first images it leaves `pictures` there."""
    mesh = make_mesh(**config.mesh)
    step, graph, state = restore_run(config, place, CHECKPOINT, mesh)
    source = build_source(config, "eval")
    panels = config.eval.panels if pictures else 0
    inference = Inference(graph, config, local_mesh(mesh))
    found = evaluate(inference, state, source, config, mesh, panels=panels, details=True)
    if found.pictures:
        Image.fromarray(contact_sheet(list(found.pictures.values()))).save(place / PICTURES)
    about = conditions(config, found.sizes) | {"run": place.name, "step": step, "images": len(source)}
    return found_by(found.scores, found.details, label_set(config).names, about)


class Pace:
    """How long what is left of `runs` will take, by what those took that were made meanwhile."""

    def __init__(self, runs):
        self._left = {run.name: run for run in runs}
        self._seconds, self._pixels, self._began = {}, {}, time.monotonic()

    def had(self, run):
        """`run` needs nothing more."""
        del self._left[run.name]

    @contextlib.contextmanager
    def of(self, run):
        """Around the making of `run`."""
        began, network = time.monotonic(), run.cell.config.model.name
        yield
        self._seconds[network] = self._seconds.get(network, 0.0) + time.monotonic() - began
        self._pixels[network] = self._pixels.get(network, 0) + pixels(run.cell.config)
        self.had(run)

    def left(self):
        """Seconds, or None where nothing is known yet; a network that was not seen is as the mean of the others."""
        if not self._seconds:
            return None
        mean = sum(self._seconds.values()) / sum(self._pixels.values())
        each = {network: self._seconds[network] / self._pixels[network] for network in self._seconds}
        configs = [run.cell.config for run in self._left.values()]
        return sum(each.get(config.model.name, mean) * pixels(config) for config in configs)

    def text(self):
        left = self.left()
        about = "" if left is None else f", about {duration(left)} left"
        return f"{duration(time.monotonic() - self._began)} so far{about}"


def pixels(config):
    """That training sees."""
    rows, columns = config.data.crop_size
    return config.train.steps * config.train.batch_size * rows * columns


def duration(seconds):
    """40 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
