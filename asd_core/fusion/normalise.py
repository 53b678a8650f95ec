"""Bringing streams of scores of different units to one scale.

A rule is fitted to training-normal scores (N, S) and applied to scores (M, S), stream by stream. Higher stays more
anomalous. A transductive rule places each clip among the clips it is given, and ignores the training scores.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np

Normalise = Literal["none", "ztrain", "ecdf", "rank_test"]


class Unchanged:
    """Scores as they are."""

    transductive = False

    def fit(self, training: np.ndarray) -> Self:
        return self

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return scores


class ZTrain(Unchanged):
    """(s − mean) / deviation of the training scores; a constant stream is only shifted."""

    def fit(self, training: np.ndarray) -> Self:
        self.mean_, deviation = training.mean(axis=0), training.std(axis=0)
        self.deviation_ = np.where(_varies(training, deviation), deviation, 1.0)
        return self

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return (scores - self.mean_) / self.deviation_


class Ecdf(Unchanged):
    """Share of the training scores that are at most s, interpolated linearly between them.

    Outside their range it goes on in a straight line that rises by 1 per range: 1 + (s − max)/(max − min) above,
    1/n + (s − min)/(max − min) below. So it is strictly increasing, tells strong anomalies apart, and does not depend
    on where a score's zero lies: log-likelihoods are often negative. (For scores that begin at 0 it is s/max above.)
    """

    def fit(self, training: np.ndarray) -> Self:
        self.curves_ = []  # one per stream: (values, shares), both increasing
        for stream in training.T:
            values, counts = np.unique(stream, return_counts=True)
            self.curves_.append((values, counts.cumsum() / len(stream)))
        most = np.abs(training).max(axis=0)
        span = np.ptp(training, axis=0)
        self.span_ = np.where(_varies(training, span), span, np.where(most > 0, most, 1.0))
        return self

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        shares = np.empty(scores.shape)
        for i, ((values, share), span) in enumerate(zip(self.curves_, self.span_, strict=True)):
            beyond = scores[:, i] - np.clip(scores[:, i], values[0], values[-1])
            shares[:, i] = np.interp(scores[:, i], values, share) + beyond / span
        return shares


class RankTest(Unchanged):
    """Average rank among the clips given, 0 for the lowest and 1 for the highest; a lone clip gets ½, as a tie would.
    (Fusion of the UNIS team's submissions.)"""

    transductive = True

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        ranks = np.full(scores.shape, 0.5)
        for i in range(scores.shape[1] if len(scores) > 1 else 0):
            _, place, counts = np.unique(scores[:, i], return_inverse=True, return_counts=True)
            ranks[:, i] = (counts.cumsum() - (counts + 1) / 2)[place] / (len(scores) - 1)
        return ranks


NORMALISATIONS: dict[Normalise, type[Unchanged]] = {
    "none": Unchanged,
    "ztrain": ZTrain,
    "ecdf": Ecdf,
    "rank_test": RankTest,
}


def _varies(training: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(S,) bool: equal scores deviate by rounding only."""
    return spread > 1e-9 * np.abs(training).max(axis=0)
