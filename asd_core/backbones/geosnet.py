"""GeoSNet: a network for two microphones beside a frozen BEATs, as the report of Tsz (HFU, 2026) outlines it.

The report names its parts (multi-scale features of stereo maps, similarity-guided fusion with BEATs, FiLM by spatial
cues, Conformer) and no sizes; no definition of them is public. What they are here is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones import stereo
from asd_core.backbones.base import Backbone, fit_length
from asd_core.backbones.beats import BeatsBackbone
from asd_core.backbones.head import BatchNorm, build_head
from asd_core.backbones.linear import attend, full_precision
from asd_core.backbones.multiresnet import SqueezeExcite
from asd_core.backbones.pooling import POOLINGS
from asd_core.backbones.transformer import SHORTEST, mask_bank
from asd_core.types import FAR, NEAR, SAMPLE_RATE, AsdError


class GeoSNet(Backbone):
    """(B, 2, samples), near and far → (B, embed_dim) of length 1.

    Stages of a convolutional network over the stereo maps each meet a hidden layer of BEATs, which hears the near
    microphone; the weighted sum of these meetings is modulated by the clip's spatial cues and runs through Conformer
    blocks and an attentive pooling. Clips of a batch must be of one length.

    Args:
        checkpoint: published weights of BEATs, by their name in configs/weights.yaml or by path; without, it comes
            from an earlier training of backbone "beats", or stays random. It is never trained here.
        architecture: options of BEATs; default: those of the checkpoint, else of the published base model.
        layers: the hidden layers of BEATs that the stages meet.
        widths: channels of the stages.
        width, blocks, heads, ffn, kernel, dropout: of the Conformer: width D, number of blocks, attention heads, width
            of the feed-forward layers, frames that a convolution spans (odd), dropout.
        film: hidden width of the network that turns spatial cues into a scale and a shift.
        embed_dim: width of the embedding.
        n_fft, hop, mels: window and step (samples) and mel bands of the maps.
        seconds: the first so many of longer clips are heard; shorter clips are heard as they are.
        train_seconds: length of the random excerpts in training; shorter clips are repeated. None: as in embedding.
        time_mask, mel_mask: SpecAugment in training: at most this many frames, mel bands of all maps are set to their
            means, each with `mask_probability` (Park et al., Interspeech 2019).
    """

    name = "geosnet"
    input = "stereo"
    cpu_batch = 4

    def __init__(
        self,
        checkpoint: str | None = None,
        architecture: dict[str, Any] | None = None,
        layers: list[int] = (4, 8, 12),  # type: ignore[assignment]
        widths: list[int] = (64, 128, 256),  # type: ignore[assignment]
        width: int = 256,
        blocks: int = 4,
        heads: int = 4,
        ffn: int = 1024,
        kernel: int = 15,
        dropout: float = 0.1,
        film: int = 128,
        embed_dim: int = 256,
        n_fft: int = 1024,
        hop: int = 512,
        mels: int = 128,
        seconds: float | None = 10.0,
        train_seconds: float | None = 8.0,
        time_mask: int = 40,
        mel_mask: int = 24,
        mask_probability: float = 0.5,
    ) -> None:
        super().__init__()
        self.beats = BeatsBackbone({"name": "mean"}, checkpoint=checkpoint, architecture=architecture, adapt="frozen")
        depth = self.beats.trunk.depth
        if len(layers) != len(widths) or not layers or not all(0 <= layer <= depth for layer in layers):
            raise ValueError(f"every stage needs a layer of BEATs, 0 to {depth}; got layers {layers}, widths {widths}")
        if mels % stereo.ILD_BANDS or mels < 2 ** len(widths):
            raise ValueError(f"mels must be a multiple of {stereo.ILD_BANDS} and be halved {len(widths)}×, got {mels}")
        if width % heads or kernel % 2 == 0:
            raise ValueError(f"width must be a multiple of heads, kernel odd; got {width}, {heads} and {kernel}")
        self.layers, self.n_fft, self.hop, self.mels = list(layers), n_fft, hop, mels
        self.samples = None if seconds is None else round(seconds * SAMPLE_RATE)
        self.train_samples = self.samples if train_seconds is None else round(train_seconds * SAMPLE_RATE)
        self.tiles = train_seconds is not None
        self.shortest = max(SHORTEST, hop * (2 ** len(widths) - 1))  # one frame must be left after the last stage
        self.masks = (time_mask, mel_mask, mask_probability)
        self.norm = nn.BatchNorm2d(len(stereo.MAPS), affine=False)
        inputs = [len(stereo.MAPS), *widths[:-1]]
        self.stages = nn.ModuleList(MultiScale(*sizes) for sizes in zip(inputs, widths, strict=True))
        self.fusions = nn.ModuleList(SimilarityFusion(one, self.beats.trunk.width) for one in widths)
        self.widen = nn.ModuleList(nn.Conv1d(one, width, 1) for one in widths)
        self.share = nn.Parameter(torch.zeros(len(widths)))
        self.film = nn.Sequential(
            BatchNorm(stereo.SUMMARY, affine=False),
            nn.Linear(stereo.SUMMARY, film),
            nn.GELU(),
            nn.Linear(film, 2 * width),
        )
        self.conformer = nn.Sequential(*(ConformerBlock(width, heads, ffn, kernel, dropout) for _ in range(blocks)))
        self.pooling = POOLINGS.create({"name": "asp"}, "pooling", width=width)
        self.head = build_head(self.pooling.out_dim, [{"linear": embed_dim}])
        self.embed_dim = embed_dim

    # ------------------------------------------------------------ weights of BEATs

    @classmethod
    def resolve(cls, options: dict[str, Any], longest_seconds: float) -> dict[str, Any]:
        return BeatsBackbone.resolve(options, longest_seconds)

    @classmethod
    def files(cls, options: dict[str, Any]) -> list[Path]:
        return BeatsBackbone.files(options)

    def begin(self, earlier: Backbone | None) -> None:
        self.beats.begin(earlier)

    # ------------------------------------------------------------ clips

    def prepare(self, x: np.ndarray, start: float | None = None) -> np.ndarray:
        if x.ndim != 2 or len(x) < 2:
            raise AsdError(
                "the recording has one channel; geosnet compares two microphones. Record the near and the far one, or "
                "use a system that listens to the near microphone."
            )
        x = x[[NEAR, FAR]]
        samples = self.samples if start is None else self.train_samples
        if samples is not None and (x.shape[1] > samples or (start is not None and self.tiles)):
            x = np.stack([fit_length(channel, samples, start) for channel in x])
        if x.shape[1] < self.shortest:
            raise AsdError(
                f"the clip has {x.shape[1]} samples; geosnet needs {self.shortest} "
                f"({self.shortest / SAMPLE_RATE:.3f} s). Remove shorter clips."
            )
        return x

    def valid_samples(self, x: np.ndarray) -> int:
        return x.shape[1]

    def _embed(self, x: Tensor, outputs: Sequence[str], lengths: Tensor | None) -> dict[str, Tensor]:
        if lengths is not None and bool((lengths != x.shape[2]).any()):
            seconds = ", ".join(f"{length / SAMPLE_RATE:g}" for length in sorted(set(lengths.tolist())))
            raise AsdError(
                f"geosnet takes clips of one length, as padding would enter its convolutions; a batch holds clips of "
                f"{seconds} s. Give train_seconds, the length of the excerpts to train on."
            )
        return {"clip": self(x)}

    def forward(self, wave: Tensor) -> Tensor:
        with full_precision(wave):
            x = stereo.spectra(wave, self.n_fft, self.hop)
            raw = stereo.maps(x, self.mels)
            cues = stereo.summary(wave, x, raw, self.hop)
            maps = self.norm(raw)
            if self.training:
                keep = mask_bank(torch.ones_like(maps[:, 0].transpose(1, 2)), *self.masks)  # (B, T, mels)
                maps = maps * keep.transpose(1, 2)[:, None]
            maps = maps.contiguous(memory_format=torch.channels_last)  # up to 1.3× faster on a CPU
            scale, shift = self.film(cues)[:, :, None].chunk(2, dim=1)
        with torch.no_grad():
            hidden, _ = self.beats.hidden(wave[:, NEAR], layers=set(self.layers))
        found = []
        for stage, fusion, widen, layer in zip(self.stages, self.fusions, self.widen, self.layers, strict=True):
            maps = stage(maps)
            tokens = self.beats.grid(hidden[layer]).mean(2)  # (B, T, D)
            found.append(widen(fusion(maps.mean(2), tokens)))
        frames = found[-1].shape[2]
        shares = self.share.softmax(0)
        mixed = sum(share * resample(one, frames) for share, one in zip(shares, found, strict=True))
        mixed = (1 + scale) * mixed + shift  # FiLM (Perez et al., AAAI 2018)
        tokens = self.conformer(mixed.transpose(1, 2))
        with full_precision(wave):
            return F.normalize(self.head(self.pooling(tokens)))


class MultiScale(nn.Module):
    """Maps (B, inputs, F, T) → (B, outputs, ⌊F / 2⌋, ⌊T / 2⌋): three sizes of neighbourhood side by side, joined.

    Kernels of 3×3, of 5×5 and of 3×3 on every other pixel, whose results 1×1 weights join: all of it is linear, so that
    one convolution by the joined kernel does it, in a third of the time and without the results between.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernels = nn.ParameterList(uniform(outputs, inputs, size, size) for size in (3, 5, 3))
        self.join = uniform(outputs, 3 * outputs)
        self.after = nn.Sequential(nn.BatchNorm2d(outputs), nn.GELU(), SqueezeExcite(outputs), nn.AvgPool2d(2))

    def forward(self, maps: Tensor) -> Tensor:
        return self.after(F.conv2d(maps, self.kernel(), padding=2))

    def kernel(self) -> Tensor:
        """(outputs, inputs, 5, 5)"""
        small, large, sparse = self.kernels
        spread = torch.zeros_like(large)
        spread[:, :, ::2, ::2] = sparse
        sizes = torch.cat([F.pad(small, (1, 1, 1, 1)), large, spread])  # (3 · outputs, inputs, 5, 5)
        return (self.join @ sizes.flatten(1)).view_as(large)


