"""The layers that every network is made of.

Modules draw their weights from a NumPy generator, `rng`, when they are built: no compilation, the same numbers on any
device. They compute in the type of their input; parameters are float32 and cast where they are used. `train` is an
argument of the call, and so is the random `key` that dropout needs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cropjax.errors import UserError
from cropjax.models.repeat import keepable
from cropjax.ops.batch_norm import batch_norm
from cropjax.ops.conv import conv
from cropjax.ops.conv_of_resized import conv_of_resized
from cropjax.ops.depthwise import depthwise_conv
from cropjax.ops.gelu import gelu
from cropjax.ops.layer_norm import layer_norm
from cropjax.ops.plain import is_plain
from cropjax.ops.pool import adaptive_average_pool, windowed_average_pools
from cropjax.ops.product import product
from cropjax.ops.resize import resize_bilinear
from cropjax.sharding import split_rows


def kaiming_normal(rng, shape):
    """N(0, 2 / fan_out), torch's `kaiming_normal_(mode="fan_out", nonlinearity="relu")`.

    `shape` is [kh,kw,i,o], or [kh,kw,c] of a depthwise kernel, where torch's fan_out is kh kw c as well.
    """
    fan_out = shape[0] * shape[1] * shape[-1]
    return normal(rng, shape, np.sqrt(2 / fan_out))


def normal(rng, shape, std):
    return rng.standard_normal(shape, np.float32) * np.float32(std)


class Conv(nnx.Module):
    """Dense convolution: kernel [k,k,i,o], optional bias [o]. `padding` defaults to what keeps the size at stride 1."""

    def __init__(self, i, o, k, *, rng, stride=1, dilation=1, padding=None, padding_mode="zeros", bias=False, std=None):
        shape = (k, k, i, o)
        self.kernel = nnx.Param(kaiming_normal(rng, shape) if std is None else normal(rng, shape, std))
        self.bias = nnx.Param(np.zeros(o, np.float32)) if bias else None
        self.stride, self.dilation, self.padding_mode = stride, dilation, padding_mode
        self.padding = dilation * (k // 2) if padding is None else padding

    def __call__(self, x):
        y = conv(
            x,
            self.kernel[...],
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            padding_mode=self.padding_mode,
        )
        return self._biased(y if self.stride == 1 else split_rows(y))

    def joined(self, maps, size, *, align_corners):
        """The convolution of `maps` [n,h,w,c], resized to `size` where they differ from it and concatenated.

        Same result, but neither the large map nor its convolution is made: see `conv_of_resized`. Stride 1 only.
        """
        spatial = {"dilation": self.dilation, "padding": self.padding, "padding_mode": self.padding_mode}
        parts = jnp.split(self.kernel[...], np.cumsum([x.shape[-1] for x in maps])[:-1], axis=2)
        if is_plain():
            maps = [resize_bilinear(x, size, align_corners=align_corners) for x in maps]
        pairs = list(zip(maps, parts, strict=True))
        whole = [(x, kernel) for x, kernel in pairs if x.shape[1:3] == size]
        other = [(x, kernel) for x, kernel in pairs if x.shape[1:3] != size]
        y = 0
        if whole:
            xs, kernels = zip(*whole, strict=True)
            y = conv(jnp.concatenate(xs, -1), jnp.concatenate(kernels, 2), **spatial)
        if other:
            y += conv_of_resized(*zip(*other, strict=True), size, align_corners=align_corners, **spatial)
        return self._biased(y)

    def _biased(self, y):
        return keepable(y if self.bias is None else y + self.bias[...].astype(y.dtype))


class DepthwiseConv(nnx.Module):
    """Depthwise convolution of stride 1 that keeps the size: kernel [kh,kw,c] of odd sides, optional bias [c].

    `size` is one side or (rows, columns).
    """

    def __init__(self, c, size, *, rng, dilation=1, padding_mode="zeros", bias=False, std=None):
        shape = (*np.broadcast_to(size, 2).tolist(), c)
        self.kernel = nnx.Param(kaiming_normal(rng, shape) if std is None else normal(rng, shape, std))
        self.bias = nnx.Param(np.zeros(c, np.float32)) if bias else None
        self.dilation, self.padding_mode = dilation, padding_mode

    def __call__(self, x):
        kh, kw, _ = self.kernel.shape
        y = depthwise_conv(
            x,
            self.kernel[...],
            dilation=self.dilation,
            padding=(self.dilation * (kh // 2), self.dilation * (kw // 2)),
            padding_mode=self.padding_mode,
        )
        return keepable(y if self.bias is None else y + self.bias[...].astype(y.dtype))


def grouped_depthwise_conv(c, size, *, rng):
    """The depthwise convolution of MiT and MSCAN: with a bias, and N(0, 2 / fan_out) where fan_out minds the groups."""
    return DepthwiseConv(c, size, rng=rng, bias=True, std=np.sqrt(2 / np.prod(np.broadcast_to(size, 2))))


class Linear(nnx.Module):
    """x [...,i] -> [...,o]: kernel [i,o], which is given, and bias [o]."""

    def __init__(self, kernel):
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(np.zeros(kernel.shape[-1], np.float32))

    def __call__(self, x):
        return keepable(product(x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype))


class BatchNorm(nnx.Module):
    """Batch normalisation over `groups` contiguous groups of the global batch (1 = SyncBN, on any number of devices).

    In training each group is normalised by its own mean and biased variance, found in two passes; the running mean
    moves to the mean of the groups' means and the running variance to the mean of their *unbiased* variances, as
    torch's do. `momentum` is the weight of the old value (torch's 0.1 is 0.9 here). Statistics are float32 or better.

    Raises:
        UserError: in training, when a group has one value a channel, or `groups` does not divide the batch.
    """

    def __init__(self, c, *, groups=1, momentum=0.9, eps=1e-5, scale=1.0):
        self.scale = nnx.Param(np.full(c, scale, np.float32))
        self.bias = nnx.Param(np.zeros(c, np.float32))
        self.mean = nnx.BatchStat(np.zeros(c, np.float32))
        self.var = nnx.BatchStat(np.ones(c, np.float32))
        self.groups, self.momentum, self.eps = groups, momentum, eps
        self.name = "BatchNorm"

    def __call__(self, x, train):
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        y = x.astype(dtype)
        scale, bias = self.scale[...].astype(dtype), self.bias[...].astype(dtype)
        if train:
            n, h, w, c = y.shape
            y = y.reshape(self._groups(n), -1, h, w, c)
            count = self._values(y)
            y, mean, var = batch_norm(y, scale, bias, self.eps)
            self._track(mean.mean(0), var.mean(0) * (count / (count - 1)))
        else:  # two factors: they round better
            mean, var = self.mean[...].astype(dtype), self.var[...].astype(dtype)
            y = (y - mean) * jax.lax.rsqrt(var + self.eps) * scale + bias
        return y.reshape(x.shape).astype(x.dtype)

    def _groups(self, n):
        if n % self.groups:
            raise UserError(
                f"model.norm.groups = {self.groups} does not divide the batch of {n} images: "
                "set it to a divisor of train.batch_size"
            )
        return self.groups

    def _values(self, y):
        _, n, h, w, _ = y.shape
        if n * h * w == 1:
            unpooled = "raise data.crop_size"
            pooled = "switch off such norms with --config.model.head.pool_norm=False"
            raise UserError(
                f"{self.name}: BatchNorm has one value a channel in training ({n} image of {h}x{w} in each of "
                f"{self.groups} groups): raise train.batch_size, lower model.norm.groups, or "
                + (pooled if "pool" in self.name else unpooled)
            )
        return n * h * w

    def _track(self, mean, var):
        for stat, new in ((self.mean, mean), (self.var, var)):
            old = stat[...]
            new = jax.lax.stop_gradient(new).astype(old.dtype)
            stat.set_value(self.momentum * old + (1 - self.momentum) * new)


class LayerNorm(nnx.Module):
    """Normalises each position over its channels, in float32 or better (Ba et al. 2016)."""

    def __init__(self, c, *, eps):
        self.scale = nnx.Param(np.ones(c, np.float32))
        self.bias = nnx.Param(np.zeros(c, np.float32))
        self.eps = eps

    def __call__(self, x):
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        scale, bias = self.scale[...].astype(dtype), self.bias[...].astype(dtype)
        return layer_norm(x.astype(dtype), scale, bias, self.eps).astype(x.dtype)


class GroupNorm(nnx.Module):
    """Normalises each image over its positions and the channels of a group, in float32 or better (Wu & He 2018)."""

    def __init__(self, c, *, scale=1.0, groups=32, eps=1e-5):
        self.scale = nnx.Param(np.full(c, scale, np.float32))
        self.bias = nnx.Param(np.zeros(c, np.float32))
        self.groups, self.eps = groups, eps

    def __call__(self, x, train):
        n, h, w, _ = x.shape
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(n, h, w, self.groups, -1)
        y = _standardized(y, (1, 2, 4), self.eps).reshape(x.shape)
        return (y * self.scale[...].astype(y.dtype) + self.bias[...].astype(y.dtype)).astype(x.dtype)


def _standardized(x, axes, eps):
    x = x - _mean(x, axes)
    return x * jax.lax.rsqrt(_mean(jnp.square(x), axes) + eps)


def _mean(x, axes):
    """Where operations are plain, axis by axis: ONNX Runtime adds one number to the others, however many they are."""
    for some in axes if is_plain() else (axes,):
        x = x.mean(some, keepdims=True)
    return x


class ConvNorm(nnx.Module):
    """Convolution, normalisation, ReLU: upstream's ConvModule. Without a norm the convolution has a bias."""

    def __init__(self, i, o, k, *, rng, norm, relu=True, scale=1.0, bias=False, **conv_args):
        self.conv = Conv(i, o, k, rng=rng, bias=bias or norm is None, **conv_args)
        self.norm = norm(o, scale=scale) if norm else None
        self.relu = relu

    def __call__(self, x, train):
        return self.finish(self.conv(x), train)

    def joined(self, maps, train, *, size, align_corners):
        """Of maps of any size, as if they were resized to `size` and concatenated: see `Conv.joined`."""
        return self.finish(self.conv.joined(maps, size, align_corners=align_corners), train)

    def finish(self, x, train):
        """What follows the convolution."""
        if self.norm is not None:
            x = self.norm(x, train)
        return jax.nn.relu(x) if self.relu else x


