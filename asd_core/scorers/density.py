"""Nearest-neighbour distances in units of the bank's local density.

The same distance means much where normal clips lie close together and little where they are sparse. The unit is
ρ(m), the mean (or sum) of the distances from bank row m to its K nearest other rows:

* "matched": D(x, m*) / ρ(m*) with m* = argmin D(x, m), the match first and then its unit (report of WISTLAB);
* "ratio": min over m of D(x, m) / ρ(m), whose row need not be the nearest one (Wilkinghoff et al., "Keeping the
  Balance", 2025; dcase-asd-toolkit; the UNIS team, with sums).

Units of distance cancel. Where the papers guard the division by adding 1e-8, ρ has a floor in its own unit here, so
that more than K copies of one clip (ρ = 0) neither divide by zero nor push their neighbourhood's scores to 10⁸.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from asd_core.scorers.banks import Bank, Metric, in_metric, pair_distances

FLOOR = 1e-3  # of the median ρ
BLOCK = 2**22  # distances in memory at a time


@dataclass(frozen=True)
class Density:
    """Which row is matched, K, and whether ρ is the mean or the sum of its distances."""

    mode: Literal["matched", "ratio"]
    k: int
    scale: Literal["mean", "sum"] = "mean"


class DensityBank(Bank):
    """A bank whose distances are divided by ρ; attributes `x` (M, D) and `scale_` = ρ, (M,) float64.

    Left out, a clip is missing from the densities as well: its score is the one of a bank that never held it (but for
    the floor of ρ). A density needs two rows: a lone row has ρ = 1, and of two rows neither can be left out.
    """

    def __init__(self, x: np.ndarray, rows: np.ndarray, k: int, metric: Metric, density: Density) -> None:
        super().__init__(x, rows, k, metric)
        self.mode = density.mode
        self.scale_ = np.ones(len(self.x))
        self.floor_ = 0.0
        if len(self.x) > 1:
            self.near_, self.distance_ = self._neighbours(max(k, density.k + 1))
            index, distance = self.near_[:, : density.k + 1], self.distance_[:, : density.k + 1]
            kept = min(density.k, len(self.x) - 1)
            aggregate = np.sum if density.scale == "sum" else np.mean
            scale = aggregate(distance[:, :kept], axis=1)
            self.floor_ = FLOOR * float(np.median(scale[scale > 0])) if scale.any() else 1.0
            self.scale_ = np.maximum(scale, self.floor_)
            # ρ of a row without its j-th neighbour: the next one, if there is one, moves up
            without = distance.sum(axis=1, keepdims=True) - distance[:, :kept]
            without /= 1 if density.scale == "sum" else max(distance.shape[1] - 1, 1)
            self.neighbour_, self.scale_without_ = index[:, :kept], np.maximum(without, self.floor_)

    def match(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, k) the k smallest ratios, or the ratios of the k nearest rows; and which rows these are."""
        return self._ratios(x, left_out=False)

    def _among_themselves(self) -> np.ndarray:
        if len(self.x) == 2:
            return np.full(2, np.inf)
        if self.mode == "ratio":
            return self._ratios(self.x, left_out=True)[0].mean(axis=1)
        index = self.near_[:, : self.k]  # found already
        itself = self.neighbour_[index] == np.arange(len(index))[:, None, None]  # (M, k, K)
        without = np.take_along_axis(self.scale_without_[index], itself.argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
        scale = np.where(itself.any(axis=2), without, self.scale_[index])
        return (self.distance_[:, : self.k] / scale).mean(axis=1)

    def _ratios(self, x: np.ndarray, left_out: bool) -> tuple[np.ndarray, np.ndarray]:
        k = min(self.k, len(self.x) - left_out)
        result, matched = np.empty((len(x), k)), np.empty((len(x), k), dtype=int)
        for rows, squared in _blocks(x, self.x):
            distance = squared if self.mode == "matched" else in_metric(np.sqrt(squared), self.metric)
            scale = np.broadcast_to(self.scale_, distance.shape)
            if left_out:  # x is the bank: row i is compared with a bank without row i
                _exclude_self(distance, rows)
                scale = scale.copy()
                row, place = np.nonzero((self.neighbour_ >= rows.start) & (self.neighbour_ < rows.stop))
                scale[self.neighbour_[row, place] - rows.start, row] = self.scale_without_[row, place]
            index = _smallest(distance if self.mode == "matched" else distance / scale, k)
            exact = pair_distances(x[rows], self.x, index, self.metric)
            result[rows] = exact / np.take_along_axis(scale, index, axis=1)
            matched[rows] = index
        return result, matched

    def _neighbours(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(M, count) row numbers of, and distances to, each row's nearest other rows, nearest first; fewer columns
        where the bank has fewer."""
        count = min(count, len(self.x) - 1)
        found = []
        for rows, squared in _blocks(self.x, self.x):
            _exclude_self(squared, rows)
            found.append(_smallest(squared, count))
        index = np.concatenate(found)
        distance = pair_distances(self.x, self.x, index, self.metric)
        order = np.argsort(distance, axis=1)
        return np.take_along_axis(index, order, axis=1), np.take_along_axis(distance, order, axis=1)


def _blocks(x: np.ndarray, bank: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of `x` (N, D) and their squared distances to `bank` (M, D), (rows, M), to choose neighbours by."""
    # distances stay, products and their rounding shrink; single precision, because what is chosen is measured again
    centre = bank.mean(axis=0, dtype=np.float64).astype(np.float32)
    y = bank - centre
    squares = np.einsum("md,md->m", y, y)
    step = max(1, BLOCK // len(bank))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        own = x[rows] - centre
        squared = own @ y.T
        squared *= -2
        squared += squares
        squared += np.einsum("nd,nd->n", own, own)[:, None]
        yield rows, np.maximum(squared, 0, out=squared)


def _exclude_self(distance: np.ndarray, rows: slice) -> None:
    distance[np.arange(len(distance)), np.arange(rows.start, rows.stop)] = np.inf


def _smallest(values: np.ndarray, k: int) -> np.ndarray:
    """(N, k) columns of the k smallest values of each row, in any order."""
    return np.argpartition(values, k - 1, axis=1)[:, :k]
