"""The auxiliary head: a few 3x3 convolutions on one feature map (`mmseg/models/decode_heads/fcn_head.py`)."""

from itertools import pairwise

from flax import nnx

from cropjax.models.layers import Classifier, ConvNorm


class FCNHead(nnx.Module):
    """The feature map at `index` [n,h,w,i] -> logits [n,h,w,num_classes], `convs` 3x3 convolutions on the way."""

    def __init__(
        self, in_channels, num_classes, *, rng, norm, index=2, channels=256, convs=1, dropout=0.1, padding_mode="zeros"
    ):  # fmt: skip
        widths = [in_channels[index]] + [channels] * convs
        self.convs = nnx.List(
            ConvNorm(i, o, 3, rng=rng, norm=norm, padding_mode=padding_mode) for i, o in pairwise(widths)
        )
        self.classifier = Classifier(widths[-1], num_classes, rng=rng, dropout=dropout)
        self.index = index

    def __call__(self, maps, train, key):
        x = maps[self.index]
        for layer in self.convs:
            x = layer(x, train)
        return self.classifier(x, train, key)
