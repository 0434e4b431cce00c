"""SegNeXt's head: the last three maps together, and a matrix factorisation for global context.

Guo et al. 2022 (arXiv 2209.08575); `mmseg/models/decode_heads/ham_head.py`, LightHamHead.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from cropjax.models.layers import Classifier, Conv, ConvNorm, GroupNorm
from cropjax.ops.nmf import draw_bases, nmf

NORM_GROUPS = 32
EVALUATION_SEED = 0


def evaluation_bases(channels, rank):
    """The bases [1,channels,rank] of every evaluation, a constant of the program: what is exported draws nothing."""
    with jax.ensure_compile_time_eval():
        key, _ = jax.random.split(jax.random.key(EVALUATION_SEED))
        return draw_bases(key, 1, channels, rank)


class LightHamHead(nnx.Module):
    """Feature maps two to four -> logits [n,h/8,w/8,num_classes].

    The factorisation starts from random bases of `rank` columns: in training new ones for every image and step; at
    test the same for every image and call, so that a result can be repeated (upstream's changes from run to run).
    `channels`, of the head and of the factorised map, is a multiple of `NORM_GROUPS`.
    """

    def __init__(
        self, in_channels, num_classes, *, rng, align_corners, channels=512, rank=16, train_steps=6, eval_steps=7,
        dropout=0.1,
    ):  # fmt: skip
        norm = partial(GroupNorm, groups=NORM_GROUPS)
        self.squeeze = ConvNorm(sum(in_channels[1:]), channels, 1, rng=rng, norm=norm)
        self.ham_in = Conv(channels, channels, 1, rng=rng, bias=True)
        self.ham_out = ConvNorm(channels, channels, 1, rng=rng, norm=norm, relu=False)
        self.align = ConvNorm(channels, channels, 1, rng=rng, norm=norm)
        self.classifier = Classifier(channels, num_classes, rng=rng, dropout=dropout)
        self.align_corners, self.rank = align_corners, rank
        self.train_steps, self.eval_steps = train_steps, eval_steps

    def squeezed(self, maps, train):
        """The joined maps [n,h/8,w/8,channels], and what is factorised of them, not negative and of the same shape."""
        x = self.squeeze.joined(maps[1:], train, size=maps[1].shape[1:3], align_corners=self.align_corners)
        return x, jax.nn.relu(self.ham_in(x))

    def __call__(self, maps, train, key):
        x, y = self.squeezed(maps, train)
        n, h, w, c = x.shape
        bases_key, dropout_key = jax.random.split(key) if train else (None, None)
        bases = draw_bases(bases_key, n, c, self.rank) if train else evaluation_bases(c, self.rank)
        y = y.reshape(n, h * w, c)
        y = nmf(y, jnp.broadcast_to(bases, (n, c, self.rank)), self.train_steps if train else self.eval_steps)
        x = jax.nn.relu(x + self.ham_out(y.reshape(x.shape), train))
        return self.classifier(self.align(x, train), train, dropout_key)
