"""A small study, and results for it that nobody has run: scores are what a function says."""

import itertools
import json

import numpy as np
from tiny import tiny_config

from cropjax.data.labels import CITYSCAPES
from cropjax.evaluate import conditions
from cropjax.evaluation.details import Details
from cropjax.metrics import Scores
from cropjax.study.plan import ALL, new_study, read_plan
from cropjax.study.results import deciding, found_by


def small_study():
    study = new_study("A study <in> small")
    study.networks = {"PSPNet": tiny_config("pspnet"), "SegFormer": tiny_config("segformer")}
    study.factors = {
        "crop": {str(side): dict(data=dict(crop_size=(side, side))) for side in (33, 49)},
        "batch": {"4": {}, "2": dict(train=dict(batch_size=2))},
    }
    study.grids = ({"crop": ALL, "batch": ALL},)
    study.tests = {
        "whole": dict(eval=dict(modes=("whole",))),
        "slide": dict(eval=dict(modes=("slide",))),
        "pools": dict(eval=dict(modes=("whole",), pool_window=(32, 32))),
    }
    study.contrast = ("crop", "33", "49")
    study.published = (({"network": "PSPNet", "crop": "33"}, "whole", 57.64, "somebody, one run"),)
    return study


def small_plan():
    return read_plan(small_study())


def labels():
    return np.tile(np.arange(4, dtype=np.uint8), (32, 16))


def scored(share, config):
    """One test's results where that share of an image's pixels, its first rows, is right."""
    label, prediction = labels(), labels()
    prediction[round(share * 32) :] = 7
    confusion = np.bincount(label.ravel() * 19 + prediction.ravel(), minlength=361).reshape(19, 19)
    mode = config.eval.modes[0]
    about = conditions(config, {(32, 64)}) | {"run": "r", "step": 4, "images": 3}
    of_image = Details.of(prediction, label, 19)
    return found_by({mode: Scores.of(confusion)}, {mode: of_image}, CITYSCAPES.names, about)


def make_results(plan, results, share, skip=()):
    """Writes the file of every run but those named in `skip`; `share(levels, seed, test)` of its pixels are right."""
    for run in plan.runs:
        if run.name in skip:
            continue
        tests = {
            test: scored(share(run.cell.levels, run.seed, test), config) for test, config in run.cell.tests.items()
        }
        steps = list(itertools.islice(itertools.count(2, 2), 2))
        values = {
            "cell": run.cell.levels,
            "seed": run.seed,
            "fields": deciding(run.config),
            "provenance": {"commit": "0" * 40, "devices": {"kind": "cpu", "count": 1}, "versions": {}},
            "data": {"images": 6, "size": [32, 64]},
            "weights": "",
            "trained": {
                "steps": 4,
                "hours": 0.5,
                "images_per_second": 3.0,
                "losses": {str(step): 1.0 / step for step in steps},
                "scores": {"4": 10.0},
            },
            "tests": tests,
        }
        results.path(run).parent.mkdir(parents=True, exist_ok=True)
        results.path(run).write_text(json.dumps(values))
