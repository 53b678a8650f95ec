"""What BEATs and EAT share: a filter bank cut into 16×16 patches, transformer blocks over them, and on top a
pooling and a head of our own, adapted to the data at hand in full, in part or not at all.
"""

from __future__ import annotations

import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from asd_core import weights
from asd_core.backbones import pretrained
from asd_core.backbones.base import Backbone, fit_length
from asd_core.backbones.fbank import HOP, band_edges
from asd_core.backbones.head import build_head
from asd_core.backbones.pooling import BANDS, POOLINGS, AttentiveStatistics
from asd_core.types import SAMPLE_RATE, AsdError, Grid

PATCH = 16  # frames and mel bands of a patch
SHORTEST = 400 + 15 * 160  # samples of one patch
LAYER = re.compile("[a-z]+")  # what comes before the number of a layer in an output's name


class Trunk(nn.Module, ABC):
    """Filter bank, patches and transformer blocks. Tokens are time-major: index t · 8 + f, f = 0 the lowest band,
    after a leading CLS token where there is one."""

    family: ClassVar[str]  # of published checkpoints: "beats" or "eat"
    lora_targets: ClassVar[tuple[str, ...]]  # endings of the names of the projections that low-rank updates go to
    has_cls: ClassVar[bool] = False
    depth: int  # blocks
    width: int  # D
    blocks: nn.ModuleList

    @abstractmethod
    def fbank(self, wave: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T) in [-1, 1] with (B,) valid samples → (B, frames, 128) normalised filter bank, (B,) valid frames."""

    @abstractmethod
    def patches(self, frames: Tensor) -> Tensor:
        """(B,) valid frames → (B,) time steps of the patch grid."""

    def forward(
        self, fbank: Tensor, frames: Tensor | None = None, layers: Collection[int] | None = None
    ) -> dict[int, Tensor]:
        """Hidden states (B, tokens, D) by layer: 0 enters the first block, l leaves block l; default: the last.

        Tokens beyond the valid `frames` (B,) are masked out, so that a clip in a padded batch gives what it gives
        alone; None: all frames count.
        """
        wanted = {self.depth} if layers is None else set(layers)
        learning = self.training or (torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()))
        if fbank.device.type != "cpu" or len(fbank) == 1 or learning:
            return self.states(fbank, frames, wanted)
        # every clip alone: nothing is spent on padding and masks, and what is at work stays in the cache
        longest = fbank.shape[1] // PATCH
        steps = [longest] * len(fbank) if frames is None else self.patches(frames).tolist()
        states = {layer: torch.zeros(len(fbank), self.has_cls + longest * BANDS, self.width) for layer in wanted}
        for clip, length in enumerate(steps):
            for layer, state in self.states(fbank[clip : clip + 1, : length * PATCH], None, wanted).items():
                states[layer][clip, : state.shape[1]] = state[0]
        return states

    @abstractmethod
    def states(self, fbank: Tensor, frames: Tensor | None, layers: set[int]) -> dict[int, Tensor]:
        """As `forward`, of the batch as a whole."""

    @abstractmethod
    def depth_of(self, parameter: str) -> int:
        """Blocks between a parameter and the output: 0 in the last block, `depth` before the first."""

    @classmethod
    @abstractmethod
    def architecture(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Options of this trunk's constructor that the configuration inside a published checkpoint asks for."""

    def adopt(self, tensors: Mapping[str, Tensor]) -> None:
        """Load published weights, strictly.

        Raises:
            AsdError: names or shapes do not fit.
        """
        try:
            self.load_state_dict(tensors)
        except RuntimeError as error:
            problems = textwrap.shorten(str(error).partition("\n")[2], 1000)
            raise AsdError(f"The weights do not fit this {type(self).__name__} architecture. {problems}") from error


