"""Mixing of training clips. Everything random is drawn from the generator that is passed in, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """weight · own + (1 − weight) · partner's, for whatever belongs to the clips of a batch."""

    partner: Tensor  # (B,) int64, index of the other clip in the batch
    weight: Tensor  # (B,) float32 of the clip itself

    def __call__(self, values: Tensor) -> Tensor:
        """(B, …) → the same, mixed: waveforms, one-hot labels (a row of zeros for an attribute a clip lacks)."""
        weight = self.weight.reshape(-1, *[1] * (values.ndim - 1))
        return weight * values + (1 - weight) * values[self.partner]

    def lengths(self, samples: Tensor) -> Tensor:
        """(B,) valid samples of the clips → of the mixed ones: where anything was mixed in, the longer of both."""
        return torch.where(self.weight < 1, torch.maximum(samples, samples[self.partner]), samples)


def draw_uniform(batch: int, probability: float, generator: torch.Generator) -> Mixing:
    """Per clip: with `probability`, a weight from U(0, 1), else 1; partners by a random permutation."""
    partner = torch.randperm(batch, generator=generator)
    weight = torch.rand(batch, generator=generator)
    chosen = torch.rand(batch, generator=generator) < probability
    return Mixing(partner, torch.where(chosen, weight, torch.ones(())))


def draw_beta(batch: int, alpha: float, generator: torch.Generator) -> Mixing:
    """One weight from Beta(alpha, alpha) for the whole batch; partners by a random permutation."""
    partner = torch.randperm(batch, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))  # torch draws beta from its global generator only
    weight = np.random.default_rng(seed).beta(alpha, alpha)
    return Mixing(partner, torch.full((batch,), weight, dtype=torch.float32))


def mix_uniform(
    x: Tensor, labels: Tensor, probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Mixing]:
    """Mixup per clip, as in the dcase-asd-toolkit: mixed (B, …) clips and (B, classes) labels, and how they were."""
    mixing = draw_uniform(len(x), probability, generator)
    return mixing(x), mixing(labels), mixing


def mix_beta(x: Tensor, labels: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Mixing]:
    """Mixup with one weight per batch (Zhang et al., ICLR 2018): as `mix_uniform`."""
    mixing = draw_beta(len(x), alpha, generator)
    return mixing(x), mixing(labels), mixing
