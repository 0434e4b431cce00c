"""Brightness, contrast, saturation and hue on the device: `cropjax.data.transforms.distort`, for a batch.

OpenCV's 8-bit HSV (modules/imgproc/src/color_hsv.simd.hpp, 5.0) in integers: H of 0..179, S and V of 0..255.
"""

import jax.numpy as jnp
import numpy as np

_BITS = 12  # of the fixed-point reciprocals


def _reciprocals(whole):
    """int32 [256]: whole / i in fixed point, 0 for 0."""
    return np.rint(np.append(0, whole * 2**_BITS / np.arange(1, 256))).astype(np.int32)


_SATURATION, _HUE = _reciprocals(255), _reciprocals(180 / 6)


def distort(images, distortion):
    """`images` uint8 [n,h,w,3] RGB, `distortion` float32 [n,5] as `draw_distortion` gives it -> uint8 [n,h,w,3]."""
    contrast_first, brightness, contrast, saturation, hue = distortion.T[:, :, None, None, None]  # each [n,1,1,1]
    early, late = (jnp.where(contrast_first == which, contrast, jnp.nan) for which in (1, 0))
    x = images.astype(jnp.int32)
    x = _where_drawn(brightness, x, _convert(x, 1, brightness))
    x = _where_drawn(early, x, _convert(x, early, 0))
    h, s, v = _hsv(x)
    x = _where_drawn(saturation, x, _rgb(h, _convert(s, saturation, 0), v))
    h, s, v = _hsv(x)
    x = _where_drawn(hue, x, _rgb(jnp.mod(h + hue, 180), s, v))
    x = _where_drawn(late, x, _convert(x, late, 0))
    return x.astype(jnp.uint8)


def _where_drawn(by, x, changed):
    return jnp.where(jnp.isnan(by), x, changed)


def _convert(x, alpha, beta):
    """alpha * x + beta, clipped to 0..255, the fraction cut off; nan is nobody's result."""
    return jnp.clip(x.astype(jnp.float32) * alpha + beta, 0, 255).astype(jnp.int32)


def _hsv(x):
    """int32 [n,h,w,3] RGB -> three int32 [n,h,w,1]."""
    r, g, b = jnp.split(x, 3, -1)
    v, spread = x.max(-1, keepdims=True), x.max(-1, keepdims=True) - x.min(-1, keepdims=True)
    h = jnp.where(v == r, g - b, jnp.where(v == g, b - r + 2 * spread, r - g + 4 * spread))
    h = _scaled(h, _HUE, spread)
    return jnp.where(h < 0, h + 180, h), _scaled(spread, _SATURATION, v), v


def _scaled(x, reciprocals, by):
    return (x * jnp.take(reciprocals, by) + (1 << (_BITS - 1))) >> _BITS


def _rgb(h, s, v):
    """The inverse, three [n,h,w,1] -> int32 [n,h,w,3]."""
    h, s, v = h.astype(jnp.float32) * np.float32(6 / 180), s * np.float32(1 / 255), v * np.float32(1 / 255)
    sector = jnp.floor(h)
    h -= sector
    p, falling, rising = v * (1 - s), v * (1 - s * h), v * (1 - s * (1 - h))
    sector = sector.astype(jnp.int32) % 6
    r = jnp.select([sector % 5 == 0, sector == 1, sector == 4], [v, falling, rising], p)
    g = jnp.select([sector == 0, (sector == 1) | (sector == 2), sector == 3], [rising, v, falling], p)
    b = jnp.select([sector == 2, (sector == 3) | (sector == 4), sector == 5], [rising, v, falling], p)
    return (jnp.concatenate([r, g, b], -1) * 255).astype(jnp.int32)
