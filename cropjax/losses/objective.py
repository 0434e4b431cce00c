"""What a head's logits are trained for: a weighted sum of losses, of all pixels or of the hard ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax.numpy as jnp

from cropjax.losses.accuracy import pixel_accuracy
from cropjax.losses.average import EPS, divisor
from cropjax.losses.cross_entropy import pixel_cross_entropy, resized_cross_entropy
from cropjax.losses.dice import dice
from cropjax.losses.focal import focal
from cropjax.losses.lovasz import lovasz_softmax
from cropjax.losses.ohem import hard_pixels
from cropjax.ops.resize import resize_bilinear

# Losses that are sums over pixels, and those that are not: a batch's is not made of those of its parts.
OF_PIXELS, OF_REGIONS = ("cross_entropy", "focal"), ("dice", "lovasz")


@dataclass(frozen=True)
class Objective:
    """Called with logits [n,h',w',k] at a head's stride and labels uint8 [n,h,w]: (loss, accuracy in percent).

    `terms` are the weights of the losses by name. `average`, `class_weights` and `label_smoothing` are those of
    `cross_entropy`; `average` also of the focal loss, and the class weights of all but Dice. `focal` and `dice` are
    what the functions take. `ohem`, with its `min_kept` above 0, keeps the hard pixels of cross entropy and focal loss,
    and leaves what their sum is divided by as it is; the other losses see every pixel.

    Cross entropy by itself goes in bands of rows (`in_bands`: see `resized_cross_entropy`). Everything else makes the
    logits at the labels' size, [n,h,w,k] several times over: 160 MB each for 4 crops of 512x1024 with 19 classes.
    """

    align_corners: bool
    average: str = "all"
    class_weights: tuple = ()
    terms: Mapping = field(default_factory=lambda: {"cross_entropy": 1.0})
    label_smoothing: float = 0.0
    focal: Mapping = field(default_factory=dict)
    dice: Mapping = field(default_factory=dict)
    ohem: Mapping = field(default_factory=lambda: {"min_kept": 0, "threshold": 0.0})
    in_bands: bool = True

    def __call__(self, logits, labels):
        terms = {name: weight for name, weight in self.terms.items() if weight}
        if terms.keys() == {"cross_entropy"} and not self.ohem["min_kept"]:
            loss, accuracy = resized_cross_entropy(
                logits,
                labels,
                align_corners=self.align_corners,
                average=self.average,
                weights=self.class_weights,
                smoothing=self.label_smoothing,
                in_bands=self.in_bands,
            )
            return terms["cross_entropy"] * loss, accuracy
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        logits = resize_bilinear(logits, labels.shape[1:], align_corners=self.align_corners)
        return self._loss(logits, labels, terms), pixel_accuracy(logits, labels)

    def _loss(self, logits, labels, terms):
        """The sum of `terms`, of full-size `logits`."""
        of_pixels, of_regions = jnp.zeros(labels.shape, logits.dtype), 0
        for name, weight in terms.items():
            match name:
                case "cross_entropy":
                    losses = pixel_cross_entropy(
                        logits, labels, weights=self.class_weights, smoothing=self.label_smoothing
                    )
                    of_pixels += weight * losses / self._divisor(labels, self.class_weights, logits.dtype)
                case "focal":
                    losses = focal(logits, labels, weights=self.class_weights, **self.focal)
                    of_pixels += weight * losses / self._divisor(labels, (), logits.dtype)
                case "dice":
                    of_regions += weight * dice(logits, labels, **self.dice)
                case "lovasz":
                    of_regions += weight * lovasz_softmax(logits, labels, weights=self.class_weights)
        if self.ohem["min_kept"]:
            of_pixels = jnp.where(hard_pixels(logits, labels, of_pixels, **self.ohem), of_pixels, 0)
        return of_pixels.sum() + of_regions

    def _divisor(self, labels, weights, dtype):
        return divisor(labels, self.average, weights, dtype) + EPS
