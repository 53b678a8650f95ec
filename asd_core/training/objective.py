"""The contract between the loop and what is learnt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from asd_core.backbones import Backbone
from asd_core.data.stream import stream
from asd_core.types import Clip
from asd_core.views import View


class Examples(Protocol):
    """Training examples with random access, so that any step can be repeated on its own."""

    def __len__(self) -> int: ...

    def load(self, indices: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        """A batch on the CPU; everything random in it is drawn from `generator`."""


@dataclass
class Problem:
    """What `loop.fit` works on: `learner(*batch)` is the scalar loss."""

    learner: nn.Module
    examples: Examples
    held_out: Examples | None = None
    notices: list[str] = field(default_factory=list)
    depths: dict[str, int] = field(default_factory=dict)  # see loop.fit
    weights: np.ndarray | None = None  # see loop.fit


class Objective(ABC):
    """What a backbone learns. The constructor's arguments are its options in a system's YAML."""

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raise it when results change, so that nothing stale is reused
    trains: ClassVar[str]  # the output that a backbone must have to learn this
    steps: ClassVar[bool] = True  # whether there is anything to train

    @abstractmethod
    def problem(
        self, backbone: Backbone, clips: Sequence[Clip], view: View, seed: int, scratch: Path | None = None
    ) -> Problem:
        """Learner and examples for normal training clips. The learner holds `backbone` as a sub-module.

        `scratch` is a folder for what is computed once and deleted after the training.
        """

    def finish(self, problem: Problem, losses: np.ndarray, batch_size: int, seed: int) -> dict[str, np.ndarray]:
        """After the last step: measure what scoring needs into the backbone's buffers; return extra arrays.

        `losses` (steps,) are the training losses of every step.
        """
        return {}


class ViewCache:
    """Views of clips by index, computed on first use and kept while they fit into `limit` bytes."""

    def __init__(self, clips: Sequence[Clip], view: View, limit: int = 1_500_000_000) -> None:
        self.clips, self.view, self.room = clips, view, limit
        self.kept: dict[int, np.ndarray] = {}

    def batch(self, indices: Sequence[int]) -> list[np.ndarray]:
        """The views at `indices`; what is not at hand is decoded by threads."""
        missing = [i for i in indices if i not in self.kept]
        fresh = dict(zip(missing, stream([self.clips[i] for i in missing], self.view), strict=True))
        for i, value in fresh.items():
            value = value.copy() if value.base is not None else value  # one row would keep all microphones
            if value.nbytes <= self.room:
                self.room -= value.nbytes
                self.kept[i] = value
        return [self.kept[i] if i in self.kept else fresh[i] for i in indices]
