"""BatchNorm's statistics of training images at the size of test, in place of those that training on crops has left.

Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3; detectron2 calls it PreciseBN.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cropjax.config import build_model, build_source
from cropjax.data.transforms import resize_keep_ratio
from cropjax.errors import UserError
from cropjax.ops.normalize import normalize
from cropjax.progress import Progress
from cropjax.sharding import one_device
from cropjax.step import merge_model, split_model

TOGETHER = 8  # images: a norm behind global pooling sees one value a channel of each


def estimate_statistics(config, weights, count):
    """The `batch_stats` of `weights`, on the host: means over batches of `TOGETHER` of `count` training images.

    Each image is whole and fitted into `data.scale`, without augmentation; layers see one another as in training, by
    the statistics of the batch. What `weights` had before does not matter.

    Raises:
        UserError: fewer than two images.
    """
    source = build_source(config, "train")
    count = min(count, len(source))
    if count < 2:
        raise UserError(f"eval.norm_images = {config.eval.norm_images}: statistics need two training images or more")
    config = config.copy_and_resolve_references()
    config.model.norm.update(groups=1, momentum=0.0)
    config.eval.pool_window = ()
    graph, _ = split_model(build_model(config))
    places = np.linspace(0, len(source) - 1, count).round().astype(int)
    number = -(-count // TOGETHER)
    batches = [places[first::number] for first in range(number)]  # frames of a film that follow one another are alike

    def image(index):
        return resize_keep_ratio(source[int(index)]["image"], tuple(config.data.scale))

    @jax.jit
    def statistics(weights, images, valid):
        model = merge_model(graph, weights)
        model(normalize(images, valid, config.eval.dtype), train=True, key=jax.random.key(0))
        return split_model(model)[1]["batch_stats"]

    weights, total = jax.device_put(weights, one_device().devices.flat[0]), None
    with Progress(count, unit="image", label="norm statistics") as progress:
        for number, batch in enumerate(batches, 1):
            found, share = statistics(weights, *_padded([image(i) for i in batch])), len(batch) / count
            total = _added(total, found, share)
            progress.update(sum(map(len, batches[:number])))
    return jax.device_get(total)


def _added(total, found, share):
    parts = jax.tree.map(lambda x: share * x, found)
    return parts if total is None else jax.tree.map(jnp.add, total, parts)


def _padded(images):
    """Images as one array, padded at the right and the bottom, and their sizes."""
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    rows, columns = sizes.max(0)
    padded = [np.pad(x, ((0, rows - x.shape[0]), (0, columns - x.shape[1]), (0, 0))) for x in images]
    return np.stack(padded), sizes
