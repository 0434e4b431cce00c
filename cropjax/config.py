"""The configuration: its defaults, its checks, and the only place where names become objects.

The defaults are mmsegmentation's Cityscapes settings for crops of 512x1024; a file under `configs/` states what its
experiment changes. Sizes are (height, width); `scale` is upstream's (long side, short side).
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cropjax import optim
from cropjax.data.labels import CAMVID, CITYSCAPES
from cropjax.data.sources import CamVid, Cityscapes, InMemory
from cropjax.data.streets import Streets
from cropjax.data.transforms import augment
from cropjax.errors import UserError
from cropjax.losses import AVERAGES
from cropjax.models.deeplab import DeepLabV3PlusHead
from cropjax.models.fcn import FCNHead
from cropjax.models.layers import BatchNorm
from cropjax.models.psp import PSPHead
from cropjax.models.resnet import STAGES, STRIDES, ResNet
from cropjax.models.segmentor import Segmentor
from cropjax.ops.conv import PADDING_MODES

HEADS = {"pspnet": PSPHead, "deeplabv3plus": DeepLabV3PlusHead}
LABELS = {"cityscapes": CITYSCAPES, "camvid": CAMVID, "streets": CITYSCAPES}
DTYPES = ("float32", "bfloat16", "float64")  # float64 needs JAX_ENABLE_X64, for checks
MODES = ("whole", "slide")


def defaults(network):
    """The base of every config file: `network` is "pspnet" or "deeplabv3plus"."""
    config = ConfigDict()
    config.seed = 0
    # A weight file to start from: a whole segmentor or a backbone; '' trains from scratch. (Resuming is not this.)
    config.init_from = ""
    # What of the network the file must fill.
    config.init_parts = ("backbone",)

    config.model = model = ConfigDict()
    model.name = network
    model.align_corners = False
    model.backbone = dict(depth=50, width=64, output_stride=8, contract_dilation=True, padding_mode="zeros")
    head = dict(channels=512, pool_norm=True, dropout=0.1, padding_mode="zeros")
    if network == "pspnet":
        head |= dict(pool_scales=(1, 2, 3, 6))
    else:
        head |= dict(dilations=(1, 12, 24, 36), skip_channels=48)
    model.head = head
    model.auxiliary = dict(index=2, channels=256, convs=1, dropout=0.1, padding_mode="zeros")
    # groups: contiguous groups of the global batch that BatchNorm keeps apart; 1 is SyncBN.
    model.norm = dict(groups=1, momentum=0.9, eps=1e-5)

    config.loss = dict(average="all", auxiliary_weight=0.4)  # 0 builds no auxiliary head

    config.data = data = ConfigDict()
    data.source = "cityscapes"
    data.root = ""  # default: $CROPJAX_DATA/<source>, else data/<source>
    data.train_split, data.eval_split = "train", "val"
    data.scale = (2048, 1024)
    data.ratio_range = (0.5, 2.0)
    data.crop_size = (512, 1024)
    data.cat_max_ratio = 0.75
    data.flip = 0.5
    data.photometric = True
    data.in_memory = False  # keep the training images, decoded, after the first epoch
    data.workers, data.threads = 0, 4  # processes, and threads in each
    data.streets = dict(size=(512, 1024), train_count=2975, eval_count=500, seed=0)

    config.optim = dict(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, min_lr=1e-4, power=0.9, warmup_steps=0)

    config.train = train = ConfigDict()
    train.steps = 80_000
    train.batch_size = 8  # global
    train.dtype = "float32"  # of the computation; parameters are float32
    train.log_every, train.checkpoint_every = 50, 1000

    config.eval = ev = ConfigDict()
    ev.every = 8000
    ev.modes = ("whole",)
    ev.window, ev.stride = (769, 769), (513, 513)  # of slide
    ev.batch_size = 1
    ev.best = "whole/miou"
    ev.panels = 4
    ev.location_prior = 0  # also score each position's commonest class, counted in so many training images

    config.mesh = dict(data=-1, space=1)
    return config.lock()  # an unknown field is an error


def validate(config):
    """Raises `UserError` for a value that cannot work, before anything is built or written."""
    c = config
    choices = [
        ("model.name", c.model.name, HEADS),
        ("model.backbone.depth", c.model.backbone.depth, STAGES),
        ("model.backbone.output_stride", c.model.backbone.output_stride, STRIDES),
        ("loss.average", c.loss.average, AVERAGES),
        ("data.source", c.data.source, LABELS),
        ("optim.name", c.optim.name, ("sgd",)),
        ("train.dtype", c.train.dtype, DTYPES),
    ]
    choices += [(f"model.{p}.padding_mode", c.model[p].padding_mode, PADDING_MODES) for p in ("backbone", "head")]
    choices += [("eval.modes", mode, MODES) for mode in c.eval.modes]
    choices += [("eval.best", c.eval.best, [f"{m}/{v}" for m in c.eval.modes for v in ("miou", "macc", "aacc")])]
    for field, value, allowed in choices:
        if value not in allowed:
            raise UserError(f"{field} = {value!r} is not one of {', '.join(map(str, allowed))}")

    at_least = [("seed", c.seed, 0), ("optim.lr", c.optim.lr, 0), ("optim.weight_decay", c.optim.weight_decay, 0)]
    at_least += [("optim.min_lr", c.optim.min_lr, 0), ("optim.warmup_steps", c.optim.warmup_steps, 0)]
    at_least += [("loss.auxiliary_weight", c.loss.auxiliary_weight, 0), ("data.workers", c.data.workers, 0)]
    at_least += [(f"train.{k}", c.train[k], 1) for k in ("steps", "batch_size", "log_every", "checkpoint_every")]
    at_least += [("eval.every", c.eval.every, 1), ("eval.batch_size", c.eval.batch_size, 1)]
    at_least += [
        ("eval.location_prior", c.eval.location_prior, 0),
        ("eval.panels", c.eval.panels, 0),
        ("data.threads", c.data.threads, 1),
    ]
    at_least += [("model.norm.groups", c.model.norm.groups, 1), ("model.backbone.width", c.model.backbone.width, 2)]
    at_least += [("model.head.channels", c.model.head.channels, 1)]
    rates = "pool_scales" if c.model.name == "pspnet" else "dilations"
    at_least += [(f"model.head.{rates}", value, 1) for value in c.model.head[rates]]
    for field, value, least in at_least:
        if not value >= least:
            raise UserError(f"{field} = {value} is below {least}")

    for field, pair in (
        ("data.scale", c.data.scale),
        ("data.crop_size", c.data.crop_size),
        ("data.ratio_range", c.data.ratio_range),
        ("eval.window", c.eval.window),
        ("eval.stride", c.eval.stride),
    ):
        if len(pair) != 2 or min(pair) <= 0:
            raise UserError(f"{field} = {tuple(pair)} must be two positive numbers")
    if c.data.ratio_range[0] > c.data.ratio_range[1]:
        raise UserError(f"data.ratio_range = {c.data.ratio_range} must go from small to large")
    for field, share in (
        ("data.cat_max_ratio", c.data.cat_max_ratio),
        ("data.flip", c.data.flip),
        ("model.norm.momentum", c.model.norm.momentum),
    ):
        if not 0 <= share <= 1:
            raise UserError(f"{field} = {share} must lie in 0...1")
    for part in ("head", "auxiliary"):
        if not 0 <= c.model[part].dropout < 1:
            raise UserError(f"model.{part}.dropout = {c.model[part].dropout} must be at least 0 and below 1")
    if any(s > w for s, w in zip(c.eval.stride, c.eval.window, strict=True)):
        raise UserError(f"eval.stride = {c.eval.stride} is larger than eval.window = {c.eval.window}: pixels between "
                        "windows would have no prediction")  # fmt: skip
    if c.train.batch_size % c.model.norm.groups:
        raise UserError(f"model.norm.groups = {c.model.norm.groups} does not divide train.batch_size = "
                        f"{c.train.batch_size}")  # fmt: skip
    return config


def label_set(config):
    """The classes of the configured data."""
    return LABELS[config.data.source]


def build_model(config):
    """The network, with freshly drawn weights."""
    c = config.model
    rng = np.random.default_rng(config.seed)
    norm = partial(BatchNorm, **c.norm)
    classes = label_set(config).num_classes
    backbone = ResNet(rng=rng, norm=norm, **c.backbone)
    head = HEADS[c.name](backbone.channels, classes, rng=rng, norm=norm, align_corners=c.align_corners, **c.head)
    auxiliary = None
    if config.loss.auxiliary_weight:
        auxiliary = FCNHead(backbone.channels, classes, rng=rng, norm=norm, **c.auxiliary)
    return Segmentor(backbone, head, auxiliary)


def build_optimizer(config):
    """An optax transformation that gives the direction, and the schedule `step -> learning rate`."""
    c = config.optim
    direction = optim.sgd(momentum=c.momentum, weight_decay=c.weight_decay)
    schedule = partial(
        optim.poly,
        lr=c.lr,
        min_lr=c.min_lr,
        power=c.power,
        steps=config.train.steps,
        warmup_steps=c.warmup_steps,
    )
    return direction, schedule


def build_source(config, split):
    """The records of `split`, "train" or "eval"."""
    c = config.data
    name = c[f"{split}_split"]
    root = Path(c.root or Path(os.environ.get("CROPJAX_DATA", "data"), c.source))
    match c.source:
        case "streets":
            source = Streets(name, c.streets[f"{split}_count"], tuple(c.streets.size), c.streets.seed)
        case "cityscapes":
            source = Cityscapes(root, name)
        case "camvid":
            source = CamVid(root, name)
    return InMemory(source) if split == "train" and c.in_memory else source


def build_augment(config):
    """The training transform, record and generator -> record."""
    c = config.data
    return partial(
        augment,
        scale=tuple(c.scale),
        ratio_range=tuple(c.ratio_range),
        crop_size=tuple(c.crop_size),
        cat_max_ratio=c.cat_max_ratio,
        flip=c.flip,
        photometric=c.photometric,
    )
