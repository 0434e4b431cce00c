"""The score of a predictor that knows where in the picture a class usually is, and never looks at the picture."""

import numpy as np

from cropjax.data.labels import IGNORE
from cropjax.data.sources import label_of
from cropjax.metrics import Scores


def count_classes(source, num_classes, *, count, grid, progress):
    """How often each class falls into each of `grid` (rows, columns) cells of the first `count` records' images.

    Returns int64 [rows,columns,k].
    """
    counts = np.zeros((*grid, num_classes), np.int64)
    for i in range(count):
        label = label_of(source, i)
        cells, valid = _cells(label.shape, grid), label != IGNORE
        np.add.at(counts.reshape(-1, num_classes), (cells[valid], label[valid]), 1)
        progress.update(i + 1)
    return counts


def location_prior(train, test, num_classes, *, count, progress, grid=(64, 128)):
    """`Scores` on the source `test` of predicting, in each cell, the class that is commonest there.

    Commonest in the first `count` records of the source `train`.
    """
    counts = count_classes(train, num_classes, count=count, grid=grid, progress=progress)
    commonest = counts.argmax(-1).ravel()
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for i in range(len(test)):
        label = label_of(test, i)
        valid = label != IGNORE
        predicted = commonest[_cells(label.shape, grid)]
        np.add.at(confusion, (label[valid], predicted[valid]), 1)
    return Scores.of(confusion)


def _cells(size, grid):
    """Index of the cell of every pixel, int [h,w]."""
    (h, w), (rows, columns) = size, grid
    return (np.arange(h) * rows // h)[:, None] * columns + np.arange(w) * columns // w
