"""The configuration: its defaults, and the only place where names become objects.

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
from cropjax.models.deeplab import DeepLabV3PlusHead
from cropjax.models.fcn import FCNHead
from cropjax.models.layers import BatchNorm
from cropjax.models.psp import PSPHead
from cropjax.models.resnet import ResNet
from cropjax.models.segmentor import Segmentor

HEADS = {"pspnet": PSPHead, "deeplabv3plus": DeepLabV3PlusHead}
LABELS = {"cityscapes": CITYSCAPES, "camvid": CAMVID, "streets": CITYSCAPES}
DTYPES = ("float32", "bfloat16", "float64")  # float64 needs JAX_ENABLE_X64, for checks


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
