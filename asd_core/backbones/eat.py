"""EAT: efficient audio transformer (Chen et al., IJCAI 2024, arXiv 2401.03497).

Mel patches with fixed positions and a CLS token, then plain post-norm transformer blocks. Written from the paper, the
released code's behaviour and the published weights' shapes; modules have the names of the Hugging Face release.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones.fbank import frame_count, kaldi_fbank
from asd_core.backbones.linear import LOGITS_AT_ONCE, Linear, attend, full_precision, half_precision, pieces
from asd_core.backbones.transformer import BANDS, PATCH, PatchTransformer, Trunk
from asd_core.types import AsdError

FBANK_MEAN, FBANK_STD = -4.268, 4.569  # of the pre-training data, samples being in [-1, 1] and without their mean
HEAD = ("fc_norm.", "head.")  # names of a fine-tuned checkpoint's classifier
OPTIONS = {
    "depth": "layers",
    "embed_dim": "width",
    "num_heads": "heads",
    "max_length": "steps",
    "norm_eps": "norm_eps",
}
FIXED = {"layer_norm_first": False, "patch_size": PATCH}


class Eat(Trunk):
    """By default of the published base size: 85,254,144 weights, and a table of 6144 positions.

    Args:
        layers, width, heads, ffn: number of blocks L, model width D, attention heads, width of the feed-forward layers.
        steps: time steps (of 0.16 s) that there are positions for: the longest clip.
        norm_eps: of every layer norm.
        target_frames: the log mel energies of every clip are cut to this many frames or followed by zeros, which are
            louder than silence and heard, as the released code does (1024 for 10 s). Default: the whole clip with
            zeros up to the next multiple of 16 frames.
        train_positions: let training change the table of positions too.
    """

    family = "eat"
    lora_targets = ("qkv",)
    has_cls = True

    def __init__(
        self,
        layers: int = 12,
        width: int = 768,
        heads: int = 12,
        ffn: int = 3072,
        steps: int = 768,
        norm_eps: float = 1e-6,
        target_frames: int | None = None,
        train_positions: bool = False,
    ) -> None:
        super().__init__()
        if width % heads or width % 4:
            raise AsdError(f"EAT's width must be a multiple of heads ({heads}) and of 4, got {width}.")
        if target_frames is not None and target_frames not in range(PATCH, steps * PATCH + 1, PATCH):
            raise AsdError(
                f"EAT's target_frames must be a multiple of {PATCH} up to {steps * PATCH}, got {target_frames}. "
                f"10 s are 998 frames; the published models were trained with 1024."
            )
        self.depth, self.width, self.steps, self.target_frames = layers, width, steps, target_frames
        patches = nn.Conv2d(1, width, PATCH, stride=PATCH)
        nn.init.xavier_uniform_(patches.weight.data.flatten(1))  # a view
        self.local_encoder = nn.ModuleDict({"proj": patches})
        table = nn.Parameter(positions(steps, width), requires_grad=train_positions)
        self.fixed_positional_encoder = nn.ParameterDict({"positions": table})
        self.extra_tokens = nn.Parameter(torch.randn(1, 1, width))  # CLS
        self.pre_norm = nn.LayerNorm(width, norm_eps)
        self.blocks = nn.ModuleList(Block(width, heads, ffn, norm_eps) for _ in range(layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    # ------------------------------------------------------------ input

    def fbank(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """With `target_frames`, all of them are valid; otherwise those of the clip, and the zeros that follow up to a
        multiple of 16 are heard with them."""
        samples = [wave.shape[1]] * len(wave) if lengths is None else lengths.tolist()
        if lengths is None:
            mean = wave.mean(1, keepdim=True)
        else:
            beyond = torch.arange(wave.shape[1], device=wave.device) >= lengths[:, None]
            mean = wave.masked_fill(beyond, 0.0).sum(1, keepdim=True) / lengths[:, None]
        log_mel = kaldi_fbank(wave - mean, "hann")
        frames = torch.tensor([frame_count(n) for n in samples], device=wave.device)
        total = self.target_frames or -(-log_mel.shape[1] // PATCH) * PATCH
        log_mel = F.pad(log_mel, (0, 0, 0, total - log_mel.shape[1]))  # a negative number cuts
        log_mel = log_mel.masked_fill((torch.arange(total, device=wave.device) >= frames[:, None])[..., None], 0.0)
        if self.target_frames is not None:
            self.patches(frames)  # clips without a single frame are refused
            frames = torch.full_like(frames, self.target_frames)
        return (log_mel - FBANK_MEAN) / (2 * FBANK_STD), frames

    def patches(self, frames: Tensor) -> Tensor:
        if bool((frames < 1).any()):
            raise AsdError("A clip is shorter than 25 ms, one frame of EAT's filter bank. Remove shorter clips.")
        return -(-frames // PATCH)

    def embed(self, fbank: Tensor) -> Tensor:
        """(B, frames, 128) → (B, T·8, D) patch embeddings without positions."""
        return self.local_encoder["proj"](fbank.unsqueeze(1)).flatten(2).transpose(1, 2)

    def prepare(self, patches: Tensor) -> Tensor:
        """(B, T·8, D) patch embeddings → (B, 1 + T·8, D), what enters the first block."""
        table = self.fixed_positional_encoder["positions"]
        if patches.shape[1] > table.shape[1]:
            longest = self.steps * PATCH * 0.01
            raise AsdError(
                f"A clip of {patches.shape[1] // BANDS * PATCH * 0.01:.1f} s is longer than this EAT has positions for "
                f"({longest:.1f} s). Set `seconds` or `target_frames` to cut clips."
            )
        cls = self.extra_tokens.expand(len(patches), -1, -1)  # has no position
        return self.pre_norm(torch.cat([cls, patches + table[:, : patches.shape[1]]], dim=1))

    # ------------------------------------------------------------ hidden states

    def states(self, fbank: Tensor, frames: Tensor | None, layers: set[int]) -> dict[int, Tensor]:
        with full_precision(fbank):  # little work, and bf16 would round positions
            x = self.prepare(self.embed(fbank.float()))
        heard = None
        if frames is not None and self.target_frames is None:
            tokens = 1 + self.patches(frames) * BANDS
            heard = (torch.arange(x.shape[1], device=x.device) < tokens[:, None])[:, None, None]  # of the keys
        hidden = {0: x}
        for layer, block in enumerate(self.blocks[: max(layers)], start=1):
            hidden[layer] = x = block(x, heard)
        return {layer: hidden[layer] for layer in sorted(layers)}

    def depth_of(self, parameter: str) -> int:
        block = re.match(r"blocks\.(\d+)\.", parameter)
        return self.depth - 1 - int(block[1]) if block else self.depth

    # ------------------------------------------------------------ published checkpoints

    @classmethod
    def architecture(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """`config` has the keys of the Hugging Face release's config.json, as `pretrained` gives them for every file."""
        for option, needed in FIXED.items():
            if config.get(option, needed) != needed:
                raise AsdError(
                    f"The checkpoint's configuration has {option} = {config[option]!r}; only EAT with {needed!r} (all "
                    f"published ones) is supported."
                )
        options = {ours: config[theirs] for theirs, ours in OPTIONS.items()}
        return options | {"ffn": round(config["embed_dim"] * config["mlp_ratio"])}

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        """Also accepts the classifier of a fine-tuned checkpoint, which is left out (see `Classifier`)."""
        super().adopt({name: value for name, value in tensors.items() if not name.startswith(HEAD)})


