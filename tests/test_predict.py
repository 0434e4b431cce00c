"""The command: its files are what the network says, it goes on where it was stopped, and it names what is wrong."""

import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from command import Command, command
from PIL import Image
from trees import cityscapes_tree, film, save

import cropjax
from cropjax.data.labels import CAMVID, CITYSCAPES, CITYSCAPES_TRAIN_ID
from cropjax.errors import UserError
from cropjax.inputs import Input, find
from cropjax.outputs import Outputs
from cropjax.outputs import begun as held
from cropjax.predict import predict
from cropjax.submission import check_labels, check_names, label_ids, label_name

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)


def noise(*size):
    return RNG.integers(0, 256, (*size, 3), np.uint8)


def predicted(run, *args):
    return command("cropjax.predict", "--workdir", run, *args)


@pytest.fixture(scope="module")
def net(saved_run):
    return cropjax.load(saved_run)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Eleven images of several sizes and a damaged one."""
    folder = tmp_path_factory.mktemp("images")
    save(folder / "a.png", noise(24, 40))
    save(folder / "sub/b.jpg", noise(32, 64))
    save(folder / "sub/deep/c.png", noise(30, 20))
    film(folder / "film.avi", 8)
    (folder / "bad.png").write_text("words")
    return folder


@pytest.fixture(scope="module")
def out(saved_run, images, tmp_path_factory):
    """What the command leaves of `images`, and how it ended."""
    folder = tmp_path_factory.mktemp("out") / "out"
    return folder, predicted(saved_run, images, "--out", folder, "--probabilities")


NAMES = ["a", *[f"film_{index:06d}" for index in range(8)], "sub/b", "sub/deep/c"]


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_predicted(out, images):
    folder, result = out
    assert result.returncode == 1
    assert f"cropjax: {images / 'bad.png'}: not one of PNG, JPEG" in result.stderr
    assert "cropjax: 1 image could not be predicted" in result.stderr
    assert "Traceback" not in result.stderr
    for kind, suffix in (("masks", "png"), ("overlays", "jpg"), ("probabilities", "npy")):
        files = sorted(path.relative_to(folder / kind) for path in (folder / kind).rglob("*.*"))
        assert [str(path) for path in files] == [f"{name}.{suffix}" for name in NAMES]
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "legend.png", "masks", "overlays", "prediction.json", "probabilities",
    ]  # fmt: skip


def test_a_mask_file_holds_the_train_ids_and_shows_the_colours(out, images, net):
    folder, _ = out
    for name in ("a.png", "sub/b.jpg", "sub/deep/c.png"):
        picture = Image.open((folder / "masks" / name).with_suffix(".png"))
        mask = net(images / name)
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), mask)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), np.array(CITYSCAPES.palette)[mask])


def test_the_frames_of_a_video_are_images(out, images, net):
    folder, _ = out
    capture = cv2.VideoCapture(str(images / "film.avi"))
    for index in range(8):
        _, frame = capture.read()
        mask = np.asarray(Image.open(folder / f"masks/film_{index:06d}.png"))
        np.testing.assert_array_equal(mask, net(frame[..., ::-1]))


def test_overlays_and_probabilities(out, images, net):
    folder, _ = out
    for name in ("a.png", "sub/b.jpg"):
        file = (folder / "overlays" / name).with_suffix(".jpg")
        mask = net(images / name)
        shown = np.asarray(Image.open(file)).astype(int)
        wanted = net.overlay(images / name, mask)
        assert shown.shape == wanted.shape
        assert abs(shown.mean((0, 1)) - wanted.mean((0, 1))).max() < 3  # of noise, JPEG keeps little more
        probabilities = np.load((folder / "probabilities" / name).with_suffix(".npy"))
        assert probabilities.dtype == np.float16
        np.testing.assert_array_equal(probabilities, net.probabilities(images / name).astype(np.float16))


def test_what_was_predicted_is_recorded(out, images, saved_run):
    folder, result = out
    record = json.loads((folder / "prediction.json").read_text())
    assert record["run"] == str(saved_run)
    assert (record["step"], record["mode"]) == (2, "whole")
    assert record["config"]["model"]["name"] == "deeplabv3plus"
    assert record["images"]["sub/b"] == str(images / "sub/b.jpg")
    assert f"{folder}: masks, overlays, probabilities of step 2 of {saved_run}, whole" in result.stdout


def test_done_is_what_is_whole_and_newer_than_its_image(net, tmp_path, monkeypatch, capsys):
    written, write = [], Outputs.write

    def noted(self, name, *args, **kwargs):
        written.append(name)
        write(self, name, *args, **kwargs)

    monkeypatch.setattr(Outputs, "write", noted)
    for name in "abcd":
        save(tmp_path / f"in/{name}.png", noise(8, 9))
    inputs, outputs = find([str(tmp_path / "in")], (), tmp_path / "out"), Outputs(tmp_path / "out", CITYSCAPES)
    assert predict(net, "whole", inputs, outputs) == 0
    assert sorted(written) == list("abcd")
    assert "predict  4/4  100 %" in capsys.readouterr().err

    written.clear()
    assert predict(net, "whole", inputs, outputs) == 0
    assert written == []

    (tmp_path / "out/masks/a.png").unlink()
    (tmp_path / "out/overlays/b.jpg").unlink()
    later = time.time() + 10
    os.utime(tmp_path / "in/c.png", (later, later))
    assert predict(net, "whole", inputs, outputs) == 0
    assert sorted(written) == list("abc")


def test_an_image_too_large_for_the_memory_is_named_and_not_tried(net, tmp_path, monkeypatch, capsys):
    def need_room(weights, shape, mode):
        if shape[1:3] == (9, 8):
            raise UserError("9x8 pixels need more memory than there is")

    monkeypatch.setattr(net._inference, "_need_room", need_room)
    for name, size in (("a", (8, 9)), ("b", (9, 8)), ("c", (8, 9))):
        save(tmp_path / f"in/{name}.png", noise(*size))
    inputs, outputs = find([str(tmp_path / "in")], (), tmp_path / "out"), Outputs(tmp_path / "out", CITYSCAPES)
    assert predict(net, "whole", inputs, outputs) == 1
    assert f"cropjax: {tmp_path / 'in/b.png'}: 9x8 pixels need more" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["a.png", "c.png"]


def test_a_prediction_that_was_killed_goes_on_and_ends_as_one_that_was_not(saved_run, net, tmp_path):
    count = 400
    for index in range(count):
        save(tmp_path / f"in/{index:03d}.png", noise(8, 9))
    out = tmp_path / "out"
    args = ("--workdir", saved_run, tmp_path / "in", "--out", out)
    first = Command("cropjax.predict", *args)
    while len(list(out.glob("masks/*.png"))) < 5:
        assert first.running(), first.read()
        time.sleep(0.01)
    first.send(signal.SIGKILL)
    assert first.wait().returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in out.glob("masks/*.png")}
    assert 5 <= len(before) < count

    assert command("cropjax.predict", *args).returncode == 0
    files = sorted(path.relative_to(out) for path in out.rglob("*.*"))
    assert len(files) == 2 * count + 3  # the legend, what was predicted, and the lock
    assert not [path for path in files if path.suffix == ".tmp"]
    assert sum(path.stat().st_mtime_ns == at for path, at in before.items()) >= len(before) - 3  # of some no overlay
    for index in range(0, count, 37):
        mask = np.asarray(Image.open(out / f"masks/{index:03d}.png"))
        np.testing.assert_array_equal(mask, net(tmp_path / f"in/{index:03d}.png"))


BY = {"run": "/runs/a", "step": 2, "weights": "1234", "mode": "whole", "config": {"eval": {"window": (1, 2)}}}


def begun(tmp_path, name="x.png", **changes):
    if not (tmp_path / name).exists():
        save(tmp_path / name, noise(2, 3))
    with held(tmp_path / "out", find([str(tmp_path / name)], (), tmp_path / "out"), BY | changes):
        pass


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"run": "/runs/b"}, "with another run, /runs/a and not /runs/b: name another folder"),
        ({"step": 4}, "another step, 2 and not 4"),
        ({"mode": "slide"}, "another mode, whole and not slide"),
        ({"weights": "0"}, "another weights, 1234 and not 0"),
        ({"config": {}}, "another config: name"),
    ],
)
def test_the_prediction_of_another_network_is_not_touched(tmp_path, changes, wanted):
    begun(tmp_path)
    before = (tmp_path / "out/prediction.json").read_text()
    with pytest.raises(UserError, match=wanted):
        begun(tmp_path, **changes)
    assert (tmp_path / "out/prediction.json").read_text() == before
    begun(tmp_path)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    save(tmp_path / "out/mine.png", noise(2, 3))
    with pytest.raises(UserError, match="is not empty, and holds no prediction: name another folder"):
        begun(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.png"]
    (tmp_path / "out/mine.png").rename(tmp_path / "out/prediction.json")
    with pytest.raises(UserError, match=r"prediction\.json is damaged"):
        begun(tmp_path)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="is no folder"):
        begun(tmp_path)


def test_other_images_may_join_a_prediction_but_not_under_the_same_name(tmp_path):
    begun(tmp_path)
    save(tmp_path / "y.png", noise(2, 3))
    begun(tmp_path, "y.png")
    images = json.loads((tmp_path / "out/prediction.json").read_text())["images"]
    assert images == {name: str(tmp_path / f"{name}.png") for name in "xy"}
    save(tmp_path / "other/x.png", noise(2, 3))
    with pytest.raises(UserError, match=r"x there is of .*/x\.png, not of .*/other/x\.png"):
        begun(tmp_path, "other/x.png")


def test_a_frame_and_an_image_of_one_name_are_told_apart_over_commands(tmp_path):
    film(tmp_path / "film.avi", 2)
    save(tmp_path / "film_000001.png", noise(2, 3))
    for first, second in (("film.avi", "film_000001.png"), ("film_000001.png", "film.avi")):
        begun(tmp_path, first)
        with pytest.raises(UserError, match=r"film\.avi and .*1\.png would both be written as film_000001"):
            begun(tmp_path, second)
        shutil.rmtree(tmp_path / "out")


def test_a_folder_is_of_one_process_at_a_time(tmp_path):
    save(tmp_path / "x.png", noise(2, 3))
    inputs, out = find([str(tmp_path / "x.png")], (), tmp_path / "out"), tmp_path / "out"
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from cropjax.errors import UserError\nfrom cropjax.outputs import begun\n"
        "try:\n    with begun(Path(sys.argv[1]), [], {}): print('taken')\nexcept UserError as error: print(error)"
    )
    with held(out, inputs, {}):
        (said,) = subprocess.check_output([sys.executable, "-c", program, out], text=True, cwd=ROOT).splitlines()
    assert said.startswith(f"{out}: another process is at work there (process {os.getpid()} on ")
    assert said.endswith("choose another --out")
    assert subprocess.check_output([sys.executable, "-c", program, out], text=True, cwd=ROOT) == "taken\n"


def test_what_cannot_be_written_or_is_gone_is_named_and_the_rest_goes_on(net, tmp_path, capsys):
    save(tmp_path / "in/a.png", noise(8, 9))
    save(tmp_path / "in/wide.png", noise(1, 65_501))
    save(tmp_path / f"in/{'v' * 250}.png", noise(8, 9))
    (tmp_path / "in/gone.png").symlink_to("nowhere")
    inputs, outputs = find([str(tmp_path / "in")], (), tmp_path / "out"), Outputs(tmp_path / "out", CITYSCAPES)
    assert predict(net, "whole", inputs, outputs) == 2
    said = capsys.readouterr().err
    assert "gone.png: cannot be read (No such file or directory)" in said
    assert "vvv.png: its outputs' names would be too long; rename it" in said
    shapes = [cv2.imread(str(tmp_path / "out" / path)).shape[:2] for path in ("masks/wide.png", "overlays/wide.jpg")]
    assert shapes == [(1, 65_501), (1, 32_751)]
    assert (tmp_path / "out/masks/a.png").exists()


def test_a_submission_is_found_by_the_names_of_its_images_and_has_label_ids(saved_run, net, tmp_path):
    tree = cityscapes_tree(tmp_path / "cityscapes", {"test": 3}, size=(32, 64)) / "leftImg8bit/test"
    out = tmp_path / "out"
    result = predicted(saved_run, tree, "--out", out, "--submission")
    assert result.returncode == 0, result.stderr
    assert f"{out / 'submission'}: 3 files, read back" in result.stdout
    files = sorted((out / "submission").iterdir())
    assert [path.name for path in files] == [f"ulm_00000{i}_000019_pred_labelIds.png" for i in range(3)]
    for i, path in enumerate(files):
        picture = Image.open(path)
        assert picture.mode == "L"
        mask = net(tree / f"ulm/ulm_00000{i}_000019_leftImg8bit.png")
        np.testing.assert_array_equal(CITYSCAPES_TRAIN_ID[np.asarray(picture)], mask)
        np.testing.assert_array_equal(np.asarray(picture), label_ids(mask))


def test_a_submission_of_other_images_or_classes_is_refused(tmp_path):
    berlin = "berlin_000000_000019_leftImg8bit.png"
    for name in (berlin, "x.png"):
        save(tmp_path / name, noise(2, 3))
    film(tmp_path / "film.avi", 1)

    def check(*names, labels=CITYSCAPES):
        check_names(find([str(tmp_path / name) for name in names], (), tmp_path / "out"), labels)

    check(berlin)
    with pytest.raises(UserError, match="the network has 11 classes of its own"):
        check(berlin, labels=CAMVID)
    for name in ("x.png", "film.avi"):
        with pytest.raises(UserError, match=f"{name} is not named <city>_<sequence>_<frame>_leftImg8bit.png"):
            check(berlin, name)
    again = [Path("a/b") / berlin, Path("c") / berlin]
    with pytest.raises(UserError, match="are the same image to the server"):
        check_names([Input(path, str(path.with_suffix(""))) for path in again], CITYSCAPES)


@pytest.mark.parametrize("name", ["aachen_000173_000019", "frankfurt_000001_083852", "strasbourg_000001_066214"])
def test_the_name_of_a_submitted_file_is_what_the_server_looks_for(name):
    city, sequence, frame = name.split("_")
    assert fnmatch.fnmatch(label_name(f"x/{name}_leftImg8bit.png"), f"{city}_{sequence}_{frame}*.png")


def test_label_files_of_another_size_or_with_other_ids_are_found(tmp_path):
    image, label = tmp_path / "x.png", tmp_path / "x_labelIds.png"
    save(image, noise(2, 3))
    save(label, np.full((2, 3), 33))
    assert check_labels({label: image}) == 1
    save(label, np.full((2, 3), 18))
    with pytest.raises(UserError, match=r"x_labelIds\.png: holds 18, which is no class's label id"):
        check_labels({label: image})
    save(label, np.full((3, 2), 7))
    with pytest.raises(UserError, match=r"x_labelIds\.png: 3x2 pixels of an image of 2x3"):
        check_labels({label: image})


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["{run}"], "no images in nothing"),
        (["{run}", "{images}/nowhere.png"], "nowhere.png: there is no such file or folder"),
        (["{run}", "{images}/a.png", "--mode=hole"], "mode = 'hole' is not one of whole, slide"),
        (["{run}", "{images}/a.png", "--checkpoint=3"], "there is no step 3"),
        (["{run}", "{images}/a.png", "--submission"], "a.png is not named <city>"),
        (["{run}", "{images}/a.png", "--config.eval.batch_size=2"], "config.eval.batch_size"),
        (["{run}", "{images}/a.png", "--config", "configs/demo.py"], "model.backbone.width is 4 there and 16 here"),
        (["{run}/..", "{images}/a.png"], "config.json cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(saved_run, images, tmp_path, args, wanted):
    run, *rest = (arg.format(run=saved_run, images=images) for arg in args)
    result = predicted(run, *rest, "--out", tmp_path / "out")
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("cropjax: ")
    assert wanted in line
    assert not (tmp_path / "out").exists()


def test_a_run_must_be_named():
    result = command("cropjax.predict", "x.png")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--workdir is missing: name the folder of a run" in result.stderr


def test_a_standard_input_that_is_closed_holds_no_names(saved_run):
    command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "cropjax.predict", "--workdir", saved_run, "-"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("cropjax: no images in -: name files")


def test_a_config_on_the_line_is_used_and_names_come_from_standard_input(saved_run, images, net, tmp_path):
    args = ["--workdir", saved_run, "-", "--mode", "slide", "--config", "tests/tiny_run.py", "--out", tmp_path / "out"]
    args += ["--config.eval.window=(64,64)", "--config.eval.stride=(64,64)"]
    command = [sys.executable, "-m", "cropjax.predict", *map(str, args)]
    line = f"{images}/a.png\n"
    result = subprocess.run(command, cwd=ROOT, input=line, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    mask = np.asarray(Image.open(tmp_path / "out/masks/a.png"))
    np.testing.assert_array_equal(mask, net(images / "a.png", mode="whole"))  # a window over the whole image
