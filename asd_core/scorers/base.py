"""The contract of a scorer. Direction, type and finiteness of scores are guarded here, once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np

from asd_core.types import SAMPLE_RATE, TARGET, AsdError, EmbeddingSet, Evidence


class Scorer(ABC):
    """Learns the normal clips of one machine and section; a higher score is more anomalous.

    A subclass implements `_fit`, `_judge` and `_training_scores`; what it learns ends in an underscore.
    """

    name: ClassVar[str]
    takes: ClassVar[str] = "vector"  # kind of embedding: "vector", "bands" or "patches", see EmbeddingSet
    gives_evidence: ClassVar[bool] = False  # whether `judge` tells where scores come from
    takes_generated = False  # whether `fit` can learn from generated clips too
    version: ClassVar[int] = 1  # raise it when results change, so that nothing stale is reused

    def expect(self, shape: tuple[int, ...]) -> None:  # noqa: B027  most scorers take any shape
        """Complain about embeddings of a shape that this scorer cannot use, before hours of training.

        Raises:
            AsdError: says what is needed.
        """

    def fit(self, train: EmbeddingSet, generated: EmbeddingSet | None = None) -> Self:
        """Learn from normal clips with known domains; a second call forgets the first.

        `generated` clips are further examples of what is normal. How far normal clips usually lie is told by recorded
        ones alone, and `training_scores` are theirs.
        """
        if not len(train):
            raise AsdError(f"Scorer {self.name} was given no training clip; it needs at least one normal clip.")
        _require_finite(train)
        self.generated_ = None if generated is None or not len(generated) else generated
        if self.generated_ is not None:
            if not self.takes_generated:
                raise AsdError(
                    f"Scorer {self.name} cannot compare with generated clips. Write bank: false under the system's "
                    f"synthesis, so that only the training of its encoders uses them."
                )
            _require_finite(self.generated_)
        self.train_ = train
        self.notices_: list[str] = []  # what must be known of how it learnt
        self._fit(train)
        return self

    def score(self, test: EmbeddingSet) -> np.ndarray:
        """(N,) float64 anomaly scores."""
        return self.judge(test)[0]

    def judge(self, test: EmbeddingSet) -> tuple[np.ndarray, Evidence | None]:
        """Scores as of `score`, and where they come from if this scorer can tell."""
        if not hasattr(self, "train_"):
            raise RuntimeError(f"scorer {self.name}: call fit before score")
        _require_finite(test)
        scores, evidence = self._judge(test)
        return self._checked(scores, test), evidence

    def training_scores(self) -> np.ndarray:
        """(N,) float64: each training clip's score as if it were new (how, each scorer says)."""
        return self._checked(self._training_scores(), self.train_)

    @abstractmethod
    def _fit(self, train: EmbeddingSet) -> None: ...

    @abstractmethod
    def _judge(self, test: EmbeddingSet) -> tuple[np.ndarray, Evidence | None]: ...

    @abstractmethod
    def _training_scores(self) -> np.ndarray: ...

    def _checked(self, scores: np.ndarray, of: EmbeddingSet) -> np.ndarray:
        scores = np.asarray(scores, dtype=np.float64)
        if not np.isfinite(scores).all():
            bad = of.clip_ids[~np.isfinite(scores)]
            raise AsdError(
                f"Scorer {self.name} gave {len(bad)} score(s) that are not finite, first for {bad[0]}. "
                f"Look at these clips with `doctor`; silent or constant clips are the usual cause."
            )
        return scores


def whole_clip(values: np.ndarray, clip: np.ndarray, edges: tuple[float, ...] = (0.0, SAMPLE_RATE / 2)) -> Evidence:
    """Evidence that tells nothing about time: local scores (N, F) and matched training clips (N, F) of F bands."""
    return Evidence(
        values=values[:, None].astype(np.float32),
        clip=clip[:, None].astype(np.int32),
        unit=np.zeros((len(values), 1, values.shape[1]), dtype=np.int32),
        start=np.zeros(1),
        stop=np.full(1, np.inf),
        edges=np.array(edges),
    )


def is_target(train: EmbeddingSet) -> np.ndarray:
    """(N,) bool: clips of the target domain."""
    return train.domains == TARGET


def on_sphere(x: np.ndarray) -> np.ndarray:
    """(N, D) rows of length 1; rows of zeros stay."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def folds(train: EmbeddingSet, count: int = 5) -> np.ndarray:
    """(N,) fold numbers 0…count−1, dealt out in turn inside each domain: the same for the same clips."""
    fold = np.empty(len(train), dtype=int)
    for domain in np.unique(train.domains):
        rows = np.flatnonzero(train.domains == domain)
        fold[rows] = np.arange(len(rows)) % count
    return fold


def held_out_scores(scorer: Scorer, train: EmbeddingSet, generated: EmbeddingSet | None = None) -> np.ndarray:
    """(N,) scores of each clip from a scorer fitted on the other folds, and on all `generated` clips; `scorer` is
    refitted on the way."""
    fold = folds(train)
    scores = np.zeros(len(train))
    for number in np.unique(fold):
        held_out = fold == number
        rest = train[~held_out] if (~held_out).any() else train  # a single clip can only judge itself
        scores[held_out] = scorer.fit(rest, generated).score(train[held_out])
    return scores


def _require_finite(embeddings: EmbeddingSet) -> None:
    finite = np.array([np.isfinite(row).all() for row in embeddings.x], dtype=bool)  # row by row: patches are large
    if not finite.all():
        bad = embeddings.clip_ids[~finite]
        raise AsdError(
            f"{len(bad)} embedding(s) are not finite, first of {bad[0]}. The training may have diverged "
            f"(look at its loss), or the recording is broken (`doctor` tells)."
        )
