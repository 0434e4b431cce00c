"""What XLA's CPU compiler computes again, or keeps for the backward pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from cropjax.ops.batch_norm import batch_norm
from cropjax.ops.depthwise import depthwise_conv
from cropjax.ops.order import after, once
from cropjax.ops.product import product

FACTOR = 2.5  # stands in a program as often as it is multiplied with


def neighbours(x):
    return FACTOR * x[:, 1:] + 1.5 * x[:, :-1] + 0.25


def uses_twice(function, x):
    y = function(jax.nn.relu(function(x)))
    return (2 * y).sum(0), jax.nn.relu(y), y[:, ::-1]


def times_computed(function):
    program = jax.jit(partial(uses_twice, function)).lower(jnp.ones((64, 130))).compile()
    return program.as_text().count(f"constant({FACTOR})")


def test_once():
    assert times_computed(neighbours) > 2  # what it is there for
    assert times_computed(once(neighbours)) == 2


def test_once_changes_nothing():
    x = jnp.arange(36.0).reshape(4, 9)  # sums of which are exact in any order

    def gradient(function):
        return jax.value_and_grad(lambda x: jnp.square(function(x)).sum())(x)

    np.testing.assert_array_equal(once(neighbours)(x), neighbours(x))
    jax.tree.map(np.testing.assert_array_equal, gradient(once(neighbours)), gradient(neighbours))


def test_once_is_no_program_where_rows_are_split():
    """Devices would wait for each other for ever where it exchanges rows."""
    x = jnp.ones((4, 9))
    assert "name=program" in str(jax.make_jaxpr(once(neighbours))(x))
    mesh = AbstractMesh((1, 2), ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    with jax.sharding.use_abstract_mesh(mesh):
        assert "name=program" not in str(jax.make_jaxpr(once(neighbours))(x))


def test_after():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(after(np.zeros(3), x), x)
    found = np.asarray(after(np.array([np.nan, 0, np.inf]), x))
    assert np.isnan(found[:, 0]).all()
    np.testing.assert_array_equal(found[:, 1:], x[:, 1:])


def test_a_normalised_layer_keeps_its_product_and_its_result():
    """Two maps a layer, and not the normalised one besides."""
    maps, layers, c = (1, 2, 32, 32), 12, 64

    def loss(kernels, x):
        for kernel in kernels:
            y = product(x, kernel)
            x = jax.nn.relu(batch_norm(y, jnp.ones(c), jnp.zeros(c), 1e-5)[0])
        return jnp.square(x).mean()

    program = jax.jit(jax.grad(loss)).lower([jnp.eye(c)] * layers, jnp.ones((*maps, c))).compile()
    a_map = np.prod(maps) * c * 4
    assert program.memory_analysis().temp_size_in_bytes < (2 * layers + 4) * a_map


def test_a_dilated_depthwise_convolution_keeps_no_padding():
    x, kernel = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 4))
    _, backward = jax.vjp(partial(depthwise_conv, dilation=4, padding=(4, 4)), x, kernel)
    assert sum(kept.size for kept in jax.tree.leaves(backward)) <= x.size + kernel.size
