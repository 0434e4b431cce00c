"""Optimisers and learning-rate schedules with torch's arithmetic, and upstream's parameter groups."""

import jax
import jax.numpy as jnp
import optax

from cropjax.names import upstream_name


def sgd(*, momentum, weight_decay, rules=()):
    """Direction of torch's SGD, to be subtracted times the learning rate: v = momentum v + (g + decay p).

    `rules`: see `parameter_factors`.
    """
    return optax.chain(_decayed(weight_decay, rules), optax.trace(momentum), _scaled(rules))


def adamw(*, beta1, beta2, eps, weight_decay, rules=()):
    """Direction of torch's AdamW, to be subtracted times the learning rate: Adam's plus decay p.

    `rules`: see `parameter_factors`.
    """
    return optax.chain(optax.scale_by_adam(beta1, beta2, eps), _decayed(weight_decay, rules), _scaled(rules))


def parameter_factors(params, rules):
    """Trees like `params` of what multiplies each one's learning rate and weight decay.

    `rules` are (text, learning-rate factor, decay factor): a parameter follows the first whose text is anywhere in
    its name, mmsegmentation's one, long texts tried first and equally long ones in alphabetical order; without any,
    its factors are 1. Source: `custom_keys` of mmengine's DefaultOptimWrapperConstructor.
    """
    ordered = sorted(sorted(rules), key=lambda rule: len(rule[0]), reverse=True)

    def factors(keys, _):
        name = upstream_name(jax.tree_util.keystr(keys, simple=True, separator="."))
        return next(((lr, decay) for text, lr, decay in ordered if text in name), (1.0, 1.0))

    pairs = jax.tree_util.tree_map_with_path(factors, params)
    return tuple(jax.tree.map(lambda _, pair, i=i: pair[i], params, pairs) for i in (0, 1))


def _decayed(weight_decay, rules):
    def update(updates, params):
        _, decays = parameter_factors(params, rules)
        return jax.tree.map(
            lambda u, p, factor: u + weight_decay * factor * p if factor else u, updates, params, decays
        )

    return optax.stateless(update)


def _scaled(rules):
    def update(updates, params):
        rates, _ = parameter_factors(params, rules)
        return jax.tree.map(lambda u, factor: u if factor == 1 else factor * u, updates, rates)

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
