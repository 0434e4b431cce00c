"""What blocks keep for the backward pass changes their memory and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import tiny_config

from cropjax.config import build_model, build_objective
from cropjax.errors import UserError
from cropjax.models.mit import Block
from cropjax.models.repeat import KEEP, repeat
from cropjax.step import merge_model, segmentation_loss, split_model


def gradients(network, keep):
    """Loss, statistics and gradients of a network with equal blocks in a row to loop over, and drop path."""
    config = tiny_config(network)
    config.train.keep = keep
    if network == "pspnet":
        config.model.backbone.depth = 50
    else:
        config.model.backbone.update(depths=(1, 3, 1, 1), drop_path=0.5)
    graph, weights = split_model(build_model(config))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: x + 0.01 * rng.standard_normal(x.shape), weights)
    images, labels = rng.standard_normal((2, 65, 97, 3)), rng.integers(0, 19, (2, 65, 97), np.uint8)

    def loss(params):
        model = merge_model(graph, weights | {"params": params})
        key = jax.random.key(0)
        objective, auxiliary_weight = build_objective(config), config.loss.auxiliary_weight
        total, _ = segmentation_loss(
            model, images, labels, key=key, objective=objective, auxiliary_weight=auxiliary_weight
        )
        return total, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(weights["params"])


@pytest.mark.usefixtures("x64", "quick_compile")
@pytest.mark.parametrize("network", ["pspnet", "segformer", pytest.param("segnext", marks=pytest.mark.slow)])
def test_same_loss_statistics_and_gradients(network):
    wanted = gradients(network, ("everything",) * 4)
    got = gradients(network, ("everything", "inputs", "convolutions", "inputs"))
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * max(1, np.abs(b).max()))


def test_less_memory():
    rng = np.random.default_rng(0)
    graph, weights = nnx.split(nnx.List(Block(8, 1, 1, rng=rng, mlp_ratio=4, eps=1e-6) for _ in range(6)))

    def planned_bytes(keep):
        def total(weights, x):
            blocks = nnx.merge(graph, weights)
            return jnp.sum(repeat(blocks, x, lambda block, x: block(x, jnp.ones(2)), keep=keep))

        compiled = jax.jit(jax.grad(total)).lower(weights, jnp.ones((1, 48, 48, 8))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    everything, convolutions, inputs = map(planned_bytes, KEEP)
    assert inputs < convolutions < everything


@pytest.mark.parametrize("keep", [("inputs",), ("inputs", "inputs", "inputs", "all")])
def test_what_is_not_known_is_named(keep):
    config = tiny_config("segnext")
    config.train.keep = keep
    with pytest.raises(UserError, match=r"train\.keep = .*everything, convolutions, inputs"):
        build_model(config)
