"""Memories of units, of which clips have many: nearest neighbours among units of *other* clips, in bounded memory.

The search is a blocked product in single precision (faiss); what it finds is measured again in double precision.
"""

from __future__ import annotations

import faiss
import numpy as np

from asd_core.scorers.banks import Metric, pair_distances
from asd_core.scorers.density import FLOOR, Density

SPARE = 4  # candidates beyond those needed, so that rounding in the search does not decide
SAMPLE = 512  # rows that the usual density is taken from


class UnitBank:
    """Units (M, D), of length 1 unless the metric is Euclidean, and which clip each belongs to, (M,).

    A unit's density ρ is the mean (or sum) of its distances to the K nearest units of other clips. `match` can leave a
    clip out: its units are then neither matched nor part of a density, as if the memory had never held them.
    """

    def __init__(self, units: np.ndarray, owners: np.ndarray, density: Density | None, metric: Metric) -> None:
        self.units, self.owners, self.density, self.metric = units, owners, density, metric
        self.held_ = np.bincount(owners)  # by clip: how many units are here
        self.centre_ = units.mean(axis=0)  # products of centred rows are smaller, and so is their rounding
        self.floor_ = 0.0
        if density is None:
            return
        rows = np.arange(len(units))
        if density.mode == "ratio":
            self.neighbours_, self.barred_ = self._others(rows, most_left_out=int(self.held_.max()))
            self.distances_ = self._measured(units, self.neighbours_)
            self.scale_ = self._floored(self._density(rows, None))
            # the unit of squared distances: D is one for "cosine", the root of one otherwise
            weight = (self.scale_ ** (-1 if metric == "cosine" else -2)).astype(np.float32)[:, None]
            y = units - self.centre_
            squares = np.einsum("md,md->m", y, y)[:, None]
            # w‖x − y‖² = w(‖x‖² − 2⟨x, y⟩ + ‖y‖²) is smallest where ⟨[x, 1, ‖x‖²], w[2y, −‖y‖², −1]⟩ is largest
            self.weighted_ = np.hstack([2 * y, -squares, -np.ones_like(squares)])
            self.weighted_ *= weight
        else:
            some = rows if len(rows) <= SAMPLE else np.random.default_rng(0).choice(rows, SAMPLE, replace=False)
            self._floored(self._density(some, None))

    def match(self, x: np.ndarray, left_out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores (Q,) of units x (Q, D), and the row (Q,) each was compared with.

        `left_out` (Q,) is the clip to leave out. Infinite where no other clip is left to compare with.
        """
        if self.density is not None and self.density.mode == "ratio":
            return self._smallest_ratio(x, left_out)
        candidates, barred = self._nearest(x, 1, left_out)
        distance = np.where(barred, np.inf, self._measured(x, candidates))
        best = distance.argmin(axis=1)[:, None]
        row = np.take_along_axis(candidates, best, axis=1)[:, 0]
        distance = np.take_along_axis(distance, best, axis=1)[:, 0]
        if self.density is None:
            return distance, row
        return self._divided(distance, self._density(row, left_out), left_out is not None), row

    def _smallest_ratio(self, x: np.ndarray, left_out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        y = x - self.centre_
        query = np.hstack([y, np.ones((len(x), 1), dtype=np.float32), np.einsum("qd,qd->q", y, y)[:, None]])
        most = self._most(left_out)
        wanted = min(1 + SPARE + most, len(self.units))
        candidates = faiss.knn(query, self.weighted_, wanted, faiss.METRIC_INNER_PRODUCT)[1]
        if left_out is not None:
            # without a clip, the densities of units near it change: these have to be looked at one by one
            near = self._near(left_out)
            candidates = np.hstack([candidates, np.where(near < 0, candidates[:, :1], near)])
        ratio = np.empty(candidates.shape)
        distance = self._measured(x, candidates)
        for column, rows in enumerate(candidates.T):
            ratio[:, column] = self._divided(distance[:, column], self._density(rows, left_out), left_out is not None)
        if left_out is not None:
            ratio[self.owners[candidates] == left_out[:, None]] = np.inf
        best = ratio.argmin(axis=1)[:, None]
        return np.take_along_axis(ratio, best, axis=1)[:, 0], np.take_along_axis(candidates, best, axis=1)[:, 0]

    def _near(self, clips: np.ndarray) -> np.ndarray:
        """(Q, W) rows whose density counts a unit of clip (Q,), −1 where there are fewer."""
        assert self.density is not None
        counted = self.neighbours_[:, : self.density.k]
        by_clip = {}
        for clip in np.unique(clips):
            by_clip[clip] = np.flatnonzero((self.owners[counted] == clip).any(axis=1))
        near = np.full((len(clips), max(map(len, by_clip.values()))), -1)
        for i, clip in enumerate(clips):
            near[i, : len(by_clip[clip])] = by_clip[clip]
        return near

    def _most(self, left_out: np.ndarray | None) -> int:
        """The most units that one of these clips has here."""
        if left_out is None:
            return 0
        return int(self.held_[left_out[left_out < len(self.held_)]].max(initial=0))

    def _divided(self, distance: np.ndarray, density: np.ndarray, is_left_out: bool) -> np.ndarray:
        """Distances over densities (NaN: no other clip to measure one by). Units of a lone clip are compared as they
        are; but where leaving a clip out leaves a lone one, there is no score."""
        unknown = np.isnan(density)
        scale = np.where(unknown, 1.0, np.maximum(density, self.floor_))
        return np.where(unknown & is_left_out, np.inf, distance / scale)

    def _density(self, rows: np.ndarray, left_out: np.ndarray | None) -> np.ndarray:
        """(R,) ρ of memory rows, without the clips `left_out` (R,) if these are given; NaN where no clip is left."""
        assert self.density is not None
        if self.density.mode == "ratio":
            index, barred, distance = self.neighbours_[rows], self.barred_[rows], self.distances_[rows]
        else:
            unique, back = np.unique(rows, return_inverse=True)
            most = self._most(left_out)
            index, barred = (part[back] for part in self._others(unique, most))
            distance = None
        if left_out is not None:
            barred = barred | (self.owners[index] == left_out[:, None])
        first = np.argsort(barred, axis=1, kind="stable")[:, : self.density.k]  # nearest first stays
        barred = np.take_along_axis(barred, first, axis=1)
        if distance is None:
            distance = self._measured(self.units[rows], np.take_along_axis(index, first, axis=1))
        else:
            distance = np.take_along_axis(distance, first, axis=1)
        total, count = np.where(barred, 0.0, distance).sum(axis=1), (~barred).sum(axis=1)
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return mean if self.density.scale == "mean" else mean * count

    def _floored(self, density: np.ndarray) -> np.ndarray:
        """Learn the floor from densities, and apply it: copies of a unit (ρ = 0) must not divide by zero."""
        known = density[density > 0]
        self.floor_ = FLOOR * float(np.median(known)) if len(known) else 1.0
        return np.where(np.isnan(density), 1.0, np.maximum(density, self.floor_))

    def _others(self, rows: np.ndarray, most_left_out: int) -> tuple[np.ndarray, np.ndarray]:
        """(R, L) the nearest rows of each memory row, nearest first, and which of these are of its own clip; enough of
        them for a density even if a clip with `most_left_out` units is left out."""
        assert self.density is not None
        wanted = self.density.k + int(self.held_[self.owners[rows]].max()) + most_left_out + SPARE
        index = self._search(self.units[rows], wanted)
        barred = self.owners[index] == self.owners[rows][:, None]
        if self.density.mode == "ratio":
            order = np.argsort(barred, axis=1, kind="stable")
            index, barred = (np.take_along_axis(part, order, axis=1) for part in (index, barred))
        return index, barred

    def _nearest(self, x: np.ndarray, k: int, left_out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(Q, k + SPARE) nearest rows that are not of the clips left out, and which of them are all the same."""
        most = self._most(left_out)
        index = self._search(x, k + SPARE + most)
        if left_out is None:
            return index, np.zeros(index.shape, dtype=bool)
        barred = self.owners[index] == left_out[:, None]
        first = np.argsort(barred, axis=1, kind="stable")[:, : k + SPARE]
        return np.take_along_axis(index, first, axis=1), np.take_along_axis(barred, first, axis=1)

    def _search(self, x: np.ndarray, k: int) -> np.ndarray:
        """(Q, k) rows nearest to x (Q, D), nearest first. Units are centred anew every time: that costs little beside
        the product, a second copy of every memory would be most of the scorer's size."""
        return faiss.knn(x - self.centre_, self.units - self.centre_, min(k, len(self.units)))[1]

    def _measured(self, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(Q, L) distances of x (Q, D) to rows `index` (Q, L), in double precision."""
        return pair_distances(x, self.units, index, self.metric)
