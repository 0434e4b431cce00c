import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropjax.progress import Progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def run(progress, clock, steps, seconds, **values):
    for step in steps:
        clock.now += seconds
        progress.update(step, **values)


def test_the_line_of_a_log_file(clock):
    stream = io.StringIO()
    with Progress(400, stream=stream, clock=clock) as progress:
        run(progress, clock, range(1, 121), 0.5, loss=1.23412)
        stream.truncate(0), stream.seek(0)
        progress.line(120, lr=0.01, epoch=3, split="val")
        line = "train  120/400  30 %  2.00 steps/s  eta 2:20  loss 1.234  lr 0.01  epoch 3  split val\n"
        assert stream.getvalue() == line


def test_a_log_file_gets_a_line_every_so_often_and_the_last(clock):
    stream = io.StringIO()
    with Progress(100, stream=stream, every_seconds=30, clock=clock) as progress:
        run(progress, clock, range(1, 101), 1.0)
    counts = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert counts == ["5/100", "35/100", "65/100", "95/100", "100/100"]
    assert "100 %  1.00 steps/s  after 1:40" in stream.getvalue()


def test_a_line_of_the_caller_puts_the_next_one_off(clock):
    stream = io.StringIO()
    with Progress(100, stream=stream, every_seconds=30, clock=clock) as progress:
        for step in range(1, 61):
            run(progress, clock, [step], 1.0)
            if step % 20 == 0:
                progress.line(step)
        counts = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert counts == ["5/100", "20/100", "40/100", "60/100"]


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_short_loop_says_only_its_last_line(clock, kind):
    stream = kind()
    with Progress(9, stream=stream, label="eval", unit="image", clock=clock) as progress:
        for step in range(1, 10):
            run(progress, clock, [step], 0.5, loss=step)
            progress.line(step)
            with progress.pause():
                clock.now += 100
        assert stream.getvalue() == ""
    assert stream.getvalue() == "eval  9/9  100 %  2.00 images/s  after 0:04  loss 9\n"


def test_a_loop_that_never_ran_says_nothing(clock):
    stream = io.StringIO()
    with Progress(9, start=9, stream=stream, clock=clock):
        clock.now += 60
    assert stream.getvalue() == ""


def test_an_exception_leaves_the_last_state(clock):
    stream = Terminal()
    with contextlib.suppress(ZeroDivisionError), Progress(9, stream=stream, clock=clock) as progress:
        run(progress, clock, [1, 2], 10.0)
        raise ZeroDivisionError
    assert stream.getvalue().endswith("\x1b[Ktrain  2/9  22 %  10.0 s/step  after 0:20\n")


@given(pauses=st.lists(st.floats(0, 1e4), max_size=5))
def test_pauses_count_neither_in_the_rate_nor_in_the_time_left(pauses):
    clock, stream = Clock(), io.StringIO()
    progress = Progress(20, stream=stream, clock=clock)
    run(progress, clock, range(1, 6), 2.0)
    for pause in pauses:
        with progress.pause():
            clock.now += pause
            with progress.pause():  # a checkpoint within an evaluation
                clock.now += pause
    run(progress, clock, range(6, 11), 2.0)
    assert progress.rate == pytest.approx(0.5)
    assert progress.elapsed == pytest.approx(20)
    progress.line(10)
    assert "10/20  50 %  2.00 s/step  eta 0:20" in stream.getvalue()


def test_the_first_update_waits_for_compilation_and_is_not_counted(clock):
    with Progress(10, start=4, stream=io.StringIO(), clock=clock) as progress:
        assert progress.rate == 0
        run(progress, clock, [5], 60.0)
        assert progress.rate == pytest.approx(1 / 60)
        run(progress, clock, [6, 7], 0.25)
        assert progress.rate == pytest.approx(4)


def test_the_bar_of_a_terminal_stays_on_one_line(clock):
    stream = Terminal()
    with Progress(400, stream=stream, clock=clock) as progress:
        run(progress, clock, range(1, 101), 0.5, loss=1.5)
        bars = stream.getvalue().split("\r\x1b[K")[1:]
        assert len(bars) == 91  # drawn from the fifth second on
        assert {len(bar) for bar in bars} == {79}
        assert bars[-1].startswith("train  25 % |█")
        assert bars[-1].endswith("| 100/400  2.00 steps/s  0:50  eta 2:30  loss 1.5")
        progress.line(100, loss=0.5)
        line = "\r\x1b[Ktrain  100/400  25 %  2.00 steps/s  eta 2:30  loss 0.5\n"
        assert stream.getvalue().endswith(line)


def test_a_terminal_is_redrawn_ten_times_a_second_at_most(clock):
    stream = Terminal()
    with Progress(10_000, stream=stream, clock=clock) as progress:
        run(progress, clock, range(1, 6001), 0.001)
        assert 9 <= stream.getvalue().count("\r") <= 11


def test_a_pause_clears_the_bar_so_that_others_can_write(clock):
    stream = Terminal()
    with Progress(20, stream=stream, clock=clock) as progress:
        run(progress, clock, range(1, 11), 1.0)
        assert not stream.getvalue().endswith("\r\x1b[K")
        with progress.pause():
            assert stream.getvalue().endswith("\r\x1b[K")


def test_values_are_fetched_only_when_they_are_shown(clock):
    class OnDevice:
        fetched = 0

        def __float__(self):
            OnDevice.fetched += 1
            return 1.0

    with Progress(100, stream=io.StringIO(), clock=clock) as progress:
        run(progress, clock, range(1, 30), 0.1, loss=OnDevice())
    assert OnDevice.fetched == 1


def test_other_processes_count_and_write_nothing(clock):
    stream = Terminal()
    with Progress(100, stream=stream, enabled=False, clock=clock) as progress:
        run(progress, clock, range(1, 100), 1.0)
        progress.line(99)
    assert stream.getvalue() == ""
    assert progress.rate == pytest.approx(1)
