"""The contract of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A network with one or more named outputs per clip.

    Class facts: `input` is the kind of view it takes ("waveform" or "logmel"), `outputs` what `embed` can
    give. Input facts live here and never in a caller.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raise it when results change, so that nothing stale is reused
    input: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]] = ("clip",)
    batch_outputs: ClassVar[tuple[str, ...]] = ()  # those whose training leaves scores of mini-batches
    needs_length: ClassVar[bool] = False  # whether `resolve` looks at the longest clip
    embed_dim: int  # of output "clip"

    @classmethod
    def resolve(cls, options: dict[str, Any], longest_seconds: float) -> dict[str, Any]:
        """Fill options left open with what the data say: the longest clip's length in seconds."""
        return options

    def prepare(self, x: np.ndarray, start: float = 0.0) -> np.ndarray:
        """Bring one clip's view to the length the network takes.

        `start` in [0, 1) picks the excerpt of a longer clip: random in training, 0 when embedding.
        """
        return x

    def embed(self, x: Tensor, output: str = "clip") -> Tensor:
        """(B, …) prepared views of equal length → (B, D)."""
        if output not in self.outputs:
            raise ValueError(f'backbone {self.name} has no output "{output}", only {", ".join(self.outputs)}')
        return self._embed(x, output)

    @abstractmethod
    def _embed(self, x: Tensor, output: str) -> Tensor: ...

    def frozen(self) -> Self:
        """In evaluation mode and without gradients."""
        return self.eval().requires_grad_(False)


def fit_length(wave: np.ndarray, samples: int, start: float) -> np.ndarray:
    """(T,) → (samples,): a shorter wave is tiled, a longer one cut at `start` of the possible excerpts."""
    if len(wave) < samples:
        return np.tile(wave, -(-samples // len(wave)))[:samples]
    first = int(start * (len(wave) - samples + 1))
    return wave[first : first + samples]
