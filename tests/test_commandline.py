"""A user's mistakes end in one line that names the file or the field and the mend, and leave nothing behind."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from command import command

DEMO = "configs/demo.py"


def run(tmp_path, *args, config=DEMO, module="cropjax.main"):
    return command(module, "--workdir", tmp_path / "run", *(["--config", config] if config else []), *args)


def mistake(tmp_path, *args, **kwargs):
    """The one line of a run that must fail before it has written anything."""
    result = run(tmp_path, *args, **kwargs)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()
    (line,) = result.stderr.splitlines()
    assert line.startswith("cropjax: ")
    return line


SMALL_WINDOW = ["--config.eval.modes=('slide',)", "--config.eval.best=slide/miou"]
SMALL_WINDOW += ["--config.eval.window=(16,16)", "--config.eval.stride=(16,16)"]


@pytest.mark.parametrize("argument", [["--config.data.crop_size=(16,16)"], SMALL_WINDOW], ids=["crop", "window"])
def test_maps_too_small_for_attention(tmp_path, argument):
    line = mistake(tmp_path, *argument, config=DEMO + ":segformer")
    assert "data.crop_size, eval.window" in line


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("--config.train.stepz=3", ["'stepz'", "'steps'"]),
        ("--config.train.steps=many", ["config.train.steps", "many"]),
        ("--config.train.steps=0", ["train.steps", "0"]),
        ("--config.train.dtype=float64", ["train.dtype", "JAX_ENABLE_X64"]),
        ("--config.model.name=pspnet", ["model.name", "model.head"]),
        ("--config.data.crop_size=('a',3)", ["data.crop_size", "whole number"]),
        ("--config.data.crop_size=(64.0,64)", ["data.crop_size", "whole number"]),
        ("--config.model.auxiliary.index=7", ["model.auxiliary.index", "3"]),
        ("--config.model.auxiliary.padding_mode=mirror", ["model.auxiliary.padding_mode", "reflect"]),
        ("--config.optim.power=-1.0", ["optim.power"]),
        ("--config.eval.modes=()", ["eval.modes", "empty"]),
        ("--config.init_parts=('resnet',)", ["init_parts", "backbone"]),
        ("--checkpoint=best", ["checkpoint"]),
        ("--config.train.dtype=float8", ["train.dtype", "bfloat16"]),
        ("--config.model.backbone.depth=34", ["model.backbone.depth", "18, 50, 101"]),
        ("--config.model.head.dilations=(1,0)", ["model.head.dilations", "0"]),
        ("--config.data.crop_size=(3,4,5)", ["data.crop_size"]),
        ("--config.data.ratio_range=(2.0,0.5)", ["data.ratio_range"]),
        ("--config.eval.stride=(900,900)", ["eval.stride", "eval.window"]),
        ("--config.eval.best=slide/miou", ["eval.best", "whole"]),
        ("--config.model.norm.groups=3", ["model.norm.groups", "train.batch_size"]),
        ("--config.train.batch_size=1", ["image_pool", "train.batch_size", "pool_norm"]),
        ("--config.mesh.data=2", ["mesh.data", "1 devices"]),
        ("--config.init_from=nowhere.pth", ["nowhere.pth", "init_from"]),
        ("--config.data.source=cityscapes", ["cityscapes", "www.cityscapes-dataset.com", "data.source=streets"]),
        ("--config.data.streets.size=(8,8)", ["data.streets.size"]),
        ("--config.data.streets.train_count=0", ["data.streets.train_count"]),
        ("--workdr=x", ["workdr", "workdir"]),
        ("left over", ["left over"]),
    ],
)
def test_field(tmp_path, argument, wanted):
    line = mistake(tmp_path, argument)
    for text in wanted:
        assert text in line


def test_batch_that_does_not_divide_among_the_devices(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    line = mistake(tmp_path, "--config.mesh.space=1")
    assert "train.batch_size = 8" in line
    assert "the 3 devices of mesh.data" in line


def test_config_file(tmp_path):
    assert "--config is missing" in mistake(tmp_path, config=None)
    assert "nowhere.py" in mistake(tmp_path, config="nowhere.py")
    configs = tmp_path / "configs"
    configs.mkdir()
    broken = configs / "broken.py"
    broken.write_text("from cropjax.config import defaults\n\ndef get_config():\n    return defaults('pspnet').trian\n")
    assert "'trian'" in mistake(tmp_path, config=broken)
    broken.write_text("def get_config(:\n")
    assert "broken.py" in mistake(tmp_path, config=broken)


def camvid(root, damage):
    """Two images of each split in CamVid's layout, one thing wrong."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            for folder, shape, top in ((split, (36, 48, 3), 256), (split + "annot", (36, 48), 12)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / folder / f"{name}.png"), rng.integers(0, top, shape, dtype=np.uint8))
    damage(root)


