"""BEATs: bidirectional encoder representation from audio transformers (Chen et al., ICML 2023, arXiv 2212.09058).

Mel patches, a projection and convolutional positions, then post-norm transformer blocks with the residuals of DeepNorm
(Wang et al., arXiv 2203.00555) and the gated relative position bias of WavLM (Chen et al., IEEE JSTSP 2022). Written
from the papers, the released code's behaviour and the published weights' shapes; modules have the published names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones.fbank import FRAME, HOP, kaldi_fbank
from asd_core.backbones.linear import LOGITS_AT_ONCE, Frozen, Linear, attend, full_precision, half_precision, pieces
from asd_core.backbones.transformer import BANDS, PATCH, PatchTransformer, Trunk
from asd_core.types import AsdError

FBANK_MEAN, FBANK_STD = 15.41663, 6.55582  # of the pre-training data, samples being 16-bit integers
CLASSIFIER = "predictor."  # of a fine-tuned checkpoint
BIAS = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
OPTIONS = {
    "encoder_layers": "layers",
    "encoder_embed_dim": "width",
    "encoder_attention_heads": "heads",
    "encoder_ffn_embed_dim": "ffn",
    "embed_dim": "patch_width",
    "conv_pos": "conv_kernel",
    "conv_pos_groups": "conv_groups",
    "num_buckets": "buckets",
    "max_distance": "max_distance",
    "dropout_input": "input_dropout",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "encoder_layerdrop": "layer_drop",
    "layer_wise_gradient_decay_ratio": "gradient_decay",
}
FIXED = {
    "input_patch_size": PATCH,
    "conv_bias": False,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
}


class Beats(Trunk):
    """By default of the published size: 90,311,792 weights.

    Args:
        layers, width, heads, ffn: number of blocks L, model width D, attention heads, width of the feed-forward layers.
        patch_width: channels of the patch embedding, before the projection to `width`.
        conv_kernel, conv_groups: of the convolution along the tokens that tells positions.
        buckets, max_distance: of the relative position bias, see `distance_buckets`.
        input_dropout, dropout, attention_dropout, activation_dropout: of patch embeddings; of what enters the first
            block and of a block's two branches; of attention weights; inside the feed-forward layers.
        layer_drop: probability that training skips a block (LayerDrop; Fan et al., ICLR 2020).
        gradient_decay: factor of the gradient at the entrance of every block, so that block l gets decay^(L - l).
    """

    family = "beats"
    lora_targets = ("q_proj", "v_proj")

    def __init__(
        self,
        layers: int = 12,
        width: int = 768,
        heads: int = 12,
        ffn: int = 3072,
        patch_width: int = 512,
        conv_kernel: int = 128,
        conv_groups: int = 16,
        buckets: int = 320,
        max_distance: int = 800,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        layer_drop: float = 0.0,
        gradient_decay: float = 1.0,
    ) -> None:
        super().__init__()
        if width % heads or width % conv_groups:
            raise AsdError(
                f"BEATs' width must be a multiple of heads ({heads}) and of conv_groups ({conv_groups}), got {width}."
            )
        self.depth, self.width = layers, width
        self.patch_embedding = nn.Conv2d(1, patch_width, PATCH, stride=PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(patch_width)
        self.post_extract_proj = Linear(patch_width, width) if patch_width != width else nn.Identity()
        self.dropout_input = nn.Dropout(input_dropout)
        rates = (dropout, attention_dropout, activation_dropout)
        blocks = [Block(width, heads, ffn, layers, *rates) for _ in range(layers)]
        table = nn.Embedding(buckets, heads)
        nn.init.normal_(table.weight, std=0.02)
        blocks[0].self_attn.relative_attention_bias = table  # of all blocks; the first copy in published files
        pos_conv = PositionalConv(width, conv_kernel, conv_groups)
        self.encoder = Encoder(blocks, pos_conv, max_distance, dropout, layer_drop, gradient_decay)

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        return self.encoder.layers

    # ------------------------------------------------------------ input

    def fbank(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        fbank = (kaldi_fbank(wave * 2**15, "povey") - FBANK_MEAN) / (2 * FBANK_STD)
        if lengths is None:
            return fbank, torch.full((len(wave),), fbank.shape[1], device=wave.device)
        return fbank, (1 + (lengths - FRAME) // HOP).clamp(min=0)

    def patches(self, frames: Tensor) -> Tensor:
        if bool((frames < PATCH).any()):
            raise AsdError(
                f"A clip has {int(frames.min())} frames of 10 ms, BEATs needs at least {PATCH} (0.175 s). Remove "
                f"shorter clips."
            )
        return frames // PATCH  # what is left over at the end is not heard

    def embed(self, fbank: Tensor) -> Tensor:
        """(B, frames, 128) → (B, T·8, D) patch embeddings without positions."""
        x = self.patch_embedding(fbank.unsqueeze(1)).flatten(2).transpose(1, 2)
        return self.dropout_input(self.post_extract_proj(self.layer_norm(x)))

    # ------------------------------------------------------------ hidden states

    def states(self, fbank: Tensor, frames: Tensor | None, layers: set[int]) -> dict[int, Tensor]:
        tokens = int(self.patches(torch.tensor(fbank.shape[1]))) * BANDS
        padding = None
        if frames is not None:
            padding = torch.arange(tokens, device=fbank.device) >= (self.patches(frames) * BANDS)[:, None]
        return self.hidden(fbank, padding, layers)

    def hidden(self, fbank: Tensor, padding: Tensor | None, layers: set[int]) -> dict[int, Tensor]:
        """`states` with any (B, tokens) padding, True where tokens are masked out."""
        with full_precision(fbank):  # little work, and kernels for a few channels in half precision are wrong on CPUs
            x = self.embed(fbank.float())
        return self.onwards(x, padding, layers)

    def onwards(self, x: Tensor, padding: Tensor | None, layers: set[int]) -> dict[int, Tensor]:
        """The same from (B, N, D) patch embeddings on."""
        with full_precision(x):
            x = self.encoder.prepare(x, padding)
            bias = self.encoder.position_bias(x.shape[1])
        return self.encoder(x, bias, padding, layers)

    def depth_of(self, parameter: str) -> int:
        block = re.match(r"encoder\.layers\.(\d+)\.", parameter)
        return self.depth - 1 - int(block[1]) if block else self.depth

    # ------------------------------------------------------------ published checkpoints

    @classmethod
    def architecture(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        for option, needed in FIXED.items():
            if config.get(option, needed) != needed:
                raise AsdError(
                    f"The checkpoint's configuration has {option} = {config[option]!r}; only BEATs with {needed!r} "
                    f"(all published ones) is supported."
                )
        return {ours: config[theirs] for theirs, ours in OPTIONS.items() if theirs in config}

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        """Also accepts the classifier of a fine-tuned checkpoint, which is left out (see `tag_probabilities`)."""
        given = {name: value for name, value in tensors.items() if not name.startswith(CLASSIFIER)}
        for layer in range(1, self.depth):  # one table, stored once per block
            copy = given.pop(BIAS.format(layer), None)
            if copy is not None and not torch.equal(copy, given.get(BIAS.format(0), copy)):
                raise AsdError(f"The weights are not of BEATs: {BIAS.format(layer)} differs from that of layer 0.")
        super().adopt(given)


class Encoder(nn.Module):
    """Positions and blocks."""

    def __init__(
        self,
        blocks: list[Block],
        pos_conv: PositionalConv,
        max_distance: int,
        dropout: float,
        layer_drop: float,
        gradient_decay: float,
    ) -> None:
        super().__init__()
        self.max_distance, self.layer_drop, self.gradient_decay = max_distance, layer_drop, gradient_decay
        self.pos_conv = nn.Sequential(pos_conv, nn.GELU())
        self.layer_norm = nn.LayerNorm(len(pos_conv.bias))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(blocks)

    def prepare(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, N, D) patch embeddings → the same with positions, what enters the first block."""
        if padding is not None:
            x = x.masked_fill(padding.unsqueeze(-1), 0.0)
        return self.dropout(self.layer_norm(x + self.pos_conv(x)))

    def position_bias(self, tokens: int) -> Tensor:
        """(1, H, N, N): what each head learned about keys at so many patches from the query."""
        table = self.get_parameter("layers.0.self_attn.relative_attention_bias.weight")
        buckets = distance_buckets(tokens, len(table), self.max_distance)
        by_distance = F.embedding(buckets.to(table.device), table).t().contiguous()  # (H, 2N - 1)
        return by_distance.unfold(1, tokens, 1).flip(1)[None]  # query i sees distances -i … N - 1 - i

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor | None, layers: set[int]) -> dict[int, Tensor]:
        hidden = {0: x}
        for layer, block in enumerate(self.layers[: max(layers)], start=1):
            x = scale_gradient(x, self.gradient_decay)
            if not (self.training and self.layer_drop and float(torch.rand(())) < self.layer_drop):
                x = block(x, bias, padding)
            hidden[layer] = x
        return {layer: hidden[layer] for layer in sorted(layers)}


