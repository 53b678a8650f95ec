"""Matching of frequency bands: every band of a clip finds its own nearest normal clip, and all bands weigh the same.

Sub-band spectral matching after Saengthong and Shinozaki (BEAM and AdaBEAM, arXiv 2603.13749), with the attentive view
and the local density of the report of WISTLAB. The paper's rule that joins the views is not public in full: the one
used here, `dynamic`, is our reading.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from asd_core.scorers.banks import Bank, Metric
from asd_core.scorers.base import Scorer, is_target, on_sphere, whole_clip
from asd_core.scorers.density import Density, DensityBank
from asd_core.types import AsdError, EmbeddingSet, Evidence

VIEWS = ("mean", "max", "attention")  # order of the summaries over time in "bands"
ViewName = Literal["mean", "max", "attention"]


class Subband(Scorer):
    """Mean over frequency bands of the distance to the nearest normal clip in that band.

    Takes (N, V, F, D) summaries over time of F bands. Training clips are scored leave-one-out.

    Args:
        views: summaries that are matched, each in memories of its own. Of several, each one's distances are divided by
            the median leave-one-out distance of the training clips, and `combine` makes one number of them.
        match: "independent" bands, or "joint": one nearest clip for all bands, found by their mean distance.
        combine: "dynamic" Σq²/Σq, a mean in which what is large weighs more; "mean"; "max".
        level: views are combined in each "band", or as scores of the "clip".
        metric: distance of two bands, see `knn`.
        domains: "pooled" one memory; "min" the smaller of the distances to source and target clips.
        density, density_k, density_k_target, density_scale: divide distances by the local density, see `knn`.
    """

    name = "subband"
    gives_evidence = True
    takes = "bands"

    def __init__(
        self,
        views: list[ViewName] = ("mean",),  # type: ignore[assignment]
        match: Literal["independent", "joint"] = "independent",
        combine: Literal["dynamic", "mean", "max"] = "dynamic",
        level: Literal["band", "clip"] = "band",
        metric: Metric = "cosine",
        domains: Literal["pooled", "min"] = "pooled",
        density: Literal["matched", "ratio"] | None = None,
        density_k: int = 4,
        density_k_target: int | None = None,
        density_scale: Literal["mean", "sum"] = "mean",
    ) -> None:
        if not views or len(set(views)) < len(views):
            raise ValueError(f"views must name different ones of {', '.join(VIEWS)}, got {list(views)}")
        if density_k < 1 or (density_k_target is not None and density_k_target < 1):
            raise ValueError(f"density_k and density_k_target must be at least 1, got {density_k}, {density_k_target}")
        self.views, self.match, self.combine, self.level = list(views), match, combine, level
        self.metric, self.domains = metric, domains
        self.density, self.density_k, self.density_scale = density, density_k, density_scale
        self.density_k_target = density_k if density_k_target is None else density_k_target

    def expect(self, shape: tuple[int, ...]) -> None:
        lacking = [view for view in self.views if VIEWS.index(view) >= shape[0]]
        if lacking:
            raise AsdError(
                f'Scorer subband is to match the view "{lacking[0]}", which only a network with pooling "asp" gives. '
                f"Choose that pooling, or take the view out."
            )

    def _fit(self, train: EmbeddingSet) -> None:
        self.expect(train.x.shape[1:])
        target = is_target(train)
        groups = [(~target, self.density_k), (target, self.density_k_target)]
        alone = self.density is not None and min(target.sum(), (~target).sum()) == 1  # it has no density of its own
        if self.domains == "pooled" or alone:
            groups = [(np.ones(len(target), dtype=bool), self.density_k)]
        groups = [(rows, k) for rows, k in groups if rows.any()]
        self.banks_ = [
            [[self._bank(x, rows, k) for rows, k in groups] for x in self._vectors(train.x, view)]
            for view in self.views
        ]
        own = [[np.min([b.leave_one_out() for b in banks], axis=0) for banks in bands] for bands in self.banks_]
        distances = np.array(own)
        # of a single clip nothing is left to be compared with
        self.own_ = np.where(np.isfinite(distances), distances, 0.0)  # (V, F, N)
        self.medians_ = self._unit(self.own_) if len(self.views) > 1 else np.ones((1, 1, 1))

    def _bank(self, x: np.ndarray, rows: np.ndarray, density_k: int) -> Bank:
        if self.density is None:
            return Bank(x, rows, 1, self.metric)
        return DensityBank(x, rows, 1, self.metric, Density(self.density, density_k, self.density_scale))

    def _unit(self, distances: np.ndarray) -> np.ndarray:
        """(V, F, 1) or (V, 1, 1): what is a usual distance of training clips."""
        usual = distances if self.level == "band" else distances.mean(axis=1, keepdims=True)
        medians = np.median(usual, axis=2, keepdims=True)
        return np.where(medians > 0, medians, 1.0)

    def _judge(self, test: EmbeddingSet) -> tuple[np.ndarray, Evidence]:
        self.expect(test.x.shape[1:])
        found = [self._nearest(test.x, view) for view in range(len(self.views))]
        distances, matched = map(np.array, zip(*found, strict=True))
        local, weight = self._combined(distances)
        nearest = np.take_along_axis(matched, weight.argmax(axis=0)[None], axis=0)[0]  # of the view that counts most
        edges = test.grid.edges if test.grid is not None and self.match == "independent" else None
        evidence = whole_clip(local.T, nearest.T, *([] if edges is None else [edges]))
        return local.mean(axis=0), evidence

    def _nearest(self, x: np.ndarray, view: int) -> tuple[np.ndarray, np.ndarray]:
        """(F, N) distances of a view's bands, and the training clips they are to."""
        distances, matched = [], []
        for banks, band in zip(self.banks_[view], self._vectors(x, self.views[view]), strict=True):
            found = [bank.match(band) for bank in banks]
            per_bank = np.stack([distance[:, 0] for distance, _ in found])
            clips = np.stack([np.flatnonzero(b.rows)[index[:, 0]] for b, (_, index) in zip(banks, found, strict=True)])
            nearer = per_bank.argmin(axis=0)[None]
            distances.append(np.take_along_axis(per_bank, nearer, axis=0)[0])
            matched.append(np.take_along_axis(clips, nearer, axis=0)[0])
        return np.array(distances), np.array(matched)

    def _combined(self, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(V, F, N) distances → (F, N) whose mean over bands is the score, and how much each view counts (V, F, N)."""
        q = distances / self.medians_
        deciding = q if self.level == "band" else np.broadcast_to(q.mean(axis=1, keepdims=True), q.shape)
        weight = dynamic(deciding)
        if self.combine == "mean":
            weight = np.full(q.shape, 1 / len(q))
        elif self.combine == "max":
            weight = (np.arange(len(q))[:, None, None] == deciding.argmax(axis=0)).astype(float)
        return (weight * q).sum(axis=0), weight * q

    def _training_scores(self) -> np.ndarray:
        return self._combined(self.own_)[0].mean(axis=0)

    def _vectors(self, x: np.ndarray, view: ViewName) -> list[np.ndarray]:
        """What is matched of a view: (N, D) rows of every band, or one (N, F · D) for all of them."""
        x = x[:, VIEWS.index(view)].astype(np.float32)  # (N, F, D)
        if self.metric != "euclidean":
            x = x / np.maximum(np.linalg.norm(x, axis=2, keepdims=True), 1e-12)
        if self.match == "independent":
            return list(np.ascontiguousarray(x.swapaxes(0, 1)))
        flat = x.reshape(len(x), -1)
        return [flat if self.metric == "euclidean" else on_sphere(flat)]


def dynamic(q: np.ndarray) -> np.ndarray:
    """(V, …) → weights of the same shape, q/Σq: what is large counts more. Σ weight · q lies between mean and maximum."""
    total = q.sum(axis=0, keepdims=True)
    return np.where(total > 0, q / np.where(total > 0, total, 1.0), 1 / len(q))
