"""Cross entropy, and that of logits smaller than the labels, which never makes them full-size.

Labels are uint8 [n,h,w], 255 ignored.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cropjax.data.labels import IGNORE
from cropjax.losses.accuracy import pixel_accuracy
from cropjax.losses.average import EPS, divisor, pixel_weights
from cropjax.ops.plain import is_plain
from cropjax.ops.resize import interpolation_matrix, resize_bilinear

# What a band of rows of full-size logits may take: it then stays in a processor's cache, or keeps a GPU busy.
BAND_BYTES = {"cpu": 4 * 2**20, "gpu": 64 * 2**20}


def cross_entropy(logits, labels, *, average="all", weights=(), smoothing=0.0):
    """Cross entropy summed over the global batch and divided once, in float32 or better; `logits` [n,h,w,k].

    `average="all"` divides by every pixel, ignored ones too (mmsegmentation's default, `avg_non_ignore=False`);
    `"valid"` by those that count. With `weights`, a tuple with one of each class, a pixel's loss counts so often, and
    so does the pixel in the divisor; an ignored one counts there once, where upstream fails.
    Source: `mmseg/models/losses/cross_entropy_loss.py`.
    """
    losses = pixel_cross_entropy(logits, labels, weights=weights, smoothing=smoothing)
    return losses.sum() / (divisor(labels, average, weights, losses.dtype) + EPS)


def pixel_cross_entropy(logits, labels, *, weights=(), smoothing=0.0):
    """The cross entropy of each pixel [n,h,w], 0 where ignored.

    With `smoothing` s, a pixel's classes have the probabilities s/k, and its label's 1 - s more (Szegedy et al. 2016).
    The weight of the label's class is that of all of them; torch, which gives each its own, then has another sum.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    valid = labels != IGNORE
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0).astype(jnp.int32))
    if smoothing:
        of_any = jax.nn.logsumexp(logits, -1) - logits.mean(-1)
        losses = (1 - smoothing) * losses + smoothing * of_any
    if weights:
        losses *= pixel_weights(labels, weights, losses.dtype)
    return jnp.where(valid, losses, 0)


def resized_cross_entropy(logits, labels, *, align_corners, average="all", weights=(), smoothing=0.0, in_bands=True):
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
        loss = cross_entropy(full, labels, average=average, weights=weights, smoothing=smoothing)
        return loss, pixel_accuracy(full, labels)
    return _in_bands(logits, labels, align_corners, average, tuple(weights), smoothing, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5, 6))
def _in_bands(logits, labels, align_corners, average, weights, smoothing, precision):
    return _bands_forward(logits, labels, align_corners, average, weights, smoothing, precision)[0]


def _bands_forward(logits, labels, align_corners, average, weights, smoothing, precision):
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
    scale = 1 / (divisor(labels, average, weights, logits.dtype) + EPS)
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
        of_label, target = jnp.where(hot, full, 0).sum(-1), hot
        if smoothing:
            of_label = (1 - smoothing) * of_label + smoothing * full.mean(-1)
            target = (1 - smoothing) * hot + smoothing / k
        losses = (jnp.log(sums) + largest)[..., 0] - of_label
        right += ((jnp.argmax(full, -1) == labels) & valid).sum((0, 2), dtype=jnp.int32)
        dfull = jnp.where(valid[..., None], exponentials / sums - target, 0)
        if weights:
            of_pixel = pixel_weights(labels, weights, logits.dtype)
            losses, dfull = losses * of_pixel, dfull * of_pixel[..., None]
        loss += jnp.where(valid, losses, 0).sum((0, 2))
        return (loss, right, slope + product("yh,ynxk->hnxk", rows, dfull)), None

    # An image's each, for images may be on several devices: a sum over all in every turn would be one over devices.
    start = jnp.zeros(n, logits.dtype), jnp.zeros(n, jnp.int32), jnp.zeros_like(wide)
    (loss, right, slope), _ = lax.scan(step, start, (rows, bands))
    accuracy = 100 * (right.sum() + EPS) / ((labels != IGNORE).sum() + EPS)
    return (loss.sum() * scale, accuracy), product("xw,hnxk->nhwk", columns, slope) * scale


def _bands_backward(align_corners, average, weights, smoothing, precision, slope, cotangents):
    return cotangents[0] * slope, None


_in_bands.defvjp(_bands_forward, _bands_backward)
