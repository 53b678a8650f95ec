"""The least alarmed stream decides."""

from __future__ import annotations

from typing import Self

import numpy as np

from asd_core.fusion.base import Fusion
from asd_core.fusion.normalise import NORMALISATIONS, Normalise


class Minimum(Fusion):
    """min over branches of N_b(s_b): a clip is anomalous where every branch says so.

    Args:
        normalise: as for `weighted`; streams of different units need one.
    """

    name = "minimum"

    def __init__(self, normalise: Normalise = "ecdf") -> None:
        self.normalise = normalise
        self.transductive = NORMALISATIONS[normalise].transductive

    def fit(self, training: np.ndarray) -> Self:
        self.normalise_ = NORMALISATIONS[self.normalise]().fit(training)
        return self

    def fuse(self, scores: np.ndarray) -> np.ndarray:
        return self.normalise_(scores).min(axis=1)
