"""Timing that two sides can be compared by: in turns, round by round, and what the times say."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.benchmark.machine import Others

OURS = "ours"
WARM_UPS = 2  # the first run compiles, the second finds its memory
SHORTEST = 0.2  # seconds: what is shorter runs several times in each round
MOST_RUNS = 50  # of them


@dataclass
class Party:
    """One side. `run` does the thing once and returns seconds; `cpu` is the processor time that it has used so far."""

    run: Callable[[], float]
    cpu: Callable[[], float]


@dataclass
class Times:
    """Seconds of each party, a list a round, and what was going on besides.

    `idle_cores`: how many cores a party kept busy while another one was timed. `others`: see `Others`.
    """

    seconds: dict[str, list[list[float]]]
    idle_cores: dict[str, float] = field(default_factory=dict)
    others: float = 0.0

    def rounds(self, name=OURS):
        """The median of each round."""
        return [statistics.median(one) for one in self.seconds[name]]

    def median(self, name=OURS):
        return statistics.median(self.rounds(name))

    def spread(self, name=OURS):
        """Fastest and slowest round."""
        return min(self.rounds(name)), max(self.rounds(name))

    def ratio(self, name):
        """How many times as long as ours: the ratio of the medians."""
        return self.median(name) / self.median()

    def ratio_by_round(self, name):
        """The median of the rounds' ratios: a machine that changes its pace between rounds does not enter."""
        return statistics.median(b / a for a, b in zip(self.rounds(), self.rounds(name), strict=True))


def timer(run):
    """`run`, which waits for what it started, as a function that returns its seconds."""

    def seconds():
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return seconds


def alternate(parties, rounds, progress):
    """Warms up, then times the parties {name: Party} in turns, in reversed order in every other round -> `Times`.

    A turn begins with a run that does not count: while another party has the machine, memory goes back to the system
    and caches to it. A virtual machine's host may even take the memory; getting it back has doubled a step of ours.

    `progress` counts warm-ups and rounds, `len(parties) * (WARM_UPS + rounds)` in all.
    """
    done, runs = 0, {}
    for name, party in parties.items():
        for _ in range(WARM_UPS):
            latest = party.run()
            done += 1
            progress.update(done)
        runs[name] = int(np.clip(np.ceil(SHORTEST / latest), 1, MOST_RUNS))

    seconds = {name: [] for name in parties}
    waited = dict.fromkeys(parties, 0.0)  # seconds in which another party was timed
    used = dict.fromkeys(parties, 0.0)  # processor time in them
    with Others() as others:
        for i in range(rounds):
            for name in list(parties) if i % 2 == 0 else reversed(parties):
                if len(parties) > 1:
                    parties[name].run()
                idle = {other: party for other, party in parties.items() if other != name}
                before, began = {other: party.cpu() for other, party in idle.items()}, time.monotonic()
                seconds[name].append([parties[name].run() for _ in range(runs[name])])
                for other, party in idle.items():
                    waited[other] += time.monotonic() - began
                    used[other] += party.cpu() - before[other]
                done += 1
                progress.update(done)
    cores = {name: used[name] / waited[name] for name in parties if waited[name]}
    return Times(seconds, cores, others.share)


def matrix_peak(dtype, size):
    """FLOP/s of the best of five products of two [size,size] matrices, which is what XLA here can do at most."""
    matrix = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    run = timer(lambda: jax.block_until_ready(product(matrix, matrix)))
    run()
    return 2 * size**3 / min(run() for _ in range(5))


@dataclass(frozen=True)
class Line:
    """The least-squares line of seconds against pixels, and how far from it a point is at most, over the point."""

    seconds_per_pixel: float
    intercept: float  # seconds
    residual: float

    @classmethod
    def fit(cls, pixels, seconds):
        pixels, seconds = np.asarray(pixels, float), np.asarray(seconds, float)
        slope, intercept = np.polyfit(pixels, seconds, 1)
        residual = np.max(np.abs(slope * pixels + intercept - seconds) / seconds)
        return cls(float(slope), float(intercept), float(residual))
