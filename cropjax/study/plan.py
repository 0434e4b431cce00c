"""From a study file to the runs of a study, in the order of work.

    study = new_study("What the crop does")
    study.networks = {"PSPNet": config, ...}                     a config a network, as `get_config()` makes it
    study.factors["crop"] = {"168": dict(data=dict(crop_size=(168, 168))), "256": ...}
    study.factors["batch"] = {"2": ..., "8": ...}
    study.grids = ({"network": ("PSPNet",), "crop": ALL, "batch": ALL},)
    study.tests = {"whole": {}, "slide": dict(eval=dict(modes=("slide",)))}

A level is what it changes in the network's config, or a function that says so of the config that the factors before it
have made, `lambda config: dict(optim=dict(lr=config.optim.lr * config.train.batch_size / 8))`. The first level of a
factor is its base: where a grid does not name the factor, its cells are there. Grids are worked off one after the
other; a cell that two of them have is one cell. Levels may come to the same config, as a rate in proportion to the
batch and a fixed one do at the batch that it is fixed for. Such combinations are one cell too, which is run once and
stands for all of them: so a grid with both levels of the batch at the linear rate compares batches at that rate.

A cell is run with each of `study.seeds`, or with those that its grid names, `"seeds": range(5)`; a cell of several
grids with those of all of them.

A grid with `fraction=n`, of factors with n levels each, keeps every n-th of a network's cells: those whose places in
the lists of levels have a sum that n divides. Of k factors with two levels, n = 2 keeps the regular half: from four
factors on no main effect is mixed up with an interaction of two, and from five on no two of these with each other (Box,
Hunter & Hunter, chapter 6). What it can tell of an effect is fitted to all cells: no two differ in one factor alone.
"""

import contextlib
import itertools
import re
from dataclasses import dataclass

from ml_collections import ConfigDict

from cropjax.errors import UserError, one_line
from cropjax.instruments.advice import differing
from cropjax.validation import validate
from cropjax.workdir import fields_of

ALL = ("*",)  # of a grid: every level of a factor
NETWORK = "network"
TESTED_BY = ("eval", "data")
RESERVED = {NETWORK, "test", "seed", "seeds", "fraction"}  # no names of factors


def new_study(title):
    """What a study file fills in."""
    study = ConfigDict(convert_dict=False)  # a ConfigDict sorts its names, and here their order is that of the work
    study.title = title
    study.networks = {}
    study.factors = {}  # {factor: {level: {group: {field: value}}, or a function of the config}}
    study.grids = ()  # of {factor: levels}, the first ones first
    study.seeds = (0, 1, 2)  # of the grids that name none
    study.tests = {"whole": {}}  # {test: likewise}, of each trained network
    # What the report begins with: two levels of a factor, as ("crop", "512", "769").
    study.contrast = ()
    # Numbers of others to show beside ours: (cell as {factor: level}, test or '', mIoU in percent, who says so).
    study.published = ()
    return study


@dataclass(frozen=True, eq=False)
class Cell:
    """What is run: the config that combinations of levels make, {factor: level}, the network among them.

    `levels` is the one that the cell goes by, of those in the grids the one with the most bases, and `aliases` {name:
    levels} are the others; `seeds` are those that it is run with. `name` is what its folder is called,
    PSPNet,crop=256,batch=8: the levels that are no bases, so that a factor that comes later to a study leaves the names
    of what was run, unless it gives them a simpler one. `tests` {test: config} are those that make sense for the
    network: pooled windows are for networks that pool.
    """

    levels: dict
    aliases: dict
    seeds: tuple
    config: ConfigDict
    name: str
    tests: dict

    @property
    def combinations(self):
        """Of levels, `levels` first."""
        return (self.levels, *self.aliases.values())


@dataclass(frozen=True)
class Run:
    """A cell with a seed."""

    cell: Cell
    seed: int

    @property
    def name(self):
        return f"{self.cell.name}/seed_{self.seed}"

    @property
    def config(self):
        return changed(self.cell.config, {"seed": self.seed})


@dataclass(frozen=True)
class Plan:
    """What a study file says. `factors` {factor: (level, ...)}, the network's first; `cells` in the order of work."""

    title: str
    factors: dict
    cells: tuple
    tests: dict
    contrast: tuple
    published: tuple

    @property
    def runs(self):
        """Cell by cell, so that a study that ends early has whole ones."""
        return [Run(cell, seed) for cell in self.cells for seed in cell.seeds]


