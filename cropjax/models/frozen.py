"""The first parts of a backbone, which keep their weights while the rest trains.

Part 0 is what comes before the first block (ResNet's stem, the first patch embedding of MiT and MSCAN), parts 1 to 4
are the stages, each with its own embedding and norm. With `frozen_stages` = k the parts 0 to k are frozen, with -1
none: `_freeze_stages` of `mmseg/models/backbones/resnet.py`, and of `swin.py` for what has patch embeddings. In
training a frozen part is as at test, its BatchNorms and its stochastic depth too, and no gradient gets behind it.
"""

from jax import lax


def frozen_parts(frozen_stages, train):
    """Whether each of the five parts is frozen; at test none is, since gradients may be asked for there too."""
    return [train and part <= frozen_stages for part in range(5)]


def held(x, frozen):
    """`x`, a constant to the gradient if what has made it is frozen."""
    return lax.stop_gradient(x) if frozen else x
