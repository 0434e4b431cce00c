"""SegFormer's head: every map to the same channels and the same size, then one 1x1 convolution over all.

Xie et al. 2021; `mmseg/models/decode_heads/segformer_head.py`, and the head of NVlabs and Hugging Face.
"""

from flax import nnx

from cropjax.models.layers import Classifier, ConvNorm

STYLES = ("mmseg", "huggingface")


class SegformerHead(nnx.Module):
    """Four feature maps -> logits [n,h/4,w/4,num_classes].

    `style` "mmseg": projections with BatchNorm and ReLU, concatenated from the first map to the last.
    "huggingface", NVlabs' as well: bare linear projections with a bias, concatenated from the last to the first.
    """

    def __init__(
        self, in_channels, num_classes, *, rng, norm, align_corners, channels=256, dropout=0.1, style="mmseg"
    ):  # fmt: skip
        bare = style == "huggingface"
        self.projections = nnx.List(
            ConvNorm(i, channels, 1, rng=rng, norm=None if bare else norm, relu=not bare) for i in in_channels
        )
        self.fuse = ConvNorm(len(in_channels) * channels, channels, 1, rng=rng, norm=norm)
        self.classifier = Classifier(channels, num_classes, rng=rng, dropout=dropout)
        self.align_corners, self.last_first = align_corners, bare

    def __call__(self, maps, train, key):
        projected = [projection(x, train) for projection, x in zip(self.projections, maps, strict=True)]
        if self.last_first:
            projected = projected[::-1]
        x = self.fuse.joined(projected, train, size=maps[0].shape[1:3], align_corners=self.align_corners)
        return self.classifier(x, train, key)
