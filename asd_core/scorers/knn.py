"""Distance to the nearest normal clips.

Memory banks are per domain because ten target clips drown among 990 source clips. How the two are reconciled
is the option ``domains``; with k = 1 and raw distances "min" equals "pooled" (a minimum of two minima).
"""

from __future__ import annotations

from typing import Literal

import faiss
import numpy as np
from imblearn.over_sampling import SMOTE

from asd_core.scorers.base import Scorer, is_target
from asd_core.types import EmbeddingSet

Metric = Literal["euclidean", "cosine", "chord"]


class KNN(Scorer):
    """Mean distance to the k nearest normal clips; training clips are scored leave-one-out.

    Args:
        metric: "euclidean" ‖x − y‖; "cosine" (1 − ⟨x̂, ŷ⟩)/2; "chord" ‖x̂ − ŷ‖/2, the "cosine" of the
            dcase-asd-toolkit.
        k: neighbours in the source bank; k_target: in the target bank (default k; 0 leaves that bank out).
        domains: "pooled" one bank; "min" the smaller of the two banks' scores; "zscore" each bank's score
            standardised by leave-one-out distances inside that domain, then the smaller one.
        standardise: scale every dimension by its mean and deviation over the training clips first.
        smote: oversample the target clips to this fraction of the source clips (report of Northeastern
            University: 0.1), with smote_k neighbours. A target clip that is left out takes no part in the
            oversampling either: rows made from it would lie next to it.
    """

    name = "knn"
    version = 2

    def __init__(
        self,
        metric: Metric = "cosine",
        k: int = 1,
        k_target: int | None = None,
        domains: Literal["pooled", "min", "zscore"] = "pooled",
        standardise: bool = False,
        smote: float | None = None,
        smote_k: int = 2,
        smote_seed: int = 0,
    ) -> None:
        if k < 1 or smote_k < 1 or (k_target is not None and k_target < 0):
            raise ValueError(
                f"k and smote_k must be at least 1 and k_target at least 0, got {k}, {smote_k}, {k_target}"
            )
        if smote is not None and not 0 < smote <= 1:
            raise ValueError(f"smote must be a fraction of the source clips in (0, 1], got {smote}")
        self.metric, self.k, self.k_target = metric, k, k if k_target is None else k_target
        self.domains, self.standardise = domains, standardise
        self.smote, self.smote_k, self.smote_seed = smote, smote_k, smote_seed

    def _fit(self, train: EmbeddingSet) -> None:
        self.scale_ = Standardiser(train.x) if self.standardise else None
        self.x_ = self._prepared(train.x)
        target = is_target(train)
        few = min(target.sum(), (~target).sum()) < 3  # two clips have one distance: no deviation to divide by
        if self.domains == "pooled" or (self.domains == "zscore" and few):
            groups = [(np.ones(len(target), dtype=bool), self.k)]
        else:
            groups = [(~target, self.k), (target, self.k_target)]
        self.banks_ = [Bank(self.x_, rows, k, self.metric) for rows, k in groups if k and rows.any()]
        self.moments_ = [(0.0, 1.0)] * len(self.banks_)
        if self.domains == "zscore" and not few:
            own = [bank.leave_one_out()[bank.rows] for bank in self.banks_]
            floor = own[0].std() / 2  # ten target clips may lie close together by chance
            self.moments_ = [(d.mean(), max(d.std(), floor) or 1.0) for d in own]
        if self.smote is not None:
            extra = self._synthetic(np.ones(len(target), dtype=bool))
            self.banks_ = [bank.with_rows(extra) if (bank.rows & target).any() else bank for bank in self.banks_]

    def _score(self, x: np.ndarray) -> np.ndarray:
        x = self._prepared(x)
        return self._smallest([bank.distances(x) for bank in self.banks_])

    def _training_scores(self) -> np.ndarray:
        distances = [bank.leave_one_out() for bank in self.banks_]
        if self.smote is not None:
            for i in np.flatnonzero(is_target(self.train_)):
                others = np.arange(len(self.x_)) != i
                for own, bank in zip(distances, self.banks_, strict=True):
                    if bank.rows[i] and (bank.rows & others).any():
                        rest = Bank(self.x_, bank.rows & others, bank.k, self.metric).with_rows(self._synthetic(others))
                        own[i] = rest.distances(self.x_[i : i + 1])[0]
        scores = self._smallest(distances)
        return np.where(np.isfinite(scores), scores, 0.0)  # the only clip has nothing to be compared with

    def _smallest(self, distances: list[np.ndarray]) -> np.ndarray:
        pairs = zip(distances, self.moments_, strict=True)
        return np.min([(own - mean) / deviation for own, (mean, deviation) in pairs], axis=0)

    def _synthetic(self, rows: np.ndarray) -> np.ndarray:
        """Oversampled target rows, made from the training clips in `rows` (N,) bool."""
        assert self.smote is not None
        target = is_target(self.train_)[rows]
        return self._normalised(oversample(self.x_[rows], target, self.smote, self.smote_k, self.smote_seed))

    def _prepared(self, x: np.ndarray) -> np.ndarray:
        return self._normalised(x if self.scale_ is None else self.scale_(x))

    def _normalised(self, x: np.ndarray) -> np.ndarray:
        """(N, D) float32, on the unit sphere unless the metric is Euclidean."""
        x = np.asarray(x, dtype=np.float32)
        if self.metric == "euclidean":
            return np.ascontiguousarray(x)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


