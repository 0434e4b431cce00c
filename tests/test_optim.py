"""Optimisers against torch's update rules written out in NumPy, in float64; schedules at the points that matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax import optim

STEPS = 6


def trajectory(direction, params, lrs):
    """Six updates by gradients that depend on the parameters, the first of them zero for one entry."""
    opt_state = direction.init(params)
    for t, lr in enumerate(lrs):
        updates, opt_state = direction.update(jax.tree.map(lambda p, t=t: gradient(p, t), params), opt_state, params)
        params = jax.tree.map(lambda p, u, lr=lr: p - lr * u, params, updates)
    return params


def gradient(p, t):
    return jnp.sin(3 * p + t) * (jnp.arange(p.size).reshape(p.shape) > 0)


def start():
    rng = np.random.default_rng(0)
    return {"kernel": rng.standard_normal((3, 2)), "bias": rng.standard_normal(4)}


def torch_sgd(p, lrs, momentum, decay):
    buffer = None
    for t, lr in enumerate(lrs):
        g = gradient(p, t) + decay * p
        buffer = g if buffer is None else momentum * buffer + g
        p = p - lr * buffer
    return p


def torch_adamw(p, lrs, beta1, beta2, eps, decay):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, lr in enumerate(lrs):
        g = gradient(p, t)
        p = p * (1 - lr * decay)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        p = p - lr * (m / (1 - beta1 ** (t + 1))) / (np.sqrt(v / (1 - beta2 ** (t + 1))) + eps)
    return p


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 5e-4), (0.0, 0.1), (0.9, 0.0)])
def test_sgd_is_torchs(x64, momentum, decay):
    lrs = np.linspace(0.1, 0.01, STEPS)
    got = trajectory(optim.sgd(momentum=momentum, weight_decay=decay), start(), lrs)
    for name, p in start().items():
        np.testing.assert_allclose(got[name], torch_sgd(p, lrs, momentum, decay), rtol=1e-12)


@pytest.mark.parametrize(("eps", "decay"), [(1e-8, 0.01), (0.1, 0.0)])
def test_adamw_is_torchs(x64, eps, decay):
    lrs = np.linspace(0.1, 0.01, STEPS)
    got = trajectory(optim.adamw(beta1=0.9, beta2=0.999, eps=eps, weight_decay=decay), start(), lrs)
    for name, p in start().items():
        np.testing.assert_allclose(got[name], torch_adamw(p, lrs, 0.9, 0.999, eps, decay), rtol=1e-12)


def test_poly_starts_at_lr_and_ends_at_min_lr_exactly():
    schedule = jax.jit(lambda t: optim.poly(t, lr=0.01, min_lr=1e-4, power=0.9, steps=80_000))
    ends = [schedule(jnp.int32(t)) for t in (0, 79_999)]
    np.testing.assert_array_equal(ends, np.float32([0.01, 1e-4]))
    assert schedule(jnp.int32(79_998)) > np.float32(1e-4)


@given(steps=st.integers(2, 10**6), share=st.floats(0, 1), power=st.sampled_from([0.9, 1.0, 2.0]))
@settings(max_examples=20)
def test_poly_is_its_formula(steps, share, power):
    t = int(share * (steps - 1))
    expected = (0.01 - 1e-4) * (1 - t / (steps - 1)) ** power + 1e-4
    got = optim.poly(np.int32(t), lr=0.01, min_lr=1e-4, power=power, steps=steps)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)


def test_warm_up_then_poly():
    args = dict(lr=6e-5, min_lr=0.0, power=1.0, steps=160_000, warmup_steps=1500)
    lrs = {t: float(optim.poly(np.int32(t), **args)) for t in (0, 750, 1499, 1500, 80_000, 159_999)}
    assert lrs == {
        0: pytest.approx(6e-11),
        750: pytest.approx(6e-5 * (1e-6 + (1 - 1e-6) * 750 / 1499)),
        1499: pytest.approx(6e-5),
        1500: pytest.approx(6e-5),
        80_000: pytest.approx(6e-5 * (1 - 78_500 / 158_499)),
        159_999: 0,
    }


@pytest.mark.parametrize("warmup_steps", [0, 1, 5])
def test_shortest_schedules_stay_finite(warmup_steps):
    lrs = [optim.poly(np.int32(t), lr=1.0, min_lr=0.5, power=0.9, steps=1, warmup_steps=warmup_steps) for t in range(8)]
    assert np.isfinite(lrs).all()
    assert max(lrs) <= 1
