"""A fusion of fusions: systems that each have a rule of their own, weighted by their final scores."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from asd_core.fusion.base import Fusion
from asd_core.fusion.normalise import NORMALISATIONS, Normalise
from asd_core.fusion.weighted import Weighted
from asd_core.types import AsdError

Part = tuple[int, dict[str, Any]]  # how many streams, the rule that fuses them


class Members(Fusion):
    """Σ w_m N_m(f_m): f_m is the score of member m, fused by its own rule from the streams that belong to it.

    Args:
        parts: [number of streams, fusion rule with its options] of each member, in the order of the streams;
            default: every stream is a member
        weights, normalise, tuned_on: as of `weighted`, for the members' scores
    """

    name = "members"

    def __init__(
        self,
        parts: list[list[Any]] | None = None,
        weights: list[float] | None = None,
        normalise: Normalise = "none",
        tuned_on: str = "",
    ) -> None:
        from asd_core.fusion import FUSIONS  # it finds this module

        try:
            read = None if parts is None else TypeAdapter(list[Part]).validate_python(parts)
        except ValidationError as error:
            raise ValueError(f"parts are pairs [number of streams, fusion rule], got {parts}") from error
        self.parts = read
        self.rules = None if read is None else [FUSIONS.create(rule, "fusion of a member") for _, rule in read]
        self.weighted = Weighted(weights, normalise)
        self.weights, self.normalise, self.tuned_on = weights, normalise, tuned_on
        self.transductive = NORMALISATIONS[normalise].transductive or any(
            rule.transductive for rule in self.rules or ()
        )

    def fit(self, training: np.ndarray) -> Self:
        streams = training.shape[1]
        if self.parts is not None and sum(count for count, _ in self.parts) != streams:
            told = " + ".join(str(count) for count, _ in self.parts)
            raise AsdError(f"fusion: the members have {told} streams, the system has {streams}. Give each its own.")
        for rule, columns in self._columns(streams):
            if rule is not None:
                rule.fit(training[:, columns])
        self.weighted.fit(self._inner(training))
        return self

    def fuse(self, scores: np.ndarray) -> np.ndarray:
        return self.weighted.fuse(self._inner(scores))

    def _inner(self, scores: np.ndarray) -> np.ndarray:
        """(M, members) from (M, streams)."""
        parts = self._columns(scores.shape[1])
        return np.stack(
            [scores[:, own.start] if rule is None else rule.fuse(scores[:, own]) for rule, own in parts], axis=1
        )

    def _columns(self, streams: int) -> list[tuple[Fusion | None, slice]]:
        """Each member's rule and the streams that are its own."""
        if self.parts is None or self.rules is None:
            return [(None, slice(i, i + 1)) for i in range(streams)]
        ends = np.cumsum([count for count, _ in self.parts]).tolist()
        return [
            (rule, slice(end - count, end)) for rule, (count, _), end in zip(self.rules, self.parts, ends, strict=True)
        ]
