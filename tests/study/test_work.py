"""A study that really runs: it goes on where it was, tests what it trained, and repeats nothing."""

import hashlib
import json
import shutil

import pytest
from tiny import tiny_config

import cropjax.study.work as module
from cropjax.config import build_source
from cropjax.errors import UserError
from cropjax.loop import NotFiniteError
from cropjax.restore import restore_run
from cropjax.sharding import make_mesh
from cropjax.study.plan import new_study, read_plan
from cropjax.study.report import write_report
from cropjax.study.results import Results
from cropjax.study.work import Pace, pixels, work
from cropjax.workdir import locked


def plan_of(**changes):
    study = new_study("Two seeds of one cell")
    config = tiny_config("pspnet")
    config.eval.modes = ("whole",)
    config.train.steps = 2
    study.networks = {"PSPNet": config}
    study.grids = ({},)
    study.seeds = (0, 1)
    study.tests = {"whole": {}, "pools": dict(eval=dict(pool_window=(32, 32)))}
    study.update(changes)
    return read_plan(study)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study whose first seed was made by one command and its second by another."""
    folder, plan, said = tmp_path_factory.mktemp("study"), plan_of(), []
    results = Results(folder / "results")
    assert work(plan.runs[:1], folder, results, say=said.append) == {}
    assert results.get(plan.runs[1]) is None
    assert work(plan.runs, folder, results, say=said.append) == {}
    return folder, plan, results, said


def test_every_run_is_made_once_and_tested_in_every_way(done):
    folder, plan, results, said = done
    assert [line.split(",")[1].strip() for line in said] == ["PSPNet", "PSPNet"]
    for run in plan.runs:
        found = results.get(run)
        assert list(found["tests"]) == ["pools", "whole"]
        assert found["trained"]["steps"] == 2
        assert found["seed"] == run.seed
        assert found["weights"] == ""
        assert "commit" in found["provenance"]
        assert "command" not in found["provenance"]
        source = build_source(run.config, "train")
        assert found["data"] == {"images": len(source), "size": list(source[0]["label"].shape)}
        assert (folder / run.name / "panels.png").stat().st_size > 0
        step, _, _ = restore_run(run.config, folder / run.name, "latest", make_mesh(data=-1, space=1))
        assert step == 2
    scores = [results.get(run)["tests"]["whole"]["aacc"] for run in plan.runs]
    assert scores[0] != scores[1]


def test_a_test_is_what_evaluation_finds(done):
    folder, plan, results, _ = done
    run = plan.runs[0]
    lines = [json.loads(line) for line in (folder / run.name / "metrics.jsonl").read_text().splitlines()]
    logged = next(line["eval/whole/miou"] for line in lines if "eval/whole/miou" in line)
    assert results.get(run)["tests"]["whole"]["miou"] == pytest.approx(logged, abs=1e-6)


def test_what_is_there_is_not_made_again_wherever_its_folder_is(done, tmp_path, monkeypatch):
    _, plan, results, _ = done
    monkeypatch.setattr(module, "train", None)
    shutil.copytree(results.folder, tmp_path / "results")
    said = []
    assert work(plan.runs, tmp_path / "elsewhere", Results(tmp_path / "results"), say=said.append) == {}
    assert said == []


def test_a_test_that_comes_later_is_made_without_training(done, monkeypatch):
    folder, _, results, _ = done
    plan = plan_of(tests={"whole": {}, "slide": dict(eval=dict(modes=("slide",)))})
    trained = module.train
    monkeypatch.setattr(module, "train", lambda *args: trained(*args) and pytest.fail("it trained again"))
    assert work(plan.runs[:1], folder, results, say=lambda _: None) == {}
    assert set(results.get(plan.runs[0])["tests"]) == {"whole", "pools", "slide"}


def test_tests_of_a_run_that_was_trained_again_are_all_of_the_new_network(done, tmp_path):
    """Its folder is gone, and on another machine the same training may come to other numbers."""
    _, plan, results, _ = done
    run = plan.runs[0]
    again = Results(tmp_path / "results")
    again.path(run).parent.mkdir(parents=True)
    values = json.loads(results.path(run).read_text())
    del values["tests"]["pools"]
    values["tests"]["whole"]["miou"] = 0.5
    values["trained"]["losses"]["2"] += 1.0
    again.path(run).write_text(json.dumps(values))
    assert work([run], tmp_path, again, say=lambda _: None) == {}
    for test in ("whole", "pools"):
        assert again.get(run)["tests"][test]["miou"] == pytest.approx(results.get(run)["tests"][test]["miou"])


def test_a_folder_of_a_run_of_another_length_is_named(done):
    folder, _, results, _ = done
    config = plan_of().cells[0].config.copy_and_resolve_references().unlock()
    config.train.steps = 4
    plan = plan_of(networks={"PSPNet": config})
    with pytest.raises(UserError, match=r"PSPNet,base/seed_0 holds a run with another train.steps, 2 where .* has 4"):
        work(plan.runs, folder, Results(folder / "other"), say=lambda _: None)


def test_weights_that_are_not_there_are_named_before_anything_is_run(tmp_path):
    config = plan_of().cells[0].config.copy_and_resolve_references().unlock()
    config.init_from = str(tmp_path / "nowhere.safetensors")
    plan = plan_of(networks={"one": plan_of().cells[0].config, "PSPNet": config})
    with pytest.raises(UserError, match=r"PSPNet,base: init_from = '.*nowhere.safetensors' is no file"):
        work(plan.runs, tmp_path, Results(tmp_path / "results"), say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_another_file_when_training_begins_anew_are_the_ones_that_are_kept(tmp_path, monkeypatch):
    """A process was killed before the first checkpoint, and meanwhile the file was made again."""
    config = plan_of().cells[0].config.copy_and_resolve_references().unlock()
    config.init_from = str(tmp_path / "weights.safetensors")
    (run, _), results, kept = plan_of(networks={"PSPNet": config}).runs, Results(tmp_path / "results"), []
    monkeypatch.setattr(module, "train", lambda *args: None)
    monkeypatch.setattr(module, "look", lambda *args, **options: {})
    monkeypatch.setattr(Results, "put", lambda self, run, place, tests, weights: kept.append(weights))
    monkeypatch.setattr(Results, "is_of", lambda *args: True)
    place = tmp_path / run.name
    place.mkdir(parents=True)
    for content in (b"old", b"new"):
        (tmp_path / "weights.safetensors").write_bytes(content)
        module.make(run, place, results, Pace({run: (True, 2)}))
    (place / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "weights.safetensors").write_bytes(b"newer")
    module.make(run, place, results, Pace({run: (True, 2)}))
    sums = [hashlib.sha256(content).hexdigest() for content in (b"old", b"new", b"new")]
    assert kept == [one for one in sums for _ in range(2)]


def test_a_run_that_somebody_is_at_is_left_to_them(tmp_path, monkeypatch):
    plan, made = plan_of(), []
    monkeypatch.setattr(module, "make", lambda run, *rest: made.append(run.seed))
    (tmp_path / plan.runs[0].name).mkdir(parents=True)
    monkeypatch.setattr(module, "locked", _taken(tmp_path / plan.runs[0].name))
    said = []
    assert work(plan.runs, tmp_path, Results(tmp_path / "results"), say=said.append) == {}
    assert said[0] == "study: another process is at work on PSPNet,base/seed_0"
    assert said.count(said[0]) == 1  # and not again when the other run is done
    assert made == [1]


def test_a_run_that_somebody_has_left_is_taken_up_in_the_end(tmp_path, monkeypatch):
    plan, made, free = plan_of(), [], []

    def make(run, place, results, pace):
        with pace.training(run), pace.testing(run):
            made.append(run.seed)
        free.append(run)

    taken = _taken(tmp_path / plan.runs[0].name)
    monkeypatch.setattr(module, "make", make)
    monkeypatch.setattr(module, "locked", lambda path: locked(path) if free else taken(path))
    assert work(plan.runs, tmp_path, Results(tmp_path / "results"), say=lambda _: None) == {}
    assert made == [1, 0]


def _taken(folder):
    def lock(path):
        if path.parent == folder:
            raise UserError("taken")
        return locked(path)

    return lock


def test_a_run_that_fails_has_no_results_and_the_others_go_on(tmp_path, monkeypatch):
    plan, made = plan_of(seeds=(0, 1, 2)), []

    def make(run, *rest):
        if run.seed == 1:
            raise NotFiniteError("loss became nan within steps 1...2: lower optim.lr")
        made.append(run.seed)

    monkeypatch.setattr(module, "make", make)
    failed = work(plan.runs, tmp_path, Results(tmp_path / "results"), say=lambda _: None)
    assert failed == {"PSPNet,base/seed_1": "loss became nan within steps 1...2: lower optim.lr"}
    assert made == [0, 2]
    again = work(plan.runs[1:2], tmp_path, Results(tmp_path / "results"), say=lambda _: None)
    assert "lower optim.lr (remove " in again["PSPNet,base/seed_1"]  # it would be the same
    Results(tmp_path / "results").failure(plan.runs[1]).unlink()
    monkeypatch.setattr(module, "make", lambda run, *rest: made.append(run.seed))
    assert work(plan.runs[1:2], tmp_path, Results(tmp_path / "results"), say=lambda _: None) == {}
    assert made == [0, 2, 1]


def test_a_users_mistake_ends_the_study(tmp_path, monkeypatch):
    def make(*args):
        raise UserError("there are no data")

    monkeypatch.setattr(module, "make", make)
    plan = plan_of()
    with pytest.raises(UserError, match="no data"):
        work(plan.runs, tmp_path, Results(tmp_path / "results"), say=lambda _: None)


def test_time_left_follows_the_pixels_and_the_tests_of_each_network(monkeypatch):
    clock = iter([0.0, 0.0, 10.0, 10.0, 13.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    small, large = dict(data=dict(crop_size=(33, 33))), dict(data=dict(crop_size=(66, 66)))
    plan = plan_of(factors={"crop": {"33": small, "66": large}}, grids=({"crop": ("33", "66")},), seeds=(0, 1))
    first, tested, *rest = plan.runs
    pace = Pace({first: (True, 2), tested: (False, 1)} | dict.fromkeys(rest, (True, 2)))
    assert pace.left() is None
    with pace.training(first):
        pass
    with pace.testing(first):
        pass
    pace.had(first)
    assert pixels(first.cell.config) == 2 * 4 * 33 * 33
    assert pace.left() == pytest.approx(3.0 + 2 * (40.0 + 2 * 3.0))
    pace.had(rest[0])
    assert pace.left() == pytest.approx(3.0 + 40.0 + 2 * 3.0)


def test_the_report_of_a_real_study(done):
    folder, plan, results, _ = done
    write_report(plan, results, folder)
    page = (folder / "report.html").read_text()
    assert "2 of 2" in page
    assert "data:image/png;base64" in page
