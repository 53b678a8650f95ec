"""The contract of a fusion rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np


class Fusion(ABC):
    """Learns the scale of each stream from training-normal scores (N, S), then fuses (M, S) → (M,).

    A `transductive` rule looks at all clips it is given: training and test scores are fused in separate calls, and
    a clip's score depends on the others in its call.
    """

    name: ClassVar[str]
    transductive: bool = False

    @abstractmethod
    def fit(self, training: np.ndarray) -> Self: ...

    @abstractmethod
    def fuse(self, scores: np.ndarray) -> np.ndarray: ...