def read_plan(study):
    """The `Plan` of a study file's config.

    Raises:
        UserError: a name that is not there, a level that does not fit a network's config, nothing to do.
    """
    unknown = sorted(set(study) - set(new_study("")))
    if unknown or "networks" not in study:
        raise UserError(
            f"this is no study ({'there is no field ' + repr(unknown[0]) if unknown else 'no networks'}): "
            "a study file fills in cropjax.study.plan.new_study()"
        )
    if not study.networks:
        raise UserError("networks is empty: name at least one, {'PSPNet': config}")
    if not study.tests:
        raise UserError("tests is empty: name at least one, {'whole': {}}")
    if reserved := sorted(RESERVED & set(study.factors)):
        raise UserError(f"factors.{reserved[0]}: the name has a meaning of its own in a study, choose another")
    factors = {NETWORK: dict(study.networks)} | {name: dict(levels) for name, levels in study.factors.items()}
    for name, levels in factors.items():
        if not levels:
            raise UserError(f"factors.{name} has no levels")
        if others := [one for one in (name, *levels) if not isinstance(one, str)]:
            raise UserError(f"factors.{name}: {others[0]!r} must be text, {str(others[0])!r}")
    cells = _cells(_combinations(study.grids, factors, _seeds(study.seeds)), factors, study.tests)
    plan = Plan(
        study.title,
        {name: tuple(levels) for name, levels in factors.items()},
        tuple(cells),
        dict(study.tests),
        tuple(study.contrast),
        tuple(_published(number, one, factors, study.tests) for number, one in enumerate(study.published)),
    )
    _check_contrast(plan)
    return plan


def _seeds(seeds, at=""):
    """`seeds` as a tuple."""
    wanted = tuple(seeds) if isinstance(seeds, tuple | list | range) else ()
    if not wanted or len(set(wanted)) < len(wanted) or any(type(seed) is not int for seed in wanted):
        raise UserError(f"{at}seeds = {seeds!r} must be different whole numbers, at least one, as (0, 1, 2)")
    return wanted


def _combinations(grids, factors, seeds):
    """What the grids name, in their order and each once: [({factor: level}, its seeds)]."""
    found = {}
    for number, grid in enumerate(grids):
        grid, at = dict(grid), f"grids[{number}]"
        own = _seeds(grid.pop("seeds"), f"{at}: ") if "seeds" in grid else seeds
        for levels in _grid(grid, factors, at):
            levels = tuple(levels.items())
            found[levels] = _united(found.get(levels, ()), own)
    if not found:
        raise UserError("grids is empty: name what is to be run, as ({'network': ALL, 'crop': ALL},)")
    return [(dict(levels), own) for levels, own in found.items()]


def _united(*several):
    """What any of `several` tuples have, each once."""
    return tuple(dict.fromkeys(itertools.chain(*several)))


def _cells(combinations, factors, tests):
    """The cells of combinations of levels: those of one network whose configs are equal are one."""
    same = {}
    for levels, seeds in combinations:
        config = _config(levels, factors)
        fields = sorted((name, _rounded(value)) for name, value in fields_of(config).items())
        same.setdefault(repr((levels[NETWORK], fields)), []).append((levels, seeds, config))
    cells = {}
    for combined in same.values():
        levels, _, config = min(combined, key=lambda one: len(no_bases(one[0], factors)))
        name = _name(levels, factors)
        if name in cells:
            raise UserError(f"two cells would have the folder {name}: rename a level")
        aliases = {_name(other, factors): other for other, *_ in combined if other is not levels}
        seeds = _united(*(own for _, own, _ in combined))
        cells[name] = Cell(levels, aliases, seeds, config, name, _tests(tests, config, name))
    return list(cells.values())


def _rounded(value):
    """A number without what is left of reckoning, 0.1 * 6 / 6."""
    if isinstance(value, tuple):
        return tuple(map(_rounded, value))
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _tests(tests, config, name):
    """{test: config} of those of `tests` that make sense for the network of `config`."""
    configs = {}
    for test, change in tests.items():
        with _named(f"tests[{test!r}] of {name}"):
            tested = changed(config, change)
            if other := [name for name, *_ in differing(config, tested) if name.split(".")[0] not in TESTED_BY]:
                raise UserError(f"a test changes {' and '.join(TESTED_BY)} alone, and not {other[0]}")
            if len(tested.eval.modes) > 1:
                raise UserError(f"eval.modes = {tested.eval.modes!r} must be one mode, as ('whole',)")
            if "pool_norm" in config.model.head or not tested.eval.pool_window:
                configs[test] = validate(tested)
    if not configs:
        raise UserError(f"{name} has no test: name one without eval.pool_window")
    return configs


