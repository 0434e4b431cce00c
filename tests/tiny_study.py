"""A study of two seeds as a study file, for commands: `--config tests/tiny_study.py`, or `...py:short`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_run import get_config as tiny_run

from cropjax.study.plan import new_study


def network(name):
    config = tiny_run(name)
    config.train.update(steps=150, checkpoint_every=10)  # long enough to be stopped in the middle
    config.eval.every = 75
    return config


def get_config(which="all"):
    study = new_study("A study in small")
    study.networks = {"PSPNet": network("pspnet"), "SegFormer": network("segformer")}
    if which == "short":
        del study.networks["SegFormer"]
        study.networks["PSPNet"].train.steps = 30
    study.grids = ({},)
    study.seeds = (0, 1)
    study.tests = {"whole": {}, "slide": dict(eval=dict(modes=("slide",)))}
    return study
