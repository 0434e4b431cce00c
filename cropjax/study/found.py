"""What a report looks at: the results of a plan's runs, as numbers by cell and seed, and what the cells differ in."""

import itertools

from cropjax.study.effects import pairs_of
from cropjax.study.plan import NETWORK

TEST = "test"


class Found:
    """The results of a plan's runs: `runs` [(Run, results)], and mIoU in percent {(cell, seed): value}.

    A cell is ((factor, level), ...), the test last. `cells` {levels: cell} has the cell's own levels first, and then
    the other combinations that it stands for.
    """

    def __init__(self, plan, results):
        self.plan = plan
        pairs = [(run, results.get(run)) for run in plan.runs]
        self.runs = [(run, found) for run, found in pairs if found]
        self.missing = {
            run: (found and [test for test in run.cell.tests if test not in found["tests"]], results.why(run))
            for run, found in pairs
            if not found or set(run.cell.tests) - set(found["tests"])
        }
        self.scores = self.values(lambda one: one["miou"])
        self.cells = {cell: cell for cell, _ in self.scores}
        for run, found in self.runs:
            for levels, test in itertools.product(run.cell.aliases, found["tests"]):
                cell = _tested(run.cell.levels, test)
                if cell in self.cells:
                    self.cells[_tested(levels, test)] = cell
        self.factors = {name: levels for name, levels in plan.factors.items() if self._varies(name, levels)}

    def _varies(self, factor, levels):
        """Whether cells differ in it: by their own levels, or as pairs under another name."""
        return len({dict(cell)[factor] for cell, _ in self.scores}) > 1 or any(
            pairs_of(self.cells, factor, *pair) for pair in itertools.combinations(levels, 2)
        )

    def values(self, what):
        """{(cell, seed): 100 times `what` of one test's results}; what is None is left out."""
        return {
            (_tested(run.cell.levels, test), run.seed): 100 * value
            for run, found in self.runs
            for test in run.cell.tests
            if test in found["tests"] and (value := what(found["tests"][test])) is not None
        }

    def of(self, scores=None, **levels):
        """Those scores whose cells have these levels."""
        scores = self.scores if scores is None else scores
        return {key: value for key, value in scores.items() if levels.items() <= dict(key[0]).items()}

    def columns(self):
        """What tells cells apart: the network and the factors that vary."""
        return (NETWORK, *(name for name in self.factors if name != NETWORK))

    def levels(self, cell):
        """The levels of a cell, or a context, in the order of `columns`; a factor that it leaves open is blank."""
        return tuple(dict(cell).get(name, "") for name in self.columns())

    def where(self, context):
        """What a context has that is no base, as text."""
        bases = {name: levels[0] for name, levels in self.plan.factors.items()}
        named = [f"{name}={level}" for name, level in context if name in self.factors and level != bases[name]]
        return ", ".join(one for one in named if not one.startswith(f"{NETWORK}=")) or "base"


def _tested(levels, test):
    return (*levels.items(), (TEST, test))
