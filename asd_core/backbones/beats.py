"""BEATs: bidirectional encoder representation from audio transformers (Chen et al., ICML 2023, arXiv 2212.09058).

Mel patches, a projection and convolutional positions, then post-norm transformer blocks with the residuals of DeepNorm
(Wang et al., arXiv 2203.00555) and the gated relative position bias of WavLM (Chen et al., IEEE JSTSP 2022). Written
from the papers, the released code's behaviour and the published weights' shapes; modules have the published names.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones.fbank import FRAME, HOP, kaldi_fbank
from asd_core.backbones.linear import Frozen, Linear, full_precision, half_precision
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
        self.encoder = Encoder(blocks, PositionalConv(width, conv_kernel, conv_groups), dropout)
        self.encoder.max_distance, self.encoder.layer_drop = max_distance, layer_drop
        self.encoder.gradient_decay = gradient_decay

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

    def forward(
        self, fbank: Tensor, frames: Tensor | None = None, layers: Collection[int] | None = None
    ) -> dict[int, Tensor]:
        wanted = {self.depth} if layers is None else set(layers)
        tokens = self.patches(torch.tensor([fbank.shape[1]])) * BANDS
        if fbank.device.type == "cpu" and len(fbank) > 1 and not (torch.is_grad_enabled() or self.training):
            # each clip alone: nothing is spent on padding and masks, and all stays in the cache
            cut = [fbank.shape[1]] * len(fbank) if frames is None else frames.tolist()
            clips = [self(clip[None, :length], None, wanted) for clip, length in zip(fbank, cut, strict=True)]
            longer = [(0, 0, 0, int(tokens) - self.patches(torch.tensor(length)) * BANDS) for length in cut]
            return {l: torch.cat([F.pad(c[l], by) for c, by in zip(clips, longer, strict=True)]) for l in wanted}
        padding = None
        if frames is not None:
            padding = torch.arange(int(tokens), device=fbank.device) >= (self.patches(frames) * BANDS)[:, None]
        return self.hidden(fbank, padding, wanted)