@lru_cache(maxsize=64)
def distance_buckets(tokens: int, buckets: int, max_distance: int) -> Tensor:
    """(2N - 1,) buckets of the distances j - i = -(N - 1) … N - 1 from query i to key j in the flat row of patches.

    The upper half of the buckets is for keys after the query. In each half, half have one distance each, and ranges
    up to `max_distance` that widen exponentially share the rest (Raffel et al., JMLR 2020).
    """
    with torch.inference_mode(False):  # what is cached must serve everybody
        distance = torch.arange(1 - tokens, tokens)
        half, size = buckets // 2, distance.abs()
        exact = half // 2
        # in single precision, like the published models
        position = torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact)
        shared = (exact + (position * (half - exact)).long()).clamp(max=half - 1)
        return torch.where(distance > 0, half, 0) + torch.where(size < exact, size, shared)


class Block(nn.Module):
    """x ← LN(α x + attention(x)), x ← LN(α x + FFN(x)) with DeepNorm's α = (2L)^¼ of L blocks."""

    def __init__(
        self,
        width: int,
        heads: int,
        ffn: int,
        layers: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
    ) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = Linear(width, ffn), Linear(ffn, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout, self.activation_dropout = nn.Dropout(dropout), nn.Dropout(activation_dropout)
        self.alpha = (2 * layers) ** 0.25
        attention, beta = self.self_attn, (8 * layers) ** -0.25
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, self.fc1, self.fc2):
            logits_only = linear in (attention.q_proj, attention.k_proj)
            nn.init.xavier_normal_(linear.weight, gain=1.0 if logits_only else beta)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
        branch = self.dropout(self.self_attn(half_precision(x), bias, padding))
        x = self.self_attn_layer_norm(torch.add(branch, x, alpha=self.alpha))
        branch = self.fc2(self.activation_dropout(F.gelu(self.fc1(half_precision(x)))))
        return self.final_layer_norm(torch.add(self.dropout(branch), x, alpha=self.alpha))


