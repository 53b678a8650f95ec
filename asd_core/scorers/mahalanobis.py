"""Distance to the nearer domain mean, in units of the normal clips' own scatter."""

from __future__ import annotations

import numpy as np
from sklearn.covariance import LedoitWolf

from asd_core.scorers.base import Scorer, held_out_scores
from asd_core.types import EmbeddingSet


class Mahalanobis(Scorer):
    """min over domains d of √((x − μ_d)ᵀ Σ⁻¹ (x − μ_d)); training clips are scored by 5-fold cross-fitting.

    Σ is one Ledoit–Wolf shrunk covariance of the embeddings centred per domain: ten target clips cannot carry
    a covariance of their own.

    Args:
        standardise: scale every dimension by its within-domain deviation first; shrinkage pulls towards a
            sphere, so this decides what a sphere is.
    """

    name = "mahalanobis"
    takes_generated = True

    def __init__(self, standardise: bool = False) -> None:
        self.standardise = standardise

    def _fit(self, train: EmbeddingSet) -> None:
        x = train.x.astype(np.float64)
        domains = np.unique(train.domains)
        means = {domain: x[train.domains == domain].mean(axis=0) for domain in domains}
        centred = x - np.stack([means[domain] for domain in train.domains])
        if self.generated_ is not None:  # they tell where a domain lies, not how far its clips scatter
            more = self.generated_
            every, domain_of = np.concatenate([x, more.x]), np.concatenate([train.domains, more.domains])
            domains = np.unique(domain_of)
            means = {domain: every[domain_of == domain].mean(axis=0) for domain in domains}
        deviation = centred.std(axis=0) if self.standardise else np.ones(x.shape[1])
        self.scale_ = 1 / np.where(deviation > 0, deviation, 1.0)
        self.means_ = np.stack([means[domain] * self.scale_ for domain in domains])  # (domains, D)
        self.cholesky_ = np.linalg.cholesky(_covariance(centred * self.scale_))

    def _judge(self, test: EmbeddingSet) -> tuple[np.ndarray, None]:
        difference = test.x.astype(np.float64)[None] * self.scale_ - self.means_[:, None]  # (domains, N, D)
        whitened = np.linalg.solve(self.cholesky_, difference.transpose(0, 2, 1))
        return np.sqrt(np.square(whitened).sum(axis=1)).min(axis=0), None

    def _training_scores(self) -> np.ndarray:
        return held_out_scores(Mahalanobis(self.standardise), self.train_, self.generated_)


def _covariance(centred: np.ndarray) -> np.ndarray:
    """Ledoit–Wolf covariance (D, D), always invertible; the unit matrix where nothing varies."""
    dimensions = centred.shape[1]
    if not centred.any():
        return np.eye(dimensions)
    covariance = LedoitWolf(assume_centered=True).fit(centred).covariance_
    # constant dimensions would make it singular; the ridge is far below the scatter of the others
    return covariance + 1e-6 * np.trace(covariance) / dimensions * np.eye(dimensions)
