"""No learning at all: published weights as they are, or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asd_core.backbones import Backbone
from asd_core.training.objective import Objective, Problem
from asd_core.types import AsdError, Clip
from asd_core.views import View


class Untrained(Objective):
    """The network as it begins: with its checkpoint's weights, or without a checkpoint with the seed's random ones.

    Pooling and head must have nothing to learn.
    """

    name = "untrained"
    trains = "clip"
    steps = False

    def problem(
        self, backbone: Backbone, clips: Sequence[Clip], view: View, seed: int, scratch: Path | None = None
    ) -> Problem:
        top = [name for name, _ in backbone.named_parameters() if not name.startswith("trunk.")]
        if top:
            raise AsdError(
                f'Objective "untrained" leaves {top[0]} at random values. Choose a pooling without weights (mean, gem) '
                f"and no head, or an objective that trains them."
            )
        return Problem(backbone, Nothing())


class Nothing:
    """No examples."""

    def __len__(self) -> int:
        return 0

    def load(self, indices: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        raise IndexError(indices)
