"""Scores that a network has already computed: the reconstruction error of an autoencoder."""

from __future__ import annotations

import numpy as np

from asd_core.scorers.base import Scorer
from asd_core.types import EmbeddingSet


class Reconstruction(Scorer):
    """The smallest column of the network's output (N, columns): one error per domain, or a single one.

    Training clips keep their error, although the network saw them: an autoencoder has no held-out clips
    (the official split is over frames of the same clips), so these scores are optimistic.
    """

    name = "reconstruction"

    def _fit(self, train: EmbeddingSet) -> None:
        pass  # all learning happened in the network

    def _judge(self, test: EmbeddingSet) -> tuple[np.ndarray, None]:
        return test.x.min(axis=1), None

    def _training_scores(self) -> np.ndarray:
        return self._judge(self.train_)[0]
