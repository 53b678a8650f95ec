"""The autoencoder of the official DCASE baseline, and its two ways of scoring a clip.

A clip's log-mel spectrogram is cut into vectors of five consecutive frames (640 values); the network
reconstructs them, and what it gets wrong is the anomaly. Layer sizes, normalisation constants and both scores
follow the official code (its behaviour, stated in words; Harada et al., EUSIPCO 2023, describe the method).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from asd_core.backbones.base import Backbone
from asd_core.types import AsdError


class Autoencoder(Backbone):
    """640 → 128×4 → 8 → 128×4 → 640, batch norm and ReLU after every layer but the last; 267,928 weights.

    Outputs of `embed`, one row per clip: "mse" (B, 1) mean squared residual; "mahala" (B, 2) squared
    Mahalanobis length of the clip's *mean* residual row against the source and the target covariance (the
    mean of row distances would be another system); "latent" (B, 8) mean code.
    """

    name = "autoencoder"
    input = "logmel"
    outputs = ("mse", "mahala", "latent")
    batch_outputs = ("mse", "mahala")

    def __init__(self, n_mels: int = 128, frames: int = 5, width: int = 128, bottleneck: int = 8) -> None:
        super().__init__()
        self.n_mels, self.frames = n_mels, frames
        size = n_mels * frames
        self.encoder = nn.Sequential(*_block(size, width), *(_stack(width, 3)), *_block(width, bottleneck))
        self.decoder = nn.Sequential(*_block(bottleneck, width), *(_stack(width, 3)), nn.Linear(width, size))
        self.embed_dim = bottleneck
        # covariances of residual rows, measured after training (see training/reconstruction.py)
        self.register_buffer("cov_source", torch.eye(n_mels))
        self.register_buffer("cov_target", torch.eye(n_mels))
        self.cov_source: Tensor
        self.cov_target: Tensor

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, frames · n_mels) dB → the same, reconstructed."""
        return self.decoder(self.encoder(vectors))

    def vectors(self, logmel: Tensor) -> Tensor:
        """(n_mels, T') dB → (T' − frames + 1, frames · n_mels), frame after frame."""
        windows = logmel.unfold(1, self.frames, 1)  # (n_mels, N, frames)
        return windows.permute(1, 2, 0).flatten(1)

    def rows(self, residual: Tensor) -> Tensor:
        """(N, frames · n_mels) → (frames · N, n_mels): one row per frame of a vector."""
        return residual.reshape(-1, self.n_mels)

    def prepare(self, x: np.ndarray, start: float | None = None) -> np.ndarray:
        if x.shape[1] < self.frames:
            raise AsdError(
                f"the clip has {x.shape[1]} spectrogram frames; the autoencoder needs at least {self.frames} "
                f"(2,048 samples at hop 512). Remove clips that short."
            )
        return x

    def _embed(self, x: Tensor, outputs: Sequence[str], lengths: Tensor | None) -> dict[str, Tensor]:
        return {output: torch.stack([self._embed_clip(clip, output) for clip in x]) for output in outputs}

    def _embed_clip(self, logmel: Tensor, output: str) -> Tensor:
        vectors = self.vectors(logmel)
        if output == "latent":
            return self.encoder(vectors).mean(0)
        residual = vectors - self(vectors)
        if output == "mse":
            return residual.double().square().mean().reshape(1)
        return self.mahala(residual)

    def mahala(self, residual: Tensor) -> Tensor:
        """(N, frames · n_mels) → (2,) δ̄ᵀ Σ_d⁻¹ δ̄ for d = source, target; δ̄ is the mean residual row.

        The official code averages the full Gram matrix δᵢᵀ Σ⁻¹ δⱼ over all pairs of rows, which is this.
        """
        mean = self.rows(residual).double().mean(0)
        # inverted in single precision like the official code: its published scores carry that rounding
        inverses = torch.linalg.inv(torch.stack([self.cov_source, self.cov_target])).double()
        return torch.einsum("m,dmn,n->d", mean, inverses, mean)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.01), nn.ReLU()]


def _stack(width: int, count: int) -> list[nn.Module]:
    return [layer for _ in range(count) for layer in _block(width, width)]
