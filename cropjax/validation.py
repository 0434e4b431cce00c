"""The checks of a config: every value that cannot work is named before anything is built or written."""

import math

import jax

from cropjax.config import DTYPES, HEADS, LABELS
from cropjax.convert import PARTS
from cropjax.errors import UserError
from cropjax.losses import AVERAGES
from cropjax.models.resnet import STAGES, STRIDES
from cropjax.ops.conv import PADDING_MODES

MODES = ("whole", "slide")
SCORES = ("miou", "macc", "aacc")


def validate(config):
    """Returns `config`; raises `UserError` for a value, or two that do not go together, that cannot work."""

    def values(field):
        """The elements of a tuple field, or the one value of another."""
        value = config
        for name in field.split("."):
            value = value[name]
        return value if isinstance(value, tuple) else (value,)

    def one_of(allowed, *fields):
        for field in fields:
            for value in values(field):
                if value not in allowed:
                    raise UserError(f"{field} = {value!r} is not one of {', '.join(map(str, allowed))}")

    def between(least, most, *fields, kind=(int, float)):
        for field in fields:
            for value in values(field):
                if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
                    what = "a whole number" if kind is int else "a number"
                    above = "" if most == math.inf else f" and at most {most}"
                    raise UserError(f"{field} = {value!r} must be {what} of at least {least}{above}")

    def whole_numbers(least, *fields):
        between(least, math.inf, *fields, kind=int)

    def length(count, *fields):
        for field in fields:
            if len(values(field)) != count:
                raise UserError(f"{field} = {values(field)} must have {count} values")

    def not_empty(*fields):
        for field in fields:
            if not values(field):
                raise UserError(f"{field} must not be empty")

    model, data, train, ev = config.model, config.data, config.train, config.eval
    one_of(HEADS, "model.name")
    rates, stranger = ("pool_scales", "dilations") if model.name == "pspnet" else ("dilations", "pool_scales")
    if stranger in model.head:
        raise UserError(f"model.name = {model.name!r} does not fit model.head: use a config file of that network")
    one_of(STAGES, "model.backbone.depth")
    one_of(STRIDES, "model.backbone.output_stride")
    one_of(PADDING_MODES, *(f"model.{part}.padding_mode" for part in ("backbone", "head", "auxiliary")))
    one_of(AVERAGES, "loss.average")
    one_of(LABELS, "data.source")
    one_of(DTYPES, "train.dtype")
    one_of(PARTS, "init_parts")
    one_of(MODES, "eval.modes")
    one_of([f"{mode}/{score}" for mode in MODES for score in SCORES], "eval.best")
    not_empty("init_parts", "eval.modes", f"model.head.{rates}")
    if train.dtype == "float64" and not jax.config.jax_enable_x64:
        raise UserError("train.dtype = 'float64' needs the environment variable JAX_ENABLE_X64=1")

    length(2, "data.scale", "data.crop_size", "data.ratio_range", "data.streets.size", "eval.window", "eval.stride")
    whole_numbers(0, "seed", "data.workers", "data.streets.seed", "optim.warmup_steps")
    whole_numbers(0, "eval.location_prior", "eval.panels", "model.auxiliary.convs")
    whole_numbers(1, *(f"train.{name}" for name in ("steps", "batch_size", "log_every", "checkpoint_every")))
    whole_numbers(1, "eval.every", "eval.batch_size", "eval.window", "eval.stride", "data.threads")
    whole_numbers(1, "data.scale", "data.crop_size", "data.streets.train_count", "data.streets.eval_count")
    whole_numbers(1, "model.head.channels", "model.auxiliary.channels", "model.norm.groups", f"model.head.{rates}")
    whole_numbers(2, "model.backbone.width")
    if "skip_channels" in model.head:
        whole_numbers(1, "model.head.skip_channels")
    between(0, 3, "model.auxiliary.index", kind=int)
    between(0, math.inf, "optim.lr", "optim.min_lr", "optim.power", "optim.weight_decay", "loss.auxiliary_weight")
    between(0, 1, "optim.momentum", "model.norm.momentum", "data.cat_max_ratio", "data.flip")
    between(0, 0.99, "model.head.dropout", "model.auxiliary.dropout")
    between(1e-12, 1, "model.norm.eps")
    between(0.01, 100, "data.ratio_range")

    if data.ratio_range[0] > data.ratio_range[1]:
        raise UserError(f"data.ratio_range = {data.ratio_range} must go from small to large")
    if any(stride > window for stride, window in zip(ev.stride, ev.window, strict=True)):
        raise UserError(f"eval.stride = {ev.stride} is larger than eval.window = {ev.window}: it would leave gaps")
    if train.batch_size % model.norm.groups:
        raise UserError(
            f"model.norm.groups = {model.norm.groups} does not divide train.batch_size = {train.batch_size}"
        )
    return config
