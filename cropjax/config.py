"""The configuration: its defaults, and the only place where names become objects.

The defaults are mmsegmentation's Cityscapes settings for crops of 512x1024; a file under `configs/` states what its
experiment changes. Sizes are (height, width); `scale` is upstream's (long side, short side).
"""

import os
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cropjax import optim
from cropjax.data.frequencies import class_pixels, class_weights, repeats
from cropjax.data.labels import CAMVID, CITYSCAPES, COMMA10K, own_labels
from cropjax.data.pipeline import train_batches
from cropjax.data.sources import FILES, InMemory, is_prepared
from cropjax.data.streets import Streets
from cropjax.data.transforms import augment
from cropjax.errors import UserError
from cropjax.losses.objective import Objective
from cropjax.models import mit, mscan
from cropjax.models.deeplab import DeepLabV3PlusHead
from cropjax.models.fcn import FCNHead
from cropjax.models.layers import BatchNorm
from cropjax.models.mit import MiT
from cropjax.models.mscan import MSCAN
from cropjax.models.psp import PSPHead
from cropjax.models.repeat import EVERYTHING, check_keep
from cropjax.models.resnet import ResNet
from cropjax.models.segformer import SegformerHead
from cropjax.models.segmentor import Segmentor
from cropjax.models.segnext import LightHamHead

NETWORKS = ("pspnet", "deeplabv3plus", "segformer", "segnext")
# The fields of `optim` that one optimiser has and another does not.
OPTIMIZERS = {"sgd": dict(momentum=0.9), "adamw": dict(betas=(0.9, 0.999), eps=1e-8)}
LABELS = {"cityscapes": CITYSCAPES, "camvid": CAMVID, "comma10k": COMMA10K, "streets": CITYSCAPES}
DTYPES = ("float32", "bfloat16", "float64")  # float64 needs JAX_ENABLE_X64, for checks


