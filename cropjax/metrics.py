"""From predictions to one confusion matrix, and from it to IoU and accuracy (upstream's `IoUMetric`)."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from cropjax.data.labels import IGNORE


def confusion_matrix(predictions, labels, num_classes):
    """Pixels by [label, prediction] of one batch, int32 [k,k]; any equal shapes; label 255 does not count."""
    valid = labels != IGNORE
    cell = labels.astype(jnp.int32) * num_classes + predictions.astype(jnp.int32)
    cell = jnp.where(valid, cell, num_classes**2)
    counts = jnp.zeros(num_classes**2 + 1, jnp.int32).at[cell.ravel()].add(1)
    return counts[:-1].reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Scores:
    """What one confusion matrix says; shares in 0...1. A class that neither occurs nor is predicted has IoU nan.

    `iou` and `accuracy` are per class; the means leave nan out. A class that is predicted but never labelled counts
    as IoU 0 and has accuracy nan, as upstream has it.
    """

    confusion: np.ndarray
    iou: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, confusion):
        confusion = np.asarray(confusion, np.int64)
        right, labelled, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        with np.errstate(invalid="ignore"):
            return cls(confusion, right / (labelled + predicted - right), right / labelled)

    @property
    def summary(self):
        """mIoU, mAcc and aAcc by the names under which they are logged; nan where no pixel was labelled."""
        total = self.confusion.sum()
        return {
            "miou": _mean(self.iou),
            "macc": _mean(self.accuracy),
            "aacc": float(np.trace(self.confusion) / total) if total else float("nan"),
        }

    def table(self, names):
        """Per-class IoU and accuracy in percent, then the summary, as lines of text."""
        width = max(map(len, names))
        share = self.confusion.sum(1) / max(self.confusion.sum(), 1)
        lines = [f"{'class':<{width}}    IoU    Acc  pixels"]
        for name, iou, accuracy, part in zip(names, self.iou, self.accuracy, share, strict=True):
            lines.append(f"{name:<{width}} {100 * iou:6.2f} {100 * accuracy:6.2f} {100 * part:6.2f}%")
        means = self.summary
        lines.append(
            f"mIoU {100 * means['miou']:.2f}   mAcc {100 * means['macc']:.2f}   aAcc {100 * means['aacc']:.2f}"
        )
        return "\n".join(lines)


def _mean(values):
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
