"""The checks of a config: every value that cannot work is named before anything is built or written."""

import math

import jax

from cropjax.config import DTYPES, NETWORKS, OPTIMIZERS, defaults, label_set
from cropjax.data.frequencies import BALANCES
from cropjax.data.pipeline import ON_ERROR
from cropjax.data.sources import FILES
from cropjax.data.transforms import PHOTOMETRIC
from cropjax.errors import UserError
from cropjax.inference import MODES
from cropjax.losses.average import AVERAGES
from cropjax.losses.dice import ACTIVATIONS
from cropjax.losses.objective import OF_PIXELS, OF_REGIONS
from cropjax.models.mit import HEADS
from cropjax.models.resnet import STAGES, STRIDES
from cropjax.models.segformer import STYLES
from cropjax.models.segnext import NORM_GROUPS
from cropjax.names import PARTS
from cropjax.ops.pad import PADDING_MODES
from cropjax.windows import BLENDINGS

SCORES = ("miou", "macc", "aacc")
ON_NAN = ("stop", "rollback")


def validate(config):
    """Returns `config`; raises `UserError` for a value, or two that do not go together, that cannot work."""
    fields = Fields(config)
    _check_model(config.model, fields)
    _check_optimizer(config.optim, fields)
    _check_the_rest(config, fields)
    _check_loss(config, fields)
    return config


class Fields:
    """A config's fields by their dotted names, and what can be asked of each."""

    def __init__(self, config):
        self.config = config

    def values(self, field):
        """The elements of a tuple field, or the one value of another."""
        value = self.config
        for name in field.split("."):
            value = value[name]
        return value if isinstance(value, tuple) else (value,)

    def one_of(self, allowed, *fields):
        for field in fields:
            for value in self.values(field):
                if value not in allowed:
                    raise UserError(f"{field} = {value!r} is not one of {', '.join(map(str, allowed))}")

    def between(self, least, most, *fields, kind=(int, float)):
        for field in fields:
            for value in self.values(field):
                if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
                    what = "a whole number" if kind is int else "a number"
                    above = "" if most == math.inf else f" and at most {most}"
                    raise UserError(f"{field} = {value!r} must be {what} of at least {least}{above}")

    def whole_numbers(self, least, *fields):
        self.between(least, math.inf, *fields, kind=int)

    def multiple(self, factor, field, why):
        if any(value % factor for value in self.values(field)):
            raise UserError(f"{field} = {self.values(field)[0]} must be a multiple of {factor}, {why}")

    def length(self, count, *fields):
        for field in fields:
            if len(self.values(field)) != count:
                raise UserError(f"{field} = {self.values(field)} must have {count} values")

    def not_empty(self, *fields):
        for field in fields:
            if not self.values(field):
                raise UserError(f"{field} must not be empty")


def _check_model(model, fields):
    fields.one_of(NETWORKS, "model.name")
    for part in ("backbone", "head"):
        if model[part].keys() != defaults(model.name).model[part].keys():
            raise UserError(f"model.name = {model.name!r} does not fit model.{part}: use a config file of that network")
    match model.name:
        case "pspnet" | "deeplabv3plus":
            fields.one_of(STAGES, "model.backbone.depth")
            fields.one_of(STRIDES, "model.backbone.output_stride")
            fields.one_of(PADDING_MODES, "model.backbone.padding_mode", "model.head.padding_mode")
            fields.whole_numbers(2, "model.backbone.width")
        case "segformer" | "segnext":
            fields.length(4, "model.backbone.widths", "model.backbone.depths")
            fields.whole_numbers(1, "model.backbone.widths", "model.backbone.depths")
            fields.between(0, 0.99, "model.backbone.drop_path")
    fields.whole_numbers(1, "model.head.channels")
    match model.name:
        case "pspnet":
            fields.not_empty("model.head.pool_scales")
            fields.whole_numbers(1, "model.head.pool_scales")
        case "deeplabv3plus":
            fields.not_empty("model.head.dilations")
            fields.whole_numbers(1, "model.head.dilations", "model.head.skip_channels")
        case "segformer":
            if any(width % heads for width, heads in zip(model.backbone.widths, HEADS, strict=True)):
                raise UserError(
                    f"model.backbone.widths = {model.backbone.widths} must be multiples of {HEADS}, the heads"
                )
            fields.whole_numbers(1, "model.backbone.mlp_ratio")
            fields.between(1e-12, 1, "model.backbone.norm_eps")
            fields.one_of(STYLES, "model.head.style")
        case "segnext":
            fields.multiple(NORM_GROUPS, "model.head.channels", "the groups of its norms")
            fields.whole_numbers(1, "model.head.rank")
            fields.whole_numbers(0, "model.head.train_steps", "model.head.eval_steps")
    fields.between(0, 0.99, "model.head.dropout", "model.auxiliary.dropout")
    fields.one_of(PADDING_MODES, "model.auxiliary.padding_mode")
    fields.between(0, 3, "model.auxiliary.index", kind=int)
    fields.whole_numbers(0, "model.auxiliary.convs")
    fields.whole_numbers(1, "model.auxiliary.channels", "model.norm.groups")
    fields.between(0, 1, "model.norm.momentum")
    fields.between(1e-12, 1, "model.norm.eps")


