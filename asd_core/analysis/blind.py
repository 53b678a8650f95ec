"""Can a person tell generated clips from recorded ones?"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class BlindResult:
    """Of answers given without knowing."""

    answered: int
    correct: int
    low: float  # exact 95 % interval of the share that is answered correctly; guessing has 0.5
    high: float
    conditions: pd.DataFrame  # condition, shown (generated clips), taken (for recorded ones), mistaken (recordings)
    again: int = 0  # later answers about the same clips, which do not count: they are no independent ones

    @property
    def accuracy(self) -> float:
        return self.correct / self.answered if self.answered else float("nan")

    @property
    def is_above_chance(self) -> bool:
        return self.low > 0.5


def blind_result(answers: pd.DataFrame, given: int | None = None) -> BlindResult:
    """What answers with the columns condition, truth and answer ("recorded" or "generated") say, the conditions whose
    generated clips were taken for recordings most often first.

    Args:
        answers: one per clip; answers about one clip are not independent, and the interval would be too narrow
        given: answers there were before that, if more
    """
    right = answers["truth"] == answers["answer"]
    generated = answers["truth"] == "generated"
    counts = (
        pd.DataFrame(
            {
                "condition": answers["condition"],
                "shown": generated,
                "taken": generated & ~right,
                "recorded": ~generated,
                "mistaken": ~generated & ~right,
            }
        )
        .groupby("condition", as_index=False)
        .sum()
    )
    order = (counts["taken"] / counts["shown"].clip(lower=1)).rename("share")
    counts = counts.loc[order.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
    low, high = binomial_interval(int(right.sum()), len(answers))
    again = 0 if given is None else given - len(answers)
    return BlindResult(len(answers), int(right.sum()), low, high, counts, again)


def binomial_interval(correct: int, answered: int, level: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper–Pearson) interval of a share, from 0 to 1 where nothing was answered."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = betaincinv(correct, answered - correct + 1, tail) if correct else 0.0
    high = betaincinv(correct + 1, answered - correct, 1 - tail) if correct < answered else 1.0
    return float(low), float(high)