class Standardiser:
    """z = (x − mean) / deviation per dimension, moments of `x` (N, D); constant dimensions are left at 0."""

    def __init__(self, x: np.ndarray) -> None:
        self.mean = x.mean(axis=0, dtype=np.float64)
        self.deviation = x.std(axis=0, dtype=np.float64)
        self.deviation[self.deviation == 0] = 1.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.deviation


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
        index = nearest(x, self.x, min(self.k, len(self.x)))
        return pair_distances(x, self.x, index, self.metric).mean(axis=1)

    def leave_one_out(self) -> np.ndarray:
        """(N,) the same for the training matrix, each clip without itself; infinite where nothing else is."""
        result = self.distances(self.training)
        if len(self.x) == 1:
            result[self.rows] = np.inf
            return result
        own = self.training[self.rows]
        index = nearest(own, self.x, min(self.k + 1, len(self.x)))
        itself = index == np.arange(len(own))[:, None]
        itself[~itself.any(axis=1), -1] = True  # duplicates crowded it out: leave out the farthest instead
        others = index[~itself].reshape(len(own), -1)
        result[self.rows] = pair_distances(own, self.x, others, self.metric).mean(axis=1)
        return result


def nearest(x: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    """(N, k) row numbers of the nearest `bank` rows, exact Euclidean search in float32, nearest first."""
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(np.ascontiguousarray(bank, dtype=np.float32))
    return index.search(np.ascontiguousarray(x, dtype=np.float32), k)[1]


def pair_distances(x: np.ndarray, bank: np.ndarray, index: np.ndarray, metric: Metric) -> np.ndarray:
    """(N, k) distances between x[i] and bank[index[i, j]], in float64: the search's own ‖x‖² + ‖y‖² − 2⟨x, y⟩
    loses half the digits for near neighbours."""
    distance = np.empty(index.shape)
    for j in range(index.shape[1]):
        difference = x.astype(np.float64) - bank[index[:, j]]
        distance[:, j] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    if metric == "chord":
        return distance / 2
    if metric == "cosine":
        return distance**2 / 4  # ‖x̂ − ŷ‖² = 2(1 − ⟨x̂, ŷ⟩)
    return distance


def oversample(x: np.ndarray, target: np.ndarray, ratio: float, k: int, seed: int) -> np.ndarray:
    """Synthetic target rows (M, D) by SMOTE, so that target is `ratio` of source (rounded down).

    None are made when the target already reaches the ratio, or has too few rows to interpolate.
    """
    n_source, n_target = int((~target).sum()), int(target.sum())
    if n_target <= k or int(ratio * n_source) <= n_target:
        return np.empty((0, x.shape[1]), dtype=x.dtype)
    smote = SMOTE(sampling_strategy=ratio, k_neighbors=k, random_state=seed)
    grown, _ = smote.fit_resample(x, target.astype(int))
    return grown[len(x) :]
