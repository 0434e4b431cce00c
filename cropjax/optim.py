"""Optimisers and learning-rate schedules with torch's arithmetic."""

import jax.numpy as jnp
import optax


def sgd(*, momentum, weight_decay):
    """Direction of torch's SGD, to be subtracted times the learning rate: v = momentum v + (g + decay p)."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum))


def adamw(*, beta1, beta2, eps, weight_decay):
    """Direction of torch's AdamW, to be subtracted times the learning rate: Adam's plus decay p."""
    return optax.chain(optax.scale_by_adam(beta1, beta2, eps), optax.add_decayed_weights(weight_decay))


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
