"""Crops of 512 and 769 on Cityscapes with nothing else changed, and what the study changed along with them, by itself.

    python -m cropjax.study --config configs/studies/crop_size_controlled.py --workdir runs/controlled --dry_run

The base is `configs/{net}_512.py`: whole images of 2048x1024, align_corners off, batch 2. Order of work: crop against
batch; BatchNorm's groups, the learning rate and the images seen, which come with the batch; the pixels seen, which come
with the crop; align_corners, the image scale, the padding mode and the norm of the pooled branch. Hardware: GPUs for
months, see --dry_run --benchmark. Not run by us yet.
"""

import runpy
from pathlib import Path

from cropjax.study.plan import ALL, new_study

CONFIGS = Path(__file__).parents[1]
FILES = {"PSPNet": "pspnet", "DeepLabV3+": "deeplab", "SegFormer-B3": "segformer_b3", "SegNeXt-B": "segnext_b"}
CNNS = ("PSPNet", "DeepLabV3+")
BATCH = 8  # upstream's


def base(name):
    return runpy.run_path(str(CONFIGS / f"{name}_512.py"))["get_config"]()


def linear_rate(config):
    """Goyal et al. 2017, from upstream's rate for 8 images."""
    return dict(optim=dict(lr=config.optim.lr * config.train.batch_size / BATCH))


def as_many_images(config):
    """As many as upstream's batch sees in as many steps."""
    return dict(train=dict(steps=config.train.steps * BATCH // config.train.batch_size))


def as_many_pixels(config):
    """As many as crops of 512 have in as many steps."""
    rows, columns = config.data.crop_size
    return dict(train=dict(steps=round(config.train.steps * 512**2 / (rows * columns))))


def two_images(config):
    """BatchNorm over two images at a time, whatever the batch."""
    return dict(model=dict(norm=dict(groups=config.train.batch_size // 2)))


def padded_by(mode):
    return dict(model=dict(backbone=dict(padding_mode=mode), head=dict(padding_mode=mode)))


def get_config():
    study = new_study("Crops of 512 and 769 on Cityscapes, one thing at a time")
    study.networks = {label: base(name) for label, name in FILES.items()}
    study.factors = {
        "crop": {"512": dict(data=dict(crop_size=(512, 512))), "769": dict(data=dict(crop_size=(769, 769)))},
        "batch": {"2": dict(train=dict(batch_size=2)), "8": dict(train=dict(batch_size=8))},
        "norm of": {"the batch": {}, "2 images": two_images},
        "rate": {"fixed": {}, "linear": linear_rate},
        "seen": {"steps": {}, "images": as_many_images, "pixels": as_many_pixels},
        "align": {"off": {}, "on": dict(model=dict(align_corners=True))},
        "scale": {"2048x1024": {}, "2049x1025": dict(data=dict(scale=(2049, 1025)))},
        "pool norm": {"on": {}, "off": dict(model=dict(head=dict(pool_norm=False)))},
        "padding": {"zeros": {}, "reflect": padded_by("reflect")},
    }
    study.grids = (
        {"network": CNNS, "crop": ALL, "batch": ALL},
        {"network": CNNS, "crop": ALL, "pool norm": ("off",)},
        {"network": CNNS, "crop": ALL, "batch": ALL, "norm of": ("2 images",)},
        {"network": CNNS, "crop": ALL, "batch": ALL, "rate": ("linear",)},
        {"network": CNNS, "crop": ALL, "batch": ALL, "seen": ("images",)},
        {"network": CNNS, "crop": ALL, "seen": ("pixels",)},
        {"crop": ALL, "batch": ALL},
        {"network": CNNS, "crop": ALL, "align": ("on",)},
        {"network": CNNS, "crop": ALL, "scale": ("2049x1025",)},
        {"network": CNNS, "crop": ALL, "padding": ("reflect",)},
    )
    study.tests = {
        "whole": {},
        "slide 512": dict(eval=dict(modes=("slide",), window=(512, 512), stride=(341, 341))),
        "slide 769": dict(eval=dict(modes=("slide",), window=(769, 769), stride=(513, 513))),
        "pools of 512": dict(eval=dict(pool_window=(512, 512))),
        "pools of 769": dict(eval=dict(pool_window=(769, 769))),
    }
    study.contrast = ("crop", "512", "769")
    return study