class PatchTransformer(Backbone):
    """Clip embeddings from hidden states: trunk → pooling → head.

    Outputs: "clip" (B, E) embedding of the last layer; "layer<l>" the same from hidden state l, through the same
    pooling and head; "patches" and "patches<l>" (B, T, 8, D) grids of hidden states; "bands" and "bands<l>"
    (B, V, 8, D) their summaries over time: mean, maximum and, where the pooling is "asp", the mean under its attention,
    renormalised inside each band.

    Args:
        pooling: {"name": …} of `backbones.pooling`.
        head: layers after the pooling (see `backbones.head`); what leaves it is the embedding.
        checkpoint: published weights to start from, by their name in configs/weights.yaml or by path; without, the
            network starts from random weights or from an earlier training.
        architecture: options of the trunk; default: those of the checkpoint, else of the published base model.
        adapt: what is trained beside pooling and head: "full" everything, "top" the last `top_blocks` blocks,
            "frozen" nothing, "lora" low-rank updates of rank `lora_rank`, scaled by `lora_alpha` / rank, of the
            attention's projections.
        seconds: input length; default: each clip whole.
        train_seconds: train on random excerpts of this length instead (not those of a frozen encoder, which hears
            every clip once).
        shorter: clips below `seconds` are kept ("keep"), repeated ("tile") or followed by digital silence ("zeros").
            "zeros_masked": in training such silence takes no part in attention, though the pooling counts it, and is
            heard like all else when embedding; so does the UNIS team's code.
        longer: which excerpt of clips above `seconds`: the "first"; at "random" in training and the first when
            embedding; or "random_centre", the middle when embedding.
        peak: scale every excerpt to a peak of 1.
        time_mask, mel_mask: SpecAugment in training: at most this many frames, mel bands are set to the mean, each
            with `mask_probability` (Park et al., Interspeech 2019).
    """

    input = "waveform"
    layout = Grid(PATCH * HOP / SAMPLE_RATE, band_edges(BANDS))
    cpu_batch = 4  # measured: larger batches leave the cache
    trunk_type: ClassVar[type[Trunk]]

    def __init__(
        self,
        pooling: dict[str, Any],
        head: list[str | dict[str, float]] = (),  # type: ignore[assignment]
        checkpoint: str | None = None,
        architecture: dict[str, Any] | None = None,
        adapt: Literal["full", "top", "frozen", "lora"] = "full",
        top_blocks: int = 4,
        lora_rank: int = 64,
        lora_alpha: float = 8.0,
        seconds: float | None = None,
        train_seconds: float | None = None,
        shorter: Literal["keep", "tile", "zeros", "zeros_masked"] = "keep",
        longer: Literal["first", "random", "random_centre"] = "random",
        peak: bool = False,
        time_mask: int = 0,
        mel_mask: int = 0,
        mask_probability: float = 0.5,
    ) -> None:
        super().__init__()
        if adapt == "frozen" and (time_mask or mel_mask):
            raise ValueError("a frozen encoder hears every clip once, so nothing can be masked at random")
        self.is_pretrained = False
        self.checkpoint, self.architecture, self.adapt = checkpoint, architecture or {}, adapt
        self.samples = None if seconds is None else round(seconds * SAMPLE_RATE)
        self.train_samples = None if train_seconds is None else round(train_seconds * SAMPLE_RATE)
        self.shorter, self.longer, self.peak = shorter, longer, peak
        self.masks_own_padding = shorter == "zeros_masked"
        self.masks = (time_mask, mel_mask, mask_probability)
        self.trunk = self.trunk_type(**self.architecture)
        self.pooling = POOLINGS.create(pooling, "pooling", width=self.trunk.width)
        self.head = build_head(self.pooling.out_dim, list(head))
        self.embed_dim = self.head.out_dim
        layers = range(1, self.trunk.depth + 1)
        by_layer = (f"{kind}{layer}" for kind in ("layer", "patches", "bands") for layer in layers)
        self.outputs = ("clip", "patches", "bands", *by_layer)
        self._choose_trainable(top_blocks, lora_rank, lora_alpha)

    def _choose_trainable(self, top_blocks: int, lora_rank: int, lora_alpha: float) -> None:
        if self.adapt == "full":
            return
        self.trunk.requires_grad_(False)
        if self.adapt == "top":
            for block in self.trunk.blocks[-top_blocks:]:
                block.requires_grad_(True)
        elif self.adapt == "lora":
            from asd_core.backbones.lora import add_lora

            add_lora(self.trunk, self.trunk.lora_targets, lora_rank, lora_alpha)

    # ------------------------------------------------------------ weights

    @classmethod
    def resolve(cls, options: dict[str, Any], longest_seconds: float) -> dict[str, Any]:
        if options.get("checkpoint") is None:
            return options
        try:
            file = weights.locate(options["checkpoint"])
        except AsdError:
            return options  # `files` tells the user; the sizes of the published base model stand in until then
        found = pretrained.read_config(file)
        cls._check_family(found.family, file)
        return {
            **options,
            "architecture": cls.trunk_type.architecture(found.config) | (options.get("architecture") or {}),
        }

    @classmethod
    def files(cls, options: dict[str, Any]) -> list[Path]:
        return [] if options.get("checkpoint") is None else [weights.locate(options["checkpoint"])]

    @classmethod
    def _check_family(cls, family: str, file: Path) -> None:
        if family != cls.trunk_type.family:
            raise AsdError(f"{file} holds weights of {family}, but the system asks for {cls.trunk_type.family}.")

    def begin(self, earlier: Backbone | None) -> None:
        if earlier is not None:
            if not isinstance(earlier, type(self)):
                raise AsdError(f'Backbone "{self.name}" cannot start from a trained "{earlier.name}".')
            self._copy(earlier.trunk)
            self.is_pretrained = True
        elif self.checkpoint is not None:
            file = weights.locate(self.checkpoint)
            found = pretrained.read(file)
            self._check_family(found.family, file)
            fresh = self.trunk_type(**self.architecture)
            fresh.adopt(found.tensors)
            self._copy(fresh)
            self.is_pretrained = True

    @torch.no_grad()
    def _copy(self, trunk: Trunk) -> None:
        """Weights of an unadapted trunk into this one, whose projections low-rank updates may have wrapped."""
        own = {name.replace(".base_layer", ""): value for name, value in self.trunk.state_dict().items()}
        try:
            for name, value in trunk.state_dict().items():
                own[name].copy_(value)
        except (KeyError, RuntimeError) as error:
            raise AsdError(f"The earlier weights do not fit this architecture: {error}") from error

    def depths(self) -> dict[str, int]:
        if not self.is_pretrained:
            return {}
        return {f"trunk.{name}": self.trunk.depth_of(name) for name, _ in self.trunk.named_parameters()}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.adapt == "frozen":
            self.trunk.eval()
        return self

    # ------------------------------------------------------------ clips

    def prepare(self, x: np.ndarray, start: float | None = None) -> np.ndarray:
        samples = self.samples
        if start is not None and self.train_samples is not None:
            samples = self.train_samples
        elif self.longer == "first":
            start = None
        elif start is None and self.longer == "random_centre":
            start = 0.5
        if samples is not None and len(x) > samples:
            x = fit_length(x, samples, start)
        if self.peak:
            x = x / (np.abs(x).max() + 1e-6)
        if samples is not None and len(x) < samples:
            if self.shorter == "tile":
                x = fit_length(x, samples, start)
            elif self.shorter != "keep":
                x = np.pad(x, (0, samples - len(x)))
        if len(x) < SHORTEST:
            raise AsdError(
                f"the clip has {len(x)} samples; {self.trunk.family} needs {SHORTEST} (0.175 s). Remove shorter clips."
            )
        return x

    def kind_of(self, output: str) -> str:
        return next((kind for kind in ("patches", "bands") if output.startswith(kind)), "vector")

    def valid_samples(self, x: np.ndarray) -> int:
        if not self.masks_own_padding:
            return len(x)
        return max(int(np.flatnonzero(x)[-1:].sum()) + 1, SHORTEST)

    def _embed(self, x: Tensor, outputs: Sequence[str], lengths: Tensor | None) -> dict[str, Tensor]:
        layer_of = {output: int(LAYER.sub("", output) or self.trunk.depth) for output in outputs}
        hidden, valid = self.hidden(x, lengths, set(layer_of.values()))
        if self.masks_own_padding:
            valid = None
        read = {
            "vector": lambda state: self.pooled(state, valid),
            "patches": self.grid,
            "bands": lambda state: self.bands(self.grid(state).float(), valid),
        }
        return {output: read[self.kind_of(output)](hidden[layer]) for output, layer in layer_of.items()}

    def hidden(
        self, x: Tensor, lengths: Tensor | None = None, layers: Collection[int] | None = None
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """Hidden states (B, tokens, D) by layer of waveforms (B, T), and which patch tokens count (B, T · 8)."""
        if lengths is not None and bool((lengths == x.shape[1]).all()):
            lengths = None
        with torch.autocast(x.device.type, enabled=False):
            fbank, frames = self.trunk.fbank(x, lengths)
            if self.training:
                fbank = mask_bank(fbank, *self.masks)
        hidden = self.trunk(fbank, None if lengths is None else frames, layers)
        if lengths is None:
            return hidden, None
        any_layer = next(iter(hidden.values()))
        tokens = torch.arange(any_layer.shape[1] - self.trunk.has_cls, device=x.device)
        return hidden, tokens < (self.trunk.patches(frames) * BANDS)[:, None]

    def pooled(self, hidden: Tensor, valid: Tensor | None) -> Tensor:
        """(B, tokens, D) of any layer → (B, E)."""
        first = int(self.trunk.has_cls and not self.pooling.takes_cls)
        return self.head(self.pooling(hidden[:, first:].float(), valid))

    def from_tokens(self, hidden: Tensor, counts: Tensor) -> Tensor:
        """Stored hidden states (B, tokens, D), of which (B,) `counts` are the clip's, → (B, E)."""
        tokens = torch.arange(hidden.shape[1], device=hidden.device)
        valid = (tokens < counts[:, None])[:, int(self.trunk.has_cls) :]
        return self.pooled(hidden, valid)

    def grid(self, hidden: Tensor) -> Tensor:
        """(B, tokens, D) → (B, T, 8, D) without the CLS token."""
        return hidden[:, int(self.trunk.has_cls) :].unflatten(1, (-1, BANDS))

    def bands(self, grid: Tensor, valid: Tensor | None) -> Tensor:
        """(B, T, 8, D), (B, T · 8) bool → (B, V, 8, D): mean, maximum and, if there is an attention, its mean."""
        views = [grid.new_zeros(grid.shape)]  # equal logits: the plain mean
        if isinstance(self.pooling, AttentiveStatistics):
            views.append(self.pooling.attention(grid.flatten(1, 2), valid).view_as(grid))
        highest = grid
        if valid is not None:
            padding = ~valid.view(len(grid), -1, BANDS, 1)
            views = [logits.masked_fill(padding, float("-inf")) for logits in views]
            grid, highest = grid.masked_fill(padding, 0.0), grid.masked_fill(padding, float("-inf"))
        mean, *attentive = [(logits.softmax(dim=1) * grid).sum(dim=1) for logits in views]
        return torch.stack([mean, highest.amax(dim=1), *attentive], dim=1)


def mask_bank(fbank: Tensor, time: int, mel: int, probability: float) -> Tensor:
    """SpecAugment on (B, frames, bands): one stretch of frames and one of bands per clip set to 0, the mean."""
    for axis, widest in ((1, time), (2, mel)):
        if not widest:
            continue
        size, count = fbank.shape[axis], len(fbank)
        width = torch.randint(0, min(widest, size) + 1, (count, 1), device=fbank.device)
        width = width * (torch.rand(count, 1, device=fbank.device) < probability)
        first = (torch.rand(count, 1, device=fbank.device) * (size - width + 1)).long()
        place = torch.arange(size, device=fbank.device)
        hit = (place >= first) & (place < first + width)  # (B, size)
        fbank = fbank.masked_fill(hit[:, :, None] if axis == 1 else hit[:, None, :], 0.0)
    return fbank