def _check_optimizer(c, fields):
    fields.one_of(OPTIMIZERS, "optim.name")
    for field in OPTIMIZERS[c.name]:
        if field not in c:
            raise UserError(f"optim.name = {c.name!r} does not fit optim, which has no {field}: see cropjax/config.py")
    fields.between(0, math.inf, "optim.lr", "optim.min_lr", "optim.power", "optim.weight_decay")
    fields.whole_numbers(0, "optim.warmup_steps")
    fields.between(0, 1, "optim.layer_decay", "optim.warmup_factor")
    match c.name:
        case "sgd":
            fields.between(0, 1, "optim.momentum")
        case "adamw":
            fields.length(2, "optim.betas")
            fields.between(0, 0.999999, "optim.betas")
            fields.between(0, 1, "optim.eps")
    for rule in c.rules:
        match rule:
            case (str(), int() | float() as rate, int() | float() as decay) if min(rate, decay) >= 0:
                pass
            case _:
                raise UserError(
                    f"optim.rules: {rule!r} must be (text in a parameter's name, factor of the learning rate, factor "
                    "of the weight decay)"
                )


def _check_the_rest(config, fields):
    data, train, ev = config.data, config.train, config.eval
    fields.one_of((*FILES, "streets"), "data.source")
    if data.source != "folders" and (data.classes or data.colours):
        raise UserError(
            f"data.classes and data.colours are for data.source = 'folders'; {data.source} has classes of its own: set "
            "both to ()"
        )
    fields.one_of(PHOTOMETRIC, "data.photometric")
    fields.one_of(ON_ERROR, "data.on_error")
    fields.one_of(DTYPES, "train.dtype", "eval.dtype")
    fields.one_of(PARTS, "init_parts")
    fields.one_of(MODES, "eval.modes")
    fields.one_of(BLENDINGS, "eval.blending")
    fields.one_of([f"{mode}/{score}" for mode in MODES for score in SCORES], "eval.best")
    fields.not_empty("init_parts", "eval.modes", "eval.tta_scales")
    for field in ("train.dtype", "eval.dtype"):
        if fields.values(field) == ("float64",) and not jax.config.jax_enable_x64:
            raise UserError(f"{field} = 'float64' needs the environment variable JAX_ENABLE_X64=1")

    pairs = ("data.scale", "data.crop_size", "data.ratio_range", "data.streets.size", "eval.window", "eval.stride")
    fields.length(2, *pairs)
    fields.whole_numbers(0, "seed", "data.workers", "data.streets.seed")
    fields.whole_numbers(0, "eval.location_prior", "eval.panels", "eval.stop_after", "eval.norm_images")
    fields.whole_numbers(
        1, *(f"train.{name}" for name in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every"))
    )
    whole = ("every", "batch_size", "window", "window_batch", "stride", "size_divisor")
    fields.whole_numbers(1, *(f"eval.{name}" for name in whole))
    fields.whole_numbers(1, "data.scale", "data.crop_size", "data.streets.train_count", "data.streets.eval_count")
    fields.whole_numbers(1, "data.threads")
    fields.between(0, 1, "data.cat_max_ratio", "data.flip", "data.repeat_rare")
    fields.between(0.01, 100, "data.ratio_range", "eval.tta_scales")
    fields.between(0.1, 1e6, "data.patience", "train.patience")
    if data.patience > train.patience:
        raise UserError(
            f"data.patience = {data.patience} is more than train.patience = {train.patience}: the processes that wait "
            "for one without batches would give up before it says so; raise train.patience too"
        )
    fields.one_of(ON_NAN, "train.on_nan")
    fields.between(-1, 4, "train.frozen_stages", kind=int)
    fields.between(0, 1, "train.ema")
    fields.between(-1, math.inf, "mesh.data", "mesh.space", kind=int)

    if ev.pool_window:
        if config.model.name not in ("pspnet", "deeplabv3plus"):
            raise UserError(
                f"eval.pool_window = {ev.pool_window} is for networks that pool, pspnet and deeplabv3plus; "
                f"{config.model.name} has no pooled branch: set it to ()"
            )
        fields.length(2, "eval.pool_window")
        fields.whole_numbers(1, "eval.pool_window")

    if data.ratio_range[0] > data.ratio_range[1]:
        raise UserError(f"data.ratio_range = {data.ratio_range} must go from small to large")
    if any(stride > window for stride, window in zip(ev.stride, ev.window, strict=True)):
        raise UserError(f"eval.stride = {ev.stride} is larger than eval.window = {ev.window}: it would leave gaps")
    groups, parts = config.model.norm.groups, train.accumulate
    if train.batch_size % groups:
        raise UserError(f"model.norm.groups = {groups} does not divide train.batch_size = {train.batch_size}")
    if groups % parts:
        raise UserError(
            f"model.norm.groups = {groups} would span the {parts} parts of train.accumulate, which do not see each "
            f"other: set it to a multiple of {parts}; it says whose images BatchNorm normalises together"
        )


def _check_loss(config, fields):
    c, source = config.loss, config.data.source
    fields.one_of(AVERAGES, "loss.average")
    fields.one_of(BALANCES, "loss.balance")
    fields.one_of(ACTIVATIONS, "loss.dice.activation")
    fields.between(0, math.inf, "loss.class_weights", "loss.auxiliary_weight", "loss.focal.gamma")
    fields.between(0, math.inf, *(f"loss.terms.{name}" for name in c.terms))
    fields.between(0, 0.99, "loss.label_smoothing")
    fields.between(0, 1, "loss.focal.alpha", "loss.ohem.threshold")
    fields.whole_numbers(0, "loss.ohem.min_kept")
    classes = label_set(config).num_classes
    if c.class_weights and c.balance != "none":
        raise UserError(f"loss.class_weights and loss.balance = {c.balance!r} both weigh the classes: keep one")
    if c.class_weights and len(c.class_weights) != classes:
        raise UserError(f"loss.class_weights has {len(c.class_weights)} weights for the {classes} classes of {source}")
    if not any(c.terms.values()):
        raise UserError("loss.terms are all 0, and nothing would be learnt: set one above 0, as cross_entropy=1.0")
    if c.label_smoothing and not c.terms.cross_entropy:
        raise UserError(
            f"loss.label_smoothing = {c.label_smoothing} is of cross entropy, which loss.terms.cross_entropy = 0 "
            "leaves out: set it to 0, or that above 0"
        )
    if c.ohem.threshold and not c.ohem.min_kept:
        raise UserError(
            f"loss.ohem.threshold = {c.ohem.threshold} does nothing with loss.ohem.min_kept = 0: set that to the "
            "pixels that an image keeps at least, such as 100000"
        )
    if c.ohem.min_kept and not any(c.terms[name] for name in OF_PIXELS):
        raise UserError(
            f"loss.ohem.min_kept = {c.ohem.min_kept} picks pixels of {' and '.join(OF_PIXELS)}, which loss.terms "
            "leaves out: set it to 0, or one of them above 0"
        )
    if config.train.accumulate > 1:
        _check_sums_over_pixels(c, config.train.accumulate)


def _check_sums_over_pixels(c, parts):
    """The loss of a batch must be made of those of its parts."""
    weighed = bool(c.class_weights) or c.balance != "none"
    whole = [f"loss.terms.{name} = {c.terms[name]}" for name in OF_REGIONS if c.terms[name]]
    whole += [f"loss.terms.focal = {c.terms.focal} with weights of classes"] * bool(c.terms.focal and weighed)
    whole += [f"loss.ohem.min_kept = {c.ohem.min_kept}"] * bool(c.ohem.min_kept)
    if whole:
        raise UserError(
            f"{' and '.join(whole)} would see each of the {parts} parts of train.accumulate by itself, and be another "
            "loss: set train.accumulate = 1; train.keep saves memory too"
        )