def pooled_branch(layer, x, bins, train, *, window, align_corners):
    """`layer`, a `ConvNorm`, of `x` [n,h,w,c] averaged over `bins` x `bins` cells -> [n,bins,bins,o].

    With a `window` (rows, columns), and not in training, over those of a window around each position -> [n,h,w,o]. A
    1x1 convolution and an average commute, and there are many windows: they get the few channels that it leaves.
    """
    if train or not window:
        return layer(adaptive_average_pool(x, bins), train)
    pools = windowed_average_pools(layer.conv(x), bins, window, align_corners=align_corners)
    return sum(weights * layer.finish(pooled, train) for pooled, weights in pools)


class SeparableConvNorm(nnx.Module):
    """Depthwise 3x3, norm, ReLU, then 1x1, norm, ReLU: upstream's DepthwiseSeparableConvModule."""

    def __init__(self, i, o, *, rng, norm, dilation=1, padding_mode="zeros"):
        self.depthwise = DepthwiseConv(i, 3, rng=rng, dilation=dilation, padding_mode=padding_mode)
        self.depthwise_norm = norm(i)
        self.pointwise = ConvNorm(i, o, 1, rng=rng, norm=norm)

    def __call__(self, x, train):
        x = jax.nn.relu(self.depthwise_norm(self.depthwise(x), train))
        return self.pointwise(x, train)