def uniform(*shape: int) -> nn.Parameter:
    """Weights as PyTorch's own convolutions start with."""
    return nn.Parameter(nn.init.kaiming_uniform_(torch.empty(shape), a=5**0.5))


class SimilarityFusion(nn.Module):
    """Two sequences, a of the maps and b of BEATs, mixed by a gate that sees how much they agree at every time.

    g a + (1 − g) b + c V(a ⊙ b) with c = cos(a, b) and g = σ(W [c; a; b]).
    """

    def __init__(self, width: int, beats_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(beats_width, width)
        self.gate = nn.Conv1d(2 * width + 1, width, 1)
        self.product = nn.Conv1d(width, width, 1)

    def forward(self, a: Tensor, tokens: Tensor) -> Tensor:
        """(B, width, T), (B, T', beats_width) → (B, width, T)."""
        b = resample(self.project(tokens).transpose(1, 2), a.shape[2])
        agreement = F.cosine_similarity(a, b, dim=1)[:, None]
        gate = self.gate(torch.cat([agreement, a, b], dim=1)).sigmoid()
        return gate * a + (1 - gate) * b + agreement * self.product(a * b)


def resample(x: Tensor, frames: int) -> Tensor:
    """(B, C, T) → (B, C, frames) by linear interpolation."""
    return F.interpolate(x, frames, mode="linear") if x.shape[2] != frames else x


class ConformerBlock(nn.Module):
    """(B, T, D) → the same: half a feed-forward step, attention, convolution, half a feed-forward step (Gulati et al.,
    Interspeech 2020). Order in time is the convolution's business: the attention knows no positions."""

    def __init__(self, width: int, heads: int, ffn: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.first, self.last = (feed_forward(width, ffn, dropout) for _ in range(2))
        self.attention = SelfAttention(width, heads, dropout)
        self.convolution = Convolution(width, kernel, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        x = x + self.attention(x)
        x = x + self.convolution(x)
        return self.norm(x + 0.5 * self.last(x))


def feed_forward(width: int, ffn: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, ffn),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(ffn, width),
        nn.Dropout(dropout),
    )


class SelfAttention(nn.Module):
    """Of the normed sequence (B, T, D)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inputs(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(q, k, v, dropout=self.rate if self.training else 0.0)  # (B, H, T, d)
        return self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))


class Convolution(nn.Module):
    """Of the normed sequence (B, T, D): a gate, then every channel along time by itself."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(
            nn.Conv1d(width, 2 * width, 1),
            nn.GLU(dim=1),
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False),
            nn.BatchNorm1d(width),
            nn.SiLU(),
            nn.Conv1d(width, width, 1),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.norm(x).transpose(1, 2)).transpose(1, 2)