class Attention(nn.Module):
    """softmax(q kᵀ / √d + gate · bias) v per head; the gate weighs the relative position bias query by query."""

    relative_attention_bias: nn.Embedding  # in the first block

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj = Linear(width, width), Linear(width, width)
        self.v_proj, self.out_proj = Linear(width, width), Linear(width, width)
        self.grep_linear = nn.Linear(width // heads, 8)
        nn.init.normal_(self.grep_linear.weight, std=0.02)
        nn.init.zeros_(self.grep_linear.bias)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in projections)
        dropout = self.dropout if self.training else 0.0
        with full_precision(x):
            inputs = [q, k, v, self.gate(q)]
            if padding is not None:
                inputs.append(padding[:, None, None, :].expand(-1, self.heads, -1, -1))
            if x.device.type != "cpu":
                mixed = biased_attention(dropout, bias, *inputs)
            else:
                heads = max(1, LOGITS_AT_ONCE // x.shape[1] ** 2)
                clips = [
                    torch.cat([biased_attention(dropout, *part) for part in pieces((bias, *clip), heads, 1)], dim=1)
                    for clip in pieces(inputs, max(1, heads // self.heads), 0)
                ]
                mixed = torch.cat(clips)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def gate(self, q: Tensor) -> Tensor:
        """(B, H, N, 1) of (B, H, N, d) queries: 1 + u + (1 - u) · s · r with update gate u, reset gate r and learned
        scale s (`grep_a`) of WavLM, whose 1 - u is `keep`."""
        # the sum of four outputs each is one output of the sum of their weights
        weight = self.grep_linear.weight.unflatten(0, (2, 4)).sum(1)
        bias = self.grep_linear.bias.unflatten(0, (2, 4)).sum(1)
        keep, reset = torch.sigmoid(F.linear(q.float(), weight, bias)).split(1, dim=-1)
        return keep * (reset * self.grep_a - 1.0) + 2.0


def biased_attention(
    dropout: float, bias: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, padding: Tensor | None = None
) -> Tensor:
    """(B, H, N, d) mixtures of values."""
    bias = gate * bias
    if padding is not None:
        bias = bias.masked_fill(padding, -torch.inf)
    return attend(q, k, v, bias, dropout)


class PositionalConv(nn.Module):
    """(B, N, D) → the same, by a grouped convolution over the `kernel` tokens around each.

    Its weight is g · v / ‖v‖ at every step of the kernel (weight normalisation; Salimans and Kingma, NeurIPS 2016).
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_v = nn.Parameter(torch.randn(width, width // groups, kernel) * (4 / (kernel * width)) ** 0.5)
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self._spectrum = Frozen()

    def weight(self) -> Tensor:
        """(D, D / groups, kernel)"""
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return self.by_fourier(x)
        y = F.conv1d(x.transpose(1, 2), self.weight(), self.bias, padding=self.kernel // 2, groups=self.groups)
        return y[..., : x.shape[1]].transpose(1, 2)

    def by_fourier(self, x: Tensor) -> Tensor:
        """The same by overlap-save, in a seventh of the time on a CPU.

        Stretches of 2 · kernel tokens, one every `kernel`, are multiplied by the weight's spectrum, group by group and
        frequency by frequency; the first half of each result is free of wrap-around.
        """
        batch, tokens, step = len(x), x.shape[1], self.kernel
        count, before = -(-tokens // step), self.kernel // 2
        padded = F.pad(x.transpose(1, 2), (before, (count + 1) * step - tokens - before))
        stretches = torch.fft.rfft(padded.unfold(-1, 2 * step, step))  # (B, D, count, F)
        stretches = stretches.unflatten(1, (self.groups, -1)).permute(4, 1, 0, 3, 2).flatten(2, 3)
        spectrum = self._spectrum(self.spectrum, self.weight_v, self.weight_g)
        mixed = (stretches @ spectrum).unflatten(2, (batch, count))  # (F, groups, B, count, D / groups)
        y = torch.fft.irfft(mixed.permute(2, 1, 4, 3, 0), n=2 * step)[..., :step]
        return y.reshape(batch, -1, count * step)[..., :tokens].transpose(1, 2) + self.bias

    def spectrum(self) -> Tensor:
        """(F, groups, in, out): conjugate, for a correlation."""
        spectrum = torch.fft.rfft(self.weight(), n=2 * self.kernel).conj()
        return spectrum.unflatten(0, (self.groups, -1)).permute(3, 0, 2, 1).contiguous()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x, for what follows; gradients that come back are multiplied."""
    if factor == 1.0 or not x.requires_grad:
        return x
    x = x.view_as(x)
    x.register_hook(lambda gradient: gradient * factor)
    return x


def tag_probabilities(tokens: Tensor, weight: Tensor, bias: Tensor, padding: Tensor | None = None) -> Tensor:
    """(B, classes) by the classifier of a fine-tuned checkpoint, ``predictor.weight`` and ``predictor.bias``: sigmoid of
    the mean logits of the last layer's tokens (B, N, D), without those where `padding` (B, N) is True."""
    counts = torch.ones_like(tokens[..., :1]) if padding is None else (~padding).unsqueeze(-1).to(tokens.dtype)
    return ((F.linear(tokens, weight, bias) * counts).sum(1) / counts.sum(1)).sigmoid()


class BeatsBackbone(PatchTransformer):
    __doc__ = PatchTransformer.__doc__
    name = "beats"
    trunk_type = Beats
