"""Weighted mean of streams."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np

from asd_core.fusion.base import Fusion
from asd_core.types import AsdError


class Weighted(Fusion):
    """Σ w_b N_b(s_b) with weights that sum to 1.

    Args:
        weights: one per branch, none negative; default: equal.
        normalise: "none" as they are; "ztrain" (s − mean) / deviation of the training-normal scores.
    """

    name = "weighted"

    def __init__(self, weights: list[float] | None = None, normalise: Literal["none", "ztrain"] = "none") -> None:
        if weights is not None and (min(weights) < 0 or sum(weights) <= 0):
            raise ValueError(f"weights must not be negative and not all zero, got {weights}")
        self.weights, self.normalise = weights, normalise

    def fit(self, training: np.ndarray) -> Self:
        streams = training.shape[1]
        weights = np.ones(streams) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        if len(weights) != streams:
            raise AsdError(
                f"fusion: {len(weights)} weights for {streams} branches. Give one weight per branch, or none."
            )
        self.weights_ = weights / weights.sum()
        self.mean_, self.deviation_ = np.zeros(streams), np.ones(streams)
        if self.normalise == "ztrain":
            self.mean_ = training.mean(axis=0)
            deviation = training.std(axis=0)
            varies = deviation > 1e-9 * np.abs(training).max(axis=0)  # equal scores deviate by rounding only
            self.deviation_ = np.where(varies, deviation, 1.0)
        return self

    def fuse(self, scores: np.ndarray) -> np.ndarray:
        return ((scores - self.mean_) / self.deviation_) @ self.weights_
