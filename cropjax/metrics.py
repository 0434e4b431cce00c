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
            "miou": mean_of_known(self.iou),
            "macc": mean_of_known(self.accuracy),
            "aacc": float(np.trace(self.confusion) / total) if total else float("nan"),
        }

    def table(self, names, boundary_iou=None):
        """Per-class IoU, accuracy and, if given, boundary IoU in percent, then the summary, as lines of text."""
        columns, means = {"IoU": self.iou, "Acc": self.accuracy}, self.summary
        summary = {"mIoU": means["miou"], "mAcc": means["macc"]}
        if boundary_iou is not None:
            columns["BIoU"], summary["mBIoU"] = boundary_iou, mean_of_known(boundary_iou)
        width = max(map(len, names))
        share = self.confusion.sum(1) / max(self.confusion.sum(), 1)
        lines = [f"{'class':<{width}} " + " ".join(f"{title:>6}" for title in columns) + "  pixels"]
        for name, *values, part in zip(names, *columns.values(), share, strict=True):
            lines.append(f"{name:<{width}} " + " ".join(f"{100 * x:6.2f}" for x in (*values, part)) + "%")
        summary["aAcc"] = means["aacc"]
        lines.append("   ".join(f"{title} {100 * value:.2f}" for title, value in summary.items()))
        return "\n".join(lines)


def mean_of_known(values):
    """The mean of what is not nan; nan if all is."""
    known = values[~np.isnan(values)].tolist()
    # One after the other, as cityscapesScripts adds them: NumPy's sum has another last digit.
    return sum(known) / len(known) if known else float("nan")
