"""The study's own geometry on drawn scenes of Cityscapes' size: what images of CamVid's are too small for.

    python -m cropjax.study --config configs/studies/streets.py --workdir runs/streets

Scenes of 1024x2048, crops of 512 and 769, output stride 8, rates of 12-24-36 and scales of 1-2-3-6, so that maps, taps,
pooling cells and the share of padded crops are those of the study; networks of width 16, as two CPU cores can train
them: half an hour a run and core. What drawn scenes say about photographs is little: it is the geometry that is real.
They begin with the weights of `backbones/streets.py` beside this file, which are kept with the results.
"""

from cropjax.config import defaults
from cropjax.study.plan import ALL, new_study

STEPS = 300


def network(name):
    config = defaults(name)
    config.model.backbone.update(depth=18, width=16, output_stride=8)
    config.model.head.channels = 32
    config.model.auxiliary.channels = 16
    if name == "deeplabv3plus":
        config.model.head.skip_channels = 16
    config.data.source = "streets"
    config.data.streets.update(size=(1024, 2048), train_count=60, eval_count=10)
    config.data.in_memory = True
    config.init_from = "docs/results/streets/backbone.safetensors"
    config.optim.update(lr=0.02, min_lr=1e-4, warmup_steps=50)
    config.train.update(steps=STEPS, batch_size=2, log_every=20, checkpoint_every=100)
    config.eval.update(every=150, batch_size=1)
    return config


def as_many_pixels(config):
    """As many pixels as STEPS steps of 769x769 have."""
    rows, columns = config.data.crop_size
    return dict(train=dict(steps=round(STEPS * 769**2 / (rows * columns))))


def crop(side):
    return dict(data=dict(crop_size=(side, side)))


def slide(side):
    return dict(eval=dict(modes=("slide",), window=(side, side), stride=(side * 2 // 3,) * 2))


def get_config():
    study = new_study("Crops of 512 and 769 on drawn scenes of 2048x1024")
    study.networks = {"PSPNet": network("pspnet"), "DeepLabV3+": network("deeplabv3plus")}
    study.factors = {
        "crop": {"512": crop(512), "769": crop(769)},
        "seen": {"steps": {}, "pixels": as_many_pixels},
        "batch": {"2": {}, "4": dict(train=dict(batch_size=4))},
    }
    study.grids = ({"crop": ALL}, {"crop": ALL, "seen": ("pixels",)}, {"crop": ALL, "batch": ("4",)})
    study.tests = {
        "whole": {},
        "slide 512": slide(512),
        "slide 769": slide(769),
        "pools of 512": dict(eval=dict(pool_window=(512, 512))),
        "pools of 769": dict(eval=dict(pool_window=(769, 769))),
        "norms anew": dict(eval=dict(norm_images=20)),
    }
    study.contrast = ("crop", "512", "769")
    return study
