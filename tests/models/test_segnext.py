"""SegNeXt's head: what is random in it, and when; in float64."""

import jax
import numpy as np
import pytest

from cropjax.models import segnext
from cropjax.models.segnext import LightHamHead
from cropjax.step import merge_model, split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

CHANNELS = (2, 3, 4, 5)
GRAPH, WEIGHTS = split_model(
    LightHamHead(CHANNELS, 7, rng=np.random.default_rng(0), align_corners=False, channels=32, rank=3, dropout=0.0)
)
# Logits of size 1, not 0.01.
WEIGHTS["params"]["classifier"]["conv"]["kernel"] *= 100


def draw(n):
    sizes = [(9, 12), (5, 6), (3, 3), (2, 2)]
    return [np.random.default_rng(c).standard_normal((n, *size, c)) for c, size in zip(CHANNELS, sizes, strict=True)]


@jax.jit
def evaluate(maps):
    return merge_model(GRAPH, WEIGHTS)(maps, False, None)


@jax.jit
def train(maps, key):
    return merge_model(GRAPH, WEIGHTS)(maps, True, key)


def test_evaluation_repeats_itself_and_ignores_the_key():
    maps = draw(2)
    first = evaluate(maps)
    np.testing.assert_array_equal(evaluate(maps), first)
    keyed = jax.jit(lambda maps, key: merge_model(GRAPH, WEIGHTS)(maps, False, key))
    np.testing.assert_array_equal(keyed(maps, jax.random.key(7)), first)


def test_an_images_logits_do_not_depend_on_the_batch_at_test():
    maps, order = draw(4), np.array([2, 0, 3, 1])
    logits = evaluate(maps)
    np.testing.assert_allclose(evaluate([m[order] for m in maps]), logits[order], rtol=0, atol=1e-12)
    for i in range(4):
        np.testing.assert_allclose(evaluate([m[i : i + 1] for m in maps])[0], logits[i], rtol=0, atol=1e-12)


def test_training_draws_bases_for_every_key_and_image():
    maps = [np.concatenate([m, m]) for m in draw(1)]
    first, again, other = (np.asarray(train(maps, jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    for one, another in ((first, other), (first[0], first[1])):
        assert np.abs(one - another).max() > 1e-3
    np.testing.assert_allclose(*evaluate(maps), atol=1e-12)


def test_rank_and_steps_reach_the_factorisation(monkeypatch):
    seen = []
    monkeypatch.setattr(segnext, "nmf", lambda x, bases, steps: (seen.append((x.shape, bases.shape, steps)), x)[1])
    head = LightHamHead(
        CHANNELS, 7, rng=np.random.default_rng(0), align_corners=False, channels=32, rank=5, train_steps=2, eval_steps=9
    )
    for is_training in (True, False):
        head(draw(2), is_training, jax.random.key(0))
    assert seen == [((2, 30, 32), (2, 32, 5), steps) for steps in (2, 9)]


def test_what_is_factorised_is_not_negative(monkeypatch):
    seen = []
    monkeypatch.setattr(segnext, "nmf", lambda x, bases, steps: (seen.append(x), x)[1])
    merge_model(GRAPH, WEIGHTS)(draw(2), False, None)
    assert seen[0].min() == 0


def test_squeezed_gives_what_is_factorised(monkeypatch):
    seen = []
    monkeypatch.setattr(segnext, "nmf", lambda x, bases, steps: (seen.append(x), x)[1])
    head, maps = merge_model(GRAPH, WEIGHTS), draw(2)
    head(maps, False, None)
    joined, factorised = head.squeezed(maps, False)
    assert joined.shape == factorised.shape == (2, 5, 6, 32)
    np.testing.assert_array_equal(factorised.reshape(2, 30, 32), seen[0])


def test_the_first_map_is_not_used_and_the_others_are():
    maps = draw(1)
    logits = evaluate(maps)
    assert logits.shape == (1, 5, 6, 7)
    for i in range(4):
        changed = evaluate([-m if k == i else m for k, m in enumerate(maps)])
        assert (changed != logits).any() == (i > 0)


def test_training_without_a_key_is_an_error():
    with pytest.raises(TypeError):
        merge_model(GRAPH, WEIGHTS)(draw(2), True, None)