def _grid(grid, factors, at):
    """The combinations of a grid, {factor: level} with all factors."""
    fraction = grid.pop("fraction", 1)
    if type(fraction) is not int or fraction < 1:
        raise UserError(f"{at}: fraction = {fraction!r} must be a whole number from 1")
    for name in grid:
        if name not in factors:
            raise UserError(f"{at}: there is no factor {name!r}; there are {', '.join(factors)}")
    chosen = []
    for name, levels in factors.items():
        wanted = grid.get(name, ALL if name == NETWORK else tuple(levels)[:1])
        if not isinstance(wanted, tuple | list):
            raise UserError(f"{at}: {name} = {wanted!r} must be a tuple of levels, ({str(wanted)!r},)")
        wanted = tuple(levels) if tuple(wanted) == ALL else tuple(wanted)
        for level in wanted:
            if level not in levels:
                raise UserError(f"{at}: {name} has no level {level!r}; it has {', '.join(levels)}")
        chosen.append(wanted)
    for name, wanted in zip(factors, chosen, strict=True):
        if fraction > 1 and name != NETWORK and len(wanted) not in (1, fraction):
            raise UserError(
                f"{at}: fraction = {fraction} is of factors with {fraction} levels, and {name} has {len(wanted)}"
            )
    places = itertools.product(*(range(len(levels)) for levels in chosen))
    for network, *place in places:
        if sum(place) % fraction == 0:
            place = (network, *place)
            yield {name: levels[i] for name, levels, i in zip(factors, chosen, place, strict=True)}


def _config(levels, factors):
    """The network's config with what each of the other levels changes."""
    config = factors[NETWORK][levels[NETWORK]]
    for name, level in list(levels.items())[1:]:
        with _named(f"factors[{name!r}][{level!r}] with {levels[NETWORK]}"):
            config = changed(config, factors[name][level])
    with _named(", ".join(levels.values())):
        if config.seed != factors[NETWORK][levels[NETWORK]].seed:
            raise UserError("a level changes the seed, which is each run's own: name seeds in study.seeds")
        return validate(config)


def _name(levels, factors):
    return re.sub(r"[^\w,=.+-]+", "_", ",".join([levels[NETWORK], *(no_bases(levels, factors) or ["base"])]))


def no_bases(levels, factors):
    """["crop=256", ...]: of {factor: level} those that are not the first of their factor; the network has no base."""
    return [
        f"{name}={level}" for name, level in levels.items() if name != NETWORK and level != next(iter(factors[name]))
    ]


def changed(config, change):
    """A locked copy of `config` with the nested `change`, or with what a function `change` makes of it."""
    config = config.copy_and_resolve_references().lock()
    config.update(change(config) if callable(change) else change)
    return config


@contextlib.contextmanager
def _named(place):
    try:
        yield
    except Exception as error:  # a study file is Python: whatever its functions raise is the user's to see
        raise UserError(f"{place}: {one_line(error)}") from error


def _published(number, one, factors, tests):
    """A number of somebody else, as (cell, test, score, who)."""
    try:
        levels, test, score, who = one
        known = all(level in factors[factor] for factor, level in levels.items()) and test in ("", *tests)
        score, who = float(score), str(who)
    except (TypeError, ValueError, KeyError, AttributeError):
        known = False
    if not known:
        raise UserError(
            f"published[{number}] = {one!r} must be a cell of the study's factors and levels, one of its tests or '', "
            "mIoU in percent, and who says so"
        )
    return dict(levels), test, score, who


def _check_contrast(plan):
    if not plan.contrast:
        return
    factor, *levels = map(str, plan.contrast)
    if len(set(levels)) != 2 or len(levels) != 2 or not set(levels) <= set(plan.factors.get(factor, ())):
        raise UserError(f"contrast = {plan.contrast!r} must be a factor and two of its levels, ('crop', '512', '769')")
