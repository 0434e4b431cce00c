"""The report says what was put into the results, with its conditions, and what is missing."""

import csv
import json
import re

import pytest
from study_results import make_results, small_plan, small_study

from cropjax.study.found import Found
from cropjax.study.plan import ALL, read_plan
from cropjax.study.report import write_report
from cropjax.study.results import Results

GAIN = {"PSPNet": 8, "SegFormer": 2}  # rows of 32 that are right at crop 49 and not at 33
MISSING = "SegFormer,crop=49,batch=2/seed_2"


def share(levels, seed, test):
    rows = 12 + seed + GAIN[levels["network"]] * (levels["crop"] == "49") + 2 * (levels["batch"] == "4")
    return (rows + (test == "pools")) / 32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, plan = tmp_path_factory.mktemp("study"), small_plan()
    results = Results(folder / "results")
    make_results(plan, results, share, skip=(MISSING,))
    write_report(plan, results, folder)
    return folder, plan, results


def rows(folder, name):
    with (folder / "csv" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_studys_own_table_comes_first(made):
    folder, _, _ = made
    page = (folder / "report.html").read_text()
    assert re.findall("<h2[^>]*>(.*?)</h2>", page)[0] == "Crop 33 and 49"
    row = next(
        row
        for row in rows(folder, "contrast")
        if (row["network"], row["batch"], row["test"]) == ("PSPNet", "4", "whole")
    )
    low, high = float(row["crop 33"]), float(row["crop 49"])
    assert float(row["difference"]) == pytest.approx(high - low)
    assert row["seeds"] == "3"
    assert row["published"] == "33: 57.64 (somebody, one run)"


def test_effects_are_those_that_were_put_in(made):
    folder, _, _ = made
    found = {
        (row["network"], row["test"], row["factor"], row["from"], row["to"]): row for row in rows(folder, "effects")
    }
    crop = found["PSPNet", "whole", "crop", "33", "49"]
    mean = {network: float(found[network, "whole", "crop", "33", "49"]["effect"]) for network in GAIN}
    assert mean["PSPNet"] / mean["SegFormer"] == pytest.approx(GAIN["PSPNet"] / GAIN["SegFormer"], rel=0.05)
    assert float(crop["t low"]) <= float(crop["bootstrap low"]) <= float(crop["effect"]) <= float(crop["t high"])
    assert crop["pairs"] == "6"
    pools = found["PSPNet", "", "test", "whole", "pools"]
    assert float(pools["effect"]) > 0
    assert float(found["PSPNet", "", "test", "whole", "slide"]["effect"]) == 0


def test_the_figure_of_effects_has_every_context_of_the_first_test(made):
    """A crop worth 8 points at one batch and nothing at another is drawn as both, not as 4."""
    folder, _, _ = made
    drawn = (folder / "figures" / "what_each_factor_is_worth.svg").read_text()
    contexts = [row for row in rows(folder, "effects_by_context") if row["test"] == "whole"]
    assert {row["where"] for row in contexts} > {"base"}
    tests = [row for row in rows(folder, "effects") if row["factor"] == "test"]
    for row in contexts + tests:
        where = "" if row.get("where", "base") == "base" else f", {row['where']}"
        line = f">{row['network']}, {row['factor']} {row['from']} to {row['to']}{where}<"
        assert drawn.count(line) == (row["factor"] != "test" or row["from"] == "whole")


def test_sentences_say_what_tables_say(made):
    """Of the first test, and of the tests, all effects; of the other tests those that are sure."""
    folder, _, _ = made
    said = (folder / "table.md").read_text().splitlines()
    for row in rows(folder, "effects"):
        low, high = float(row["t low"]), float(row["t high"])
        words = f"{row['network']} {row['from']} to {row['to']} {float(row['effect']):+.1f} ({low:+.1f} to {high:+.1f}"
        begins = f"{row['test']}, {row['factor']}: " if row["test"] else "test: "
        if row["factor"] == "test" and row["from"] != "whole":
            continue
        lines = [line for line in said if line.startswith(begins) and words in line]
        assert len(lines) == (row["test"] in ("", "whole") or not low <= 0 <= high)
        for line in lines:
            assert ("sign not known" in line.split(words)[1].split(")")[0]) == (low <= 0 <= high)


def test_every_number_has_its_conditions(made):
    folder, plan, _ = made
    cells = [row["cell"] for row in rows(folder, "conditions")]
    assert cells == [cell.name for cell in plan.cells]
    assert {row["network"] for row in rows(folder, "every_cell_and_test")} == {"PSPNet", "SegFormer"}
    tests = {(row["network"], row["test"]): row["how"] for row in rows(folder, "tests")}
    assert "windows of 32x32, every 16 rows and 16 columns" in tests["SegFormer", "slide"]
    assert "Pooled branches see 32 x 32 pixels" in tests["PSPNet", "pools"]
    assert ("SegFormer", "pools") not in tests


def test_what_is_missing_is_said(made):
    folder, _, _ = made
    page = (folder / "report.html").read_text()
    assert "23 of 24" in page
    assert "SegFormer,crop=49,batch=2: seed 2, everything<" in page
    assert [tuple(row.values()) for row in rows(folder, "missing")] == [(MISSING.split("/")[0], "seed 2", "everything")]


def test_results_csv_has_every_run_and_test_in_full(made):
    folder, plan, results = made
    with (folder / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12 * 3 + 11 * 2
    (run,) = [run for run in plan.runs if run.name == "PSPNet,base/seed_1"]
    stored = results.get(run)["tests"]["slide"]["miou"]
    (line,) = [
        line
        for line in lines
        if (line["network"], line["crop"], line["batch"], line["seed"], line["test"])
        == ("PSPNet", "33", "4", "1", "slide")
    ]
    assert float(line["miou"]) == stored


def test_the_page_needs_nothing_else_and_escapes_names(made):
    folder, _, _ = made
    page = (folder / "report.html").read_text()
    assert "A study &lt;in&gt; small" in page
    assert "<in>" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#|csv/)', page)
    assert page.count("<svg") >= 4
    assert (folder / "table.md").read_text().startswith("# A study")


def test_without_results_there_is_no_report(tmp_path, capsys):
    write_report(small_plan(), Results(tmp_path / "results"), tmp_path)
    assert "no results yet" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_one_seed_has_no_interval(tmp_path):
    plan = small_plan()
    results = Results(tmp_path / "results")
    make_results(plan, results, share, skip=[run.name for run in plan.runs if run.seed])
    write_report(plan, results, tmp_path)
    row = rows(tmp_path, "contrast")[0]
    assert row["seeds"] == "1"
    assert row["t low"] in ("nan", "")
    assert Found(plan, results).lacking()


def test_cells_with_more_seeds_keep_them(tmp_path):
    """A pair of cells has the seeds of both, whatever other pairs have."""
    study = small_study()
    study.grids = (
        {"network": ("PSPNet",), "crop": ALL, "seeds": range(5)},
        {"network": ("PSPNet",), "crop": ALL, "batch": ("2",), "seeds": (1, 2)},
    )
    plan, results = read_plan(study), Results(tmp_path / "results")
    make_results(plan, results, share, skip=("PSPNet,base/seed_3", "PSPNet,batch=2/seed_1", "PSPNet,batch=2/seed_2"))
    write_report(plan, results, tmp_path)
    said = (tmp_path / "table.md").read_text()
    assert "* runs: 11 of 14, 2 to 5 seeds a cell" in said
    assert [tuple(row.values()) for row in rows(tmp_path, "missing")] == [
        ("PSPNet,base", "seed 3", "everything"),
        ("PSPNet,batch=2", "all", "everything"),
    ]
    seeds = {(row["crop"], row["batch"]): row["seeds"] for row in rows(tmp_path, "every_cell_and_test")}
    assert seeds == {("33", "4"): "4", ("49", "4"): "5", ("49", "2"): "2"}
    each = {(row["factor"], row["where"]): row["seeds"] for row in rows(tmp_path, "effects_by_context")}
    assert each == {("crop", "base"): "4", ("batch", "crop=49"): "2"}


def test_only_factors_that_do_not_vary_are_at_one_level(tmp_path, made):
    folder, _, _ = made
    assert "* at one level in all: no factor" in (folder / "table.md").read_text()
    plan, results = small_plan(), Results(tmp_path / "results")
    make_results(plan, results, share, skip=[run.name for run in plan.runs if "batch" in run.name])
    write_report(plan, results, tmp_path)
    assert "* at one level in all: batch 4" in (tmp_path / "table.md").read_text()


def test_size_and_place_are_of_the_first_test_with_bands(made):
    folder, _, _ = made
    page = (folder / "report.html").read_text()
    place = page.split(">By size and place</h2>")[1].split("<h2")[0]
    assert "Under whole: means over pairs; the bands are Student" in place
    assert place.count("FillBetween") == 2 * len(GAIN)
    assert {row["test"] for row in rows(folder, "places")} == {"whole", "slide", "pools"}


def test_crops_are_compared_at_equal_pixels(tmp_path):
    """The small crop with its own steps is also the small crop with as many pixels: one run, in two comparisons."""
    study = small_study()
    steps = {"33": 4, "49": 2}
    pixels = {"steps": {}, "pixels": lambda config: dict(train=dict(steps=steps[str(config.data.crop_size[0])]))}
    study.factors = dict(study.factors) | {"seen": pixels}
    study.grids = ({"network": ("PSPNet",), "crop": ALL, "seen": ALL},)
    plan, results = read_plan(study), Results(tmp_path / "results")
    assert [cell.name for cell in plan.cells] == ["PSPNet,base", "PSPNet,crop=49", "PSPNet,crop=49,seen=pixels"]
    worth = {("33", "steps"): 10, ("49", "steps"): 16, ("49", "pixels"): 13}
    make_results(plan, results, lambda levels, seed, test: (worth[levels["crop"], levels["seen"]] + seed) / 32)
    write_report(plan, results, tmp_path)
    shown = {(row["seen"], row["test"]): row for row in rows(tmp_path, "contrast")}
    assert len(shown) == 2 * 3
    assert shown["pixels", "whole"]["crop 33"] == shown["steps", "whole"]["crop 33"]
    assert 0 < float(shown["pixels", "whole"]["difference"]) < float(shown["steps", "whole"]["difference"])
    each = {
        (row["factor"], row["where"]): row for row in rows(tmp_path, "effects_by_context") if row["test"] == "whole"
    }
    assert set(each) == {("crop", "base"), ("crop", "seen=pixels"), ("seen", "crop=49")}
    assert each["crop", "seen=pixels"]["effect"] == shown["pixels", "whole"]["difference"]
    assert [tuple(row.values()) for row in rows(tmp_path, "same_cells")] == [("PSPNet,base", "PSPNet,seen=pixels")]
    assert len(rows(tmp_path, "every_cell_and_test")) == 3


def test_factors_are_crossed_with_networks_and_tests(made):
    folder, _, _ = made
    found = {
        (row["network"], row["test"], row["effect of"], row["when"]): float(row["larger by"])
        for row in rows(folder, "interactions")
    }
    assert found["", "whole", "crop 33 to 49", "network PSPNet to SegFormer"] < -5
    assert abs(found["", "whole", "batch 4 to 2", "network PSPNet to SegFormer"]) < 2
    assert found["PSPNet", "", "crop 33 to 49", "test whole to slide"] == 0
    assert ("SegFormer", "", "crop 33 to 49", "test whole to pools") not in found
    assert ("PSPNet", "slide", "batch 4 to 2", "crop 33 to 49") in found


def test_a_run_that_failed_says_why(tmp_path):
    plan, results = small_plan(), Results(tmp_path / "results")
    make_results(plan, results, share, skip=(MISSING,))
    (run,) = [run for run in plan.runs if run.name == MISSING]
    results.fail(run, "loss became nan")
    write_report(plan, results, tmp_path)
    said = (tmp_path / "table.md").read_text()
    assert "* missing: SegFormer,crop=49,batch=2: seed 2, loss became nan" in said


def test_a_test_that_came_later_is_what_is_missing(tmp_path):
    results = Results(tmp_path / "results")
    make_results(small_plan(), results, share)
    study = small_study()
    study.tests["more"] = dict(eval=dict(modes=("slide",)))
    write_report(read_plan(study), results, tmp_path)
    assert "* missing: PSPNet,base: all, of tests more; " in (tmp_path / "table.md").read_text()


def aliased(worth, **changes):
    """(the plan, a share for make_results) of two batches and two rates, which are the same for the batch of 4."""
    study = small_study()
    rate = {"fixed": {}, "linear": lambda config: dict(optim=dict(lr=config.optim.lr * config.train.batch_size / 4))}
    study.factors = {"batch": study.factors["batch"], "rate": rate}
    study.grids = ({"network": ("PSPNet",), "batch": ALL, "rate": ALL},)
    study.contrast = ("rate", "fixed", "linear")
    study.published = ()
    study.update(changes)
    return read_plan(study), lambda levels, seed, test: (worth[levels["batch"], levels["rate"]] + seed) / 32


def test_a_run_is_not_compared_with_itself(tmp_path):
    plan, worth = aliased({("4", "fixed"): 16, ("2", "fixed"): 10, ("2", "linear"): 13})
    results = Results(tmp_path / "results")
    make_results(plan, results, worth)
    write_report(plan, results, tmp_path)
    assert {row["batch"] for row in rows(tmp_path, "contrast")} == {"2"}


def test_published_numbers_of_another_name_of_a_cell_are_shown(tmp_path):
    levels = {"network": "PSPNet", "batch": "4", "rate": "linear"}
    changes = dict(contrast=("batch", "4", "2"), published=((levels, "whole", 70.0, "somebody"),))
    plan, worth = aliased({("4", "fixed"): 16, ("2", "fixed"): 10, ("2", "linear"): 13}, **changes)
    results = Results(tmp_path / "results")
    make_results(plan, results, worth)
    write_report(plan, results, tmp_path)
    shown = {(row["rate"], row["test"]): row["published"] for row in rows(tmp_path, "contrast")}
    assert shown["linear", "whole"] == "4: 70.0 (somebody)"
    assert not shown["fixed", "whole"]


def test_a_factor_that_only_other_names_have_is_in_the_report(tmp_path):
    study = small_study()
    study.factors = dict(study.factors) | {"recipe": {"a": {}, "b": dict(train=dict(batch_size=2))}}
    study.grids = ({"network": ("PSPNet",), "batch": ALL}, {"network": ("PSPNet",), "recipe": ("b",)})
    plan, results = read_plan(study), Results(tmp_path / "results")
    assert len(plan.cells) == 2
    make_results(plan, results, share)
    write_report(plan, results, tmp_path)
    assert {row["factor"] for row in rows(tmp_path, "effects")} == {"batch", "recipe", "test"}


def test_what_cells_cannot_tell_apart_is_in_no_sentence(tmp_path):
    """Two factors that always change together, and tests that no cell shares."""
    study = small_study()
    study.grids = ({"network": ("PSPNet",)}, {"network": ("PSPNet",), "crop": ("49",), "batch": ("2",)})
    plan, results = read_plan(study), Results(tmp_path / "results")
    make_results(plan, results, share)
    write_report(plan, results, tmp_path)
    assert {row["factor"] for row in rows(tmp_path, "effects")} == {"test"}
    assert not (tmp_path / "csv" / "effects_by_context.csv").exists()  # there is but the base
    said = (tmp_path / "table.md").read_text()
    assert "whole, crop:" not in said
    assert "whole, batch:" not in said
    first, second = plan.cells
    for cell, test in ((first, "whole"), (second, "slide")):
        for run in (run for run in plan.runs if run.cell is cell):
            values = json.loads(results.path(run).read_text())
            values["tests"] = {test: values["tests"][test]}
            results.path(run).write_text(json.dumps(values))
    write_report(plan, results, tmp_path)
    assert rows(tmp_path, "effects") == []


def test_two_files_of_one_name_to_begin_with_are_said(tmp_path):
    plan = small_plan()
    results = Results(tmp_path / "results")
    make_results(plan, results, share)
    path = results.path(plan.runs[0])
    path.write_text(path.read_text().replace('"weights": ""', '"weights": "0123456789abcdef"'))
    write_report(plan, results, tmp_path)
    page = (tmp_path / "table.md").read_text()
    assert "scratch (0123456789ab...), of which there are several" in page
