"""Pixel losses. Labels are uint8 [n,h,w], 255 ignored; logits [n,h,w,k] at the labels' size, or smaller where said."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cropjax.data.labels import IGNORE
from cropjax.ops.plain import is_plain
from cropjax.ops.resize import interpolation_matrix, resize_bilinear

# Keeps a batch without valid pixels at loss 0, as upstream does.
_EPS = float(np.finfo(np.float32).eps)

AVERAGES = ("all", "valid")
# What a band of rows of full-size logits may take: it then stays in a processor's cache, or keeps a GPU busy.
BAND_BYTES = {"cpu": 4 * 2**20, "gpu": 64 * 2**20}


def cross_entropy(logits, labels, *, average="all", weights=()):
    """Cross entropy summed over the global batch and divided once, in float32 or better.

    `average="all"` divides by every pixel, ignored ones too (mmsegmentation's default, `avg_non_ignore=False`);
    `"valid"` by those that count. With `weights`, a tuple with one of each class, a pixel's loss counts so often, and
    so does the pixel in the divisor; an ignored one counts there once, where upstream fails.
    Source: `mmseg/models/losses/cross_entropy_loss.py`.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    valid = labels != IGNORE
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0).astype(jnp.int32))
    if weights:
        losses *= _pixel_weights(labels, weights, losses.dtype)
    return jnp.where(valid, losses, 0).sum() / (_divisor(labels, average, weights, losses.dtype) + _EPS)


def _divisor(labels, average, weights, dtype):
    valid = labels != IGNORE
    if weights:
        return jnp.where(valid, _pixel_weights(labels, weights, dtype), average == "all").sum()
    return jnp.asarray(labels.size if average == "all" else valid.sum(), dtype)


def shares(labels, average, weights):
    """For `labels` [k,n,h,w], k parts of a batch: what part of the batch's loss is each one's, and of its accuracy."""
    dtype = jnp.promote_types(jnp.result_type(float), jnp.float32)
    divisors = jax.vmap(lambda part: _divisor(part, average, weights, dtype))(labels) + _EPS
    valid = (labels != IGNORE).sum((1, 2, 3)) + _EPS
    return divisors / divisors.sum(), valid / valid.sum()


def _pixel_weights(labels, weights, dtype):
    """The weight of each pixel's class; that of an ignored one means nothing."""
    table = np.ones(IGNORE + 1)
    table[: len(weights)] = weights
    return jnp.asarray(table, dtype)[labels]


def pixel_accuracy(logits, labels):
    """Share of the valid pixels whose largest logit is the label's, in percent; 100 if none is valid (upstream's)."""
    valid = labels != IGNORE
    right = (jnp.argmax(logits, -1) == labels) & valid
    return 100 * (right.sum() + _EPS) / (valid.sum() + _EPS)


def resized_cross_entropy(logits, labels, *, align_corners, average="all", weights=(), in_bands=True):
    """`cross_entropy` and `pixel_accuracy` of `logits` [n,h',w',k] resized to the labels, in float32 or better.

    The full-size logits are made a band of rows at a time, and with them the gradient, which is as small as `logits`:
    of all that a loss at full size writes, [n,h,w,k] several times, nothing remains. `in_bands=False` does it at once,
    for rows that are split over devices. Of bfloat16 logits, the resize's products may be as a GPU has them by default:
    TF32, four times as fine as the logits.
    """
    precision = "default" if logits.dtype == jnp.bfloat16 else "highest"
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if is_plain() or not in_bands:
        full = resize_bilinear(logits, labels.shape[1:], align_corners=align_corners)
        return cross_entropy(full, labels, average=average, weights=weights), pixel_accuracy(full, labels)
    return _in_bands(logits, labels, align_corners, average, tuple(weights), precision)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _in_bands(logits, labels, align_corners, average, weights, precision):
    return _bands_forward(logits, labels, align_corners, average, weights, precision)[0]


def _bands_forward(logits, labels, align_corners, average, weights, precision):
    n, h, w, k = logits.shape
    _, height, width = labels.shape
    most = BAND_BYTES.get(jax.default_backend(), BAND_BYTES["gpu"])
    band = int(np.clip(most // (n * width * k * logits.dtype.itemsize), 1, height))
    count = -(-height // band)
    rows = np.zeros((count * band, h))
    rows[:height] = interpolation_matrix(h, height, align_corners)
    rows = jnp.asarray(rows.reshape(count, band, h), logits.dtype)
    columns = jnp.asarray(interpolation_matrix(w, width, align_corners), logits.dtype)
    bands = jnp.pad(labels, ((0, 0), (0, count * band - height), (0, 0)), constant_values=IGNORE)
    bands = bands.reshape(n, count, band, width).transpose(1, 2, 0, 3)
    scale = 1 / (_divisor(labels, average, weights, logits.dtype) + _EPS)
    product = partial(jnp.einsum, precision=precision)
    wide = product("xw,nhwk->hnxk", columns, logits)  # rows first: a band is then a product of two matrices

    def step(carry, operands):
        loss, right, slope = carry
        rows, labels = operands
        full = product("yh,hnxk->ynxk", rows, wide)
        valid = labels != IGNORE
        hot = jnp.arange(k) == labels[..., None]
        largest = full.max(-1, keepdims=True)
        exponentials = jnp.exp(full - largest)
        sums = exponentials.sum(-1, keepdims=True)
        losses = (jnp.log(sums) + largest)[..., 0] - jnp.where(hot, full, 0).sum(-1)
        right += ((jnp.argmax(full, -1) == labels) & valid).sum((0, 2), dtype=jnp.int32)
        dfull = jnp.where(valid[..., None], exponentials / sums - hot, 0)
        if weights:
            of_pixel = _pixel_weights(labels, weights, logits.dtype)
            losses, dfull = losses * of_pixel, dfull * of_pixel[..., None]
        loss += jnp.where(valid, losses, 0).sum((0, 2))
        return (loss, right, slope + product("yh,ynxk->hnxk", rows, dfull)), None

    # An image's each, for images may be on several devices: a sum over all in every turn would be one over devices.
    start = jnp.zeros(n, logits.dtype), jnp.zeros(n, jnp.int32), jnp.zeros_like(wide)
    (loss, right, slope), _ = lax.scan(step, start, (rows, bands))
    accuracy = 100 * (right.sum() + _EPS) / ((labels != IGNORE).sum() + _EPS)
    return (loss.sum() * scale, accuracy), product("xw,hnxk->nhwk", columns, slope) * scale


def _bands_backward(align_corners, average, weights, precision, slope, cotangents):
    return cotangents[0] * slope, None


_in_bands.defvjp(_bands_forward, _bands_backward)
