"""What a report looks at: the results of a plan's runs, as numbers by cell and seed, and what the cells differ in."""

import itertools

from cropjax.study.effects import main_effects, paired, pairs_of
from cropjax.study.plan import NETWORK, no_bases

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
        self._missing = {
            run: (found and [test for test in run.cell.tests if test not in found["tests"]], results.why(run))
            for run, found in pairs
            if not found or set(run.cell.tests) - set(found["tests"])
        }
        self.scores = self.values(lambda one: one["miou"])
        self.cells = {cell: cell for cell, _ in self.scores}
        for run, found in self.runs:
            for levels, test in itertools.product(run.cell.aliases.values(), found["tests"]):
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
        return (NETWORK, *self.factors_of_a_network())

    def levels(self, cell):
        """The levels of a cell, or a context, in the order of `columns`; a factor that it leaves open is blank."""
        return tuple(dict(cell).get(name, "") for name in self.columns())

    def where(self, context):
        """What a context has that is no base, as text."""
        named = no_bases({name: level for name, level in context if name in self.factors}, self.plan.factors)
        return ", ".join(named) or "base"

    def lacking(self):
        """[(cell, seeds, what they lack)], one for each reason."""
        cells = {}
        for run, (tests, why) in self._missing.items():
            what = why or ("everything" if tests is None else f"of tests {', '.join(tests)}")
            cells.setdefault((run.cell, what), []).append(run.seed)
        return [
            (cell.name, "all" if seeds == list(cell.seeds) else f"seed {', '.join(map(str, seeds))}", what)
            for (cell, what), seeds in cells.items()
        ]

    def main_effects(self):
        """[(network, test, factor, low level, high level, Estimate)], of the tests themselves with the test ''."""
        factors, rows = self.factors_of_a_network(), []
        for network in self.plan.factors[NETWORK]:
            own = self.of(network=network)
            for test in self.plan.tests:
                rows += [
                    (network, test, *effect) for effect in main_effects(self.of(own, test=test), self.cells, factors)
                ]
            rows += [(network, "", *effect) for effect in paired(own, self.cells, TEST, tuple(self.plan.tests))]
        return rows

    def factors_of_a_network(self):
        """The factors that vary, but for the network."""
        return {name: levels for name, levels in self.factors.items() if name != NETWORK}


def _tested(levels, test):
    return (*levels.items(), (TEST, test))
