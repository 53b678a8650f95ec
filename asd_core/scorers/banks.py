"""Memory banks of normal clips, and the distances to their nearest rows."""

from __future__ import annotations

from typing import Literal

import faiss
import numpy as np

Metric = Literal["euclidean", "cosine", "chord"]


class Bank:
    """The rows of a training matrix (N, D) that may be neighbours, and perhaps some that are not of it."""

    def __init__(self, x: np.ndarray, rows: np.ndarray, k: int, metric: Metric) -> None:
        self.training, self.rows, self.k, self.metric = x, rows, k, metric
        self.x = x[rows]

    def with_rows(self, extra: np.ndarray) -> Bank:
        """The same bank with synthetic rows (M, D)."""
        grown = Bank(self.training, self.rows, self.k, self.metric)
        grown.x = np.concatenate([self.x, extra])
        return grown

    def distances(self, x: np.ndarray) -> np.ndarray:
        """(M,) mean distance to the k nearest rows."""
        return self.match(x)[0].mean(axis=1)

    def match(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M, k) distances to the k nearest rows, and which rows of `self.x` these are; in any order."""
        index = nearest(x, self.x, min(self.k, len(self.x)))
        return pair_distances(x, self.x, index, self.metric), index

    def leave_one_out(self) -> np.ndarray:
        """(N,) the same for the training matrix, each clip without itself; infinite where nothing else is."""
        result = self.distances(self.training)
        result[self.rows] = np.inf if len(self.x) == 1 else self._among_themselves()
        return result

    def _among_themselves(self) -> np.ndarray:
        """(rows,) distances of the bank's own training rows, two or more, each to the others."""
        own = self.training[self.rows]
        index = nearest(own, self.x, min(self.k + 1, len(self.x)))
        itself = index == np.arange(len(own))[:, None]
        itself[~itself.any(axis=1), -1] = True  # duplicates crowded it out: leave out the farthest instead
        others = index[~itself].reshape(len(own), -1)
        return pair_distances(own, self.x, others, self.metric).mean(axis=1)


def nearest(x: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    """(N, k) row numbers of the nearest `bank` rows, exact Euclidean search in float32, nearest first."""
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(np.ascontiguousarray(bank, dtype=np.float32))
    return index.search(np.ascontiguousarray(x, dtype=np.float32), k)[1]


def pair_distances(x: np.ndarray, bank: np.ndarray, index: np.ndarray, metric: Metric) -> np.ndarray:
    """(N, k) distances between x[i] and bank[index[i, j]], in float64: the search's own ‖x‖² + ‖y‖² − 2⟨x, y⟩
    loses half the digits for near neighbours."""
    x = x.astype(np.float64)
    distance = np.empty(index.shape)
    for j in range(index.shape[1]):
        difference = x - bank[index[:, j]]
        distance[:, j] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    return in_metric(distance, metric)


def in_metric(distance: np.ndarray, metric: Metric) -> np.ndarray:
    """Euclidean distances (of points on the unit sphere, unless the metric is Euclidean) in the units of `metric`."""
    if metric == "chord":
        return distance / 2
    if metric == "cosine":
        return distance**2 / 4  # ‖x̂ − ŷ‖² = 2(1 − ⟨x̂, ŷ⟩)
    return distance
