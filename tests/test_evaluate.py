"""Evaluation as a loop: what becomes of one that stops moving. Its numbers are looked at with the runs that it ends."""

import json
import re
import threading
from functools import partial
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import tiny_config

from cropjax import evaluate as module
from cropjax.config import build_source
from cropjax.distributed import LOST
from cropjax.evaluate import evaluate
from cropjax.sharding import make_mesh
from cropjax.train import train
from cropjax.watchdog import Watchdog

WIDTHS = (8, 9, 10, 11, 12)  # of images in the order in which they come: no two fill a batch together


class Source:
    """Images of which reading `slow` takes until `released`, and the others a moment."""

    def __init__(self, slow, released):
        self._slow, self._released = slow, released

    def __len__(self):
        return len(WIDTHS)

    def __getitem__(self, index):
        self._released.wait(30 if index == self._slow else 0.3)
        label = np.zeros((8, WIDTHS[index]), np.uint8)
        return {"image": np.zeros((*label.shape, 3), np.uint8), "label": label, "name": str(index)}


class Zeros:
    """Finds class 0 everywhere."""

    def ids(self, weights, images, mode):
        return jnp.zeros(images.shape[:3], jnp.uint8)


@pytest.mark.parametrize(("slow", "ends"), [(3, [LOST]), (None, [])], ids=["hangs", "is slow to fill a batch"])
def test_an_evaluation_that_hangs_is_ended(monkeypatch, capfd, slow, ends):
    released, ended = threading.Event(), []
    watched = partial(Watchdog, enabled=True, end=lambda status: ended.append(status) or released.set())
    monkeypatch.setattr(module, "Watchdog", watched)
    monkeypatch.setattr("cropjax.data.pipeline.ahead", map)  # one at a time
    config = tiny_config(patience=1.0)
    config.data.scale = (64, 64)
    config.eval.modes = ("whole",)
    state = {"params": {}, "batch_stats": {}}
    scores = evaluate(Zeros(), state, Source(slow, released), config, make_mesh(data=1, space=1)).scores
    assert scores["whole"].summary["aacc"] == 1.0
    assert ended == ends
    assert bool(re.search(r"nothing has moved for \d s \(data.patience\)", capfd.readouterr().err)) == bool(ends)


def test_the_command_writes_what_its_conditions_were(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    config = tiny_config()
    config.train.steps = 1
    config.eval.update(modes=("slide", "whole_tta"), tta_scales=(0.5, 1.0), best="slide/miou", window=(24, 24))
    config.eval.stride = (16, 16)
    scores = train(config, workdir)
    monkeypatch.setattr(module, "CHECKPOINT", SimpleNamespace(value="latest"))
    module.evaluate_run(config, workdir)
    report = json.loads((workdir / "evaluation/evaluation.json").read_text())
    assert report["slide"]["confusion"] == scores["slide"].confusion.tolist()
    assert report["whole_tta"]["miou"] == pytest.approx(scores["whole_tta"].summary["miou"])
    how = report["conditions"]["modes"]
    assert (how["slide"]["window"], how["slide"]["stride"], how["slide"]["scales"]) == ([24, 24], [16, 16], [1.0])
    assert (how["whole_tta"]["window"], how["whole_tta"]["scales"], how["whole_tta"]["flip"]) == (
        None,
        [0.5, 1.0],
        True,
    )
    pixels = np.sum(report["slide"]["confusion"])
    assert sum(one["pixels"] for one in report["slide"]["border_distance"]) == pixels
    assert {path.name for path in (workdir / "evaluation").glob("*.png")} == {
        "confusion_slide.png",
        "confusion_whole_tta.png",
        "details.png",
        "examples.png",
    }
    first = build_source(config, "eval")[0]["image"]
    examples = np.asarray(Image.open(workdir / "evaluation/examples.png"))
    np.testing.assert_array_equal(examples[: first.shape[0], : first.shape[1]], first)
