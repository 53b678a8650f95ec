"""Where normal ends: thresholds learnt from the scores of normal training clips, never from labels.

A rule is fitted to the scores that normal clips get when they are held out (leave-one-out or k-fold); a clip is
called anomalous when its score lies strictly above the threshold. One threshold serves both domains of a machine.
A transductive rule is fitted to the (unlabelled) scores of the test clips instead.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

import numpy as np

from asd_core.registry import Registry
from asd_core.types import AsdError


class Decision(ABC):
    """A rule that turns scores into verdicts; see `percentile` for the simplest one.

    A subclass gives a ``name`` and `_threshold`; what it learnt is in `threshold_`, and `notice_` holds a sentence
    when something about it should be known ("" otherwise).
    """

    name: ClassVar[str]
    transductive: ClassVar[bool] = False  # True: the rule learns from the scores of the whole test set
    threshold_: float
    notice_: str = ""

    def fit(self, training: np.ndarray, batch: np.ndarray | None = None, test: np.ndarray | None = None) -> Self:
        """Learn the threshold.

        Args:
            training: (N,) held-out scores of normal training clips
            batch: (M,) mean scores of training mini-batches, for rules that imitate the official code
            test: (K,) scores of the whole test set, for transductive rules; the others do not look at it

        Raises:
            AsdError: there are no scores, or some are not finite; a transductive rule got no test scores.
        """
        self.notice_ = ""
        checked = _finite(training, "training scores")
        if self.transductive:
            if test is None:
                raise AsdError(
                    f"The rule {self.name} needs the scores of the whole test set, so it cannot judge clips one by "
                    f"one. Use the rule percentile, which learns from training clips."
                )
            checked = _finite(test, "test scores")
        self.threshold_ = self._threshold(checked, None if batch is None else _finite(batch, "mini-batch scores"))
        return self

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """(N,) scores → (N,) bool, True for clips called anomalous."""
        return np.asarray(scores, dtype=np.float64) > self.threshold_

    @abstractmethod
    def _threshold(self, training: np.ndarray, batch: np.ndarray | None) -> float:
        """The threshold for checked scores, (N,) and (M,) float64. A transductive rule gets test scores for `training`."""


class Percentile(Decision):
    """The q-quantile of the training scores: a share of 1 − q of the normal training clips lies above it."""

    name = "percentile"

    def __init__(self, q: float = 0.9) -> None:
        self.q = _quantile(q)

    def _threshold(self, training: np.ndarray, batch: np.ndarray | None) -> float:
        return float(np.quantile(training, self.q))


class TransductivePercentile(Percentile):
    """The q-quantile of the test scores: the share 1 − q of the test clips is flagged, whatever they are.
    (Submissions of the UNIS team, q = 0.9.)"""

    name = "test_percentile"
    transductive = True


class Gamma(Decision):
    """The q-quantile of a gamma distribution fitted by maximum likelihood (shape, location and scale free).

    ``fit="clip"`` fits it to one score per training clip. ``fit="official_batch"`` fits it, as the official baseline
    does, to one value per training mini-batch; these scatter far less than clips, so its false-alarm rate can be
    anything between 0 and 1 (see `false_alarm_rate`). Where no gamma can be fitted the percentile stands in.
    """

    name = "gamma"

    def __init__(self, q: float = 0.9, fit: Literal["clip", "official_batch"] = "clip") -> None:
        if fit not in ("clip", "official_batch"):
            raise ValueError(f'fit must be "clip" or "official_batch", got {fit!r}')
        self.q, self.source = _quantile(q), fit
        self.parameters_: tuple[float, float, float] | None = None  # shape, location, scale

    def _threshold(self, training: np.ndarray, batch: np.ndarray | None) -> float:
        if self.source == "official_batch" and batch is None:
            raise AsdError(
                'The rule gamma with fit: "official_batch" needs the scores of training mini-batches, which only '
                'trained reconstruction scorers leave. Use fit: "clip" or the rule percentile.'
            )
        from scipy import stats  # here, because it takes most of a second and pages need only the rest of this module

        values = training if self.source == "clip" or batch is None else batch
        self.parameters_ = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of steps the optimiser then abandons
                shape, location, scale = map(float, stats.gamma.fit(values))
            threshold = float(stats.gamma.ppf(self.q, a=shape, loc=location, scale=scale))
        except stats.FitError as error:
            return self._stand_in(training, f"({error})")
        if not np.isfinite(threshold):
            return self._stand_in(training, "(its quantile is not finite)")
        self.parameters_ = (shape, location, scale)
        if _collapsed(values, shape, location):
            self.notice_ = (
                f"The gamma fit collapsed onto the smallest score (shape {shape:.2f} < 1); the threshold "
                f"{threshold:.6g} may lie far from the {self.q:g} quantile {np.quantile(values, self.q):.6g}."
            )
        return threshold

    def _stand_in(self, training: np.ndarray, why: str) -> float:
        self.notice_ = f"No gamma distribution fits these scores {why}; the plain {self.q:g} quantile is used instead."
        return float(np.quantile(training, self.q))


def false_alarm_rate(training_scores: np.ndarray, threshold: float) -> float:
    """Share of normal training clips that lie strictly above `threshold`: what it costs on known normals."""
    return float((_finite(training_scores, "training scores") > threshold).mean())


def _collapsed(values: np.ndarray, shape: float, location: float) -> bool:
    """Below shape 1 the likelihood grows without bound as the location nears the smallest value; the optimiser
    stops somewhere on that slope."""
    return shape < 1 and values.min() - location <= 1e-6 * np.ptp(values)


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    checked = np.asarray(values, dtype=np.float64).ravel()
    if not len(checked):
        raise AsdError(f"A threshold cannot be learnt: there are no {what}.")
    if bad := int((~np.isfinite(checked)).sum()):
        raise AsdError(f"A threshold cannot be learnt: {bad} of {len(checked)} {what} are NaN or infinite.")
    return checked


def _quantile(q: float) -> float:
    if not 0 < q < 1:
        raise ValueError(f"q must lie between 0 and 1 (0.9 = 10 % false alarms on training normals), got {q}")
    return float(q)


DECISIONS = Registry("decision", "asd_core.decision", Decision)
