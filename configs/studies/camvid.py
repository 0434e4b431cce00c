"""The crop-size study on CamVid, everything scaled to images of 480x360: real images, hours instead of weeks.

    CROPJAX_DATA=... python -m cropjax.study --config configs/studies/camvid.py --workdir runs/camvid

The geometry of the study's 512 and 769 on 2048x1024, in small: output stride 8 and crops of 168 and 256, whose last
maps of 21 and 32 positions stand to the largest rate, 12, as 64 and 97 to 36; no crop of 168 is padded and 14 % of
those of 256 are. ResNet-18 of width 16, as two CPU cores can train it, from the weights that `backbones/camvid.py`
beside this file makes: run its two commands first. `camvid.py:50` has ResNet-50 of full width and its ImageNet
weights, for a GPU. The transformers begin with nothing. The learning rate stays as the batch grows, as in the study.

Order of work: crop against batch, at batch 2 with five seeds; the norm behind the pool; BatchNorm's groups and the
learning rate, which a batch changes along with itself; pixels seen; the study's remedies; the transformers; what else
the study had. Where a grid has both batches at a linear rate, or both crops with as many pixels, one of the two is a
cell that is there already.
"""

from cropjax.config import defaults
from cropjax.study.plan import ALL, new_study

WEIGHTS = {18: "weights/camvid_resnet18_w16.safetensors", 50: "weights/resnet50_v1c-2cccc1ad.pth"}
CNNS, OTHERS = ("PSPNet", "DeepLabV3+"), ("SegFormer", "SegNeXt")
STEPS = 2000


def network(name, depth):
    config = defaults(name)
    if name in ("pspnet", "deeplabv3plus"):
        config.model.backbone.update(depth=depth, width=64 if depth == 50 else 16, output_stride=8)
        config.model.head.channels = 512 if depth == 50 else 32
        config.model.auxiliary.channels = 256 if depth == 50 else 16
        config.init_from = WEIGHTS[depth]
        config.optim.warmup_steps = 100
    else:
        config.model.backbone.update(widths=(32, 64, 160, 256), depths=(1, 1, 2, 1))
        config.model.head.channels = 64
        config.optim.update(lr=1e-3, warmup_steps=100, rules=(("norm", 1.0, 0.0),))
    if name == "deeplabv3plus":
        config.model.head.dilations = (1, 4, 8, 12)
        config.model.head.skip_channels = 48 if depth == 50 else 16
    config.data.source = "camvid"
    config.data.scale = (480, 360)
    config.data.in_memory = True
    config.train.update(steps=STEPS, log_every=20, checkpoint_every=250)
    config.eval.every = 500
    return config


def crop(side):
    return dict(data=dict(crop_size=(side, side)))


def head(**fields):
    return dict(model=dict(head=fields))


def padded_by(mode):
    return dict(model=dict(backbone=dict(padding_mode=mode), head=dict(padding_mode=mode)))


def linear_rate(config):
    """Goyal et al. 2017: the learning rate grows with the batch; 8 has the base's."""
    return dict(optim=dict(lr=config.optim.lr * config.train.batch_size / 8))


def as_many_images(config):
    """As many images as 2000 steps of 8 have."""
    return dict(train=dict(steps=STEPS * 8 // config.train.batch_size))


def as_many_pixels(config):
    """As many pixels as 2000 steps of 8 crops of 168 have."""
    rows, columns = config.data.crop_size
    return dict(train=dict(steps=round(STEPS * 8 * 168**2 / (config.train.batch_size * rows * columns))))


def norm_groups(config, images):
    """BatchNorm over so many images at a time."""
    return dict(model=dict(norm=dict(groups=config.train.batch_size // images)))


def slide(side):
    return dict(eval=dict(modes=("slide",), window=(side, side), stride=(side * 2 // 3,) * 2))


def get_config(depth="18"):
    study = new_study("What the crop does on CamVid")
    names = {"PSPNet": "pspnet", "DeepLabV3+": "deeplabv3plus", "SegFormer": "segformer", "SegNeXt": "segnext"}
    study.networks = {label: network(name, int(depth)) for label, name in names.items()}
    study.factors = {
        "crop": {"168": crop(168), "256": crop(256)},
        "batch": {"2": dict(train=dict(batch_size=2)), "8": dict(train=dict(batch_size=8))},
        "pool norm": {"on": {}, "off": head(pool_norm=False)},
        "norm of": {"the batch": {}, "2 images": lambda config: norm_groups(config, 2)},
        "rate": {"fixed": {}, "linear": linear_rate},
        "seen": {"steps": {}, "images": as_many_images, "pixels": as_many_pixels},
        "rates": {"4-8-12": {}, "2-4-6": head(dilations=(1, 2, 4, 6))},
        "scales": {"1-2-3-6": {}, "1-2-4-8": head(pool_scales=(1, 2, 4, 8))},
        "padding": {"zeros": {}, "reflect": padded_by("reflect")},
        "align": {"off": {}, "on": dict(model=dict(align_corners=True))},
    }
    study.grids = (
        {"network": CNNS, "crop": ALL, "seeds": range(5)},
        {"network": CNNS, "crop": ALL, "batch": ("8",)},
        {"network": CNNS, "crop": ALL, "batch": ("2",), "pool norm": ("off",)},
        {"network": CNNS, "crop": ALL, "batch": ALL, "norm of": ("2 images",)},
        {"network": CNNS, "crop": ALL, "batch": ALL, "rate": ("linear",)},
        {"network": CNNS, "crop": ALL, "batch": ALL, "seen": ("images",)},
        {"network": CNNS, "crop": ALL, "batch": ("8",), "seen": ("pixels",)},
        {"network": ("DeepLabV3+",), "crop": ("168",), "batch": ALL, "rates": ("2-4-6",)},
        {"network": ("PSPNet",), "crop": ("168",), "batch": ALL, "scales": ("1-2-4-8",)},
        {"network": OTHERS, "crop": ALL, "batch": ALL},
        {"network": CNNS, "crop": ALL, "batch": ("8",), "pool norm": ("off",)},
        {"network": CNNS, "crop": ALL, "batch": ("8",), "padding": ("reflect",)},
        {"network": CNNS, "crop": ALL, "batch": ("8",), "align": ("on",)},
    )
    study.tests = {
        "whole": {},
        "slide 168": slide(168),
        "slide 256": slide(256),
        "pools of 168": dict(eval=dict(pool_window=(168, 168))),
        "pools of 256": dict(eval=dict(pool_window=(256, 256))),
        "norms anew": dict(eval=dict(norm_images=64)),
    }
    study.contrast = ("crop", "168", "256")
    return study
