"""Results: whose they are, what they lack, and that another config's are not taken."""

import json

import pytest
from study_results import make_results, small_plan, small_study

from cropjax.errors import UserError
from cropjax.study.found import Found
from cropjax.study.plan import read_plan
from cropjax.study.results import Results


@pytest.fixture
def made(tmp_path):
    plan, results = small_plan(), Results(tmp_path)
    make_results(plan, results, lambda *_: 0.5, skip=[run.name for run in plan.runs[1:]])
    return plan, results


def test_a_run_has_what_its_file_has(made):
    plan, results = made
    first, second = plan.runs[:2]
    assert results.get(first)["seed"] == 0
    assert results.lacks(first) == []
    assert results.get(second) is None
    assert results.lacks(second) == ["whole", "slide", "pools"]
    study = small_study()
    study.tests["more"] = dict(eval=dict(modes=("slide",)))
    assert results.lacks(read_plan(study).runs[0]) == ["more"]


def test_results_of_another_config_are_not_taken(made):
    _, results = made
    study = small_study()
    study.networks["PSPNet"].optim.lr = 0.5
    run = read_plan(study).runs[0]
    with pytest.raises(UserError, match=r"seed_0.json is of a run with another optim.lr, 0.01 where the study has 0.5"):
        results.get(run)


@pytest.mark.parametrize(
    ("test", "field", "value"),
    [("slide", "stride", (8, 8)), ("pools", "pool_window", (64, 64)), ("whole", "dtype", "bfloat16")],
)
def test_results_of_a_test_that_has_changed_are_not_taken(made, test, field, value):
    _, results = made
    study = small_study()
    study.tests[test]["eval"][field] = value
    plan = read_plan(study)
    with pytest.raises(UserError, match=rf"seed_0.json is of another test '{test}' than the study's"):
        results.lacks(plan.runs[0])
    with pytest.raises(UserError, match="another test"):
        Found(plan, results)


def test_where_the_data_are_and_how_tests_look_does_not_matter(made):
    _, results = made
    study = small_study()
    study.networks["PSPNet"].data.root = "/elsewhere"
    study.networks["PSPNet"].eval.every = 7
    assert results.get(read_plan(study).runs[0])


@pytest.mark.parametrize("text", ["{", "[]", '{"fields": 3}', "\udcff"])
def test_a_damaged_file_is_named(made, text):
    plan, results = made
    results.path(plan.runs[0]).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"seed_0.json is damaged"):
        results.get(plan.runs[0])


def test_no_place_of_a_machine_is_kept(made):
    plan, results = made
    assert "data.root" not in results.path(plan.runs[0]).read_text()


def test_a_field_that_came_later_had_its_default(made):
    plan, results = made
    path = results.path(plan.runs[0])
    values = json.loads(path.read_text())
    del values["fields"]["train.ema"], values["fields"]["loss.focal.gamma"]
    path.write_text(json.dumps(values))
    assert results.get(plan.runs[0])
    study = small_study()
    study.networks["PSPNet"].train.ema = 0.9
    with pytest.raises(UserError, match=r"another train.ema, 0.0 where the study has 0.9"):
        results.get(read_plan(study).runs[0])


def test_a_file_of_another_seed_is_not_taken(made):
    plan, results = made
    first, second = plan.runs[:2]
    results.path(first).rename(results.path(second))
    with pytest.raises(UserError, match=r"seed_1.json is of a run with another seed, 0 where the study has 1"):
        results.get(second)


def test_when_training_may_end_early_decides(made):
    study = small_study()
    study.networks["PSPNet"].eval.stop_after = 3
    with pytest.raises(UserError, match=r"another eval.every"):
        made[1].get(read_plan(study).runs[0])


@pytest.mark.parametrize("data", [dict(root="/night"), dict(streets=dict(eval_count=2)), dict(eval_split="train")])
def test_results_of_a_test_on_other_data_are_not_taken(made, data):
    _, results = made
    study = small_study()
    study.tests["slide"] = dict(study.tests["slide"]) | {"data": data}
    with pytest.raises(UserError, match=r"seed_0.json is of another test 'slide' than the study's"):
        results.get(read_plan(study).runs[0])


def test_conditions_that_lack_something_are_those_that_are_there(made):
    plan, results = made
    path = results.path(plan.runs[0])
    values = json.loads(path.read_text())
    del values["tests"]["whole"]["conditions"]["dtype"]
    path.write_text(json.dumps(values))
    assert results.get(plan.runs[0])
    values["fields"]["model.name"] = "nonet"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"seed_0.json is damaged"):
        results.get(plan.runs[0])


def test_files_of_no_run_are_strays(made):
    plan, results = made
    path = results.path(plan.runs[0])
    path.with_name("seed_9.json").write_bytes(path.read_bytes())
    assert results.strays(plan.runs) == [path.with_name("seed_9.json")]
