"""How often classes occur in a data set, and what is made of that: class weights and repeated records."""

import numpy as np

from cropjax.data.ahead import ahead
from cropjax.data.labels import IGNORE
from cropjax.data.sources import label_of
from cropjax.errors import UserError

BALANCES = ("none", "log", "median")


def class_pixels(source, *, on_error="stop", progress=None, threads=4):
    """How many pixels each class has in each record: int64 [records,k].

    A prepared store knows; of files all labels are read. `on_error` "skip" counts nothing in a label that cannot be
    read. `progress` is a `Progress` over the records.
    """
    k = source.labels.num_classes

    def count(index):
        try:
            if hasattr(source, "pixels"):
                return source.pixels(index)
            label = label_of(source, index)
        except UserError:
            if on_error == "stop":
                raise
            return 0
        return np.bincount(label.ravel(), minlength=IGNORE + 1)[:k]

    counts = np.zeros((len(source), k), np.int64)
    for i, one in enumerate(ahead(count, range(len(source)), threads)):
        counts[i] = one
        if progress:
            progress.update(i + 1)
    return counts


def class_weights(pixels, balance):
    """Weights of the classes in the loss, float [k], or () for the `balance` "none".

    `pixels` int [records,k] as `class_pixels` gives them. "log": 1 / ln(1.02 + share of the labelled pixels), ENet
    (Paszke et al. 2016). "median": median frequency balancing (Eigen and Fergus 2015), a
    class's frequency being its share of the labelled pixels of the records that it occurs in. A class that never
    occurs weighs 1: no pixel of it is seen.
    """
    if balance == "none":
        return ()
    total, seen = pixels.sum(0), pixels.sum(0) > 0
    weights = np.ones(pixels.shape[1])
    if balance == "log":
        weights[seen] = 1 / np.log(1.02 + total[seen] / total.sum())
    else:
        within = np.where(pixels > 0, pixels.sum(1, keepdims=True), 0).sum(0)
        frequency = total[seen] / within[seen]
        weights[seen] = np.median(frequency) / frequency
    return tuple(weights.tolist())


def repeats(pixels, threshold, seed):
    """How often each record comes in an epoch, int [records], 1 or more: those with rare classes come again.

    `threshold` t: a class in less than the share t of the records asks for sqrt(t / its share) times; a record is asked
    for by its rarest class. A fraction is a chance, drawn once from `seed`. Gupta et al. 2019 (LVIS).
    """
    present = pixels > 0
    share = np.maximum(present.mean(0), 1 / len(pixels))
    factors = np.maximum(1, np.sqrt(threshold / share))
    wanted = np.where(present, factors, 1).max(1)
    return np.floor(wanted + np.random.default_rng(seed).random(len(pixels))).astype(int)
