"""What a factor is worth: differences between runs that differ in it alone, paired by seed, and how sure they are.

Two cells that differ in one factor, trained with the same seed and tested in the same way, are a pair. An effect is the
mean of the pairs' differences; its 95 % intervals are over seeds, because a seed's runs share the order of the images:

    bootstrap   percentiles of the mean over seeds drawn with replacement, all draws if they are few (Efron 1979)
    t           Student's, of the means of the seeds

With three seeds the first is too narrow: it can never reach beyond the seeds' own values. What is said of an effect
follows the second.

`values` are {(cell, seed): value}, and `cells` {levels: cell} says which cell was run with which levels: a tuple of
(factor, level) pairs, always in one order, whatever names the cell. Combinations of levels that come to one config are
one cell. It is no pair with itself, and two cells are one pair, however many combinations name both.

A fraction of a grid has no two cells that differ in one factor alone. There an effect is fitted, seed by seed, by least
squares of one number for each level of each factor: it is right if factors do not interact, and has 0 pairs.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 10_000  # of seeds, where there are more combinations than that
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with intervals (low, high), nan with one seed: `by_seed` {seed: mean over its pairs}."""

    by_seed: dict
    pairs: int

    @property
    def mean(self):
        return float(np.mean(list(self.by_seed.values())))

    @property
    def contexts(self):
        """Over how many contexts each seed's mean is."""
        return self.pairs // len(self.by_seed)

    @property
    def bootstrap(self):
        return bootstrap(list(self.by_seed.values()))

    @property
    def t(self):
        return student(list(self.by_seed.values()))

    @property
    def is_clear(self):
        """Whether Student's interval leaves 0 out."""
        low, high = self.t
        return low > 0 or high < 0


def bootstrap(values):
    """The percentile interval of the mean of `values`."""
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    if n**n <= DRAWS:
        draws = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        draws = np.random.default_rng(0).integers(0, n, (DRAWS, n))
    tail = 50 * (1 - LEVEL)
    return tuple(np.percentile(values[draws].mean(1), [tail, 100 - tail]).tolist())


def student(values):
    """Student's interval of the mean of `values`."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    mean = float(np.mean(values))
    return mean - half, mean + half


def estimate(pairs):
    """The `Estimate` of {(context, seed): value}, None without any; each seed's is the mean over its contexts.

    Seeds are compared over the same contexts, or what differs between contexts would pass for luck. Where runs are
    missing, those seeds and contexts count that have the most pairs, and of two such choices the one with more seeds.
    """
    seeds, contexts = _compared(pairs)
    if not contexts:
        return None
    by_seed = {seed: float(np.mean([pairs[context, seed] for context in contexts])) for seed in seeds}
    return Estimate(by_seed, len(seeds) * len(contexts))


def _compared(keys):
    """(seeds, contexts) of (context, seed) `keys`, all of these seeds having all of these contexts."""
    contexts_of = {}
    for context, seed in keys:
        contexts_of.setdefault(seed, set()).add(context)
    shared = set()  # by each choice of seeds
    for contexts in map(frozenset, contexts_of.values()):
        shared |= {contexts} | {contexts & other for other in shared}
    choices = [
        (sorted(seed for seed, own in contexts_of.items() if contexts <= own), contexts)
        for contexts in shared
        if contexts
    ]
    return max(
        choices, key=lambda one: (len(one[0]) * len(one[1]), len(one[0]), [-seed for seed in one[0]]), default=((), ())
    )


def pairs_of(cells, factor, low, high):
    """{context: (cell at level `low` of `factor`, cell at `high`)}; a context is levels without the factor."""
    return _once(_pairs(cells, factor, low, high))


def _pairs(cells, factor, low, high):
    found = {}
    for levels, cell in cells.items():
        other = cells.get(with_level(levels, factor, high), cell)
        if (factor, low) in levels and other != cell:
            found[without(levels, factor)] = (cell, other)
    return found


def _once(compared):
    """Of {context: cells} the contexts whose cells no earlier one has."""
    first = {}
    for context, cells in compared.items():
        first.setdefault(cells, context)
    return {context: cells for cells, context in first.items()}


def with_level(levels, factor, level):
    """`levels` with another level of `factor`, at its place."""
    return tuple((name, level if name == factor else own) for name, own in levels)


def without(levels, factor):
    """`levels` without those of `factor`."""
    return tuple(pair for pair in levels if pair[0] != factor)


def differences(values, cells, factor, low, high):
    """{(context, seed): value at level `high` of `factor` less that at `low`}."""
    return _summed(values, pairs_of(cells, factor, low, high), (-1, 1))


def _summed(values, compared, signs):
    """{(context, seed): sum} of {context: cells}, for the seeds that all of these cells have."""
    seeds = dict.fromkeys(seed for _, seed in values)
    return {
        (context, seed): sum(sign * values[cell, seed] for sign, cell in zip(signs, cells, strict=True))
        for context, cells in compared.items()
        for seed in seeds
        if all((cell, seed) in values for cell in cells)
    }


def main_effects(values, cells, factors):
    """[(factor, low level, high level, Estimate)] for each two levels of `factors`, {factor: levels}.

    Of a factor without any pairs it is `fitted`, so `factors` must be all in which the cells of `values` differ.
    """
    found = []
    for factor, levels in factors.items():
        rows = paired(values, cells, factor, levels)
        found += rows or [
            (factor, *pair, one)
            for pair in itertools.combinations(levels, 2)
            if (one := fitted(values, factors, factor, *pair))
        ]
    return found


def paired(values, cells, factor, levels):
    """[(factor, low level, high level, Estimate)] for each two `levels` of which there are pairs."""
    return [
        (factor, *pair, one)
        for pair in itertools.combinations(levels, 2)
        if (one := estimate(differences(values, cells, factor, *pair)))
    ]


def fitted(values, factors, factor, low, high):
    """The `Estimate` by least squares over cells that the same seeds have, None if these cells cannot tell."""
    seeds, cells = _compared(values)
    if not cells:
        return None
    cells = sorted(cells)
    columns = [(name, level) for name, levels in factors.items() for level in levels[1:]]
    design = np.array([[1.0, *(dict(cell)[name] == level for name, level in columns)] for cell in cells])
    wanted = np.array([0.0, *((name == factor) * ((level == high) - (level == low)) for name, level in columns)])
    weights = wanted @ np.linalg.pinv(design)
    if not np.allclose(weights @ design, wanted):
        return None
    return Estimate({seed: float(weights @ [values[cell, seed] for cell in cells]) for seed in seeds}, 0)


def interactions(values, cells, factors, others=None):
    """[(factor, levels, other factor, levels, Estimate)]: by how much the other's effect grows with the first.

    Of each two of `factors`, or of each of them and each of `others`, and of each two levels of both for which there
    are four different cells.
    """
    found = []
    two = (
        itertools.combinations(factors.items(), 2)
        if others is None
        else itertools.product(factors.items(), others.items())
    )
    for (first, firsts), (second, seconds) in two:
        for (low, high), pair in itertools.product(
            itertools.combinations(firsts, 2), itertools.combinations(seconds, 2)
        ):
            effects, compared = _pairs(cells, second, *pair), {}
            for context, at_low in effects.items():
                four = at_low + effects.get(with_level(context, first, high), ())
                if (first, low) in context and len(set(four)) == 4:
                    compared[without(context, first)] = four
            if one := estimate(_summed(values, _once(compared), (1, -1, -1, 1))):
                found.append((first, (low, high), second, pair, one))
    return found
