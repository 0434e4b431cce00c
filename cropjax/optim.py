"""Optimisers and learning-rate schedules with torch's arithmetic, and upstream's parameter groups."""

import jax
import jax.numpy as jnp
import optax

from cropjax.depth import depths, part
from cropjax.names import upstream_name


def sgd(*, momentum, weight_decay, **factors):
    """Direction of torch's SGD, to be subtracted times the learning rate: v = momentum v + (g + decay p).

    `factors`: those arguments of `parameter_factors` that are not its defaults.
    """
    return optax.chain(_decayed(weight_decay, factors), optax.trace(momentum), _scaled(factors))


def adamw(*, beta1, beta2, eps, weight_decay, **factors):
    """Direction of torch's AdamW, to be subtracted times the learning rate: Adam's plus decay p.

    `factors`: those arguments of `parameter_factors` that are not its defaults.
    """
    return optax.chain(optax.scale_by_adam(beta1, beta2, eps), _decayed(weight_decay, factors), _scaled(factors))


def parameter_factors(params, rules=(), layer_decay=1.0, frozen_stages=-1):
    """Trees like `params` of what multiplies each one's learning rate and weight decay.

    `rules` are (text, learning-rate factor, decay factor): a parameter follows the first whose text is anywhere in
    its name, mmsegmentation's one, long texts tried first and equally long ones in alphabetical order; without any,
    its factors are 1. Source: `custom_keys` of mmengine's DefaultOptimWrapperConstructor.

    The learning rate is also multiplied by `layer_decay` once for each step of depth below the heads, see depth.py.
    Both factors are 0 in the backbone's parts 0 to `frozen_stages`, see models/frozen.py.
    """
    ordered = sorted(sorted(rules), key=lambda rule: len(rule[0]), reverse=True)
    depth_of, top = depths(_path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params))

    def factors(keys, _):
        path = _path(keys)
        if part(path) <= frozen_stages:
            return 0.0, 0.0
        name = upstream_name(path)
        lr, decay = next(((lr, decay) for text, lr, decay in ordered if text in name), (1.0, 1.0))
        return lr * layer_decay ** (top - depth_of[path]), decay

    pairs = jax.tree_util.tree_map_with_path(factors, params)
    return tuple(jax.tree.map(lambda _, pair, i=i: pair[i], params, pairs) for i in (0, 1))


def _path(keys):
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def _decayed(weight_decay, factors):
    def update(updates, params):
        _, decays = parameter_factors(params, **factors)
        return jax.tree.map(
            lambda u, p, factor: u + weight_decay * factor * p if factor else u, updates, params, decays
        )

    return optax.stateless(update)


def _scaled(factors):
    def scaled(u, factor):
        return u if factor == 1 else factor * u if factor else jnp.zeros_like(u)

    def update(updates, params):
        rates, _ = parameter_factors(params, **factors)
        return jax.tree.map(scaled, updates, rates)

    return optax.stateless(update)


def poly(step, *, lr, min_lr, power, steps, warmup_steps=0, warmup_factor=1e-6):
    """Learning rate of `step` (0, 1, ...): linear warm-up, then a polynomial that ends at exactly `min_lr`.

    `(lr - min_lr) (1 - t / (T - 1))^power + min_lr` with t and T counted from the end of the warm-up; the warm-up
    goes from `lr warmup_factor` to `lr` in `warmup_steps`. Source: mmengine's PolyLR and LinearLR as mmsegmentation's
    Cityscapes schedules use them.
    """
    total = max(steps - warmup_steps - 1, 1)
    left = (warmup_steps + total - step) / total  # 1 - t / total would not end at exactly 0 in float32
    decayed = (lr - min_lr) * jnp.clip(left, 0, 1) ** power + min_lr
    warm = lr * (warmup_factor + (1 - warmup_factor) * step / max(warmup_steps - 1, 1))
    return jnp.where(step < warmup_steps, warm, decayed)
