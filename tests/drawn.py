"""Logits and labels, drawn."""

import numpy as np


def draw(n=2, h=4, w=5, k=7, ignored=0.3, seed=0):
    """Logits [n,h,w,k] in float64, and labels of which so large a share is 255."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, (n, h, w), np.uint8)
    labels[rng.random(labels.shape) < ignored] = 255
    return 3 * rng.standard_normal((n, h, w, k)), labels


def slopes(function, x, step=1e-6):
    """The gradient of `function` at `x`, float64, from differences."""
    found = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        shift = np.zeros(x.shape)
        shift[place] = step
        found[place] = (function(x + shift) - function(x - shift)) / (2 * step)
    return found
