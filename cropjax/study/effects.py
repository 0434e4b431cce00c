"""What a factor is worth: differences between runs that differ in it alone, paired by seed, and how sure they are.

Two cells that differ in one factor, trained with the same seed and tested in the same way, are a pair. An effect is the
mean of the pairs' differences; its 95 % intervals are over seeds, because a seed's runs share the order of the images:

    bootstrap   percentiles of the mean over seeds drawn with replacement, all draws if they are few (Efron 1979)
    t           Student's, of the means of the seeds

With three seeds the first is too narrow: it can never reach beyond the seeds' own values. What is said of an effect
follows the second.

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
    seeds = sorted(contexts_of, key=lambda seed: (-len(contexts_of[seed]), seed))
    choices = [
        (sorted(seeds[: i + 1]), set.intersection(*map(contexts_of.get, seeds[: i + 1]))) for i in range(len(seeds))
    ]
    return max(choices, key=lambda one: (len(one[0]) * len(one[1]), len(one[0])), default=((), ()))


def differences(values, factor, low, high):
    """{(context, seed): value at level `high` of `factor` less that at `low`} of {(cell, seed): value}.

    A cell is a tuple of (factor, level) pairs, and a context one without `factor`.
    """
    found = {}
    for (cell, seed), value in values.items():
        levels = dict(cell)
        if levels.get(factor) != low:
            continue
        other = tuple((name, high if name == factor else level) for name, level in cell)
        if (other, seed) in values:
            context = tuple((name, level) for name, level in cell if name != factor)
            found[context, seed] = values[other, seed] - value
    return found


def main_effects(values, factors):
    """[(factor, low level, high level, Estimate)] of {(cell, seed): value}, for each two levels of `factors`.

    Of a factor without any pairs it is `fitted`.
    """
    found = []
    for factor, levels in factors.items():
        both = list(itertools.combinations(levels, 2))
        paired = [(factor, *pair, estimate(differences(values, factor, *pair))) for pair in both]
        if not any(one for *_, one in paired):
            paired = [(factor, *pair, fitted(values, factors, factor, *pair)) for pair in both]
        found += [row for row in paired if row[-1]]
    return found


def fitted(values, factors, factor, low, high):
    """The `Estimate` by least squares over cells that the same seeds have, None if these cells cannot tell."""
    seeds, cells = _compared(values)
    cells = sorted(cells)
    columns = [(name, level) for name, levels in factors.items() for level in levels[1:]]
    design = np.array([[1.0, *(dict(cell)[name] == level for name, level in columns)] for cell in cells])
    wanted = np.array([0.0, *((name == factor) * ((level == high) - (level == low)) for name, level in columns)])
    if not cells:
        return None
    weights = wanted @ np.linalg.pinv(design)
    if not np.allclose(weights @ design, wanted):
        return None
    return Estimate({seed: float(weights @ [values[cell, seed] for cell in cells]) for seed in seeds}, 0)


def interactions(values, factors):
    """[(factor, levels, other factor, levels, Estimate)]: by how much the other's effect grows with the first.

    Of each two `factors` and each two levels of both for which all four cells are there.
    """
    found = []
    for (first, firsts), (second, seconds) in itertools.combinations(factors.items(), 2):
        for pair, other in itertools.product(itertools.combinations(firsts, 2), itertools.combinations(seconds, 2)):
            by_level = differences(values, second, *other)
            if one := estimate(differences(by_level, first, *pair)):
                found.append((first, pair, second, other, one))
    return found
