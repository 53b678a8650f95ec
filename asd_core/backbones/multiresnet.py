"""MultiResNet: a clip's whole spectrum and its spectrograms at several resolutions, each through its own
small convolutional branch; the branches' embeddings are concatenated.

Wilkinghoff, "Self-supervised learning for anomalous sound detection", ICASSP 2024, extended to several
spectrograms as in the dcase-asd-toolkit of Fujimura et al. Written from their description; layer for layer
pinned by stored figures. No biases and no affine batch norms anywhere, so that the trivial solution of a
constant embedding is out of reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones.base import Backbone, fit_length
from asd_core.types import SAMPLE_RATE

LONGEST_SECONDS = 20.0  # of an input length taken from the data; one very long clip must not stretch all others
SHORTEST_SECONDS = 5.0  # the 4096-point spectrogram needs 36 frames, the spectrum branch 4.4 s


class MultiResNet(Backbone):
    """(B, T) waveforms of a fixed length → (B, branch_dim · branches).

    Args:
        seconds: input length; shorter clips are tiled, longer ones cut. Default: the longest clip of the
            data (12 s on the DCASE development machines), at least 5 and at most 20 s.
        spectrograms: [window, hop] in samples of each spectrogram branch.
        base_channels: channels of the first stage (the others double it).
        branch_dim: width of each branch's embedding, and of the spectrum branch's convolutions.
    """

    name = "multiresnet"
    input = "waveform"
    needs_length = True

    def __init__(
        self,
        seconds: float | None = None,
        spectrograms: list[list[int]] = ((256, 128), (1024, 512), (4096, 2048)),  # type: ignore[assignment]
        base_channels: int = 16,
        branch_dim: int = 128,
    ) -> None:
        super().__init__()
        if seconds is None or seconds < SHORTEST_SECONDS:
            raise ValueError(f"seconds must be a number of at least {SHORTEST_SECONDS}, got {seconds}")
        self.samples = round(seconds * SAMPLE_RATE)
        self.branches = nn.ModuleList(
            [
                SpectrumBranch(self.samples, branch_dim),
                *(SpectrogramBranch(self.samples, n, hop, base_channels, branch_dim) for n, hop in spectrograms),
            ]
        )
        self.embed_dim = branch_dim * len(self.branches)

    @classmethod
    def resolve(cls, options: dict[str, Any], longest_seconds: float) -> dict[str, Any]:
        if options.get("seconds") is None:
            return {**options, "seconds": min(max(SHORTEST_SECONDS, longest_seconds), LONGEST_SECONDS)}
        return options

    def prepare(self, x: np.ndarray, start: float | None = None) -> np.ndarray:
        return fit_length(x, self.samples, start)

    def _embed(self, x: Tensor, outputs: Sequence[str], lengths: Tensor | None) -> dict[str, Tensor]:
        return {"clip": self(x)}

    def forward(self, wave: Tensor) -> Tensor:
        return torch.cat([branch(wave) for branch in self.branches], dim=1)


class SpectrumBranch(nn.Module):
    """Magnitude spectrum of the whole clip (B, T/2 + 1) → (B, dim), by strided 1-D convolutions."""

    def __init__(self, samples: int, dim: int) -> None:
        super().__init__()
        shapes = [(1, 256, 64), (dim, 64, 32), (dim, 16, 4)]  # (input channels, kernel, stride)
        bins = samples // 2 + 1
        layers: list[nn.Module] = []
        for channels, kernel, stride in shapes:
            layers += [nn.Conv1d(channels, dim, kernel, stride, bias=False), nn.ReLU(), SqueezeExcite(dim)]
            bins = (bins - kernel) // stride + 1
        layers += [nn.Flatten(), *_dense(dim * bins, dim)]
        for _ in range(4):
            layers += _dense(dim, dim)
        self.layers = nn.Sequential(*layers, nn.Linear(dim, dim, bias=False))

    def forward(self, wave: Tensor) -> Tensor:
        return self.layers(torch.fft.rfft(wave).abs().unsqueeze(1))


class SpectrogramBranch(nn.Module):
    """Linear magnitude spectrogram from 200 Hz up → (B, dim), by a small residual network and the maximum
    over time."""

    def __init__(self, samples: int, n_fft: int, hop: int, channels: int, dim: int, lowest_hz: float = 200.0) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        self.window: Tensor
        self.first_bin = int(np.ceil(lowest_hz * n_fft / SAMPLE_RATE))
        c = channels
        self.norm = nn.BatchNorm1d(n_fft // 2 + 1 - self.first_bin, affine=False)
        self.layers = nn.Sequential(
            nn.Conv2d(1, c, 7, stride=2, bias=False),
            nn.BatchNorm2d(c, affine=False),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            ResidualBlock(c, c, 1),
            ResidualBlock(c, c, 1),
            ResidualBlock(c, 2 * c, 2),
            ResidualBlock(2 * c, 2 * c, 1),
            ResidualBlock(2 * c, 4 * c, 2),
            ResidualBlock(4 * c, 4 * c, 1),
            ResidualBlock(4 * c, 8 * c, 2),
            ResidualBlock(8 * c, 8 * c, 1),
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 1.3× faster on CPU
        with torch.no_grad():
            features = self.features(torch.zeros(1, samples)).shape[1]
        self.head = nn.Sequential(nn.BatchNorm1d(features, affine=False), nn.Linear(features, dim, bias=False))

    def spectrogram(self, wave: Tensor) -> Tensor:
        """(B, T) → (B, F, T') magnitudes, window of unit energy, frames centred and zero-padded."""
        spectrum = torch.stft(
            wave, self.n_fft, self.hop, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        return spectrum[:, self.first_bin :].abs()

    def features(self, wave: Tensor) -> Tensor:
        maps = self.layers(self.norm(self.spectrogram(wave)).unsqueeze(1))  # (B, C, F', T')
        return maps.amax(dim=3).flatten(1)

    def forward(self, wave: Tensor) -> Tensor:
        return self.head(self.features(wave))


class ResidualBlock(nn.Module):
    """Batch norm, then [ReLU, 3×3, batch norm, ReLU, 3×3, squeeze-excite] beside a skip of the normed input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs, affine=False)
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs, affine=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, padding=1, bias=False),
            SqueezeExcite(outputs),
        )
        narrower = [nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(inputs, outputs, 1, bias=False)]
        self.skip = nn.Identity() if stride == 1 else nn.Sequential(*narrower)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.body(x) + self.skip(x)


class SqueezeExcite(nn.Module):
    """Channels weighted by a gate computed from their means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        hidden = channels // ratio  # 0 in toy networks: the gate is then a constant ½
        self.down = nn.Parameter(torch.empty(hidden, channels))
        self.up = nn.Parameter(torch.empty(channels, hidden))
        for weight in (self.down, self.up):
            if hidden:
                nn.init.kaiming_uniform_(weight, a=5**0.5)  # what nn.Linear does

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(2).mean(2)  # (B, C)
        gate = torch.sigmoid(F.linear(F.relu(F.linear(mean, self.down)), self.up))
        return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))


def _dense(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, affine=False), nn.ReLU()]