class Block(nn.Module):
    """Attention and feed-forward layers, each with a residual and normalised after it."""

    def __init__(self, width: int, heads: int, ffn: int, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, norm_eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, norm_eps)
        self.mlp = nn.Sequential(OrderedDict(fc1=Linear(width, ffn), act=nn.GELU(), fc2=Linear(ffn, width)))

    def forward(self, x: Tensor, heard: Tensor | None) -> Tensor:
        x = self.norm1(x + self.attn(half_precision(x), heard))
        return self.norm2(x + self.mlp(half_precision(x)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, heard: Tensor | None) -> Tensor:
        """(B, N, D), and a (B, 1, 1, N) mask, True where tokens may be attended to."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, D / heads) each
        bias = None if heard is None else torch.where(heard, 0.0, -torch.inf)
        with full_precision(x):
            if x.device.type != "cpu" or q.dtype == torch.float32:
                mixed = attend(q, k, v, bias)
            else:
                few = max(1, LOGITS_AT_ONCE // (len(x) * x.shape[1] ** 2))
                mixed = torch.cat([attend(q, k, v, bias) for q, k, v in pieces((q, k, v), few, 1)], dim=1)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Classifier(nn.Module):
    """The published classifier on the CLS token (B, D) → (B, classes) logits.

    The Hugging Face release computes it with an `eps` of 1e-5, the original code with 1e-6.
    """

    def __init__(self, width: int, classes: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.fc_norm = nn.LayerNorm(width, eps)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, cls: Tensor) -> Tensor:
        return self.head(self.fc_norm(cls))


def positions(steps: int, width: int) -> Tensor:
    """(1, steps · 8, width) table of sines and cosines: the first half of each row tells the band, the second the time
    step. The frequencies are 10000^(-4k / width), k = 0 … width/4 - 1."""
    count = width // 4
    # as rounded by numpy's float32 power, like the published tables: what PyTorch rounds otherwise shows at late steps
    frequencies = torch.tensor(1 / 10000 ** (np.arange(count, dtype=np.float32) / count))

    def waves(count: int) -> Tensor:
        angles = torch.arange(count)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    bands, times = waves(BANDS).repeat(steps, 1), waves(steps).repeat_interleave(BANDS, dim=0)
    return torch.cat([bands, times], dim=1)[None]


class EatBackbone(PatchTransformer):
    __doc__ = PatchTransformer.__doc__
    name = "eat"
    trunk_type = Eat
