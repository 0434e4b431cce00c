"""What a confusion matrix cannot say: where in an image the right pixels are, and in what.

Everything is counts, which add up over images and processes: `Details.of` one image, and `+`. As in `Scores`, shares
are of sums over the data set and not means of images, and pixels with label 255 do not count.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from cropjax.data.labels import IGNORE
from cropjax.metrics import mean_of_known

BOUNDARY = 0.02  # of the image's diagonal: how wide a boundary region is, as in Cheng et al. 2021
# Where each bin begins; it ends where the next one begins, and the last one nowhere.
CLASS_DISTANCES = (0, 1, 2, 4, 8, 16, 32, 64, 128)  # pixels
BORDER_DISTANCES = tuple(range(0, 513, 16))  # pixels
SEGMENT_SIZES = tuple(4**i for i in range(11))  # pixels in a segment, 1...4^10

DEFINITIONS = (
    "Boundary IoU (Cheng et al. 2021, arXiv 2103.16562) is the IoU of a class's boundary regions in label and "
    "prediction. A region holds those pixels of the class from which one that is not of it is at most d rows and d "
    f"columns away; d is {BOUNDARY} of the label's diagonal, rounded, at least 1. In label and prediction alike, "
    "nothing outside the image and no pixel with label 255 is of the class. Intersections and unions are summed over "
    "the split, as those of IoU are.",
    "Distance to a class boundary: Euclidean, from a pixel to the nearest one that has, above, below, left or right of "
    "it in the label, another class or 255; 0 for such a pixel itself. The image border is no class boundary. An image "
    "without any counts in the last bin.",
    "Distance to the image border: how many pixels of the label lie between, straight to the nearest side.",
    "A segment is what hangs together of a class in the label, diagonals included (8-connected): objects that touch "
    "are one. Recall is the share of right pixels in all segments of a size together.",
)


@dataclass(frozen=True, eq=False)
class Details:
    """Counts of pixels, int64, over any number of images; k classes.

    `boundary` [3,k]: pixels in the boundary regions of both label and prediction, of the label, of the prediction.
    `class_distance` [2,9] and `border_distance` [2,33]: right and labelled pixels by their distance to the nearest
    class boundary and to the image border. `segments` [3,k,11]: right pixels, pixels, and number of the label's
    connected segments, by class and size. `DEFINITIONS` says what these are, in sentences.
    """

    boundary: np.ndarray
    class_distance: np.ndarray
    border_distance: np.ndarray
    segments: np.ndarray

    @classmethod
    def none(cls, num_classes):
        """Of no image."""
        return cls(
            np.zeros((3, num_classes), np.int64),
            np.zeros((2, len(CLASS_DISTANCES)), np.int64),
            np.zeros((2, len(BORDER_DISTANCES)), np.int64),
            np.zeros((3, num_classes, len(SEGMENT_SIZES)), np.int64),
        )

    @classmethod
    def of(cls, ids, label, num_classes):
        """Of one image: predicted `ids` and `label`, uint8 [h,w]. Threads may call it at the same time."""
        valid, right = label != IGNORE, ids == label
        return cls(
            _boundary(np.where(valid, ids, np.uint8(IGNORE)), label, num_classes),
            _class_distance(label, right, valid),
            _border_distance(right, valid),
            _segments(label, right, num_classes),
        )

    def __add__(self, other):
        return Details(*map(np.add, vars(self).values(), vars(other).values()))

    def map(self, function):
        """What `function` makes of each array of counts, such as its sum over processes."""
        return Details(*map(function, vars(self).values()))

    @property
    def boundary_iou(self):
        """[k]; nan for a class that neither occurs nor is predicted, 0 for one that is only predicted."""
        both, labelled, predicted = self.boundary
        return _share(both, labelled + predicted - both)

    @property
    def mean_boundary_iou(self):
        """Over the classes that are not nan."""
        return mean_of_known(self.boundary_iou)

    @property
    def accuracy_by_class_distance(self):
        """Share of right pixels for each of `CLASS_DISTANCES`; nan where no pixel is."""
        return _share(*self.class_distance)

    @property
    def accuracy_by_border_distance(self):
        """Share of right pixels for each of `BORDER_DISTANCES`; nan where no pixel is."""
        return _share(*self.border_distance)

    @property
    def recall_by_size(self):
        """Share of right pixels in segments of all classes, for each of `SEGMENT_SIZES`; nan where no segment is."""
        right, pixels, _ = self.segments.sum(1)
        return _share(right, pixels)


def _share(part, whole):
    with np.errstate(invalid="ignore"):
        return part / whole


def _boundary(ids, label, num_classes):
    near = [_near_boundary(x) for x in (ids, label)]
    both = np.where((ids == label) & near[0] & near[1], label, IGNORE)
    regions = both, *(np.where(n, x, IGNORE) for n, x in zip(near[::-1], (label, ids), strict=True))
    return np.stack([np.bincount(x.ravel(), minlength=IGNORE + 1)[:num_classes] for x in regions])


def _near_boundary(ids):
    """Where the square of side 2d + 1 around a pixel holds another id than its own, or leaves the image."""
    d = max(round(BOUNDARY * float(np.hypot(*ids.shape))), 1)
    square = np.ones((2 * d + 1, 2 * d + 1), np.uint8)
    greatest_less_least = cv2.morphologyEx(
        ids, cv2.MORPH_GRADIENT, square, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE
    )
    return greatest_less_least > 0


def _class_distance(label, right, valid):
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    touches = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, cross)  # outside the image is nothing that differs
    distance = cv2.distanceTransform((touches == 0).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = np.minimum(distance, CLASS_DISTANCES[-1]).astype(np.uint8)  # without any boundary it is huge
    return np.add.reduceat(_by(distance, right, valid, CLASS_DISTANCES[-1] + 1), CLASS_DISTANCES, axis=1)


def _border_distance(right, valid):
    last, width = len(BORDER_DISTANCES) - 1, BORDER_DISTANCES[1]
    rows, columns = (
        np.minimum(np.minimum(np.arange(n), np.arange(n)[::-1]) // width, last).astype(np.uint8) for n in right.shape
    )
    return _by(np.minimum.outer(rows, columns), right, valid, len(BORDER_DISTANCES))


def _by(bins, right, valid, count):
    return np.stack([np.bincount(bins[pixels], minlength=count) for pixels in (right, valid)])


def _segments(label, right, num_classes):
    found = np.zeros((3, num_classes, len(SEGMENT_SIZES)), np.int64)
    for c in np.flatnonzero(np.bincount(label.ravel(), minlength=num_classes)[:num_classes]):
        mask = (label == c).view(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        box = np.s_[y : y + h, x : x + w]
        count, segment = cv2.connectedComponents(mask[box], connectivity=8)  # 0 is what is not of the class
        size, hits = (np.bincount(s.ravel(), minlength=count)[1:] for s in (segment, segment * right[box]))
        bins = np.searchsorted(SEGMENT_SIZES, size, side="right") - 1
        for total, amount in zip(found, (hits, size, 1), strict=True):
            np.add.at(total[c], bins, amount)
    return found
