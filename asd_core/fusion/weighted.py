"""Weighted mean of streams."""

from __future__ import annotations

from typing import Self

import numpy as np

from asd_core.fusion.base import Fusion
from asd_core.fusion.normalise import NORMALISATIONS, Normalise
from asd_core.types import AsdError


class Weighted(Fusion):
    """Σ w_b N_b(s_b) with weights that sum to 1.

    Args:
        weights: one per branch, none negative; default: equal.
        normalise: "none" as they are; "ztrain" (s − mean) / deviation of the training-normal scores; "ecdf" the share
            of training-normal scores that are lower; "rank_test" the rank in the test set (transductive).
    """

    name = "weighted"

    def __init__(self, weights: list[float] | None = None, normalise: Normalise = "none") -> None:
        if weights is not None and (min(weights) < 0 or sum(weights) <= 0):
            raise ValueError(f"weights must not be negative and not all zero, got {weights}")
        self.weights, self.normalise = weights, normalise
        self.transductive = NORMALISATIONS[normalise].transductive

    def fit(self, training: np.ndarray) -> Self:
        streams = training.shape[1]
        weights = np.ones(streams) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        if len(weights) != streams:
            raise AsdError(
                f"fusion: {len(weights)} weights for {streams} branches. Give one weight per branch, or none."
            )
        self.weights_ = weights / weights.sum()
        self.normalise_ = NORMALISATIONS[self.normalise]().fit(training)
        return self

    def fuse(self, scores: np.ndarray) -> np.ndarray:
        return self.normalise_(scores) @ self.weights_
