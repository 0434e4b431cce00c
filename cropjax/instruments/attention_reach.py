"""Attention reach: how far away the keys are that each head of a Mix Transformer looks at, and how many they are.

The mean attention distance of a query is the sum over the keys of weight times distance between the two, in pixels of
the input (Dosovitskiy et al. 2021, "An image is worth 16x16 words", arXiv 2010.11929, figure 7 and appendix D.7). The
entropy of its weights is log(keys) when it looks at all keys alike, and exp of it is how many keys it looks at. Both
are to be read beside uniform attention's: on a larger image every key is further away.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.instruments.subject import Step, normalized
from cropjax.ops.attention import attention_weights
from cropjax.pages.figure import COLOURS, draw
from cropjax.pages.section import Section, Table, hxw
from cropjax.step import merge_model

_QUERIES = 256  # of a stage, that are looked at


@dataclass(frozen=True)
class Tokens:
    """The tokens of a stage on images of one size.

    `size` (rows, columns) is that of the map, whose positions are the queries; `key_size` is that of its cells.
    `sample` int [q] are the queries that are looked at, places in the map row by row. `queries` [q,2] and `keys` [k,2]
    are the pixels (y, x) in the middle of what the token was made from, before attention.
    """

    size: tuple[int, int]
    key_size: tuple[int, int]
    sample: np.ndarray
    queries: np.ndarray
    keys: np.ndarray

    @property
    def offsets(self):
        """From the queries to the keys, in pixels (y, x): [q,k,2]."""
        return self.keys - self.queries[:, None]


def tokens(backbone, image_size):
    """The `Tokens` of each stage of a `MiT`.

    A position y of a map has its middle at y times the stage's stride, since the patch embeddings have odd kernels and
    half of them as padding. A key is made of `reduction` x `reduction` positions, without overlap or padding.
    """
    found, size, jump, start = [], image_size, 1, 0.0
    for stage in backbone.stages:
        embed, reduction = stage.embed, stage.blocks[0].attention.reduction
        kernel = embed.kernel.shape[0]
        size = tuple((side + 2 * embed.padding - kernel) // embed.stride + 1 for side in size)
        start += jump * ((kernel - 1) / 2 - embed.padding)
        jump *= embed.stride
        rows, columns = sample(size, _QUERIES)
        key_size = tuple(side // reduction for side in size)
        queries = start + jump * np.stack([rows, columns], -1)
        cells = np.indices(key_size).reshape(2, -1).T * reduction + (reduction - 1) / 2
        found.append(Tokens(size, key_size, rows * size[1] + columns, queries, start + jump * cells))
    return found


def sample(size, most):
    """Rows and columns, int [q] each, of at most `most` positions of a map of `size`: all if there are no more.

    Else the map is cut into a grid of equal boxes, and a position is drawn from each: were they evenly spaced, all
    would lie at the same place in the cells that keys are made of.
    """
    if np.prod(size) <= most:
        return np.indices(size).reshape(2, -1)
    rows = min(size[0], max(int(most**0.5), most // size[1]))
    counts = rows, min(size[1], most // rows)
    rng = np.random.default_rng(0)
    places = np.indices(counts) + rng.random((2, *counts))
    scale = np.array(size).reshape(2, 1, 1)
    places = (places * scale / np.array(counts).reshape(2, 1, 1)).astype(int)
    return np.minimum(places, scale - 1).reshape(2, -1)


def sampled_weights(backbone, images):
    """The attention weights [n,heads,q,k] of every block of a `MiT` on normalised `images`: a list a stage.

    The queries are the `sample` of `tokens`.
    """
    found, x = [], images
    everything = jnp.ones((2, 1, 1, 1, 1), images.dtype)
    for stage, one in zip(backbone.stages, tokens(backbone, images.shape[1:3]), strict=True):
        found.append([])
        x = stage.embed_norm(stage.embed(x))
        for block in stage.blocks:
            query, key, _ = block.attention.queries_keys_values(block.norm1(x))
            query = query.reshape(len(x), -1, *query.shape[-2:])
            found[-1].append(attention_weights(query[:, one.sample], key))
            x = block(x, everything)
        x = stage.norm(x)
    return found


def reach(weights, distances):
    """The mean attention distance [h,q] of `weights` [h,q,k] for `distances` [q,k], in their unit.

    For distances of 0 and 1 it is the share of the attention that the ones have.
    """
    return np.einsum("hqk,qk->hq", weights, distances)


def entropy(weights):
    """The entropy [...] of `weights` [...,k] that add up to one, in nats: from 0 to log(k)."""
    return -(weights * np.log(weights, out=np.zeros_like(weights), where=weights > 0)).sum(-1)


def outside(offsets, size):
    """Which keys a crop of `size` leaves out for the queries in its middle, and which for all: two bool [q,k].

    `offsets` [q,k,2] lead from the queries to the keys, in pixels.
    """
    offsets, size = np.abs(offsets), np.array(size)
    return (offsets > size / 2).any(-1), (offsets > size - 1).any(-1)


@dataclass(frozen=True)
class Heads:
    """What the heads of one block do; means over the queries.

    `distance` [h] in pixels, `entropy` [h] in nats. `outside` [h,crops,2] is the share of the attention that crops
    leave out, see the function `outside`.
    """

    stage: int
    block: int
    distance: np.ndarray
    entropy: np.ndarray
    outside: np.ndarray

    @property
    def keys(self):
        """How many keys the heads look at: exp of the entropy, [h]."""
        return np.exp(self.entropy)


@dataclass(frozen=True)
class AttentionReach:
    """Of a network on image `image` of `image_size`, with `weights`.

    `crops` are those of the `Heads`. `sizes` and `key_sizes` are the stages' maps of queries and of keys, `looked_at`
    how many queries were. `uniform` are the `Heads` of attention that weighs all keys alike, one a stage with `block`
    0; `heads` those of the blocks, from 1 on.
    """

    weights: str
    image: int
    image_size: tuple[int, int]
    crops: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, int], ...]
    key_sizes: tuple[tuple[int, int], ...]
    looked_at: tuple[int, ...]
    uniform: tuple[Heads, ...]
    heads: tuple[Heads, ...]


def look_at(weights, offsets, crops, *, stage, block):
    """The `Heads` of `weights` [h,q,k]; `offsets` [q,k,2] from queries to keys, in pixels, `crops` their sizes."""
    weights = np.asarray(weights, np.float64)
    left_out = [[reach(weights, mask).mean(1) for mask in outside(offsets, crop)] for crop in crops]
    return Heads(
        stage,
        block,
        reach(weights, np.hypot(*np.moveaxis(offsets, -1, 0))).mean(1),
        entropy(weights).mean(1),
        np.moveaxis(np.array(left_out), -1, 0),
    )


def steps(subject):
    """None but for SegFormer; one a size and image, in a full report for all weights."""
    if subject.config.model.name != "segformer":
        return []

    @jax.jit
    def look(weights, images):
        return sampled_weights(merge_model(subject.graph, weights).backbone, images)

    names = list(subject.weight_sets)
    return [
        Step(
            f"attention_reach/{size[0]}x{size[1]}/{weights}/{image}",
            AttentionReach,
            size[0] * size[1] / 1e6,
            partial(_measure, subject, look, weights, image, size),
        )
        for weights in (names[-1:] if subject.budget.name == "quick" else names)
        for size in dict.fromkeys([*subject.crops, subject.test_size])
        for image in range(subject.budget.images)
    ]


def _measure(subject, look, weights, image, size):
    pixels = subject.whole(image)[0] if size == subject.test_size else subject.crop(image, size)[2]
    stages = tokens(merge_model(subject.graph, subject.weight_sets[weights]).backbone, size)
    uniform, found = [], []
    seen = look(subject.weight_sets[weights], normalized(pixels))
    for stage, (one, blocks) in enumerate(zip(stages, seen, strict=True), 1):
        q, k, _ = one.offsets.shape
        uniform.append(look_at(np.full((1, q, k), 1 / k), one.offsets, subject.crops, stage=stage, block=0))
        for block, head in enumerate(blocks, 1):
            found.append(look_at(head[0], one.offsets, subject.crops, stage=stage, block=block))
    return AttentionReach(
        weights,
        image,
        tuple(size),
        subject.crops,
        tuple(one.size for one in stages),
        tuple(one.key_size for one in stages),
        tuple(len(one.sample) for one in stages),
        tuple(uniform),
        tuple(found),
    )


def section(subject, results):
    """None for a network without attention."""
    if not results:
        return None
    kinds = [list(kind) for _, kind in groupby(results, lambda r: (r.weights, r.image_size))]
    means = [_mean(kind) for kind in kinds]
    shown = [one for one in means if one.weights == means[-1].weights]
    words = [_words_of_tokens(shown[0]), *map(_words_of_distances, shown)]
    whole = next(one for one in shown if one.image_size == tuple(subject.test_size))
    smaller = [one for one in shown if one is not whole]
    if smaller:
        words.append(
            "Attention that looks for its keys at fixed distances would keep them whatever the size of the image. "
            "Attention that spreads over whatever there is would grow as uniform attention does. "
            + " ".join(_words_of_growth(small, whole) for small in smaller)
        )
        words += [_words_of_outside(whole, place) for place, crop in enumerate(whole.crops) if crop != whole.image_size]
    images = subject.budget.images
    words.append(
        f"With {whole.weights} weights, at most {_QUERIES} queries a stage, on {images} image{'s' * (images > 1)}; "
        "means over heads and blocks. The tables have each head."
    )

    def paint(axes):
        for one, column in zip(shown, axes.T, strict=True):
            place = 0
            for stage, uniform in enumerate(one.uniform):
                blocks = [heads for heads in one.heads if heads.stage == stage + 1]
                x = np.repeat(place + 1 + np.arange(len(blocks)), [len(heads.distance) for heads in blocks])
                distance, keys = (np.concatenate([getattr(h, name) for h in blocks]) for name in ("distance", "keys"))
                span, colour = (place + 0.5, place + len(blocks) + 0.5), COLOURS[stage]
                column[0].plot(x, distance, ".", color=colour, markersize=4, label=f"stage {stage + 1}")
                column[0].plot(span, uniform.distance.repeat(2), color=colour, linewidth=1)
                column[1].plot(x, keys / uniform.keys, ".", color=colour, markersize=4)
                place += len(blocks)
            column[0].set(title=hxw(one.image_size), ylim=(0, None))
            column[1].set(xlabel="block", ylim=(0, 1.05))
        axes[0, 0].set_ylabel("distance in pixels")
        axes[0, 0].legend(fontsize=7)
        axes[1, 0].set_ylabel("share of the keys")

    caption = (
        "Above, the mean attention distance of each head against the depth; the lines are uniform attention's. Below, "
        f"the share of the keys that it looks at. {whole.weights.capitalize()} weights."
    )
    tables = _by_stage(means), _by_head(kinds, means), _left_out(means)
    return Section("Attention reach", "\n\n".join(words), tables, draw(2, len(shown), paint), caption)


def _mean(kind):
    """Of the results for several images their mean."""
    names = ("distance", "entropy", "outside")
    heads = tuple(
        replace(same[0], **{name: np.mean([getattr(one, name) for one in same], axis=0) for name in names})
        for same in zip(*(one.heads for one in kind), strict=True)
    )
    return replace(kind[0], heads=heads)


def _stages(one, name):
    """`name` of all heads of each stage, one after another: four arrays."""
    return [np.concatenate([getattr(h, name) for h in one.heads if h.stage == u.stage]) for u in one.uniform]


def _words_of_tokens(one):
    parts = [
        f"stage {stage} has {hxw(q)} = {q[0] * q[1]} queries and {hxw(k)} = {k[0] * k[1]} keys"
        for stage, (q, k) in enumerate(zip(one.sizes, one.key_sizes, strict=True), 1)
    ]
    return (
        "Attention lets every position of a map, a query, look at all of the image by its keys, cells of that map. "
        f"On {hxw(one.image_size)} {', '.join(parts)}. Where a query does look is up to the weights."
    )


def _words_of_distances(one):
    distances, keys = ([x.mean() for x in _stages(one, name)] for name in ("distance", "keys"))
    shares = [_ratio(d, u.distance[0]) for d, u in zip(distances, one.uniform, strict=True)]
    counts = [f"{k:.0f} of {size[0] * size[1]}" for k, size in zip(keys, one.key_sizes, strict=True)]
    return (
        f"On {hxw(one.image_size)} the keys that a query looks at are {_list(f'{d:.0f}' for d in distances)} pixels "
        f"away on average in stages 1 to 4, {_list(f'{s:.0%}' for s in shares)} of what they are for uniform "
        f"attention, and they are {_list(counts)} keys (exp of the entropy)."
    )


def _words_of_growth(small, whole):
    """Of the stages where a crop has distances at all: the smallest crops leave the last one a single key."""
    grown = {}
    for here, there, u, v in zip(
        _stages(small, "distance"), _stages(whole, "distance"), small.uniform, whole.uniform, strict=True
    ):
        if here.mean() and u.distance[0]:
            grown[u.stage] = there.mean() / here.mean(), v.distance[0] / u.distance[0]
    fixed = [str(s) for s, (own, uniform) in grown.items() if abs(np.log(own)) < abs(np.log(own / uniform))]
    if len(fixed) in (0, len(grown)):
        nearer = "all are" if fixed else "none is"
    else:
        nearer = f"stage {fixed[0]} is" if len(fixed) == 1 else f"stages {_list(fixed)} are"
    return (
        f"From {hxw(small.image_size)} to {hxw(whole.image_size)} the distances of stages {_list(map(str, grown))} "
        f"become {_list(f'{own:.2f}' for own, _ in grown.values())} times as large, uniform attention's "
        f"{_list(f'{uniform:.2f}' for _, uniform in grown.values())} times: by their growth {nearer} nearer to fixed "
        "distances."
    )


def _words_of_outside(whole, place):
    middle, never = (
        _list(f"{x[:, place, i].mean():.0%}" for x in _stages(whole, "outside")) for i in (0, 1)
    )  # of the attention, stages 1 to 4
    uniform = [_list(f"{u.outside[0, place, i]:.0%}" for u in whole.uniform) for i in (0, 1)]
    crop = hxw(whole.crops[place])
    return (
        f"On {hxw(whole.image_size)} a crop of {crop} around a query leaves out {middle} of its attention in stages "
        f"1 to 4 (uniform attention: {uniform[0]}). {never} of it ({uniform[1]}) goes to keys so far away that no crop "
        "of this size holds both: training on such crops never shows the network pairs that far apart."
    )


def _by_stage(means):
    columns = (
        "weights", "image", "stage", "map", "queries", "looked at", "keys", "distance", "least head", "most head",
        "uniform", "of uniform", "of the shorter side", "of the diagonal", "entropy", "of log(keys)", "keys looked at",
    )  # fmt: skip
    rows = []
    for one in means:
        seen = (_stages(one, name) for name in ("distance", "entropy", "keys"))
        stages = zip(one.uniform, one.sizes, one.key_sizes, one.looked_at, *seen, strict=True)
        for uniform, size, key_size, looked_at, distance, nats, keys in stages:
            most, mean = uniform.distance[0], distance.mean()
            rows.append((
                one.weights, hxw(one.image_size), uniform.stage, hxw(size), size[0] * size[1], looked_at,
                key_size[0] * key_size[1], float(mean), float(distance.min()), float(distance.max()), float(most),
                _ratio(mean, most), float(mean / min(one.image_size)), float(mean / np.hypot(*one.image_size)),
                float(nats.mean()), _ratio(nats.mean(), uniform.entropy[0]), float(keys.mean()),
            ))  # fmt: skip
    return Table("attention_reach", columns, tuple(rows))


def _by_head(kinds, means):
    columns = (
        "weights", "image", "stage", "block", "head", "distance", "spread", "of uniform", "entropy", "of log(keys)",
        "keys looked at",
    )  # fmt: skip
    rows = []
    for kind, one in zip(kinds, means, strict=True):
        for i, heads in enumerate(one.heads):
            uniform = one.uniform[heads.stage - 1]
            spread = np.std([of_image.heads[i].distance for of_image in kind], axis=0)
            for head, (distance, nats) in enumerate(zip(heads.distance, heads.entropy, strict=True)):
                rows.append((
                    one.weights, hxw(one.image_size), heads.stage, heads.block, head + 1, float(distance),
                    float(spread[head]), _ratio(distance, uniform.distance[0]), float(nats),
                    _ratio(nats, uniform.entropy[0]), float(np.exp(nats)),
                ))  # fmt: skip
    return Table("attention_heads", columns, tuple(rows))


def _left_out(means):
    columns = (
        "weights", "image", "stage", "crop", "left out by a crop around", "uniform, around", "left out by all crops",
        "uniform, all",
    )  # fmt: skip
    rows = tuple(
        (
            one.weights, hxw(one.image_size), uniform.stage, hxw(crop),
            *(float(x) for i in (0, 1) for x in (found[:, place, i].mean(), uniform.outside[0, place, i])),
        )
        for one in means
        for uniform, found in zip(one.uniform, _stages(one, "outside"), strict=True)
        for place, crop in enumerate(one.crops)
        if any(side < whole for side, whole in zip(crop, one.image_size, strict=True))
    )  # fmt: skip
    return Table("attention_left_out", columns, rows)


def _ratio(value, most):
    """1 where there is a single key, at the query's own place: that is uniform."""
    return float(value / most) if most else 1.0


def _list(parts):
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