def defaults(network):
    """The base of every config file: `network` is one of `NETWORKS`.

    PSPNet and DeepLabV3+ come with ResNet-50, SegFormer with MiT-B3, SegNeXt with MSCAN-B, and each with the
    optimiser that upstream gives it. Another size: `config.model.backbone.update(mit.SIZES["b0"])`.
    """
    if network not in NETWORKS:
        raise UserError(f"there is no network {network!r}: it is one of {', '.join(NETWORKS)}")
    config = ConfigDict()
    config.seed = 0  # of the drawn weights, the order of the images, their augmentation and dropout
    # A weight file to start from: a whole segmentor or a backbone; '' trains from scratch. (Resuming is not this.)
    config.init_from = ""
    config.init_parts = ("backbone",)  # what of the network the file must fill: "backbone", "auxiliary", "head"
    config.init_classifier = True  # False leaves the last layers as drawn: for a file with other classes

    config.model = model = ConfigDict()
    model.name = network  # set by defaults(network), not to be changed
    model.align_corners = False  # of every resize, of maps and of logits; upstream's configs for 769 have it on
    # depth: of the ResNet, 18, 50 or 101. width: channels of the ResNet's first stage. output_stride: of the last map,
    # 8, 16 or 32. contract_dilation: the first block of a dilated stage has half the dilation. deep_stem: the ResNet
    # begins with three 3x3, else with one 7x7. padding_mode: "zeros", "reflect", "replicate" or "circular".
    resnet = dict(depth=50, width=64, output_stride=8, contract_dilation=True, deep_stem=True, padding_mode="zeros")
    # channels: within the head. pool_norm: BatchNorm in pooled branches, else a bias. dropout: the share of channels
    # that training drops before the last layer. padding_mode: of the head's 3x3 convolutions, as the backbone's.
    cnn_head = dict(channels=512, pool_norm=True, dropout=0.1, padding_mode="zeros")
    # widths, depths: channels and blocks of the four stages; other sizes are in mit.SIZES and mscan.SIZES. mlp_ratio:
    # channels within MiT's feed-forward part, as a multiple. drop_path: probability that training leaves the last block
    # out; earlier ones less. norm_eps: of MiT's LayerNorms; Hugging Face's networks have 1e-5.
    match network:
        case "pspnet":
            model.backbone = resnet
            # pool_scales: cells along a side of each pooled branch
            model.head = cnn_head | dict(pool_scales=(1, 2, 3, 6))
        case "deeplabv3plus":
            model.backbone = resnet
            # dilations: rates of the pyramid's branches; 1 is a 1x1. skip_channels: of what joins from stage 1
            model.head = cnn_head | dict(dilations=(1, 12, 24, 36), skip_channels=48)
        case "segformer":
            model.backbone = mit.SIZES["b3"] | dict(mlp_ratio=4, drop_path=0.1, norm_eps=1e-6)
            # style: or "huggingface", whose projections have no norm and come in another order
            model.head = dict(channels=256, dropout=0.1, style="mmseg")
        case "segnext":
            model.backbone = mscan.SIZES["b"]
            # rank: of the matrix factorisation. train_steps, eval_steps: iterations of the matrix factorisation
            model.head = dict(channels=512, rank=16, train_steps=6, eval_steps=7, dropout=0.1)
    # index: which map of the backbone it reads, from 0. channels: within the auxiliary head. convs: how many 3x3
    # convolutions it has. dropout: as the head's. padding_mode: as the backbone's.
    model.auxiliary = dict(index=2, channels=256, convs=1, dropout=0.1, padding_mode="zeros")
    # groups: contiguous groups of the global batch that BatchNorm keeps apart; 1 is SyncBN.
    # momentum: weight of the old running statistics, 1 minus torch's. eps: added to variances.
    model.norm = dict(groups=1, momentum=0.9, eps=1e-5)

    cnn = network in ("pspnet", "deeplabv3plus")
    config.loss = loss = ConfigDict()
    loss.average = "all"  # or "valid": the pixels that the loss is divided by
    loss.auxiliary_weight = 0.4 if cnn else 0.0  # 0 builds no auxiliary head
    # Weights of the classes: numbers, or by how often they occur in the training split ("log" or "median").
    loss.class_weights, loss.balance = (), "none"
    # A head's loss is the sum of these, each so often; 0 leaves one out.
    loss.terms = dict(cross_entropy=1.0, focal=0.0, dice=0.0, lovasz=0.0)
    loss.label_smoothing = 0.0  # of cross entropy: the probability that is shared out among all classes
    # gamma: the larger, the less easy pixels count. alpha: weight of the label's class; the others have 1 - alpha.
    loss.focal = dict(gamma=2.0, alpha=0.5)
    loss.dice = dict(activation="sigmoid")  # or "softmax"
    # Hard pixels alone, of cross entropy and focal loss: at least min_kept an image, and all whose label has less than
    # the probability threshold. min_kept=0 keeps every pixel; threshold=0 is upstream's None.
    loss.ohem = dict(min_kept=0, threshold=0.0)

    config.data = data = ConfigDict()
    data.source = "cityscapes"  # or "camvid", "comma10k", "streets", "folders"; see docs/data.md
    data.root = ""  # default: $CROPJAX_DATA/<source>, else data/<source>
    # Of the source "folders": names in the order of the ids, and (r, g, b) of each if the label files are in colours.
    data.classes, data.colours = (), ()
    data.train_split, data.eval_split = "train", "val"  # their names at data.root
    data.scale = (2048, 1024)  # (long, short) side that images are fitted into, in training and at test
    data.ratio_range = (0.5, 2.0)  # what the scale is multiplied with in training, drawn for each image
    data.crop_size = (512, 1024)  # (height, width) of what training sees; smaller images are padded
    data.cat_max_ratio = 0.75  # a crop is drawn again, ten times at most, if one class has this share of it; 1: never
    data.flip = 0.5  # probability that a crop is mirrored
    data.repeat_rare = 0.0  # images of classes that fewer than this share of the images have come more often
    data.photometric = "host"  # where colours are distorted: "host", "device" (inside the step) or "off"
    data.in_memory = False  # keep the training images, decoded, after the first epoch
    data.workers, data.threads = 0, 4  # processes, and threads in each, at most one a core
    data.on_error = "stop"  # at a training file that cannot be read; or "skip" it, count it and say so
    data.patience = 30.0  # seconds without a batch that are an error
    # size: (height, width) of the drawn scenes. train_count, eval_count: how many scenes. seed: of the drawn scenes.
    data.streets = dict(size=(512, 1024), train_count=2975, eval_count=500, seed=0)

    # name: "sgd" or "adamw". lr: the largest learning rate. min_lr: the last one. power: of the polynomial from lr to
    # min_lr. warmup_steps: up to lr. weight_decay: torch's, of every parameter but for rules.
    # momentum: of SGD. betas, eps: of AdamW.
    # rules: (text in upstream's name, factor of the learning rate, factor of the weight decay); optim.py says how.
    if cnn:
        config.optim = dict(name="sgd", lr=0.01, min_lr=1e-4, power=0.9, warmup_steps=0, weight_decay=5e-4, rules=())
    else:
        config.optim = dict(name="adamw", lr=6e-5, min_lr=0.0, power=1.0, warmup_steps=1500, weight_decay=0.01)
        config.optim.rules = (("pos_block", 1.0, 0.0), ("norm", 1.0, 0.0), ("head", 10.0, 1.0))
    config.optim.warmup_factor = 1e-6  # of lr, where the warm-up begins
    config.optim.layer_decay = 1.0  # factor of the learning rate per block of depth, from the head down; see depth.py
    config.optim.update(OPTIMIZERS[config.optim.name])
    config.optim.shard_state = False  # split the optimiser's arrays over the devices of mesh.data

    config.train = train = ConfigDict()
    train.steps = 80_000 if cnn else 160_000  # updates of the weights; raised, a finished run goes on
    train.batch_size = 8  # global, whatever the number of devices
    train.accumulate = 1  # parts that a batch goes through the network in; the result depends on norm.groups, not on it
    train.dtype = "float32"  # of the computation; parameters are float32
    # What the blocks of the backbone's four stages keep for the backward pass: "everything", "convolutions" or
    # "inputs". Less is less memory and a slower step, nothing else.
    train.keep = (EVERYTHING,) * 4
    # Parts of the backbone that do not train: upstream's -1 (none), 0 (the stem), or k (the stem and stages 1 to k).
    train.frozen_stages = -1
    # Momentum m of an average of the weights, (1 - m) average + m weights a step, which is what is evaluated and
    # converted; 0 keeps none. Upstream's EMAHook has 0.0002.
    train.ema = 0.0
    # Steps between two lines of the log, and between two checkpoints.
    train.log_every, train.checkpoint_every = 50, 1000
    train.on_nan = "stop"  # or "rollback": go on from the last checkpoint, past the images of the steps since
    train.patience = 45.0  # seconds: a step that takes longer, and ten times as long as any before it, hangs

    config.eval = ev = ConfigDict()
    ev.every = 8000 if cnn else 16_000  # steps between two evaluations; the last step is always evaluated
    ev.modes = ("whole",)  # and "slide", "whole_tta", "slide_tta": see inference.py
    ev.window, ev.stride = (769, 769), (513, 513)  # of slide
    ev.blending = "flat"  # how much what a window says counts: the same everywhere, or a "gaussian" around its middle
    ev.window_batch = 1  # windows that go through the network together
    # Of the modes that end in _tta: the scales at which the image is looked at, and whether mirrored too.
    ev.tta_scales, ev.tta_flip = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), True
    ev.size_divisor = 32 if network == "segnext" else 1  # images are padded at the right and the bottom to multiples
    # (rows, columns) in pixels: at test the pooled branches of the CNNs see as much around each position, as in a crop.
    ev.pool_window = ()
    # Training images, whole, of which a network that was trained gets new BatchNorm statistics; 0: those of training.
    ev.norm_images = 0
    ev.batch_size = 1  # images at a time, of all devices; no score depends on it
    ev.dtype = "float32"  # also where training computes in another: upstream's mixed precision ends with the step
    ev.best = "whole/miou"  # what makes a checkpoint the best: mode, and miou, macc or aacc
    ev.stop_after = 0  # training ends so many times `every` after the last better `best`; 0: never early
    ev.panels = 4  # validation images of which pictures are made: TensorBoard, evaluation/examples.png
    ev.location_prior = 0  # also score each position's commonest class, counted in so many training images

    # Devices that split the batch, and devices that split the rows of every crop; -1, -1: as many of the first as
    # divide train.batch_size, the rest of the second.
    config.mesh = dict(data=-1, space=-1)
    return config.lock()  # an unknown field is an error


