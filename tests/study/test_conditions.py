"""What two cells differ in, against what was changed; and what a study costs, against a benchmark file."""

import json

import pytest
from study_results import make_results, small_plan, small_study

from cropjax.errors import UserError
from cropjax.study.conditions import comparisons, conditions, warnings
from cropjax.study.cost import hours, paces, paces_of_runs
from cropjax.study.overview import overview
from cropjax.study.plan import ALL, read_plan
from cropjax.study.results import Results

ABOUT = {"size": (32, 64), "images": 6}


def test_conditions_follow_from_the_fields():
    plan = small_plan()
    cell = next(cell for cell in plan.cells if cell.name == "PSPNet,crop=49,batch=2")
    found = conditions(cell.config, **ABOUT)
    assert found["crop"] == "49x49"
    assert found["last map"] == "4x4"
    assert found["epochs"] == 4 * 2 / 6
    assert found["megapixels seen"] == 4 * 2 * 49**2 / 1e6
    assert found["images a BatchNorm group"] == 2
    assert found["positions a BatchNorm group"] == 32
    assert found["learning rate over batch"] == 0.005
    assert found["rates or pool scales"] == "1-2-3-6"


def test_the_studys_shares_of_padded_crops():
    """0 at 512 and 17 % at 769, of 2048x1024; 0 and 14 % in small, on CamVid."""
    study = small_study()
    config = study.networks["PSPNet"]
    config.data.ratio_range = (0.5, 2.0)
    for scale, size, crop, share in (
        ((2048, 1024), (1024, 2048), 512, 0.0),
        ((2049, 1025), (1024, 2048), 769, 0.167),
        ((480, 360), (360, 480), 168, 0.0),
        ((480, 360), (360, 480), 256, 0.141),
    ):
        config.data.update(scale=scale, crop_size=(crop, crop))
        assert conditions(config, size, 367)["share of padded crops"] == pytest.approx(share, abs=1e-3)


def test_comparisons_are_of_cells_that_differ_in_one_factor():
    found = [
        (factor, low, high, one.name, other.name) for factor, low, high, _, one, other in comparisons(small_plan())
    ]
    assert ("crop", "33", "49", "PSPNet,base", "PSPNet,crop=49") in found
    assert ("batch", "4", "2", "SegFormer,base", "SegFormer,batch=2") in found
    assert not [one for one in found if one[0] == "crop" and one[3].split(",")[0] != one[4].split(",")[0]]


def test_a_level_that_changes_two_things_is_a_confound_and_what_follows_goes_along():
    study = small_study()
    study.factors = dict(study.factors)
    study.factors["crop"] = {
        "33": dict(data=dict(crop_size=(33, 33))),
        "49": dict(data=dict(crop_size=(49, 49)), model=dict(align_corners=True)),
    }
    found = warnings(read_plan(study), **ABOUT)
    confounds = [text for kind, text in found if kind == "confound"]
    assert confounds == ["crop 33 to 49 changes 2 fields at once: data.crop_size, model.align_corners"]
    along = [text for kind, text in found if kind == "goes along" and text.startswith("crop 33 to 49, PSPNet")]
    assert "megapixels seen" in along[0]
    assert "align_corners" not in along[0]
    assert "batch" not in along[0].split("with it go")[1].split(",")[0]
    assert not [text for kind, text in warnings(small_plan(), **ABOUT) if kind == "confound"]


def test_each_set_of_fields_that_a_factor_changes_has_an_example():
    """The batch changes the rate along with itself where the rate is in proportion to it, and not elsewhere."""
    study = small_study()
    rate = {"fixed": {}, "linear": lambda config: dict(optim=dict(lr=config.optim.lr * config.train.batch_size / 4))}
    study.factors = dict(study.factors) | {"rate": rate}
    study.grids = ({"network": ("PSPNet",), "batch": ALL, "rate": ALL},)
    plan = read_plan(study)
    batch = [(where, one.name, other.name) for factor, *_, where, one, other in comparisons(plan) if factor == "batch"]
    assert batch == [
        ("", "PSPNet,base", "PSPNet,batch=2"),
        ("rate=linear", "PSPNet,base", "PSPNet,batch=2,rate=linear"),
    ]
    confounds = [text for kind, text in warnings(plan, **ABOUT) if kind == "confound"]
    assert confounds == ["batch 4 to 2 (rate=linear) changes 2 fields at once: optim.lr, train.batch_size"]
    text = overview(plan, plan.runs, set(), paces={}, machine="", **ABOUT)
    assert "- PSPNet,base is also PSPNet,rate=linear" in text
    assert "- PSPNet, batch 4 to 2 (rate=linear): optim.lr: " in text


def benchmark(path, network="pspnet", seconds=2.0):
    config = {
        "model": {"name": network},
        "train": {"batch_size": 2, "dtype": "bfloat16"},
        "data": {"crop_size": [500, 500]},
    }
    machine = {"devices": {"kind": "A GPU", "count": 1}}
    rows = [{"suite": "forward"}, {"suite": "train", "parties": {"ours": {"median": seconds}}}]
    report = {"config": config, "machine": machine, "rows": rows}
    path.write_text(json.dumps(report))
    return path


def test_hours_are_those_of_the_benchmark(tmp_path):
    known, machine = paces([benchmark(tmp_path / "b.json")], small_plan())
    assert known == {"PSPNet": 4.0}
    assert machine == "1 x A GPU, bfloat16"
    config = small_plan().cells[0].config
    assert hours(config, 4.0) == pytest.approx(4 * 4 * 33**2 / 1e6 * 4.0 / 3600)


def test_hours_are_those_of_the_runs_that_are_done(tmp_path):
    plan, results = small_plan(), Results(tmp_path)
    make_results(plan, results, lambda *_: 0.5)  # half an hour each
    runs = [run for run in plan.runs if run.cell.name in ("PSPNet,base", "PSPNet,crop=49")]
    known, machine = paces_of_runs([(run, results.get(run)) for run in runs])
    assert machine == "1 x cpu, as in the runs that are done"
    configs = [plan.cells[0].config, plan.cells[2].config]
    assert sum(hours(config, known["PSPNet"]) for config in configs) == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["{", "{}", '{"config": 3, "machine": {}}', "[]"])
def test_a_file_that_is_no_benchmark_is_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"--benchmark: .*x.json is no file of cropjax.benchmark"):
        paces([tmp_path / "x.json"], small_plan())
    with pytest.raises(UserError, match="--benchmark"):
        paces([tmp_path / "nowhere.json"], small_plan())


def test_the_overview_says_cells_costs_differences_and_confounds(tmp_path):
    study = small_study()
    study.grids = ({"network": ("PSPNet",), "crop": ALL},)
    plan = read_plan(study)
    known, machine = paces([benchmark(tmp_path / "b.json", seconds=3600.0)], plan)
    text = overview(plan, plan.runs, {plan.runs[0].name}, paces=known, machine=machine, **ABOUT)
    assert "2 cells, 6 runs, 1 of them done; tests: whole, slide, pools" in text
    assert "Hours are of training alone on 1 x A GPU, bfloat16" in text
    assert "- PSPNet, crop 33 to 49: data.crop_size: (33, 33) to (49, 49)" in text
    assert "with it go megapixels seen" in text
    text = overview(plan, plan.runs, set(), paces={}, machine="", **ABOUT)
    assert "For PSPNet: python -m cropjax.benchmark" in text
