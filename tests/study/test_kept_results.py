"""What docs/results keeps of a study is of its study file, and its tables and pages say what its results say."""

import csv
import math
import runpy
from pathlib import Path

import pytest

from cropjax.pages.page import shown
from cropjax.study.plan import read_plan
from cropjax.study.report import write_report
from cropjax.study.results import Results, checksum

ROOT = Path(__file__).parents[2]
KEPT = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/runs"))


def test_there_are_results():
    assert [folder.name for folder in KEPT] == ["camvid", "streets"]


@pytest.fixture(scope="module", params=KEPT, ids=lambda folder: folder.name)
def kept(request, tmp_path_factory):
    """(the folder, its plan, its results, and a folder with a report that was made now)."""
    plan = read_plan(runpy.run_path(str(ROOT / "configs" / "studies" / f"{request.param.name}.py"))["get_config"]())
    results = Results(request.param / "runs")
    made = tmp_path_factory.mktemp("report")
    write_report(plan, results, made)
    return request.param, plan, results, made


def test_every_file_is_of_a_run_of_the_study(kept):
    folder, plan, results, _ = kept
    there = {str(path.relative_to(results.folder)) for path in results.folder.rglob("*.json")}
    assert there == {f"{run.name}.json" for run in plan.runs if results.get(run)}


def test_weights_kept_with_the_results_are_those_that_runs_began_with(kept):
    """So that a study that goes on elsewhere goes on as the same study."""
    folder, plan, results, _ = kept
    began = {result["weights"] for run in plan.runs if (result := results.get(run))} - {""}
    assert len(began) == 1
    assert began >= {checksum(path) for path in folder.glob("*.safetensors")}


def test_tables_are_those_of_the_results(kept):
    folder, _, _, made = kept
    tables = sorted(path.relative_to(made) for path in made.rglob("*.csv"))
    assert tables == sorted(path.relative_to(folder) for path in folder.rglob("*.csv"))
    for table in tables:
        expected = [[_near(cell) for cell in row] for row in _rows(made / table)]
        assert [[_number(cell) for cell in row] for row in _rows(folder / table)] == expected, f"{table} is not as made"


def _rows(path):
    with path.open() as file:
        return list(csv.reader(file))


def _number(text):
    try:
        return text if math.isnan(float(text)) else float(text)
    except ValueError:
        return text


def _near(text):
    number = _number(text)
    return number if isinstance(number, str) else pytest.approx(number, rel=1e-6, abs=1e-9)


def test_what_the_page_quotes_is_in_the_report(kept):
    """Sentences word for word, and rows of its tables."""
    folder, _, _, made = kept
    said = (folder / "table.md").read_text(encoding="utf-8")
    page = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    quoted = [line[2:] for line in page if line.startswith("> ")]
    assert quoted
    for line in quoted:
        assert line in said
    tables = [[_row(map(_number, row)) for row in _rows(path)] for path in made.rglob("csv/*.csv")]
    for table in _tables(page):
        assert any(set(table) <= set(rows) for rows in tables), table[0]


def _tables(lines):
    """The rows of each table, without the line below the head."""
    found = [[]]
    for line in lines:
        if not line.startswith("|"):
            found.append([])
        elif not line.startswith("|---"):
            found[-1].append(line)
    return [table for table in found if table]


def _row(cells):
    return "| " + " | ".join(shown(cell) if cell != "" else "-" for cell in cells) + " |"