def set_optimizer(config, name):
    """Makes `config.optim` that of the optimiser of this name, whose own fields get their defaults."""
    c = config.optim
    with config.unlocked():
        for other in OPTIMIZERS[c.name]:
            del c[other]
        c.update(OPTIMIZERS[name], name=name)


def label_set(config):
    """The classes of the configured data."""
    c = config.data
    return own_labels(c.classes, c.colours) if c.source == "folders" else LABELS[c.source]


def cells_of(side, config):
    """Cells of the backbone's deepest map along `side` pixels."""
    return -(-side // config.model.backbone.get("output_stride", 32))


def build_model(config):
    """The network, with freshly drawn weights."""
    c = config.model
    rng = np.random.default_rng(config.seed)
    # A group never spans two parts of an accumulated batch; a network sees one part.
    norm = partial(BatchNorm, **{**c.norm, "groups": c.norm.groups // config.train.accumulate})
    check_keep(config.train.keep)
    how = {"keep": tuple(config.train.keep), "frozen_stages": config.train.frozen_stages}
    match c.name:
        case "pspnet":
            backbone, head = ResNet(rng=rng, norm=norm, **how, **c.backbone), partial(PSPHead, norm=norm)
        case "deeplabv3plus":
            backbone, head = ResNet(rng=rng, norm=norm, **how, **c.backbone), partial(DeepLabV3PlusHead, norm=norm)
        case "segformer":
            backbone, head = MiT(rng=rng, **how, **c.backbone), partial(SegformerHead, norm=norm)
        case "segnext":
            backbone, head = MSCAN(rng=rng, norm=norm, **how, **c.backbone), LightHamHead
    if config.eval.pool_window:
        head = partial(head, pool_window=[cells_of(side, config) for side in config.eval.pool_window])
    classes = label_set(config).num_classes
    head = head(backbone.channels, classes, rng=rng, align_corners=c.align_corners, **c.head)
    auxiliary = None
    if config.loss.auxiliary_weight:
        auxiliary = FCNHead(backbone.channels, classes, rng=rng, norm=norm, **c.auxiliary)
    return Segmentor(backbone, head, auxiliary)


def build_objective(config, class_weights=(), *, in_bands=True):
    """What both heads are trained for; `class_weights` are those of `config.loss` unless given."""
    c = config.loss
    return Objective(
        align_corners=config.model.align_corners,
        average=c.average,
        class_weights=tuple(class_weights or c.class_weights),
        terms=c.terms.to_dict(),
        label_smoothing=c.label_smoothing,
        focal=c.focal.to_dict(),
        dice=c.dice.to_dict(),
        ohem=c.ohem.to_dict(),
        in_bands=in_bands,
    )


def build_optimizer(config):
    """An optax transformation that gives the direction, and the schedule `step -> learning rate`."""
    c = config.optim
    decay = {"weight_decay": c.weight_decay, "rules": c.rules, "layer_decay": c.layer_decay}
    decay["frozen_stages"] = config.train.frozen_stages
    match c.name:
        case "sgd":
            direction = optim.sgd(momentum=c.momentum, **decay)
        case "adamw":
            direction = optim.adamw(beta1=c.betas[0], beta2=c.betas[1], eps=c.eps, **decay)
    schedule = partial(
        optim.poly,
        lr=c.lr,
        min_lr=c.min_lr,
        power=c.power,
        steps=config.train.steps,
        warmup_steps=c.warmup_steps,
        warmup_factor=c.warmup_factor,
    )
    return direction, schedule


def build_source(config, split):
    """The records of `split`, "train" or "eval"."""
    c = config.data
    name = c[f"{split}_split"]
    root = Path(c.root or Path(os.environ.get("CROPJAX_DATA", "data"), c.source)).expanduser()
    if c.source == "streets":
        source = Streets(name, c.streets[f"{split}_count"], tuple(c.streets.size), c.streets.seed)
    elif is_prepared(root):
        from cropjax.data.store import open_tfds  # slow to import

        source = open_tfds(root, name, c.source, label_set(config))
    else:
        own = {"classes": c.classes, "colours": c.colours} if c.source == "folders" else {}
        source = FILES[c.source](root, name, **own)
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


def build_balance(config, source, progress=None):
    """What is made of the class frequencies in the training `source`: (weights in the loss, times that records come).

    ((), None) where the config asks for neither. In a run of several processes the first one counts.
    """
    rule, rare = config.loss.balance, config.data.repeat_rare
    if rule == "none" and not rare:
        return (), None
    pixels = np.zeros((len(source), source.labels.num_classes), np.int32)
    if jax.process_index() == 0:
        pixels[:] = class_pixels(source, on_error=config.data.on_error, progress=progress, threads=config.data.threads)
    if jax.process_count() > 1:
        pixels = np.asarray(multihost_utils.broadcast_one_to_all(pixels))
    return class_weights(pixels, rule), repeats(pixels, rare, config.seed) if rare else None


def build_batches(config, source, *, start_step=0, repeats=None):
    """This process's batches of training, from that of step `start_step` + 1 on."""
    return train_batches(
        source,
        build_augment(config),
        seed=config.seed,
        batch_size=config.train.batch_size,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.data.workers,
        threads=config.data.threads,
        on_error=config.data.on_error,
        repeats=repeats,
    )


def example_form(config, size=None):
    """What `build_augment` makes of a record, {name: (shape, dtype)}; `size` is the crop's unless given."""
    size = tuple(size or config.data.crop_size)
    form = {"image": ((*size, 3), np.uint8), "label": (size, np.uint8), "size": ((2,), np.int32)}
    if config.data.photometric == "device":
        form["distortion"] = ((5,), np.float32)
    return form
