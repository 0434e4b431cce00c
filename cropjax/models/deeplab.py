"""DeepLabV3+ head: atrous spatial pyramid pooling with separable convolutions and a skip from the first stage.

Chen et al. 2018; `mmseg/models/decode_heads/sep_aspp_head.py`. The bottleneck behind the pyramid is a plain 3x3.
"""

import jax.numpy as jnp
from flax import nnx

from cropjax.models.layers import Classifier, ConvNorm, SeparableConvNorm, pooled_branch
from cropjax.ops.resize import resize_bilinear


class DeepLabV3PlusHead(nnx.Module):
    """First and last feature maps -> logits [n,h/4,w/4,num_classes].

    A branch each for the image's average, and for every rate of `dilations` (a 1x1 convolution for rate 1, a separable
    3x3 for the others). `pool_norm=False` gives the pooled branch a bias in place of BatchNorm. At test it pools over
    windows of `pool_window` positions if that is given (see `pooled_branch`).
    """

    def __init__(
        self, in_channels, num_classes, *, rng, norm, align_corners, channels=512, dilations=(1, 12, 24, 36),
        skip_channels=48, pool_norm=True, pool_window=(), dropout=0.1, padding_mode="zeros",
    ):  # fmt: skip
        i = in_channels[-1]
        spatial = {"rng": rng, "norm": norm, "padding_mode": padding_mode}
        self.image_pool = ConvNorm(i, channels, 1, rng=rng, norm=norm if pool_norm else None)
        self.branches = nnx.List(
            ConvNorm(i, channels, 1, rng=rng, norm=norm)
            if rate == 1
            else SeparableConvNorm(i, channels, dilation=rate, **spatial)
            for rate in dilations
        )
        self.bottleneck = ConvNorm((len(dilations) + 1) * channels, channels, 3, **spatial)
        self.skip = ConvNorm(in_channels[0], skip_channels, 1, rng=rng, norm=norm)
        self.refine = nnx.List(
            [
                SeparableConvNorm(channels + skip_channels, channels, **spatial),
                SeparableConvNorm(channels, channels, **spatial),
            ]
        )
        self.classifier = Classifier(channels, num_classes, rng=rng, dropout=dropout)
        self.pool_window, self.align_corners = tuple(pool_window), align_corners

    def __call__(self, maps, train, key):
        first, last = maps[0], maps[-1]
        pooled = pooled_branch(
            self.image_pool, last, 1, train, window=self.pool_window, align_corners=self.align_corners
        )
        pyramid = [pooled] + [branch(last, train) for branch in self.branches]
        x = self.bottleneck.joined(pyramid, train, size=last.shape[1:3], align_corners=self.align_corners)
        x = resize_bilinear(x, first.shape[1:3], align_corners=self.align_corners)
        x = jnp.concatenate([x, self.skip(first, train)], -1)  # stride 4
        for layer in self.refine:
            x = layer(x, train)
        return self.classifier(x, train, key)
