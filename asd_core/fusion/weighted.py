"""Weighted mean of streams."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np

from asd_core.fusion.base import Fusion
from asd_core.fusion.normalise import NORMALISATIONS, Normalise
from asd_core.types import AsdError

Search = Literal["auto", "grid", "greedy", "simplex"]
TUNED: Literal["tuned"] = "tuned"


class Weighted(Fusion):
    """Σ w_b N_b(s_b) with weights that sum to 1.

    Args:
        weights: one per branch, none negative; default: equal. "tuned": the run finds them on its labelled machines,
            the same for all machines, and says what they are worth elsewhere.
        normalise: "none" as they are; "ztrain" (s − mean) / deviation of the training-normal scores; "ecdf" the share
            of training-normal scores that are lower; "rank_test" the rank in the test set (transductive).
        search: how weights are tuned, see `tuning.tune`.
        tuned_on: a sentence that stands with every result, for weights that were tuned on known labels.
    """

    name = "weighted"

    def __init__(
        self,
        weights: list[float] | Literal["tuned"] | None = None,
        normalise: Normalise = "none",
        search: Search = "auto",
        tuned_on: str = "",
    ) -> None:
        if isinstance(weights, str):
            if weights != TUNED:
                raise ValueError(f'weights are numbers, one per branch, or "{TUNED}", got "{weights}"')
            if tuned_on:
                raise ValueError(f'tuned_on tells where numbers come from; with weights "{TUNED}" the run says it')
        elif weights is not None and (min(weights, default=0) < 0 or sum(weights) <= 0):
            raise ValueError(f"weights must not be negative and not all zero, got {weights}")
        self.weights, self.normalise, self.search, self.tuned_on = weights, normalise, search, tuned_on
        self.transductive = NORMALISATIONS[normalise].transductive

    def fit(self, training: np.ndarray) -> Self:
        if self.weights == TUNED:
            raise AsdError(
                "fusion: these weights are yet to be tuned, which takes test clips of labelled machines. `run` does it "
                "for a system, `tune` for the scores of finished runs; or give one number per branch."
            )
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
