import json
from pathlib import Path

import pytest

from cropjax.benchmark.measure import OURS, Times
from cropjax.benchmark.report import HEADER, Row, duration, notes, write_figure, write_json
from cropjax.errors import UserError


def row(**changes):
    times = Times({OURS: [[0.5], [0.7]], "torch": [[1.2], [1.2]]}, {OURS: 0.0, "torch": 0.2}, others=0.3)
    return Row("forward", "forward 1x512x512 float32", times, 6e9, 1e11, {OURS: 2**30, "torch": 3 * 2**20}, **changes)


def test_lines():
    ours, theirs, busy, idle = row().lines()
    for column, text in {"median": "600 ms", "GFLOP": "6.0", "% peak": "10.0", "others": "30.0%"}.items():
        end = HEADER.index(column) + len(column)
        assert ours[:end].endswith(text)
    assert theirs[: HEADER.index("ratio") + 5].endswith("2.00")
    assert "3.0 MiB" in theirs
    assert "30%" in busy
    assert "torch kept 0.20 cores busy" in idle


def test_values_are_shown_in_their_units():
    values = {"fixed_bytes": 2**31, "trace_seconds": 0.25, "residual_share": 0.125, "largest_batch": 20130}
    (line,) = Row("memory", "x", values=values).lines()
    assert line.endswith("fixed 2.00 GiB, trace 250 ms, residual 12.5%, largest batch 20130")


def test_duration():
    assert [duration(x) for x in (12.345, 1.2345, 0.12345, 0.0012345)] == ["12.3 s", "1.23 s", "123 ms", "1.23 ms"]


def test_json_has_every_single_time():
    report = json.loads(json.dumps(row().json(), allow_nan=False))
    assert report["parties"]["ours"]["seconds"] == [[0.5], [0.7]]
    assert report["parties"]["ours"]["slowest"] == 0.7
    assert report["parties"]["torch"]["ratio"] == 2.0
    assert report["utilization"] == pytest.approx(0.1)
    assert report["others_share"] == 0.3


def test_notes():
    said = {"versions": {"torch": "2.13"}, "device": "cpu", "parameters": 5, "logits_difference": 1e-6}
    peak, torch = notes({"float32": 1e11}, 4096, {"torch": said})
    assert "100 GFLOP/s" in peak
    assert torch == "torch: torch 2.13, cpu, 5 parameters, logits 1.0e-06 from ours"


def test_files_are_whole_or_absent(tmp_path):
    points = [
        row(point={"kind": kind, "axis": "crops", "batch": 1, "size": (crop, crop), "pixels": crop**2})
        for kind in ("forward", "train")
        for crop in (256, 512)
    ]
    write_figure(tmp_path / "x.png", points)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    for write in (lambda path: write_figure(path, points), lambda path: write_json(path, {})):
        with pytest.raises(UserError, match="cannot be written"):
            write(Path("/proc/nowhere/x.png"))
