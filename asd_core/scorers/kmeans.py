"""Distance to the nearest of a few cluster centres of the normal clips."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from sklearn import cluster
from sklearn.exceptions import ConvergenceWarning

from asd_core.scorers.base import Scorer, held_out_scores, is_target, on_sphere
from asd_core.types import EmbeddingSet


class KMeans(Scorer):
    """Distance to the nearest k-means centre; training clips are scored by 5-fold cross-fitting.

    Args:
        clusters: centres; fewer when there are fewer than 20 clips for each.
        metric: "cosine" 1 − ⟨x̂, ĉ⟩; "euclidean" ‖x − c‖.
        normalise: bring embeddings to length 1 before they are clustered.
        target_clips: cluster the source clips only and make every target clip a centre (dcase-asd-toolkit);
            otherwise both domains are clustered together (code of the UNIS team).
        seed: of the first centres.
    """

    name = "kmeans"

    def __init__(
        self,
        clusters: int = 10,
        metric: Literal["cosine", "euclidean"] = "cosine",
        normalise: bool = False,
        target_clips: bool = False,
        seed: int = 0,
    ) -> None:
        if clusters < 1:
            raise ValueError(f"clusters must be at least 1, got {clusters}")
        self.clusters, self.metric, self.normalise = clusters, metric, normalise
        self.target_clips, self.seed = target_clips, seed

    def _fit(self, train: EmbeddingSet) -> None:
        x = self._prepared(train.x)
        target = is_target(train) & self.target_clips
        self.centres_ = np.concatenate([self._clustered(x[~target]), x[target]])  # (M, D)

    def _clustered(self, x: np.ndarray) -> np.ndarray:
        if not len(x):
            return x
        clusters = max(1, min(self.clusters, len(x) // 20))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer different clips than clusters
            return cluster.KMeans(clusters, random_state=self.seed).fit(x).cluster_centers_

    def _judge(self, test: EmbeddingSet) -> tuple[np.ndarray, None]:
        x, centres = self._prepared(test.x).astype(np.float64), self.centres_.astype(np.float64)
        if self.metric == "cosine":
            return 1 - (on_sphere(x) @ on_sphere(centres).T).max(axis=1), None
        squared = np.square(x).sum(axis=1)[:, None] + np.square(centres).sum(axis=1) - 2 * x @ centres.T
        return np.sqrt(np.maximum(squared, 0)).min(axis=1), None

    def _training_scores(self) -> np.ndarray:
        again = KMeans(self.clusters, self.metric, self.normalise, self.target_clips, self.seed)
        return held_out_scores(again, self.train_)

    def _prepared(self, x: np.ndarray) -> np.ndarray:
        return on_sphere(x) if self.normalise else x
