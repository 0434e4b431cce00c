"""The runs of a study: each is trained in a folder of its own, tested in every way, and its results are kept.

Several processes, on machines that share the folder, may work at one study: each takes the next run that nobody is at.
"""

import contextlib
import gc
import time
from pathlib import Path

import jax
from PIL import Image

from cropjax.checkpoint import Checkpoints
from cropjax.config import build_source, label_set
from cropjax.errors import UserError
from cropjax.evaluate import conditions, evaluate
from cropjax.inference import Inference
from cropjax.loop import NotFiniteError
from cropjax.panels import contact_sheet
from cropjax.restore import restore_run
from cropjax.sharding import local_mesh, make_mesh
from cropjax.study.plan import NETWORK
from cropjax.study.results import checksum, deciding, found_by
from cropjax.train import train
from cropjax.workdir import locked, run_config, write_text

PICTURES = "panels.png"
WEIGHTS = "weights.sha256"  # of what the run began with: the file itself may be another by the time it goes on
CHECKPOINT = "latest"  # the best by one test would favour it


def work(runs, folder, results, *, say=print):
    """Makes of `runs` those whose results are not all there. Returns {run name: why it has none}.

    A run that becomes nan, or needs more memory than there is, is one without results, and stays it until its
    `Results.failure` is removed; the others go on. Those that another process is at are left to it, and looked at again
    when there is nothing else to do.

    Raises:
        UserError: results of another study, or weights to begin with that are not there: before anything is run.
    """
    failed, left = {}, [run for run in runs if results.lacks(run)]
    for run in left:
        _check_folder(run, Path(folder, run.name))
    pace = Pace({run: (not results.get(run), len(results.lacks(run))) for run in left})
    while left:
        others = [run for run in left if not _make_or_leave(run, runs, folder, results, pace, failed, say)]
        if len(others) == len(left):
            break
        left = others
    return failed


def _make_or_leave(run, runs, folder, results, pace, failed, say):
    """Makes what is left of a run; False if another process is at it."""
    if why := results.why(run):
        failed[run.name] = f"{why} (remove {results.failure(run)} to try again)"
        pace.had(run)
        return True
    place = Path(folder, run.name)
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(place / "study.lock"))
        except UserError:
            if pace.had(run):
                say(f"study: another process is at work on {run.name}")
            return False
        if results.lacks(run):  # or somebody has just done it
            say(f"\nstudy: run {runs.index(run) + 1} of {len(runs)}, {run.name}; {pace.text()}")
            try:
                make(run, place, results, pace)
            except (NotFiniteError, jax.errors.JaxRuntimeError) as error:
                if not isinstance(error, NotFiniteError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                failed[run.name] = str(error).splitlines()[0]
                results.fail(run, failed[run.name])
                say(f"study: {run.name} has no results: {failed[run.name]}")
            finally:
                jax.clear_caches()  # the next run has other programs
                gc.collect()
        pace.had(run)
    return True


def make(run, place, results, pace):
    """Trains the run in the folder `place`, or what is left of it, and keeps what the tests find that it lacks."""
    weights, began = place / WEIGHTS, _steps(place)
    if not began or not weights.exists():
        write_text(weights, checksum(run.config.init_from))
    with pace.training(run, began):
        train(run.config, place)
    tests = run.cell.tests
    for test in results.lacks(run) if results.is_of(run, place) else tests:
        with pace.testing(run):
            found = look(tests[test], place, pictures=test == next(iter(tests)))
        results.put(run, place, {test: found}, weights.read_text(encoding="utf-8"))


def _check_folder(run, place):
    """UserError if the run cannot be made in the folder `place`: its weights are not there, or another run is."""
    path = run.config.init_from
    if path and not Path(path).is_file() and not _steps(place):
        raise UserError(f"{run.cell.name}: init_from = {path!r} is no file")
    if (place / "config.json").exists():
        stored, wanted = deciding(run_config(place)), deciding(run.config)
        if other := sorted(name for name in stored.keys() | wanted if stored.get(name) != wanted.get(name)):
            raise UserError(
                f"{place} holds a run with another {other[0]}, {stored.get(other[0])!r} where the study has "
                f"{wanted.get(other[0])!r}: remove it, or choose another --workdir"
            )


def _steps(place):
    """How many steps the run in the folder `place` has saved."""
    return max(Checkpoints(place / "checkpoints", best="").steps(), default=0)


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
    """How long what is left will take one process, by what it took to train and to test meanwhile.

    `left` {Run: (whether it is to be trained, how many tests it lacks)}.
    """

    def __init__(self, left):
        self._left = dict(left)
        self._taken, self._began = {}, time.monotonic()  # {(what, network): (seconds, how much)}

    def had(self, run):
        """`run` is done, or another's for the time being; False if that is known."""
        return self._left.pop(run, None) is not None

    def training(self, run, began=0):
        """Around the training of `run`, which has had as many steps as `began`."""
        rest = 1 - min(began / run.cell.config.train.steps, 1)
        return self._of("training", run, pixels(run.cell.config) * rest)

    def testing(self, run):
        """Around one test of `run`."""
        return self._of("testing", run, 1)

    @contextlib.contextmanager
    def _of(self, what, run, much):
        began, key = time.monotonic(), (what, run.cell.levels[NETWORK])
        yield
        seconds, sum_so_far = self._taken.get(key, (0.0, 0))
        self._taken[key] = seconds + time.monotonic() - began, sum_so_far + much

    def _each(self, what, network):
        """Seconds of one, of the network or else of all of them; None where nothing is known yet."""
        own = self._taken.get((what, network))
        every = [own] if own and own[1] else [taken for (kind, _), taken in self._taken.items() if kind == what]
        seconds, much = map(sum, zip(*every, strict=True)) if every else (0.0, 0)
        return seconds / much if much else None

    def left(self):
        """Seconds, or None where nothing is known yet."""
        total = 0.0
        for run, (untrained, tests) in self._left.items():
            network = run.cell.levels[NETWORK]
            for what, much in (("training", pixels(run.cell.config) * untrained), ("testing", tests)):
                each = self._each(what, network)
                if each is None and much:
                    return None
                total += (each or 0.0) * much
        return total

    def text(self):
        left = self.left()
        about = "" if left is None else f", about {duration(left)} left for one process"
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
