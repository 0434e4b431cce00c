"""Distances and entropies by loops and in closed form, tokens' places by what they are made from, and the network."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config

from cropjax.instruments.attention_reach import (
    entropy,
    look_at,
    outside,
    reach,
    sample,
    sampled_weights,
    section,
    steps,
    tokens,
)
from cropjax.instruments.subject import FULL, QUICK, Subject, drawn_weights, normalized
from cropjax.models.mit import MiT, ReducedAttention
from cropjax.ops.conv import conv

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def build(**args):
    return MiT(rng=np.random.default_rng(0), **{"widths": (2, 4, 10, 16), "depths": (1, 2, 1, 1)} | args)


def softmax(*shape):
    x = np.exp(2 * np.random.default_rng(shape).standard_normal(shape))
    return x / x.sum(-1, keepdims=True)


# Places ----------------------------------------------------------------------------------------------------


def test_tokens_sit_in_the_middle_of_the_pixels_they_are_made_from():
    """The centre of the mass that a token near the middle gets from the image, through kernels of ones."""
    backbone, image = build(), jnp.ones((1, 257, 321, 1))

    def maps(image):
        found, x = [], image
        for stage in backbone.stages:
            k, r = stage.embed.kernel.shape[0], stage.blocks[0].attention.reduction
            x = conv(x, jnp.ones((k, k, 1, 1)), stride=stage.embed.stride, padding=stage.embed.padding)
            found.append((x, conv(x, jnp.ones((r, r, 1, 1)), stride=r)))
        return found

    places = np.stack(np.indices(image.shape[1:3]), -1)
    for i, one in enumerate(tokens(backbone, image.shape[1:3])):
        kinds = (one.queries, one.sample, one.size), (one.keys, np.arange(len(one.keys)), one.key_size)
        for kind, (pixels, cells, size) in enumerate(kinds):
            nearest = np.square(pixels - (128, 160)).sum(-1).argmin()
            cell = np.unravel_index(cells[nearest], size)
            mass = np.asarray(jax.grad(lambda x, i=i, kind=kind, cell=cell: maps(x)[i][kind][0, *cell, 0])(image))
            centre = (mass[0] * places).sum((0, 1)) / mass.sum()
            np.testing.assert_allclose(centre, pixels[nearest], rtol=1e-12)


@settings(max_examples=6)
@given(h=st.integers(29, 200), w=st.integers(29, 200))
def test_tokens_are_as_many_as_the_networks(h, w):
    backbone, image = build(), jax.ShapeDtypeStruct((2, h, w, 3), jnp.float32)
    maps = jax.eval_shape(lambda x: backbone(x, False), image)
    weights = jax.eval_shape(lambda x: sampled_weights(backbone, x), image)
    for stage, (one, x, blocks) in enumerate(zip(tokens(backbone, (h, w)), maps, weights, strict=True)):
        assert one.size == x.shape[1:3]
        assert len(one.keys) == np.prod(one.key_size)
        assert len(one.queries) == min(np.prod(one.size), len(one.sample)) <= 256
        heads = (1, 2, 5, 8)[stage]
        assert [w.shape for w in blocks] == [(2, heads, len(one.sample), len(one.keys))] * len(
            backbone.stages[stage].blocks
        )


@settings(max_examples=20)
@given(h=st.integers(1, 80), w=st.integers(1, 300), most=st.integers(1, 40))
def test_the_sample_is_of_the_map_and_all_of_it_where_that_is_small(h, w, most):
    rows, columns = sample((h, w), most)
    assert 1 <= len(rows) == len(columns) <= most
    for places, side in ((rows, h), (columns, w)):
        assert places.min() >= 0
        assert places.max() < side
    if h * w <= most:
        assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [*np.ndindex(h, w)]


@settings(max_examples=20)
@given(h=st.integers(5, 80), w=st.integers(5, 300))
def test_the_sample_is_spread_over_the_map(h, w):
    for places, side in zip(sample((h, w), 16), (h, w), strict=True):
        assert np.diff(np.unique(places), prepend=0, append=side).max() <= side / 2 + 1


def test_the_sample_lies_at_all_places_of_a_cell():
    rows, columns = sample((128, 256), 256)
    assert len(rows) == 256
    assert len(set(zip(rows % 8, columns % 8, strict=True))) > 50


# Numbers ---------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(h=st.integers(1, 3), q=st.integers(1, 5), k=st.integers(1, 7))
def test_heads_are_their_definition(h, q, k):
    weights, crops = softmax(h, q, k), ((4, 6), (8, 3))
    offsets = np.random.default_rng(q).normal(scale=5, size=(q, k, 2))
    found = look_at(weights, offsets, crops, stage=1, block=2)
    for i in range(h):
        distance = nats = 0.0
        out = np.zeros((2, 2))
        for j in range(q):
            for m in range(k):
                weight, (y, x) = weights[i, j, m] / q, offsets[j, m]
                distance += weight * np.sqrt(y * y + x * x)
                nats -= weight * np.log(weights[i, j, m])
                for c, (rows, columns) in enumerate(crops):
                    out[c] += weight * np.array(
                        [abs(y) > rows / 2 or abs(x) > columns / 2, abs(y) > rows - 1 or abs(x) > columns - 1]
                    )
        assert found.distance[i] == pytest.approx(distance)
        assert found.entropy[i] == pytest.approx(nats)
        assert -1e-9 <= found.entropy[i] <= np.log(k) + 1e-9
        np.testing.assert_allclose(found.outside[i], out, atol=1e-12)
    np.testing.assert_allclose(found.keys, np.exp(found.entropy))


def test_one_hot_weights_reach_as_far_as_their_key_and_uniform_ones_to_the_mean():
    distances = np.random.default_rng(0).random((3, 5))
    chosen = np.array([4, 0, 2])
    hard = np.eye(5)[chosen][None]
    np.testing.assert_array_equal(reach(hard, distances)[0], distances[range(3), chosen])
    np.testing.assert_array_equal(entropy(hard), 0)
    even = np.full((1, 3, 5), 1 / 5)
    np.testing.assert_allclose(reach(even, distances)[0], distances.mean(1))
    np.testing.assert_allclose(entropy(even), np.log(5))


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_what_all_crops_leave_out_is_what_no_crop_holds(rows, columns, seed):
    """Crops tried one by one around a query at (20, 20)."""
    rng = np.random.default_rng(seed)
    offsets = rng.integers(-10, 11, (1, 30, 2))
    around, never = outside(offsets, (rows, columns))
    for i, (y, x) in enumerate(offsets[0]):
        held = any(
            top <= 20 + y < top + rows and left <= 20 + x < left + columns
            for top in range(21 - rows, 21)
            for left in range(21 - columns, 21)
        )
        assert never[0, i] == (not held)
    assert (around >= never).all()


# The network -----------------------------------------------------------------------------------------------


def test_weights_are_those_that_the_network_uses(monkeypatch):
    """A layer's result is the mean of its values by the weights, in every block that the network goes through."""
    backbone, forward = build(), ReducedAttention.__call__
    image = jnp.asarray(np.random.default_rng(1).normal(size=(2, 40, 67, 3)))

    @jax.jit
    def both(image):
        seen = []
        with monkeypatch.context() as patch:
            patch.setattr(ReducedAttention, "__call__", lambda self, x: (seen.append((self, x)), forward(self, x))[1])
            backbone(image, False)
        weights = [w for blocks in sampled_weights(backbone, image) for w in blocks]
        pairs = []
        for w, (layer, x) in zip(weights, seen, strict=True):
            mixed = jnp.einsum("nhqk,nkhd->nqhd", w, layer.queries_keys_values(x)[2])
            expected = forward(layer, x).reshape(2, -1, x.shape[-1])
            pairs.append((layer.out_proj(mixed.reshape(*mixed.shape[:2], -1)), expected))
        return pairs

    pairs = both(image)
    samples = [one.sample for one in tokens(backbone, (40, 67))]
    assert len(pairs) == 5
    for (got, expected), stage in zip(pairs, (0, 1, 1, 2, 3), strict=True):
        np.testing.assert_allclose(got, expected[:, samples[stage]], atol=1e-12)


