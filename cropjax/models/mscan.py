"""MSCAN, the backbone of SegNeXt: attention made of large strip convolutions.

Guo et al. 2022 (arXiv 2209.08575); `mmseg/models/backbones/mscan.py`.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cropjax.models.frozen import frozen_parts, held
from cropjax.models.layers import (
    Conv,
    ConvNorm,
    LayerNorm,
    MixFFN,
    grouped_depthwise_conv,
    stochastic_depth,
)
from cropjax.models.repeat import EVERYTHING, repeat
from cropjax.ops.gelu import gelu

SIZES = {
    "t": {"widths": (32, 64, 160, 256), "depths": (3, 3, 5, 2), "drop_path": 0.1},
    "s": {"widths": (64, 128, 320, 512), "depths": (2, 2, 4, 2), "drop_path": 0.1},
    "b": {"widths": (64, 128, 320, 512), "depths": (3, 3, 12, 3), "drop_path": 0.1},
    "l": {"widths": (64, 128, 320, 512), "depths": (3, 5, 27, 3), "drop_path": 0.3},
}

MLP_RATIOS = (8, 8, 4, 4)
STRIPS = (7, 11, 21)


class StripAttention(nnx.Module):
    """x [n,h,w,c] times weights that a 5x5 and pairs of 1xk and kx1 depthwise convolutions see, plus x itself."""

    def __init__(self, c, *, rng):
        self.proj1 = Conv(c, c, 1, rng=rng, bias=True)
        self.conv0 = grouped_depthwise_conv(c, 5, rng=rng)
        self.strips = nnx.List(
            nnx.List(grouped_depthwise_conv(c, size, rng=rng) for size in ((1, k), (k, 1))) for k in STRIPS
        )
        self.mix = Conv(c, c, 1, rng=rng, bias=True)
        self.proj2 = Conv(c, c, 1, rng=rng, bias=True)

    def __call__(self, x):
        values = gelu(self.proj1(x))
        seen = self.conv0(values)
        seen = seen + sum(column(row(seen)) for row, column in self.strips)
        return self.proj2(values * self.mix(seen)) + x


class Block(nnx.Module):
    """Attention and feed-forward network behind BatchNorms, scaled by channel, beside a residual; `stay` [2,n,1,1,1].

    The attention adds its own normalised input as well: there are two residuals.
    """

    def __init__(self, c, hidden, *, rng, norm):
        self.norm1 = norm(c)
        self.attention = StripAttention(c, rng=rng)
        self.scale1 = nnx.Param(np.full(c, 1e-2, np.float32))
        self.norm2 = norm(c)
        self.ffn = MixFFN(c, hidden, rng=rng)
        self.scale2 = nnx.Param(np.full(c, 1e-2, np.float32))

    def __call__(self, x, stay, train):
        x = x + stay[0] * self.scale1[...].astype(x.dtype) * self.attention(self.norm1(x, train))
        return x + stay[1] * self.scale2[...].astype(x.dtype) * self.ffn(self.norm2(x, train))


class MSCAN(nnx.Module):
    """Images [n,h,w,3] -> four feature maps at strides 4, 8, 16 and 32, with `widths` channels.

    `widths`, `depths` and `drop_path`, the rate of the last block, as in `SIZES`. Each stage ends in a LayerNorm, and
    what it gives feeds the next stage too. `keep` is what each stage's blocks keep in training (see `repeat`),
    `frozen_stages` what does not train (see frozen.py).
    """

    def __init__(self, *, rng, norm, widths, depths, drop_path=0.1, keep=(EVERYTHING,) * 4, frozen_stages=-1):
        down = {"rng": rng, "norm": norm, "stride": 2, "relu": False, "bias": True}
        self.embeds, self.blocks, self.norms = nnx.List(), nnx.List(), nnx.List()
        i = 3
        for stage, (c, depth, ratio) in enumerate(zip(widths, depths, MLP_RATIOS, strict=True)):
            steps = [(i, c // 2), (c // 2, c)] if stage == 0 else [(i, c)]
            self.embeds.append(nnx.List(ConvNorm(*step, 3, **down) for step in steps))
            self.blocks.append(nnx.List(Block(c, ratio * c, rng=rng, norm=norm) for _ in range(depth)))
            self.norms.append(LayerNorm(c, eps=1e-5))
            i = c
        self.channels, self.drop_path, self.keep = tuple(widths), drop_path, tuple(keep)
        self.frozen_stages = frozen_stages

    def __call__(self, x, train, key=None):
        depths = [len(blocks) for blocks in self.blocks]
        stay = stochastic_depth(x, self.drop_path, sum(depths), train=train, key=key)
        stay = jnp.split(stay, np.cumsum(depths)[:-1])
        stem_frozen, *frozen_stages = frozen_parts(self.frozen_stages, train)
        frozen_embeds = [stem_frozen, *frozen_stages[1:]]
        parts = zip(self.embeds, self.blocks, self.norms, stay, self.keep, frozen_embeds, frozen_stages, strict=True)
        maps = []
        for embed, blocks, norm, factors, keep, frozen_embed, frozen in parts:
            x = held(_embedded(embed, x, train and not frozen_embed), frozen_embed)
            if frozen:
                factors = jnp.ones_like(factors)
            x = held(norm(_repeated(blocks, x, factors, train and not frozen, keep)), frozen)
            maps.append(x)
        return maps


def _embedded(embed, x, train):
    x = embed[0](x, train)
    for layer in list(embed)[1:]:
        x = layer(gelu(x), train)
    return x


def _repeated(blocks, x, stay, train, keep):
    keep = keep if train else EVERYTHING
    return repeat(blocks, x, lambda block, x, stay: block(x, stay, train), stay, keep=keep)
