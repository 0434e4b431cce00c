"""Equal blocks in a row, and what of them is kept for the backward pass."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from cropjax.errors import UserError
from cropjax.ops.order import scan

EVERYTHING, CONVOLUTIONS, INPUTS = KEEP = ("everything", "convolutions", "inputs")
_POLICIES = {
    CONVOLUTIONS: jax.checkpoint_policies.save_only_these_names("convolution"),
    INPUTS: jax.checkpoint_policies.nothing_saveable,
}


def keepable(y):
    """Marks the result of a convolution or of a linear layer: what `CONVOLUTIONS` keeps."""
    return checkpoint_name(y, "convolution")


def repeat(blocks, x, call, *each, keep):
    """`x = call(block, x, *one)` for one after another of `blocks`, with their rows `one` of the arrays `each`.

    `keep`: what the backward pass finds instead of computing it again: `EVERYTHING`, the results of `CONVOLUTIONS`
    and linear layers, or each block's `INPUTS` alone. The two that save memory run the blocks as a loop, since XLA's
    CPU compiler would compute early, and hold, what should be computed again; so all blocks must be of one form
    (widths, strides, dilations), and their weights are copied side by side. BatchNorm's statistics move as they would.

    Chen et al. 2016 (arXiv 1604.06174).
    """
    if keep == EVERYTHING:
        for block, *one in zip(blocks, *each, strict=True):
            x = call(block, x, *one)
        return x

    graph = nnx.graphdef(blocks[0])

    def turn(x, weights_and_rows):
        weights, rows = weights_and_rows
        block = nnx.merge(graph, weights)
        return call(block, x, *rows), nnx.state(block, nnx.BatchStat)

    turn = jax.checkpoint(turn, policy=_POLICIES[keep], prevent_cse=len(blocks) == 1)
    turns = [(nnx.state(block), [rows[i] for rows in each]) for i, block in enumerate(blocks)]
    if len(turns) == 1:
        x, stats = turn(x, turns[0])
        stats = [stats]
    else:
        x, stats = scan(turn, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *turns))
        stats = [jax.tree.map(lambda stat, i=i: stat[i], stats) for i in range(len(blocks))]
    for block, moved in zip(blocks, stats, strict=True):
        nnx.update(block, moved)
    return x


def check_keep(keep):
    """Raises `UserError` unless `keep` is one of `KEEP` for each of a backbone's four stages."""
    if len(keep) != 4 or not set(keep) <= set(KEEP):
        raise UserError(
            f"train.keep = {tuple(keep)!r}: it says for each of the backbone's four stages one of {', '.join(KEEP)}"
        )
