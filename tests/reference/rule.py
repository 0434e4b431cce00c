"""The rule that draws weights and inputs from a name and a shape, so that fixtures need not carry them.

Both sides of a parity test import this file: the upstream run that writes a fixture and our test that
reads it. It needs NumPy only. Names are PyTorch state_dict keys, layouts are PyTorch's (OIHW, NCHW).

A drawn number is a float32, so float32 and float64 runs see exactly the same weights. Every array has
a stream of its own, PCG64 seeded with the CRC-32 of its name: the order of drawing does not matter.
"""

import zlib

import numpy as np

IGNORE = 255


def stream(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 array for one state_dict key, or N(0, 1) for any name that is not one.

    Activations keep their size through conv + BN + ReLU; queries, keys and logits are of order 1. Each bottleneck's
    last BN is small, as are layer scales, and attention's convolutions gain nothing: without that, a deep random
    network amplifies rounding and parity means little. The bases of a matrix decomposition, [1, D, R], are positive
    and of length 1 over D.
    """
    normal = stream(name).standard_normal(shape)
    layer, _, kind = name.rpartition(".")
    kind = kind.removeprefix("in_proj_")
    if kind == "weight" and len(shape) > 1:
        fan_in = np.prod(shape[1:])  # OIHW: kh * kw alone for a depthwise kernel
        gain = 1.0 if len(shape) == 2 or ".attn." in layer or layer.endswith("conv_seg") else 2.0
        values = normal * np.sqrt(gain / fan_in)
    elif kind == "weight":
        values = (0.2 if layer.endswith("bn3") else 1.0) * (1 + 0.1 * normal)
    elif kind in ("bias", "running_mean"):
        values = 0.1 * normal
    elif kind == "running_var":
        values = np.exp(0.1 * normal)
    elif kind in ("layer_scale_1", "layer_scale_2"):
        values = 0.1 * (1 + 0.1 * normal)
    elif kind == "bases":
        uniform = stream(name).random(shape)
        values = uniform / np.sqrt(np.sum(uniform * uniform, axis=1, keepdims=True))
    else:
        values = normal
    return values.astype(np.float32)


def draw_labels(name: str, shape: tuple[int, ...], num_classes: int, ignored: float) -> np.ndarray:
    """int64 labels, uniform over the classes; about the fraction `ignored` of them is 255."""
    rng = stream(name)
    labels = np.floor(rng.random(shape) * num_classes).astype(np.int64)
    return np.where(rng.random(shape) < ignored, IGNORE, labels)


def positions(name: str, size: int, count: int) -> np.ndarray:
    """`count` different flat indices below `size` (all of them, in some order, when there are fewer)."""
    return np.argsort(stream(name).random(size), kind="stable")[:count]


def summary(name: str, array: np.ndarray, count: int) -> np.ndarray:
    """What a fixture keeps of an array: `count` values at drawn positions, then its l2 norm, then its absmax.

    `array` is in PyTorch's layout; a transposed one has the same norm and different values.
    """
    flat = np.asarray(array, np.float64).ravel()
    picked = flat[positions(name, flat.size, count)]
    norm = np.sqrt(np.sum(flat * flat))  # linalg.norm's BLAS sums in an order that depends on the threads
    return np.concatenate([picked, [norm, np.abs(flat).max()]])