class MixFFN(nnx.Module):
    """1x1 to `hidden` channels, depthwise 3x3, GELU, 1x1 back: what carries the positions in MiT and MSCAN."""

    def __init__(self, c, hidden, *, rng):
        self.expand = Conv(c, hidden, 1, rng=rng, bias=True)
        self.depthwise = grouped_depthwise_conv(hidden, 3, rng=rng)
        self.project = Conv(hidden, c, 1, rng=rng, bias=True)

    def __call__(self, x):
        return self.project(gelu(self.depthwise(self.expand(x))))


def stochastic_depth(x, rate, blocks, *, train, key):
    """What is left of the two branches of each of `blocks` blocks: factors [blocks,2,n,1,1,1] for `x` [n,h,w,c].

    In training a branch is dropped for a whole image with a rate that grows evenly from 0 in the first block to
    `rate` in the last, and divided by its chance to stay otherwise (Huang et al. 2016; mmcv's DropPath).
    """
    shape = (blocks, 2, x.shape[0], 1, 1, 1)
    if not (train and rate):
        return jnp.ones(shape, x.dtype)
    stay = 1 - jnp.linspace(0, rate, blocks, dtype=jnp.promote_types(x.dtype, jnp.float32)).reshape(-1, *[1] * 5)
    return (jax.random.bernoulli(key, stay, shape) / stay).astype(x.dtype)


class Classifier(nnx.Module):
    """Dropout of whole channels (torch's Dropout2d), then a 1x1 convolution to the classes, N(0, 0.01)."""

    def __init__(self, i, num_classes, *, rng, dropout):
        self.conv = Conv(i, num_classes, 1, rng=rng, bias=True, std=0.01)
        self.dropout = dropout

    def __call__(self, x, train, key):
        if train and self.dropout:
            n, _, _, c = x.shape
            keep = jax.random.bernoulli(key, 1 - self.dropout, (n, 1, 1, c))
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        return self.conv(x)


def name_norms(net):
    """Gives every BatchNorm in `net` its path as a name, for messages."""
    for path, module in nnx.iter_modules(net):
        if isinstance(module, BatchNorm):
            module.name = ".".join(map(str, path))
