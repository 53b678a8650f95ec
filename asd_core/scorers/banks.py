"""Memory banks of normal clips, and the distances to their nearest rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import faiss
import numpy as np

Metric = Literal["euclidean", "cosine", "chord"]
BLOCK = 128  # pairs of rows measured at a time: they stay in the cache
PER_CELL = 39  # rows at least that each cell of an inverted file is learnt from; faiss asks for as many
RECALL_CLIPS = 200  # that the recall of an inverted file is measured on


@dataclass(frozen=True)
class Cells:
    """An inverted file (IVF): rows lie in the cells of a k-means, and only those nearest to a query are searched.

    Args:
        count: cells; None for the root of the number of rows
        probes: cells that are searched
        seed: of the k-means
    """

    count: int | None = None
    probes: int = 8
    seed: int = 0

    def of(self, rows: int) -> int:
        """How many cells a bank of so many rows has."""
        return round(rows**0.5) if self.count is None else self.count


class Bank:
    """The rows of a training matrix (N, D) that may be neighbours, and perhaps some that are not of it.

    With `cells` not all rows are searched, unless they are too few for that.
    """

    def __init__(self, x: np.ndarray, rows: np.ndarray, k: int, metric: Metric, cells: Cells | None = None) -> None:
        self.training, self.rows, self.k, self.metric, self.cells = x, rows, k, metric, cells
        self.x = x if rows.all() else x[rows]

    def with_rows(self, extra: np.ndarray) -> Bank:
        """The same bank with synthetic rows (M, D)."""
        grown = Bank(self.training, self.rows, self.k, self.metric, self.cells)
        grown.x = np.concatenate([self.x, extra])
        return grown

    def distances(self, x: np.ndarray) -> np.ndarray:
        """(M,) mean distance to the k nearest rows."""
        return self.match(x)[0].mean(axis=1)

    def match(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M, k) distances to the k nearest rows, and which rows of `self.x` these are; in any order."""
        index = self._nearest(x, min(self.k, len(self.x)))
        return pair_distances(x, self.x, index, self.metric), index

    def leave_one_out(self) -> np.ndarray:
        """(N,) the same for the training matrix, each clip without itself; infinite where nothing else is."""
        result = self.distances(self.training)
        result[self.rows] = np.inf if len(self.x) == 1 else self._among_themselves()
        return result

    def _among_themselves(self) -> np.ndarray:
        """(rows,) distances of the bank's own training rows, two or more, each to the others."""
        own = self.training[self.rows]
        index = self._nearest(own, min(self.k + 1, len(self.x)))
        itself = index == np.arange(len(own))[:, None]
        itself[~itself.any(axis=1), -1] = True  # duplicates crowded it out: leave out the farthest instead
        others = index[~itself].reshape(len(own), -1)
        return pair_distances(own, self.x, others, self.metric).mean(axis=1)

    def _nearest(self, x: np.ndarray, k: int) -> np.ndarray:
        return nearest(x, self.x, k) if self._inverted is None else self._inverted.nearest(x, k)

    @cached_property
    def _inverted(self) -> InvertedFile | None:
        """Made when first searched: rows may still come."""
        if self.cells is None or len(self.x) < PER_CELL * self.cells.of(len(self.x)):
            return None
        return InvertedFile(self.x, self.cells)

    def told(self) -> str:
        """What must be known of a search in cells; "" of an exact one that was asked for."""
        if self.cells is None:
            return ""
        count, rows = self.cells.of(len(self.x)), len(self.x)
        if self._inverted is None:
            return (
                f"A bank of {rows} clips is too small for IVF with {count} cells, which takes {PER_CELL * count}: it was "
                f"searched exactly."
            )
        share, asked = self._inverted.recall(self.k, int(self.rows.sum()))
        return (
            f"IVF ({self._inverted.probes} of {count} cells searched, {rows} clips): recall@{self.k} {share:.3f} on "
            f"{asked} training clips."
        )


class InvertedFile:
    """Rows (N, D) in cells, see `Cells`. The same rows in the same order give the same cells, on any number of threads."""

    def __init__(self, x: np.ndarray, cells: Cells) -> None:
        self.x = np.ascontiguousarray(x, dtype=np.float32)
        count = cells.of(len(x))
        self.probes = min(cells.probes, count)
        self.index = faiss.IndexIVFFlat(faiss.IndexFlatL2(x.shape[1]), x.shape[1], count)
        self.index.cp.seed = cells.seed
        self.index.nprobe = self.probes
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # sums in another order are other centres
        try:
            self.index.train(self.x)
        finally:
            faiss.omp_set_num_threads(threads)
        self.index.add(self.x)

    def nearest(self, x: np.ndarray, k: int) -> np.ndarray:
        """As the function `nearest`, but some of the rows may be others; where the cells hold fewer than k rows, all
        rows are searched."""
        found = self.index.search(np.ascontiguousarray(x, dtype=np.float32), k)[1]
        lacking = (found < 0).any(axis=1)
        if lacking.any():
            found[lacking] = nearest(x[lacking], self.x, k)
        return found

    def recall(self, k: int, first: int) -> tuple[float, int]:
        """Share of the k nearest others that are found, and of how many of the `first` rows, spread evenly, this is the
        mean. What is found counts if it is no farther than the k-th: of copies it does not matter which."""
        some = np.unique(np.linspace(0, first - 1, RECALL_CLIPS).round().astype(int))
        k = min(k, len(self.x) - 1)
        distances = []
        for search in (lambda own: nearest(own, self.x, k + 1), lambda own: self.nearest(own, k + 1)):
            index = search(self.x[some])
            distance = pair_distances(self.x[some], self.x, index, "euclidean")
            distances.append(np.sort(np.where(index == some[:, None], np.inf, distance), axis=1)[:, :k])
        exact, ours = distances
        return float((ours <= exact[:, -1:] * (1 + 1e-9)).mean()), len(some)


def nearest(x: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    """(N, k) row numbers of the nearest `bank` rows, exact Euclidean search in float32, nearest first."""
    query, rows = (np.ascontiguousarray(part, dtype=np.float32) for part in (x, bank))
    return faiss.knn(query, rows, k)[1]


def pair_distances(x: np.ndarray, bank: np.ndarray, index: np.ndarray, metric: Metric) -> np.ndarray:
    """(N, k) distances between x[i] and bank[index[i, j]], in float64: the search's own ‖x‖² + ‖y‖² − 2⟨x, y⟩
    loses half the digits for near neighbours."""
    distance = np.empty(index.shape)
    for first in range(0, len(x), BLOCK):
        part = slice(first, first + BLOCK)
        own = x[part].astype(np.float64)
        for j in range(index.shape[1]):
            difference = own - bank[index[part, j]]
            distance[part, j] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    return in_metric(distance, metric)


def in_metric(distance: np.ndarray, metric: Metric) -> np.ndarray:
    """Euclidean distances (of points on the unit sphere, unless the metric is Euclidean) in the units of `metric`."""
    if metric == "chord":
        return distance / 2
    if metric == "cosine":
        return distance**2 / 4  # ‖x̂ − ŷ‖² = 2(1 − ⟨x̂, ŷ⟩)
    return distance
