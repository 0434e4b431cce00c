"""A study in small: the crop of PSPNet and DeepLabV3+, on drawn street scenes; minutes on two CPU cores.

    python -m cropjax.study --config configs/studies/demo.py --workdir runs/demo_study

Networks of width 8 on scenes of 128x256, for a few steps. It shows what a study is; its networks learn too little to
say anything about others.
"""

from cropjax.config import defaults
from cropjax.study.plan import ALL, new_study


def network(name):
    config = defaults(name)
    config.model.backbone.update(depth=18, width=8, output_stride=8)
    config.model.head.channels = 16
    config.model.auxiliary.channels = 8
    if name == "deeplabv3plus":
        config.model.head.update(dilations=(1, 3, 6, 9), skip_channels=8)
    config.data.source = "streets"
    config.data.streets.update(size=(128, 256), train_count=100, eval_count=20)
    config.data.scale = (256, 128)
    config.data.ratio_range = (0.75, 1.5)
    config.data.in_memory = True
    config.optim.update(lr=0.05, min_lr=1e-4, warmup_steps=20)
    config.train.update(steps=150, batch_size=4, log_every=10, checkpoint_every=150)
    config.eval.update(every=75, batch_size=10, window=(64, 64), stride=(43, 43))
    return config


def get_config():
    study = new_study("The crop, in small")
    study.networks = {"PSPNet": network("pspnet"), "DeepLabV3+": network("deeplabv3plus")}
    study.factors["crop"] = {"64": dict(data=dict(crop_size=(64, 64))), "96": dict(data=dict(crop_size=(96, 96)))}
    study.grids = ({"crop": ALL},)
    study.tests = {
        "whole": {},
        "slide 64": dict(eval=dict(modes=("slide",))),
        "pools of 64": dict(eval=dict(pool_window=(64, 64))),
    }
    study.contrast = ("crop", "64", "96")
    return study
