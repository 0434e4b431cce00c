"""A backbone, a decode head and perhaps an auxiliary head (`mmseg/models/segmentors/encoder_decoder.py`)."""

from typing import NamedTuple

import jax
from flax import nnx

from cropjax.models.layers import name_norms


class Output(NamedTuple):
    """`logits` [n,h',w',k] at the head's stride, the auxiliary head's (or None), and the backbone's maps."""

    logits: jax.Array
    auxiliary: jax.Array | None
    maps: list[jax.Array]


class Segmentor(nnx.Module):
    """Normalised images [n,h,w,3] -> `Output`. In training BatchNorm uses the batch, and what is random `key`."""

    def __init__(self, backbone, head, auxiliary=None):
        self.backbone, self.head, self.auxiliary = backbone, head, auxiliary
        name_norms(self)

    def __call__(self, images, *, train=False, key=None):
        backbone_key, head_key, auxiliary_key = jax.random.split(key, 3) if key is not None else (None, None, None)
        maps = self.backbone(images, train, backbone_key)
        logits = self.head(maps, train, head_key)
        auxiliary = self.auxiliary(maps, train, auxiliary_key) if train and self.auxiliary else None
        return Output(logits, auxiliary, maps)
