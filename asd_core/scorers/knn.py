"""Distance to the nearest normal clips.

Memory banks are per domain because ten target clips drown among 990 source clips. How the two are reconciled
is the option ``domains``; with k = 1 and raw distances "min" equals "pooled" (a minimum of two minima).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from imblearn.over_sampling import SMOTE

from asd_core.scorers.banks import Bank, Cells, Metric
from asd_core.scorers.base import Scorer, is_target, on_sphere, whole_clip
from asd_core.scorers.density import Density, DensityBank
from asd_core.types import EmbeddingSet, Evidence


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
        smote_round: of a fraction of a clip; 990 source clips and 0.25 give 247 target rows "down" (the library and
            the dcase-asd-toolkit) and 248 "nearest" (the UNIS team).
        clip_zscore: bring the entries of each embedding to mean 0 and deviation 1 first (report of HFU, "sera").
        deviation: what "zscore" divides by: each domain's "own" deviation, that of the target domain being at least
            half that of the source, or the "target" deviation for both domains (code of the UNIS team).
        density: divide distances by the local density of the bank, see `density`: "matched" or "ratio"; the UNIS team
            has "ratio" with domains "min", K 16 and 9, and sums.
        density_k: K of that density; density_k_target: in a target bank of its own (default density_k).
        density_scale: "mean" or "sum" of the K distances. Sums over different K tilt the two banks against each other.
        index: how neighbours are searched: "exact", among all clips; "ivf", in the nearest cells of an inverted file, for
            machines of many thousand clips. Distances to what is found are exact. The recall is measured on training
            clips and told; banks with fewer than 39 clips per cell are searched exactly, and that is told too.
        cells: of that file; default the root of the number of clips.
        probes: cells that are searched; all of them are the exact search.
    """

    name = "knn"
    gives_evidence = True
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
        smote_round: Literal["down", "nearest"] = "down",
        clip_zscore: bool = False,
        deviation: Literal["own", "target"] = "own",
        density: Literal["matched", "ratio"] | None = None,
        density_k: int = 4,
        density_k_target: int | None = None,
        density_scale: Literal["mean", "sum"] = "mean",
        index: Literal["exact", "ivf"] = "exact",
        cells: int | None = None,
        probes: int = 8,
    ) -> None:
        if k < 1 or smote_k < 1 or (k_target is not None and k_target < 0):
            raise ValueError(
                f"k and smote_k must be at least 1 and k_target at least 0, got {k}, {smote_k}, {k_target}"
            )
        if smote is not None and not 0 < smote <= 1:
            raise ValueError(f"smote must be a fraction of the source clips in (0, 1], got {smote}")
        if density_k < 1 or (density_k_target is not None and density_k_target < 1):
            raise ValueError(f"density_k and density_k_target must be at least 1, got {density_k}, {density_k_target}")
        if density is not None and smote is not None:
            raise ValueError("density and smote exclude each other: synthetic rows would make their domain look dense")
        if probes < 1 or (cells is not None and cells < 1):
            raise ValueError(f"cells and probes must be at least 1, got {cells} and {probes}")
        if index == "ivf" and density is not None:
            raise ValueError(
                "index ivf and density exclude each other: a density needs all distances; take index exact"
            )
        self.metric, self.k, self.k_target = metric, k, k if k_target is None else k_target
        self.domains, self.standardise, self.clip_zscore, self.deviation = domains, standardise, clip_zscore, deviation
        self.smote, self.smote_k, self.smote_seed, self.smote_round = smote, smote_k, smote_seed, smote_round
        self.density, self.density_k, self.density_scale = density, density_k, density_scale
        self.density_k_target = density_k if density_k_target is None else density_k_target
        self.cells = Cells(cells, probes) if index == "ivf" else None
        self.takes_generated = density is None  # they would make their domain look dense

    def _fit(self, train: EmbeddingSet) -> None:
        x = zscored(train.x) if self.clip_zscore else train.x
        self.scale_ = Standardiser(x) if self.standardise else None
        self.x_ = self._prepared(train.x)
        target = is_target(train)
        fewest = min(target.sum(), (~target).sum())
        few = fewest < 3  # two clips have one distance: no deviation to divide by
        alone = self.density is not None and fewest == 1  # one clip has no density of its own
        unused = target.all() and self.k_target == 0
        groups = [(~target, self.k, self.density_k), (target, self.k_target, self.density_k_target)]
        if self.domains == "pooled" or (self.domains == "zscore" and few) or alone or unused:
            groups = [(np.ones(len(target), dtype=bool), self.k, self.density_k)]
        self.banks_ = [self._bank(rows, k, density_k) for rows, k, density_k in groups if k and rows.any()]
        self.moments_ = [(0.0, 1.0)] * len(self.banks_)
        if self.domains == "zscore" and not few:
            own = [bank.leave_one_out()[bank.rows] for bank in self.banks_]
            floor = own[0].std() / 2  # ten target clips may lie close together by chance
            deviations = [max(d.std(), floor) if self.deviation == "own" else own[-1].std() for d in own]
            self.moments_ = [(d.mean(), by or 1.0) for d, by in zip(own, deviations, strict=True)]
        if self.smote is not None:
            extra = self._synthetic(np.ones(len(target), dtype=bool))
            self.banks_ = [bank.with_rows(extra) if (bank.rows & target).any() else bank for bank in self.banks_]
        self.banks_ = [self._with_generated(bank) for bank in self.banks_]
        self.notices_ += [told for bank in self.banks_ if (told := bank.told())]

    def _with_generated(self, bank: Bank) -> Bank:
        """A bank with the generated clips of its domains."""
        if self.generated_ is None:
            return bank
        here = np.isin(self.generated_.domains, self.train_.domains[bank.rows])
        return bank.with_rows(self._prepared(self.generated_.x[here]))

    def _bank(self, rows: np.ndarray, k: int, density_k: int) -> Bank:
        if self.density is None:
            return Bank(self.x_, rows, k, self.metric, self.cells)
        return DensityBank(self.x_, rows, k, self.metric, Density(self.density, density_k, self.density_scale))

    def _judge(self, test: EmbeddingSet) -> tuple[np.ndarray, Evidence]:
        x = self._prepared(test.x)
        distances, nearest = zip(*(self._nearest(bank, x) for bank in self.banks_), strict=True)
        scores, bank = self._smallest(list(distances))
        matched = np.choose(bank, nearest)
        return scores, whole_clip(scores[:, None], matched[:, None])

    @staticmethod
    def _nearest(bank: Bank, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) distances to a bank, and which training clip is the nearest one; −1 for a synthetic row."""
        distance, index = bank.match(x)
        first = np.take_along_axis(index, distance.argmin(axis=1)[:, None], axis=1)[:, 0]
        own = np.flatnonzero(bank.rows)
        return distance.mean(axis=1), np.where(first < len(own), own[np.minimum(first, len(own) - 1)], -1)

    def _training_scores(self) -> np.ndarray:
        distances = [bank.leave_one_out() for bank in self.banks_]
        if self.smote is not None:
            for i in np.flatnonzero(is_target(self.train_)):
                others = np.arange(len(self.x_)) != i
                for own, bank in zip(distances, self.banks_, strict=True):
                    if bank.rows[i] and (bank.rows & others).any():
                        rest = Bank(self.x_, bank.rows & others, bank.k, self.metric).with_rows(self._synthetic(others))
                        rest = self._with_generated(rest)
                        own[i] = rest.distances(self.x_[i : i + 1])[0]
        scores, _ = self._smallest(distances)
        return np.where(np.isfinite(scores), scores, 0.0)  # the only clip has nothing to be compared with

    def _smallest(self, distances: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(N,) standardised distances to the nearer bank, and which bank that is."""
        pairs = zip(distances, self.moments_, strict=True)
        both = np.stack([(own - mean) / deviation for own, (mean, deviation) in pairs])
        return both.min(axis=0), both.argmin(axis=0)

    def _synthetic(self, rows: np.ndarray) -> np.ndarray:
        """Oversampled target rows, made from the training clips in `rows` (N,) bool."""
        assert self.smote is not None
        target = is_target(self.train_)[rows]
        options = (self.smote, self.smote_k, self.smote_seed, self.smote_round)
        return self._normalised(oversample(self.x_[rows], target, *options))

    def _prepared(self, x: np.ndarray) -> np.ndarray:
        x = zscored(x) if self.clip_zscore else x
        return self._normalised(x if self.scale_ is None else self.scale_(x))

    def _normalised(self, x: np.ndarray) -> np.ndarray:
        """(N, D) float32, on the unit sphere unless the metric is Euclidean."""
        x = np.asarray(x, dtype=np.float32)
        return np.ascontiguousarray(x) if self.metric == "euclidean" else on_sphere(x)


