"""How unlikely a clip is under a mixture of Gaussians fitted to the normal ones."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from asd_core.scorers.base import Scorer, held_out_scores, on_sphere
from asd_core.types import EmbeddingSet


class GMM(Scorer):
    """−ln p(x) under a mixture of diagonal Gaussians of both domains' clips; training clips are scored by 5-fold
    cross-fitting.

    Args:
        components: Gaussians; fewer when there are fewer than 20 clips for each.
        normalise: bring embeddings to length 1 first.
        reg: added to every variance, in squared units of the embedding.
        seed: of the k-means that the fit begins with.
    """

    name = "gmm"

    def __init__(self, components: int = 4, normalise: bool = True, reg: float = 1e-4, seed: int = 0) -> None:
        if components < 1 or reg <= 0:
            raise ValueError(f"components must be at least 1 and reg above 0, got {components}, {reg}")
        self.components, self.normalise, self.reg, self.seed = components, normalise, reg, seed

    def _fit(self, train: EmbeddingSet) -> None:
        x = self._prepared(train.x)
        components = max(1, min(self.components, len(x) // 20))
        self.mixture_ = GaussianMixture(components, covariance_type="diag", reg_covar=self.reg, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer different clips than components
            self.mixture_.fit(x if len(x) > 1 else x.repeat(2, axis=0))  # the library refuses a single row

    def _judge(self, test: EmbeddingSet) -> tuple[np.ndarray, None]:
        return -self.mixture_.score_samples(self._prepared(test.x)), None

    def _training_scores(self) -> np.ndarray:
        return held_out_scores(GMM(self.components, self.normalise, self.reg, self.seed), self.train_)

    def _prepared(self, x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        return on_sphere(x) if self.normalise else x
