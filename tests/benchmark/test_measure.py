import io

import numpy as np
import pytest

from cropjax.benchmark.measure import OURS, Line, Party, Times, alternate, matrix_peak
from cropjax.progress import Progress


def recorded(calls, name, seconds, cpu=lambda: 0.0):
    def run():
        calls.append(name)
        return seconds

    return Party(run, cpu)


def progress():
    return Progress(99, stream=io.StringIO())


def test_parties_take_turns_and_change_who_is_first():
    calls = []
    parties = {name: recorded(calls, name, 1.0) for name in (OURS, "a", "b")}
    times = alternate(parties, 3, progress())
    assert calls[:6] == [OURS, OURS, "a", "a", "b", "b"]  # warm-ups
    turns = [OURS, "a", "b", "b", "a", OURS, OURS, "a", "b"]
    assert calls[6:] == [name for name in turns for _ in range(2)]  # the first of a turn does not count
    assert times.seconds == dict.fromkeys(parties, [[1.0]] * 3)


def test_what_is_short_runs_several_times_a_round():
    calls = []
    times = alternate({OURS: recorded(calls, OURS, 0.05), "a": recorded(calls, "a", 1e-9)}, 2, progress())
    assert [len(one) for one in times.seconds[OURS]] == [4, 4]
    assert [len(one) for one in times.seconds["a"]] == [50, 50]


def test_processor_time_of_a_party_that_should_be_waiting():
    calls = []
    used = iter(np.arange(100.0))
    parties = {OURS: recorded(calls, OURS, 1.0), "a": recorded(calls, "a", 1.0, lambda: next(used))}
    idle = alternate(parties, 2, progress()).idle_cores
    assert idle[OURS] == 0
    assert idle["a"] > 0


def test_statistics():
    times = Times({OURS: [[1.0, 2.0, 9.0], [4.0], [3.0]], "a": [[3.0], [4.0], [9.0]]})
    assert times.rounds() == [2.0, 4.0, 3.0]
    assert (times.median(), times.spread()) == (3.0, (2.0, 4.0))
    assert times.ratio("a") == pytest.approx(4 / 3)
    assert times.ratio_by_round("a") == 1.5  # of 1.5, 1 and 3


def test_line():
    line = Line.fit([100, 200, 400], [1.2, 2.2, 4.2])
    assert (line.seconds_per_pixel, line.intercept) == pytest.approx((0.01, 0.2))
    assert line.residual < 1e-12
    bent = Line.fit([0, 1, 2], [1.0, 2.0, 6.0])  # 0.5 + 2.5 x, 0.5, 1 and 0.5 away
    assert bent.residual == pytest.approx(0.5)


def test_matrix_peak():
    assert matrix_peak("float32", 64) > 0