def write(path, label):
    cv2.imwrite(str(path), label.astype(np.uint8))


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


# What a run writes before it reads labels to learn from, and before its first batch: whole files, without a checkpoint,
# so that the folder can be used again.
TOLD = {"config.json", "lock", "provenance.json"}
BEGUN = TOLD | {"metrics.jsonl", "tensorboard"}


@pytest.mark.parametrize(
    ("damage", "wanted", "written"),
    [
        (lambda root: (root / "trainannot/b.png").unlink(), ["no label", "(b)"], set()),
        (lambda root: (root / "train/b.png").unlink(), ["no image", "(b)"], set()),
        (lambda root: cut(root / "val/a.png"), ["val/a.png"], set()),
        (lambda root: cut(root / "train/b.png"), ["b.png"], BEGUN),
        (lambda root: (root / "train/b.png").write_text("no image"), ["b.png"], BEGUN),
        (lambda root: write(root / "trainannot/b.png", np.full((36, 48), 99)), ["b.png", "99"], TOLD),
        (lambda root: write(root / "trainannot/b.png", np.zeros((30, 48))), ["b.png", "48"], BEGUN),
    ],
    ids=["no-label", "no-image", "truncated-validation", "truncated", "not-an-image", "label-value", "size"],
)
def test_data(tmp_path, damage, wanted, written):
    camvid(tmp_path / "data", damage)
    settings = {"data.source": "camvid", "data.root": tmp_path / "data", "data.scale": "(48,36)"}
    settings |= {"data.crop_size": "(33,33)", "model.backbone.width": 4, "train.batch_size": 2, "train.steps": 4}
    result = run(tmp_path, *[f"--config.{name}={value}" for name, value in settings.items()])
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    line = next(line for line in result.stderr.splitlines() if line.startswith("cropjax: "))
    for text in wanted:
        assert text in line
    assert {path.name for path in (tmp_path / "run").glob("*")} == written


TINY = """
import sys
sys.path.insert(0, {tests!r})
from tiny import tiny_config as get_config
"""


@pytest.mark.slow
def test_a_run_and_what_happens_to_its_folder(tmp_path):
    """Another config is refused and changes nothing; a damaged checkpoint costs nothing, two cost the steps since."""
    config = tmp_path / "tiny.py"
    config.write_text(TINY.format(tests=str(Path(__file__).parent)))
    checkpoints = tmp_path / "run" / "checkpoints"
    assert run(tmp_path, config=config).returncode == 0
    assert sorted(path.name for path in checkpoints.iterdir()) == ["2", "4", "4.copy"]

    result = run(tmp_path, "--config.optim.lr=0.5", config=config)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "optim.lr is 0.01 there and 0.5 here" in line
    assert "--workdir" in line

    halve_largest(checkpoints / "4")
    result = run(tmp_path, config=config)
    assert result.returncode == 0, result.stderr
    assert "4 is damaged" in result.stderr
    assert "finished already" in result.stdout

    halve_largest(checkpoints / "4.copy")
    result = run(tmp_path, config=config)
    assert result.returncode == 0, result.stderr
    assert "4 is damaged" in result.stderr
    assert "Traceback" not in result.stderr
    assert "resuming after step 2" in result.stdout
    assert sorted(path.name for path in checkpoints.iterdir()) == ["2", "4", "4.copy", "4.corrupt"]


def halve_largest(folder):
    """Cuts off half of the largest file in it."""
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_evaluation_without_a_run(tmp_path):
    assert "has no checkpoint" in mistake(tmp_path, module="cropjax.evaluate")
    assert "--checkpoint=first" in mistake(tmp_path, "--checkpoint=first", module="cropjax.evaluate")
    assert "--workdir must name the folder of a run" in mistake(tmp_path, config=None, module="cropjax.evaluate")
    assert "cannot use x.png" in mistake(tmp_path, "x.png", config=None, module="cropjax.evaluate")
    override = "--config.eval.batch_size=2"
    assert "--config.eval.batch_size changes a file's config: name the run's with --config" in mistake(
        tmp_path, override, config=None, module="cropjax.evaluate"
    )
