"""What the instruments look at: a network with its weights, images of the test's size, and the crops to compare.

An instrument is a module with functions of `function(weights, images) -> map` that know nothing of configs, the frozen
dataclasses they return, and at its end two functions for the report: `steps(subject)`, the measurements that one
network needs, and `section(subject, results)`, which is told what came out of them in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from cropjax.config import build_batches, build_model, build_source, label_set
from cropjax.errors import UserError
from cropjax.ops.normalize import normalize
from cropjax.step import merge_model, split_model


@dataclass(frozen=True)
class Step:
    """One measurement: `measure()` gives a `kind`, a frozen dataclass of arrays, numbers, text and tuples of these.

    `name` is a path that is unique in the report, `effective_field/512x512/drawn/3`; `cost` the megapixels that go
    through the network, three times as many where a gradient goes back.
    """

    name: str
    kind: type
    cost: float
    measure: Callable[[], Any]


@dataclass(frozen=True)
class Budget:
    """How much is measured. `positions` a side of the grid of outputs, `images`, and `batches` of statistics."""

    name: str
    positions: int
    images: int
    batches: int


QUICK = Budget("quick", positions=3, images=1, batches=8)
FULL = Budget("full", positions=7, images=8, batches=32)


@dataclass(frozen=True)
class Subject:
    """A network under examination.

    `weight_sets` are {"drawn" or "trained": {"params", "batch_stats"}}; `crops` and `test_size` are (height, width).
    """

    name: str
    config: ConfigDict
    graph: nnx.GraphDef
    weight_sets: dict[str, dict]
    crops: tuple[tuple[int, int], ...]
    test_size: tuple[int, int]
    budget: Budget = QUICK

    def logits(self, weights, images):
        """Logits [n,h',w',k] of normalised `images` [n,h,w,3]: the function that most instruments ask about."""
        return merge_model(self.graph, weights)(images).logits

    def maps(self, weights, images):
        """The backbone's maps and the logits by name, in order: {"stage 1": [n,h',w',c], ..., "logits": ...}."""
        output = merge_model(self.graph, weights)(images)
        return {f"stage {i + 1}": x for i, x in enumerate(output.maps)} | {"logits": output.logits}

    @property
    def weights(self):
        """Of the sets the last, which is the trained one if there is one."""
        return list(self.weight_sets.values())[-1]

    @cached_property
    def _records(self):
        return build_source(self.config, "eval")

    def whole(self, index):
        """Image and label of record `index` of the evaluation's split: uint8 [H,W,3] and [H,W] at `test_size`."""
        import cv2

        record = self._records[index % len(self._records)]
        rows, columns = self.test_size
        image = cv2.resize(record["image"], (columns, rows), interpolation=cv2.INTER_LINEAR)
        return image, cv2.resize(record["label"], (columns, rows), interpolation=cv2.INTER_NEAREST)

    def crop(self, index, size):
        """(y, x, image, label) of a crop of `size` out of `whole(index)`, at a place drawn from `index`."""
        image, label = self.whole(index)
        rng = np.random.default_rng([self.config.seed, index])
        y, x = (int(rng.integers(whole - side + 1)) for whole, side in zip(self.test_size, size, strict=True))
        part = np.s_[y : y + size[0], x : x + size[1]]
        return y, x, image[part], label[part]

    def batches(self, size, batch_size, *, start=0):
        """Endless training batches of crops of `size`, as the trainer gets them, from the `start`-th on."""
        config = self.config.copy_and_resolve_references()
        config.data.crop_size, config.train.batch_size, config.data.workers = size, batch_size, 0
        config.data.photometric = "host" if config.data.photometric == "device" else config.data.photometric
        return build_batches(config, build_source(config, "train"), start_step=start)

    @property
    def classes(self):
        return label_set(self.config).num_classes


def normalized(image):
    """uint8 [h,w,3] or [n,h,w,3] -> float32 [n,h,w,3], as the network sees it."""
    return normalize(jnp.asarray(image).reshape(-1, *image.shape[-3:]))


def drawn_weights(config, images):
    """The network's structure and fresh weights, with the statistics that normalised `images` [n,h,w,3] give them.

    A residual branch whose last norm starts at zero would be no part of an untrained network: its scale is one here.
    The running statistics are those of one training pass, since with 0 and 1 the activations would grow from block to
    block. At least two images.
    """
    graph, weights = split_model(build_model(config))
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: np.ones_like(x) if path[-1].key == "scale" and not np.any(x) else x, weights["params"]
    )
    found = batch_statistics(config)(params, images)
    return graph, weights | {"params": params, "batch_stats": jax.tree.map(np.asarray, found)}


def batch_statistics(config):
    """The jitted `(params, images) -> {"mean", "var"} of every BatchNorm`, of one training pass; variances unbiased."""
    config = config.copy_and_resolve_references()
    config.model.norm.momentum = 0.0  # the new statistics are then those of the batch
    config.train.frozen_stages = -1
    graph, weights = split_model(build_model(config))

    @jax.jit
    def find(params, images):
        model = merge_model(graph, {"params": params, "batch_stats": weights["batch_stats"]})
        model(images, train=True, key=jax.random.key(config.seed))
        return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return find


def check_map(function, weights, images):
    """The shape of `function(weights, images)`; UserError unless it is one map [n,h',w',c] of at least a position."""
    shape = jax.eval_shape(function, weights, jax.ShapeDtypeStruct(images.shape, images.dtype))
    if not hasattr(shape, "shape") or len(shape.shape) != 4 or shape.shape[0] != images.shape[0]:
        found = getattr(shape, "shape", type(shape).__name__)
        raise UserError(
            f"the function gives {found} for images {images.shape}: an instrument needs one map, "
            "[images, rows, columns, channels]"
        )
    if 0 in shape.shape:
        raise UserError(
            f"images of {images.shape[1]}x{images.shape[2]} leave a map without positions: take larger ones"
        )
    return shape.shape
