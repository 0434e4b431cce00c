"""Optimisers against torch's update rules written out in NumPy, in float64; schedules at the points that matter."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropjax import optim
from cropjax.config import build_model, build_optimizer, defaults
from cropjax.optim import parameter_factors
from cropjax.step import split_model

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


# Rules by a parameter's name -------------------------------------------------------------------------------


def named():
    """Parameters of SegNeXt's form: upstream's names have `norm1`, `proj`, `bn` and `decode_head` in them."""
    rng = np.random.default_rng(0)
    return {
        "backbone": {
            "norms": {"0": {"scale": rng.standard_normal(4)}},
            "embeds": {"1": {"0": {"norm": {"scale": rng.standard_normal(4)}}}},
        },
        "head": {"squeeze": {"norm": {"bias": rng.standard_normal(4)}}},
    }


RULES = (("norm", 0.5, 0.0), ("head", 10.0, 1.0), ("backbone.norm1", 2.0, 3.0))


def three(tree):
    backbone = tree["backbone"]
    return (
        backbone["norms"]["0"]["scale"],
        backbone["embeds"]["1"]["0"]["norm"]["scale"],
        tree["head"]["squeeze"]["norm"]["bias"],
    )


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((), [(1, 1), (1, 1), (1, 1)]),
        (RULES, [(2, 3), (0.5, 0), (10, 1)]),  # the longest text that fits
        (RULES[::-1], [(2, 3), (0.5, 0), (10, 1)]),
        ((("norm", 5, 6), ("orm1", 7, 8)), [(5, 6), (5, 6), (1, 1)]),  # of equal length: the alphabet's first
        ((("orm1", 7, 8), ("norm", 5, 6)), [(5, 6), (5, 6), (1, 1)]),
        ((("embed", 5, 6), ("bias", 7, 8)), [(1, 1), (5, 6), (7, 8)]),
        ((("scale", 5, 6), ("head.squeeze.norm", 7, 8)), [(1, 1), (1, 1), (1, 1)]),  # our names, not upstream's
    ],
)
def test_a_parameter_follows_the_rule_whose_text_is_in_upstreams_name(rules, expected):
    rates, decays = parameter_factors(named(), rules)
    assert list(zip(three(rates), three(decays), strict=True)) == expected


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_rules_multiply_learning_rate_and_decay(x64, name):
    lrs, decay = np.linspace(0.1, 0.01, STEPS), 0.1
    if name == "sgd":
        direction, plain = optim.sgd(momentum=0.9, weight_decay=decay, rules=RULES), torch_sgd
        settings = (0.9,)
    else:
        direction = optim.adamw(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=decay, rules=RULES)
        plain, settings = torch_adamw, (0.9, 0.999, 1e-8)
    got = trajectory(direction, named(), lrs)
    for p, moved, rate, factor in zip(three(named()), three(got), (2, 0.5, 10), (3, 0, 1), strict=True):
        np.testing.assert_allclose(moved, plain(p, rate * lrs, *settings, factor * decay), rtol=1e-12)


# Upstream's names of MiT's last norm of a stage and of the norms in MSCAN's stem have no `norm` in them.
NO_DECAY = {
    "segformer": r"stages\.\d\.(embed_norm|blocks\.0\.norm[12]|blocks\.0\.attention\.reduce_norm)\.(scale|bias)",
    "segnext": r"(norms\.\d|embeds\.[123]\.0\.norm|blocks\.\d\.0\.norm[12])\.(scale|bias)",
}


@pytest.mark.parametrize("network", NO_DECAY)
def test_rules_of_the_transformers(network):
    config = defaults(network)
    config.model.backbone.update(widths=(4, 8, 20, 32), depths=(1, 1, 1, 1))
    config.model.head.channels = 32
    rates, decays = parameter_factors(split_model(build_model(config))[1]["params"], config.optim.rules)
    assert set(jax.tree.leaves(rates["backbone"])) == {1.0}
    assert set(jax.tree.leaves(rates["head"])) == {10.0}
    assert set(jax.tree.leaves(decays["head"])) == {1.0}
    for keys, factor in jax.tree_util.tree_leaves_with_path(decays["backbone"]):
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        assert factor == (0.0 if re.fullmatch(NO_DECAY[network], path) else 1.0), path


def test_config_fields_reach_the_optimizer():
    config = defaults("segformer")
    config.optim.update(betas=(0.5, 0.6), eps=0.1, weight_decay=0.2, rules=(("bias", 2.0, 0.0),))
    params = jax.tree.map(jnp.asarray, start())
    grads = jax.tree.map(jnp.cos, params)
    direction, schedule = build_optimizer(config)
    plain = optim.adamw(beta1=0.5, beta2=0.6, eps=0.1, weight_decay=0.2, rules=(("bias", 2.0, 0.0),))
    got, expected = (d.update(grads, d.init(params), params)[0] for d in (direction, plain))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert float(schedule(1500)) == pytest.approx(6e-5)


# Schedules -------------------------------------------------------------------------------------------------


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
