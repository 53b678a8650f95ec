"""Fine-grained scoring: short stretches of single frequency bands are compared before anything is pooled.

A clip's patches become units, means of a few time steps of one band. Every unit finds its nearest normal unit of the
same band, at any time: recordings are not aligned. The clip's score sums up its units' scores, so a fault that is
short or narrow is not averaged away. The report of WISTLAB describes the idea; granularity, memory and aggregation are
our choice, after PatchCore (Roth et al., CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from asd_core.scorers.banks import Metric
from asd_core.scorers.base import Scorer, is_target, on_sphere
from asd_core.scorers.density import Density
from asd_core.scorers.units import UnitBank
from asd_core.types import SAMPLE_RATE, AsdError, EmbeddingSet, Evidence

PROJECTION = 64  # dimensions in which a greedy memory is chosen
BLOCK = 2**15  # units of a band in memory at a time; those of a block share the densities of what they match


class Localized(Scorer):
    """Aggregate of the distances of a clip's units to the nearest normal units; training clips are scored
    leave-one-out: all units of the clip are missing from memory and densities.

    Takes patches (N, T, F, D).

    Args:
        metric: distance of two units, see `knn`.
        window, stride: time steps of a unit, and from one unit to the next. The last unit may be cut short.
        aggregate: "selective" mean of the highest `share` of the units' scores, at least one; "broad" mean of all.
        memory: source units kept per band, None for all of them; target units are always kept.
        choice: which are kept: "random" ones, or the "greedy" ones, each as far as possible from those before
            (k-centre, in a random projection).
        domains: "pooled" one memory; "min" the smaller of the distances to source and target units.
        density: divide a distance by the local density of its match, see `knn`; neighbours are units of other clips.
            None: the distances themselves.
        density_k, density_k_target, density_scale: see `knn`.
        seed: of `choice`.
    """

    name = "localized"
    gives_evidence = True
    takes = "patches"
    version = 2

    def __init__(
        self,
        window: int = 4,
        stride: int = 2,
        metric: Metric = "cosine",
        aggregate: Literal["selective", "broad"] = "selective",
        share: float = 0.1,
        memory: int | None = 4096,
        choice: Literal["random", "greedy"] = "random",
        domains: Literal["pooled", "min"] = "pooled",
        density: Literal["matched", "ratio"] | None = "matched",
        density_k: int = 4,
        density_k_target: int | None = None,
        density_scale: Literal["mean", "sum"] = "mean",
        seed: int = 0,
    ) -> None:
        if not 1 <= stride <= window:
            raise ValueError(
                f"stride must lie between 1 and the window {window}, got {stride}: all time is to be heard"
            )
        if not 0 < share <= 1:
            raise ValueError(f"share must be a fraction of the units in (0, 1], got {share}")
        if memory is not None and memory < 1:
            raise ValueError(f"memory must be at least 1 unit, or null for all, got {memory}")
        if density_k < 1 or (density_k_target is not None and density_k_target < 1):
            raise ValueError(f"density_k and density_k_target must be at least 1, got {density_k}, {density_k_target}")
        self.window, self.stride, self.metric, self.aggregate, self.share = window, stride, metric, aggregate, share
        self.memory, self.choice, self.domains, self.seed = memory, choice, domains, seed
        self.density, self.density_k, self.density_scale = density, density_k, density_scale
        self.density_k_target = density_k if density_k_target is None else density_k_target

    def _fit(self, train: EmbeddingSet) -> None:
        target = is_target(train)
        split = self.domains == "min" and min(target.sum(), (~target).sum()) > 1  # one clip has no density of its own
        groups = (
            [(~target, self.density_k), (target, self.density_k_target)] if split else [(target | True, self.density_k)]
        )
        order = np.argsort(np.argsort(train.clip_ids))  # the choice does not depend on the order of the clips
        counts = self._counts(train)
        owner, place = self._numbered(train)
        kept = [self._kept(train, target, order, band) for band in range(train.x.shape[2])]
        memories = [[own[clips[owner[own]]] for clips, _ in groups] for own in kept]
        self.banks_ = []  # by band: the memories, and per memory which (clip, unit) a row is
        for band, units in zip(memories, self._remembered(train, memories), strict=True):
            banks = []
            for own, rows, (_, k) in zip(band, units, groups, strict=True):
                density = None if self.density is None else Density(self.density, k, self.density_scale)
                banks.append((UnitBank(rows, owner[own], density, self.metric), owner[own], place[own]))
            self.banks_.append(banks)
        self.units_ = int(counts.max())

    def _remembered(self, train: EmbeddingSet, memories: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """The units (K, D) of each band's memories, given by their numbers (K,), which ascend."""
        found = [[np.empty((len(own), train.x.shape[3]), dtype=np.float32) for own in band] for band in memories]
        first = 0
        for part in self._blocks(train):
            for band, (wanted, kept) in enumerate(zip(memories, found, strict=True)):
                rows, _, _ = self._units(part, band)
                for own, units in zip(wanted, kept, strict=True):
                    here = slice(*np.searchsorted(own, [first, first + len(rows)]))
                    units[here] = rows[own[here] - first]
            first += int(self._counts(part).sum())
        return found

    def _kept(self, train: EmbeddingSet, target: np.ndarray, order: np.ndarray, band: int) -> np.ndarray:
        """Numbers of the units that are remembered: all of the target domain and `memory` of the source."""
        owner, place = self._numbered(train)
        of_target = target[owner]
        source = np.flatnonzero(~of_target)
        if self.memory is not None and len(source) > self.memory:
            source = source[np.lexsort((place[source], order[owner[source]]))]
            random = np.random.default_rng([self.seed, band])
            if self.choice == "greedy":
                source = source[spread(self._projected(train, band, random)[source], self.memory)]
            else:
                source = source[random.choice(len(source), self.memory, replace=False)]
        return np.sort(np.concatenate([source, np.flatnonzero(of_target)]))

    def _projected(self, train: EmbeddingSet, band: int, random: np.random.Generator) -> np.ndarray:
        """All units of a band (R, D) in few dimensions, (R, PROJECTION), in which distances nearly stay."""
        dimensions = train.x.shape[3]
        blocks = (self._units(part, band)[0] for part in self._blocks(train))
        if dimensions <= PROJECTION:
            return np.concatenate(list(blocks))
        to = (random.standard_normal((dimensions, PROJECTION)) / math.sqrt(PROJECTION)).astype(np.float32)
        return np.concatenate([rows @ to for rows in blocks])

    def _judge(self, test: EmbeddingSet) -> tuple[np.ndarray, Evidence]:
        if test.x.shape[2:] != self.train_.x.shape[2:]:
            raise AsdError(f"Patches of shape {test.x.shape[2:]} cannot be compared with {self.train_.x.shape[2:]}.")
        values, clip, unit = self._maps(test, left_out=False)
        step, edges = (1.0, None) if test.grid is None else (test.grid.step, test.grid.edges)
        start = np.arange(values.shape[1]) * self.stride * step
        if edges is None:
            edges = tuple(np.linspace(0, SAMPLE_RATE / 2, values.shape[2] + 1))
        evidence = Evidence(values.astype(np.float32), clip, unit, start, start + self.window * step, np.array(edges))
        return self._aggregated(values), evidence

    def _training_scores(self) -> np.ndarray:
        return self._aggregated(self._maps(self.train_, left_out=True)[0])

    def _maps(self, clips: EmbeddingSet, left_out: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, U, F) scores of the units of clips (NaN where a clip has none), and which training clips' units these
        are distances to. `left_out`: each clip is compared with what the others left."""
        shape = (len(clips), int(self._counts(clips).max()), clips.x.shape[2])
        values = np.full(shape, np.nan)
        clip, unit = np.full(shape, -1, dtype=np.int32), np.zeros(shape, dtype=np.int32)
        first = 0
        for part in self._blocks(clips):
            for band, banks in enumerate(self.banks_):
                rows, owner, place = self._units(part, band)
                owner += first
                found = [bank.match(rows, owner if left_out else None) for bank, _, _ in banks]
                scores = np.stack([score for score, _ in found])
                nearer = scores.argmin(axis=0)
                best = np.take_along_axis(scores, nearer[None], axis=0)[0]
                best[~np.isfinite(best)] = 0.0  # an only clip has nothing to differ from
                values[owner, place, band] = best
                owners = np.stack([whose[index] for (_, whose, _), (_, index) in zip(banks, found, strict=True)])
                places = np.stack([where[index] for (_, _, where), (_, index) in zip(banks, found, strict=True)])
                clip[owner, place, band] = np.take_along_axis(owners, nearer[None], axis=0)[0]
                unit[owner, place, band] = np.take_along_axis(places, nearer[None], axis=0)[0]
            first += len(part)
        return values, clip, unit

    def _aggregated(self, values: np.ndarray) -> np.ndarray:
        """(N, U, F) → (N,)"""
        flat = values.reshape(len(values), -1)
        if self.aggregate == "broad":
            return np.nanmean(flat, axis=1)
        highest = -np.sort(-flat, axis=1)  # NaN come last
        units = (~np.isnan(flat)).sum(axis=1)
        taken = np.arange(flat.shape[1]) < np.ceil(self.share * units - 1e-9)[:, None]
        return np.where(taken, highest, 0.0).sum(axis=1) / taken.sum(axis=1)

    def _counts(self, clips: EmbeddingSet) -> np.ndarray:
        """(N,) units of each clip."""
        return 1 + np.ceil(np.maximum(self._steps(clips) - self.window, 0) / self.stride).astype(int)

    def _steps(self, clips: EmbeddingSet) -> np.ndarray:
        """(N,) time steps of each clip."""
        return np.full(len(clips), clips.x.shape[1]) if clips.steps is None else clips.steps

    def _blocks(self, clips: EmbeddingSet) -> Iterator[EmbeddingSet]:
        """The clips in parts with few enough units: patches of many clips are larger than the memory."""
        ends = np.cumsum(self._counts(clips))
        first = 0
        while first < len(clips):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
            yield clips[first:last]
            first = last

    def _numbered(self, clips: EmbeddingSet) -> tuple[np.ndarray, np.ndarray]:
        """(R,) whose each unit is, (R,) which of its units."""
        counts = self._counts(clips)
        return np.nonzero(np.arange(counts.max()) < counts[:, None])  # type: ignore[return-value]

    def _units(self, clips: EmbeddingSet, band: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Units of one band of all clips: (R, D) rows, (R,) whose they are, (R,) which of its units."""
        counts, steps = self._counts(clips), self._steps(clips)
        owner, place = self._numbered(clips)
        rows = np.zeros((len(owner), clips.x.shape[3]), dtype=np.float32)
        parts = np.split(rows, np.cumsum(counts)[:-1])
        for clip, (units, heard) in enumerate(zip(parts, steps, strict=True)):  # one by one they stay in the cache
            x = clips.x[clip, :heard, band].astype(np.float32)
            for first in range(self.window):
                stretch = x[first :: self.stride][: len(units)]
                units[: len(stretch)] += stretch
            if self.metric == "euclidean":  # the last unit may be cut short
                units /= np.minimum(heard - self.stride * np.arange(len(units)), self.window)[:, None]
            else:
                units[:] = on_sphere(units)
        return rows, owner, place


def spread(x: np.ndarray, count: int) -> np.ndarray:
    """Numbers of `count` rows (N, D), each the farthest from those chosen before it (greedy k-centre)."""
    squares = np.einsum("nd,nd->n", x, x)
    chosen = np.empty(count, dtype=int)
    chosen[0] = np.argmin(squares - 2 * x @ x.mean(axis=0))  # nearest to the mean
    distance = np.full(len(x), np.inf, dtype=np.float32)
    for i in range(1, count):
        last = x[chosen[i - 1]]
        np.minimum(distance, squares - 2 * (x @ last) + last @ last, out=distance)
        distance[chosen[i - 1]] = -np.inf
        chosen[i] = distance.argmax()
    return chosen
