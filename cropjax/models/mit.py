"""Mix Transformer, the backbone of SegFormer.

Xie et al. 2021 (arXiv 2105.15203); `mmseg/models/backbones/mit.py`. There is no position embedding: positions enter by
the zero padding of the patch embeddings and of the depthwise convolutions.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cropjax.errors import UserError
from cropjax.models.frozen import frozen_parts, held
from cropjax.models.layers import Conv, LayerNorm, Linear, MixFFN, normal, stochastic_depth
from cropjax.models.repeat import EVERYTHING, repeat
from cropjax.ops.attention import attention
from cropjax.ops.product import product

SIZES = {
    "b0": {"widths": (32, 64, 160, 256), "depths": (2, 2, 2, 2)},
    "b1": {"widths": (64, 128, 320, 512), "depths": (2, 2, 2, 2)},
    "b2": {"widths": (64, 128, 320, 512), "depths": (3, 4, 6, 3)},
    "b3": {"widths": (64, 128, 320, 512), "depths": (3, 4, 18, 3)},
    "b4": {"widths": (64, 128, 320, 512), "depths": (3, 8, 27, 3)},
    "b5": {"widths": (64, 128, 320, 512), "depths": (3, 6, 40, 3)},
}

# The four stages: kernel and stride of the patch embedding, heads, and how much keys and values are reduced.
EMBEDDINGS = ((7, 4), (3, 2), (3, 2), (3, 2))
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)


class ReducedAttention(nnx.Module):
    """Self-attention of x [n,h,w,c] whose keys and values come from a map that is `reduction` times smaller.

    A convolution whose kernel and stride are `reduction` makes that map; rows and columns that are left over count
    for nothing in it, and a map without a whole cell is a `UserError`. `in_proj` holds the projections to queries,
    keys and values side by side, as torch's does.
    """

    def __init__(self, c, heads, reduction, *, rng, eps):
        bound = np.sqrt(6 / (c + 3 * c))  # torch's xavier_uniform_
        self.in_proj = Linear(rng.uniform(-bound, bound, (c, 3 * c)).astype(np.float32))
        self.out_proj = Linear(normal(rng, (c, c), 0.02))
        if reduction > 1:
            self.reduce = Conv(c, c, reduction, rng=rng, stride=reduction, padding=0, bias=True)
            self.reduce_norm = LayerNorm(c, eps=eps)
        self.heads, self.reduction = heads, reduction

    def __call__(self, x):
        return self.out_proj(attention(*self.queries_keys_values(x)).reshape(x.shape))

    def queries_keys_values(self, x):
        """Queries [n,h,w,heads,c/heads] of `x`, keys and values [n,k,heads,c/heads] of its k cells."""
        n, h, w, c = x.shape
        if self.reduction == 1:
            query, key, value = jnp.split(self.in_proj(x), 3, axis=-1)
        else:
            if min(h, w) < self.reduction:
                raise UserError(
                    f"MiT: a map of {h}x{w} is smaller than the cells of {self.reduction}x{self.reduction} that "
                    "attention's keys are made of: data.crop_size, eval.window and images must have at least 29 rows "
                    "and columns"
                )
            kernel, bias = self.in_proj.kernel[...].astype(x.dtype), self.in_proj.bias[...].astype(x.dtype)
            small = self.reduce_norm(self.reduce(x))
            query = product(x, kernel[:, :c]) + bias[:c]
            key, value = jnp.split(product(small, kernel[:, c:]) + bias[c:], 2, axis=-1)
        query, key, value = (t.reshape(*t.shape[:-1], self.heads, c // self.heads) for t in (query, key, value))
        return query, *(t.reshape(n, -1, *t.shape[-2:]) for t in (key, value))


class Block(nnx.Module):
    """Attention and feed-forward network, each behind a LayerNorm and beside a residual; `stay` [2,n,1,1,1]."""

    def __init__(self, c, heads, reduction, *, rng, mlp_ratio, eps):
        self.norm1 = LayerNorm(c, eps=eps)
        self.attention = ReducedAttention(c, heads, reduction, rng=rng, eps=eps)
        self.norm2 = LayerNorm(c, eps=eps)
        self.ffn = MixFFN(c, mlp_ratio * c, rng=rng)

    def __call__(self, x, stay):
        x = x + stay[0] * self.attention(self.norm1(x))
        return x + stay[1] * self.ffn(self.norm2(x))


class Stage(nnx.Module):
    """Overlapping patch embedding, `depth` blocks, LayerNorm."""

    def __init__(self, i, c, depth, kernel, stride, heads, reduction, *, rng, mlp_ratio, eps):
        self.embed = Conv(i, c, kernel, stride=stride, rng=rng, bias=True)
        self.embed_norm = LayerNorm(c, eps=eps)
        self.blocks = nnx.List(Block(c, heads, reduction, rng=rng, mlp_ratio=mlp_ratio, eps=eps) for _ in range(depth))
        self.norm = LayerNorm(c, eps=eps)

    def __call__(self, x, stay, keep=EVERYTHING, frozen_embed=False):
        x = held(self.embed_norm(self.embed(x)), frozen_embed)
        return self.norm(repeat(self.blocks, x, lambda block, x, stay: block(x, stay), stay, keep=keep))


class MiT(nnx.Module):
    """Images [n,h,w,3] -> four feature maps at strides 4, 8, 16 and 32, with `widths` channels.

    `widths` and `depths` as in `SIZES`; widths are multiples of `HEADS`. `norm_eps` is 1e-6 in mmsegmentation and
    1e-5 in Hugging Face's networks. `drop_path` is the rate of the last block (see `stochastic_depth`), `keep` what
    each stage's blocks keep in training (see `repeat`), `frozen_stages` what does not train (see frozen.py).
    """

    def __init__(
        self, *, rng, widths, depths, mlp_ratio=4, drop_path=0.1, norm_eps=1e-6, keep=(EVERYTHING,) * 4,
        frozen_stages=-1,
    ):  # fmt: skip
        self.stages = nnx.List()
        i = 3
        for c, depth, (kernel, stride), heads, reduction in zip(
            widths, depths, EMBEDDINGS, HEADS, REDUCTIONS, strict=True
        ):
            self.stages.append(
                Stage(i, c, depth, kernel, stride, heads, reduction, rng=rng, mlp_ratio=mlp_ratio, eps=norm_eps)
            )
            i = c
        self.channels, self.drop_path, self.keep = tuple(widths), drop_path, tuple(keep)
        self.frozen_stages = frozen_stages

    def __call__(self, x, train, key=None):
        depths = [len(stage.blocks) for stage in self.stages]
        stay = stochastic_depth(x, self.drop_path, sum(depths), train=train, key=key)
        stay = jnp.split(stay, np.cumsum(depths)[:-1])
        stem_frozen, *frozen_stages = frozen_parts(self.frozen_stages, train)
        frozen_embeds = [stem_frozen, *frozen_stages[1:]]
        maps = []
        for stage, factors, keep, frozen_embed, frozen in zip(
            self.stages, stay, self.keep, frozen_embeds, frozen_stages, strict=True
        ):
            if frozen:
                factors = jnp.ones_like(factors)
            x = held(stage(x, factors, keep if train and not frozen else EVERYTHING, frozen_embed), frozen)
            maps.append(x)
        return maps
