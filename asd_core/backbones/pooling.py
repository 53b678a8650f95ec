"""From a clip's tokens to one vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones.head import BatchNorm
from asd_core.registry import Registry

BANDS = 8  # patches along frequency of BEATs and EAT
FLOOR = 1e-4  # smallest variance, so that constant tokens have a gradient


class Pooling(nn.Module, ABC):
    """(B, N, D) tokens → (B, out_dim), in single precision at least, whatever the autocast around it."""

    name: ClassVar[str]
    by_band: ClassVar[bool] = False  # whether tokens must come as whole time steps of `BANDS` patches, in their order
    takes_cls: ClassVar[bool] = False  # whether a leading CLS token comes with the tokens; it is never padding
    out_dim: int

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = self.out_dim = width

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, N, D) tokens, (B, N) bool, True = counts (None: all) → (B, out_dim).

        At least one token of every clip must count; what the others hold does not matter.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
            return self._pool(tokens, None if valid is None else valid[:, :, None])

    @abstractmethod
    def _pool(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """As `forward`, with `valid` (B, N, 1)."""


class Mean(Pooling):
    """Mean of the tokens."""

    name = "mean"

    def _pool(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        return masked_mean(tokens, valid)


class BandMean(Pooling):
    """Mean of the tokens of each frequency band, band beside band: (B, T · 8, D) → (B, 8 · D). What is heard stays where
    it is heard."""

    name = "band_mean"
    by_band = True

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.out_dim = BANDS * width

    def _pool(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        bands = tokens.unflatten(1, (-1, BANDS)).transpose(1, 2)  # (B, 8, T, D)
        if valid is not None:
            valid = valid.unflatten(1, (-1, BANDS)).transpose(1, 2).flatten(0, 1)
        return masked_mean(bands.flatten(0, 1), valid).unflatten(0, (-1, BANDS)).flatten(1)


class Cls(Pooling):
    """The CLS token."""

    name = "cls"
    takes_cls = True

    def _pool(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        return tokens[:, 0]


class GeneralisedMean(Pooling):
    """(mean of xᵖ)^(1/p) per dimension (Radenović et al., TPAMI 2019): the mean for p = 1, towards the maximum as p
    grows.

    Args:
        p: at least 1.
        signed: sign(m) · |m|^(1/p) with m the mean of sign(x) · |x|ᵖ. Otherwise tokens below 1e-6 count as 1e-6,
            the definition for images, whose features are positive; those of a transformer are not.
    """

    name = "gem"

    def __init__(self, width: int, p: float = 3.0, signed: bool = False) -> None:
        super().__init__(width)
        if p < 1:
            raise ValueError(f"p must be at least 1, got {p}")
        self.p, self.signed = p, signed

    def _pool(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        if not self.signed:
            tokens = tokens.clamp_min(1e-6)
        if valid is not None:
            tokens = tokens.masked_fill(~valid, 0.0)
        # relative to the largest token, so that no power overflows; as a factor it cancels, also in the gradient
        largest = tokens.detach().abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
        tokens = tokens / largest
        m = masked_mean(tokens.sign() * tokens.abs() ** self.p, valid)
        # m / |m|^(1 − 1/p), which a floor keeps from an infinite slope where positive and negative tokens cancel
        return largest[:, 0] * m * m.abs().clamp_min(1e-6) ** (1 / self.p - 1)


class AttentiveStatistics(Pooling):
    """Mean and deviation of the tokens under an attention of every dimension's own.

    Okabe et al., Interspeech 2018, with the attention of ECAPA-TDNN (Desplanques et al., Interspeech 2020): it sees
    a token beside the clip's mean and deviation. Sizes and the projection as in the dcase-asd-toolkit of Fujimura
    et al. The batch norm inside the attention counts tokens that are no padding, those of long clips as often as
    they have them.

    Args:
        project: batch norm, linear to `width`, batch norm; otherwise mean and deviation (2 · width) as they are.
        reduction: `width` divided by the width of the attention's hidden layer.
    """

    name = "asp"

    def __init__(self, width: int, project: bool = True, reduction: int = 16) -> None:
        super().__init__(width)
        if not 1 <= reduction <= width:
            raise ValueError(f"reduction must be between 1 and the width {width}, got {reduction}")
        hidden = width // reduction
        self.inner = nn.Linear(3 * width, hidden)
        self.norm = BatchNorm(hidden)
        self.outer = nn.Linear(hidden, width)
        self.projection: nn.Module = nn.Identity()
        if project:
            self.projection = nn.Sequential(BatchNorm(2 * width), nn.Linear(2 * width, width), BatchNorm(width))
        self.out_dim = width if project else 2 * width

    def _pool(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        logits = self._attention(tokens, valid)
        if valid is not None:
            logits = logits.masked_fill(~valid, float("-inf"))
            tokens = tokens.masked_fill(~valid, 0.0)
        share = logits.softmax(dim=1)
        mean = (share * tokens).sum(dim=1, keepdim=True)
        variance = (share * (tokens - mean).square()).sum(dim=1)
        return self.projection(torch.cat([mean[:, 0], variance.clamp_min(FLOOR).sqrt()], dim=1))

    def attention(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, N) bool → (B, N, D) logits of the attention; their softmax over valid tokens weighs these."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
            return self._attention(tokens, None if valid is None else valid[:, :, None])

    def _attention(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        mean, deviation = masked_statistics(tokens, valid)
        if valid is not None:
            tokens = tokens.masked_fill(~valid, 0.0)
        # the linear layer on [token, mean, deviation], without repeating the latter two for every token
        own, clip = self.inner.weight.split([self.width, 2 * self.width], dim=1)
        context = F.linear(torch.cat([mean, deviation], dim=1), clip, self.inner.bias)
        hidden = F.relu(F.linear(tokens, own) + context[:, None])  # (B, N, width / reduction)
        if valid is None or not self.training:
            hidden = self.norm(hidden.flatten(0, 1)).view_as(hidden)
        else:
            counts = valid[:, :, 0]
            hidden = torch.zeros_like(hidden).masked_scatter(valid, self.norm(hidden[counts]))
        return self.outer(hidden.tanh())


def masked_mean(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """(B, N, D), (B, N, 1) bool → (B, D)."""
    if valid is None:
        return tokens.mean(dim=1)
    return tokens.masked_fill(~valid, 0.0).sum(dim=1) / valid.sum(dim=1)


def masked_statistics(tokens: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, N, D), (B, N, 1) bool → (B, D) mean and unbiased deviation, of a single token the smallest there is."""
    mean = masked_mean(tokens, valid)
    off = tokens - mean[:, None]
    if valid is None:
        count: int | Tensor = max(tokens.shape[1] - 1, 1)
    else:
        off, count = off.masked_fill(~valid, 0.0), (valid.sum(dim=1) - 1).clamp_min(1)
    return mean, (off.square().sum(dim=1) / count).clamp_min(FLOOR).sqrt()


POOLINGS: Registry[Pooling] = Registry("pooling", "asd_core.backbones.pooling", Pooling)
