"""The contract of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from asd_core.types import AsdError, Grid


class Backbone(nn.Module, ABC):
    """A network with one or more named outputs per clip.

    Class facts: `input` is the kind of view it takes ("waveform" or "logmel"), `outputs` what `embed` can give
    (an instance may add more). Input facts live here and never in a caller.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raise it when results change, so that nothing stale is reused
    input: ClassVar[str]
    outputs: tuple[str, ...] = ("clip",)
    batch_outputs: ClassVar[tuple[str, ...]] = ()  # those whose training leaves scores of mini-batches
    needs_length: ClassVar[bool] = False  # whether `resolve` looks at the longest clip
    cpu_batch: ClassVar[int] = 32  # clips embedded together on a CPU
    embed_dim: int  # of output "clip"
    layout: Grid | None = None  # of outputs that tell bands or patches apart
    masks_own_padding: bool = False  # a mixed training clip is as long as its own recording, not as the longer one

    def kind_of(self, output: str) -> str:
        """What a clip's output is: "vector" (D,); "bands" (V, F, D), V summaries over time of F frequency bands; or
        "patches" (T, F, D)."""
        return "vector"

    @classmethod
    def resolve(cls, options: dict[str, Any], longest_seconds: float) -> dict[str, Any]:
        """Fill options left open with what the data say: the longest clip's length in seconds."""
        return options

    @classmethod
    def files(cls, options: dict[str, Any]) -> list[Path]:
        """Files beside the recordings that a training with these options starts from.

        Raises:
            AsdError: one is not on this machine; the message says where it belongs.
        """
        return []

    def begin(self, earlier: Backbone | None) -> None:
        """Before training: take the weights of an `earlier` training, or those of a published checkpoint."""
        if earlier is not None:
            raise AsdError(f'Backbone "{self.name}" cannot start from another training.')

    def batch_on(self, device: torch.device) -> int:
        """How many clips to embed together."""
        return self.cpu_batch if device.type == "cpu" else 64

    def valid_samples(self, x: np.ndarray) -> int:
        """How many samples of a prepared training clip are not padding."""
        return len(x)

    def prepare(self, x: np.ndarray, start: float | None = None) -> np.ndarray:
        """Bring one clip's view to the length the network takes.

        `start` in [0, 1) picks the excerpt of a longer clip, at random in training; None when embedding.
        """
        return x

    def embed(self, x: Tensor, output: str = "clip", lengths: Tensor | None = None) -> Tensor:
        """(B, …) prepared views → (B, D), or what else the output is said to be.

        `lengths` (B,) are the valid samples of views padded at their ends; None: views of equal length.
        """
        return self.embed_all(x, [output], lengths)[output]

    def embed_all(self, x: Tensor, outputs: Sequence[str], lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Several outputs from one pass through the network."""
        for output in outputs:
            if output not in self.outputs:
                raise ValueError(f'backbone {self.name} has no output "{output}", only {", ".join(self.outputs)}')
        return self._embed(x, outputs, lengths)

    @abstractmethod
    def _embed(self, x: Tensor, outputs: Sequence[str], lengths: Tensor | None) -> dict[str, Tensor]: ...

    def depths(self) -> dict[str, int]:
        """Parameters that were trained before, by name, with the number of blocks between them and the output."""
        return {}

    def frozen(self) -> Self:
        """In evaluation mode and without gradients."""
        return self.eval().requires_grad_(False)


def fit_length(wave: np.ndarray, samples: int, start: float | None) -> np.ndarray:
    """(T,) → (samples,): a shorter wave is tiled, a longer one cut at `start` of the possible excerpts."""
    if len(wave) < samples:
        return np.tile(wave, -(-samples // len(wave)))[:samples]
    first = int((start or 0.0) * (len(wave) - samples + 1))
    return wave[first : first + samples]
