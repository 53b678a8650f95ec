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
        smote: oversample the target bank to this fraction of the source bank (report of Northeastern
            University: 0.1), with smote_k neighbours. Synthetic rows stay in the bank when training clips
            are scored, which makes those scores slightly optimistic.
    """

    name = "knn"

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
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.metric, self.k, self.k_target = metric, k, k if k_target is None else k_target
        self.domains, self.standardise = domains, standardise
        self.smote, self.smote_k, self.smote_seed = smote, smote_k, smote_seed

    def _fit(self, train: EmbeddingSet) -> None:
        self.scale_ = Standardiser(train.x) if self.standardise else None
        x = self._prepared(train.x)
        target = is_target(train)
        groups = {"source": (~target, self.k), "target": (target, self.k_target)}
        if self.domains == "pooled":
            groups = {"all": (np.ones(len(x), dtype=bool), self.k)}
        elif self.domains == "zscore" and min(target.sum(), (~target).sum()) < 3:
            # two clips have one distance: no deviation to standardise by
            groups = {"all": (np.ones(len(x), dtype=bool), self.k)}
        self.banks_ = [Bank(x, rows, k, self.metric) for rows, k in groups.values() if k and rows.any()]
        if self.smote is not None and target.any():
            extra = self._normalised(oversample(x, target, self.smote, self.smote_k, self.smote_seed))
            self.banks_[-1].add(extra)
        self.moments_ = [(0.0, 1.0)] * len(self.banks_)
        if self.domains == "zscore":
            own = [bank.distances(x, leave_one_out=True)[bank.rows] for bank in self.banks_]
            deviations = [d.std() for d in own]
            floor = deviations[0] / 2  # ten target clips may lie close together by chance
            self.moments_ = [(d.mean(), max(s, floor) or 1.0) for d, s in zip(own, deviations, strict=True)]

    def _score(self, x: np.ndarray) -> np.ndarray:
        return self._smallest(self._prepared(x), leave_one_out=False)

    def _training_scores(self) -> np.ndarray:
        return self._smallest(self._prepared(self.train_.x), leave_one_out=True)

    def _smallest(self, x: np.ndarray, leave_one_out: bool) -> np.ndarray:
        scores = [
            (bank.distances(x, leave_one_out) - mean) / deviation
            for bank, (mean, deviation) in zip(self.banks_, self.moments_, strict=True)
        ]
        return np.min(scores, axis=0)

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
    """Rows of a training matrix that may be neighbours. `rows` says which, so that a clip is not its own."""

    def __init__(self, x: np.ndarray, rows: np.ndarray, k: int, metric: Metric) -> None:
        self.rows, self.k, self.metric = rows, k, metric
        self.position = np.where(rows, np.cumsum(rows) - 1, -1)  # of a training clip in this bank
        self.x = x[rows]

    def add(self, extra: np.ndarray) -> None:
        self.x = np.concatenate([self.x, extra])

    def distances(self, x: np.ndarray, leave_one_out: bool = False) -> np.ndarray:
        """(N,) mean distance to the k nearest rows; with `leave_one_out`, `x` is the training matrix itself."""
        k = min(self.k + leave_one_out, len(self.x))
        _, index = nearest(x, self.x, k)
        distance = pair_distances(x, self.x, index, self.metric)  # (N, k)
        if leave_one_out and k > 1:
            itself = index == self.position[:, None]
            itself[~itself.any(axis=1), -1] = True  # not among the nearest: leave out the farthest instead
            distance = distance[~itself].reshape(len(x), k - 1)
        return distance.mean(axis=1)


def nearest(x: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared Euclidean distances and rows (N, k) of the nearest `bank` rows, exact search in float32."""
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(np.ascontiguousarray(bank, dtype=np.float32))
    return index.search(np.ascontiguousarray(x, dtype=np.float32), k)


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