class Standardiser:
    """z = (x − mean) / deviation per dimension, moments of `x` (N, D); constant dimensions are left at 0."""

    def __init__(self, x: np.ndarray) -> None:
        self.mean = x.mean(axis=0, dtype=np.float64)
        self.deviation = x.std(axis=0, dtype=np.float64)
        self.deviation[self.deviation == 0] = 1.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.deviation


def zscored(x: np.ndarray) -> np.ndarray:
    """(N, D) float64: each row less its mean, divided by its deviation."""
    x = x.astype(np.float64)
    return (x - x.mean(axis=1, keepdims=True)) / (x.std(axis=1, keepdims=True) + 1e-6)


def oversample(
    x: np.ndarray, target: np.ndarray, ratio: float, k: int, seed: int, rounding: Literal["down", "nearest"] = "down"
) -> np.ndarray:
    """Synthetic target rows (M, D) by SMOTE, so that target is `ratio` of source.

    None are made when the target already reaches the ratio, or has too few rows to interpolate.
    """
    n_target = int(target.sum())
    wanted = ratio * int((~target).sum())
    rows = round(wanted) if rounding == "nearest" else int(wanted)
    if n_target <= k or rows <= n_target:
        return np.empty((0, x.shape[1]), dtype=x.dtype)
    smote = SMOTE(sampling_strategy={1: rows}, k_neighbors=k, random_state=seed)
    grown, _ = smote.fit_resample(x, target.astype(int))
    return grown[len(x) :]