def subject(name="segformer", change=None, **given):
    config = tiny_config(name)
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    graph, weights = drawn_weights(config, normalized(image))
    if change:
        weights = weights | {"params": jax.tree_util.tree_map_with_path(change, weights["params"])}
    args = {"weight_sets": {"drawn": weights}, "crops": ((64, 64), (96, 64)), "test_size": (96, 160), "budget": QUICK}
    return Subject("tiny", config, graph, **(args | given))


def without_queries(path, x):
    """Projections of zeros: all scores are zero."""
    return np.zeros_like(x) if any(getattr(key, "key", "") == "in_proj" for key in path) else x


def test_without_scores_attention_is_uniform_exactly():
    tiny = subject(change=without_queries)
    for step in steps(tiny):
        found = step.measure()
        for heads in found.heads:
            uniform = found.uniform[heads.stage - 1]
            for name in ("distance", "entropy", "outside"):
                got, wanted = getattr(heads, name), getattr(uniform, name)
                np.testing.assert_allclose(got, np.broadcast_to(wanted, got.shape), rtol=1e-6, atol=1e-9)
            assert uniform.keys == pytest.approx(np.prod(found.key_sizes[heads.stage - 1]))


def test_steps_and_section():
    tiny = subject()
    results = [step.measure() for step in steps(tiny)]
    assert [r.image_size for r in results] == [(64, 64), (96, 64), (96, 160)]
    for result in results:
        assert result.sizes[0] == tuple(side // 4 for side in result.image_size)
        assert result.key_sizes[0] == tuple(side // 32 for side in result.image_size)
        for heads in result.heads:
            assert (heads.outside >= 0).all()
            assert (heads.outside <= 1 + 1e-6).all()
    assert not any(heads.outside[:, 0, 1].any() for heads in results[0].heads)  # the crop itself
    assert results[2].heads[0].outside[0, 0, 1] > 0
    report = section(tiny, results)
    assert "stage 1 has 16x16 = 256 queries and 2x2 = 4 keys" in report.words
    assert "From 64x64 to 96x160" in report.words
    assert len(report.tables[0].rows) == 3 * 4
    assert len(report.tables[1].rows) == 3 * (1 + 2 + 5 + 8)
    assert len(report.tables[2].rows) == 4 * (1 + 2)
    for table in report.tables:
        assert len(set(table.columns)) == len(table.columns)
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert report.figure.startswith("<svg")
    many = steps(subject(budget=FULL, weight_sets={"drawn": tiny.weights, "trained": tiny.weights}))
    assert len({step.name for step in many}) == len(many) == 2 * 3 * FULL.images


def test_words_tell_fixed_distances_from_those_that_grow():
    tiny = subject(crops=((64, 64),))
    small, whole = (step.measure() for step in steps(tiny))

    def scaled(growth):
        """As if the whole image's distances were `growth[stage]` times the crop's."""
        pairs = zip(small.heads, whole.heads, strict=True)
        heads = tuple(replace(b, distance=a.distance * growth[a.stage - 1]) for a, b in pairs)
        return section(tiny, [small, replace(whole, heads=heads)]).words

    grown = [b.distance[0] / a.distance[0] for a, b in zip(small.uniform, whole.uniform, strict=True)]
    assert "all are nearer to fixed" in scaled([1.0] * 4)
    assert "none is nearer to fixed" in scaled(grown)
    assert "stage 2 is nearer to fixed" in scaled([grown[0], 1.05, *grown[2:]])
    assert "stages 1 and 4 are nearer to fixed" in scaled([1.0, *grown[1:3], 0.9])


def test_a_crop_with_single_keys_and_no_larger_image_is_reported():
    tiny = subject(crops=((29, 29),), test_size=(29, 29), budget=FULL)
    results = [step.measure() for step in steps(tiny)[:2]]
    report = section(tiny, results)
    assert "From" not in report.words
    assert [row[11] for row in report.tables[0].rows] == pytest.approx([1, 1, 1, 1], abs=0.5)
    spread = [row[6] for row in report.tables[1].rows]
    np.testing.assert_allclose(
        spread, [x for pair in zip(*(r.heads for r in results), strict=True)
                 for x in np.abs(pair[0].distance - pair[1].distance) / 2], atol=1e-9,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["pspnet", "deeplabv3plus", "segnext"])
def test_other_networks_have_none(name):
    tiny = Subject("tiny", tiny_config(name), None, {"drawn": {}}, ((64, 64),), (96, 160))
    assert steps(tiny) == []
    assert section(tiny, []) is None
