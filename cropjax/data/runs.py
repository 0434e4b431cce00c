"""A label as runs: where, along each row, another class begins.

People draw labels as areas: a frame of two million pixels has some tens of thousands of runs. Which classes a scaled
window has is then a sum over the runs inside it, and the window itself needs no other part of the label.
"""

import numpy as np


class Runs:
    """uint8 [h, w], as `label[rows, columns]` gives it for two slices.

    per_row: int [h], how many runs a row has; starts: int [n], the column at which each begins, 0 for the first of a
    row; values: uint8 [n]. `ValueError` where these do not make a label of `shape`.
    """

    def __init__(self, shape: tuple[int, int], per_row: np.ndarray, starts: np.ndarray, values: np.ndarray):
        h, w = shape
        first = np.concatenate([[0], np.cumsum(per_row)])
        if len(per_row) != h or not len(starts) == len(values) == first[-1] or (per_row < 1).any():
            raise ValueError(f"{len(starts)} runs do not make {h} rows")
        ends = np.append(starts[1:], w)
        ends[first[1:] - 1] = w
        if starts[first[:-1]].any() or (ends <= starts).any():
            raise ValueError("runs do not follow one another")
        self.shape, self.per_row, self.starts, self.values = (h, w), per_row, starts, values
        self._first, self._ends = first, ends

    @classmethod
    def of(cls, label: np.ndarray) -> "Runs":
        """Those of a label uint8 [h, w]."""
        begins = np.ones(label.shape, bool)
        np.not_equal(label[:, 1:], label[:, :-1], out=begins[:, 1:])
        where = np.flatnonzero(begins)
        per_row = np.bincount(where // label.shape[1], minlength=label.shape[0])
        return cls(label.shape, per_row, where % label.shape[1], label.ravel()[where])

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        return np.repeat(self.values, self._ends - self.starts).reshape(self.shape)[window]

    def counts(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """float64 [256], how often each value is in `take(rows, columns)`."""
        runs, lengths, times = self._inside(rows, columns)
        return np.bincount(self.values[runs], lengths * times, minlength=256)

    def take(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """uint8 [len(rows), len(columns)]: the label's pixels there; both ascend and may repeat."""
        runs, lengths, times = self._inside(rows, columns)
        lines = np.repeat(self.values[runs], lengths * (times > 0)).reshape(-1, len(columns))
        return lines.take(np.cumsum(np.diff(rows, prepend=rows[0]) > 0), 0)

    def _inside(self, rows, columns):
        """The runs of the rows from the first to the last, how many of `columns` each has, and its row of `rows`."""
        top, bottom = rows[0], rows[-1] + 1
        runs = slice(self._first[top], self._first[bottom])
        before = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=self.shape[1]))])
        lengths = before[self._ends[runs]] - before[self.starts[runs]]
        return runs, lengths, np.repeat(np.bincount(rows - top), self.per_row[top:bottom])
