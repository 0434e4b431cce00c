"""The Dice loss against a loop over images, pixels and classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import draw, slopes

from cropjax.losses.dice import ACTIVATIONS, dice

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

EVERY_ACTIVATION = pytest.mark.parametrize("activation", ACTIVATIONS)


def plain_dice(logits, labels, activation):
    losses = []
    for image, label in zip(logits, labels, strict=True):
        overlap, p_squared, t_squared = 0, 1e-3, 1e-3
        for place in np.argwhere(label != 255):
            x, t = image[tuple(place)], label[tuple(place)]
            p = 1 / (1 + np.exp(-x)) if activation == "sigmoid" else np.exp(x) / np.exp(x).sum()
            overlap += p[t]
            p_squared += (p**2).sum()
            t_squared += 1
        losses.append(1 - 2 * overlap / (p_squared + t_squared) if (label != 255).any() else 0)
    return np.mean(losses)


@EVERY_ACTIVATION
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_it_and_its_gradient_are_their_definition(activation, ignored):
    logits, labels = draw(2, 3, 2, k=3, ignored=ignored)
    labels[labels == 2] = 1  # class 2 is absent
    value, grad = jax.value_and_grad(lambda x: dice(x, labels, activation=activation))(logits)
    np.testing.assert_allclose(value, plain_dice(logits, labels, activation), rtol=1e-12)
    np.testing.assert_allclose(grad, slopes(lambda x: plain_dice(x, labels, activation), logits), atol=1e-9)
    assert not np.any(grad[labels == 255])


@EVERY_ACTIVATION
def test_an_image_of_ignored_pixels_costs_nothing(activation):
    logits, labels = draw(3)
    labels[1] = 255
    value, grad = jax.value_and_grad(lambda x: dice(x, labels, activation=activation))(logits)
    np.testing.assert_allclose(value, plain_dice(logits, labels, activation), rtol=1e-12)
    assert not np.any(grad[1])
    assert dice(logits, np.full_like(labels, 255), activation=activation) == 0


@EVERY_ACTIVATION
def test_what_is_right_costs_nothing_and_what_is_wrong_costs_one(activation):
    _, labels = draw(h=20, w=20, ignored=0.0)
    hot = np.eye(7)[labels]
    np.testing.assert_allclose(dice(60 * hot - 30, labels, activation=activation), 0, atol=1e-5)
    np.testing.assert_allclose(dice(60 * hot - 30, (labels + 1) % 7, activation=activation), 1, atol=1e-5)


def test_bfloat16_logits_are_judged_in_float32():
    logits, labels = draw()
    assert dice(jnp.asarray(logits, jnp.bfloat16), labels).dtype == jnp.float32
