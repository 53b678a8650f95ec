"""Learning to tell groups of normal clips apart, as the report of Tsz (HFU, 2026) does for its second system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones import Backbone
from asd_core.data.manifest import attribute_values, class_of
from asd_core.training.augment import mix_beta
from asd_core.training.losses import ArcFace, Center, CrossEntropy, checked_margin
from asd_core.training.objective import Objective, Problem, ViewCache
from asd_core.training.samplers import target_share
from asd_core.types import AsdError, Clip
from asd_core.views import View


class Prototypes(Objective):
    """Groups are machine × section × domain; where any training clip has the attribute, × its value.

    With the attribute, an angular margin between groups and a pull to their centres (ArcFace, center loss), on clips
    mixed with one another. Without it, groups are few and broad: two views of every clip, a supervised contrastive loss
    whose positives are the views of the own group, and a softmax cross-entropy of the group.

    Every view is a random excerpt (as the backbone cuts it) at a random level.

    Args:
        attribute: such as "spd", the speed; None: groups are domains alone.
        scale, margin: of ArcFace; the margin in radians.
        center_weight, center_lr: weight of the center loss, and the pace of its centres.
        temperature: of the contrastive loss.
        domain_weight: weight of the cross-entropy beside it.
        mixup_beta: mix every batch with a permutation of itself by one λ ~ Beta(this, this); not the two views.
        gain: levels change by up to so many dB up or down, both microphones alike.
        target_share: share of target clips among those drawn.
    """

    name = "prototypes"
    trains = "clip"

    def __init__(
        self,
        attribute: str | None = "spd",
        scale: float = 30.0,
        margin: float = 0.2,
        center_weight: float = 0.01,
        center_lr: float = 0.5,
        temperature: float = 0.1,
        domain_weight: float = 0.5,
        mixup_beta: float | None = 0.2,
        gain: float = 3.0,
        target_share: float | None = 0.3,
    ) -> None:
        checked_margin(scale, margin)
        for name, value in (("temperature", temperature), ("mixup_beta", mixup_beta)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        weights = {"center_weight": center_weight, "center_lr": center_lr, "domain_weight": domain_weight, "gain": gain}
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if center_lr > 1:
            raise ValueError(f"center_lr must not be above 1 (a longer step overshoots), got {center_lr}")
        if target_share is not None and not 0 < target_share < 1:
            raise ValueError(f"target_share must lie between 0 and 1, got {target_share}")
        self.attribute = attribute
        self.scale, self.margin, self.center_weight, self.center_lr = scale, margin, center_weight, center_lr
        self.temperature, self.domain_weight = temperature, domain_weight
        self.mixup_beta, self.gain, self.target_share = mixup_beta, gain, target_share

    def problem(
        self, backbone: Backbone, clips: Sequence[Clip], view: View, seed: int, scratch: Path | None = None
    ) -> Problem:
        names, visible = self._groups(clips)
        groups = sorted(set(names))
        if len(groups) == 1:
            raise AsdError(
                f'All {len(clips)} training clips are of one group ("{groups[0]}"), so there is nothing to tell apart. '
                f"Add normal clips of the target domain"
                + (f', or write the attribute "{self.attribute}" into file names.' if self.attribute else ".")
            )
        targets = torch.tensor([groups.index(name) for name in names])
        sizes = (backbone.embed_dim, len(groups))
        if visible:
            margin, centres = ArcFace(*sizes, self.scale, self.margin), Center(*sizes, self.center_lr)
            learner = GroupLearner(backbone, {margin: 1.0, centres: self.center_weight})
        else:
            learner = GroupLearner(backbone, {CrossEntropy(*sizes): self.domain_weight}, self.temperature)
        examples = GroupedClips(
            backbone,
            ViewCache(clips, view),
            F.one_hot(targets, len(groups)).float(),
            1 if visible else 2,
            self.gain,
            self.mixup_beta if visible else None,
        )
        share = self.target_share
        return Problem(
            learner,
            examples,
            depths={f"backbone.{name}": depth for name, depth in backbone.depths().items()},
            weights=None if share is None else target_share([clip.domain for clip in clips], share),
        )

    def _groups(self, clips: Sequence[Clip]) -> tuple[list[str], bool]:
        """The group of each clip, and whether the attribute is among what they are told apart by."""
        names = [class_of(clip, ("machine", "section", "domain")) for clip in clips]
        if self.attribute is None:
            return names, False
        values = [attribute_values(clip.attributes).get(self.attribute.lower()) for clip in clips]
        if not any(values):
            return names, False
        return [f"{name}|{value or ''}" for name, value in zip(names, values, strict=True)], True


class GroupLearner(nn.Module):
    """Weighted losses of the views of clips against the groups of these; with a temperature, the contrastive one too."""

    sees_batch = True  # moving centres, or pairs of clips

    def __init__(self, backbone: Backbone, losses: dict[nn.Module, float], temperature: float | None = None) -> None:
        super().__init__()
        self.backbone, self.losses, self.weights = backbone, nn.ModuleList(losses), list(losses.values())
        self.temperature = temperature

    def forward(self, x: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """(B, V, …, T) views of `lengths` (B,) samples, (B, groups) soft labels → scalar."""
        views = x.shape[1]
        embeddings = self.backbone.embed(x.flatten(0, 1), lengths=lengths.repeat_interleave(views))
        labels = labels.repeat_interleave(views, dim=0)
        loss = sum(weight * one(embeddings, labels) for weight, one in zip(self.weights, self.losses, strict=True))
        if self.temperature is not None:
            loss = loss + supervised_contrastive(embeddings, labels, self.temperature)
        assert isinstance(loss, Tensor)
        return loss


@dataclass(frozen=True)
class GroupedClips:
    """Views (B, V, …, T), padded with zeros to the longest, their lengths (B,), one-hot or mixed groups (B, groups)."""

    backbone: Backbone
    views: ViewCache
    labels: Tensor
    count: int  # V
    gain: float  # dB
    mixup_beta: float | None

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        size = (len(indices), self.count)
        starts = torch.rand(size, generator=generator).tolist()
        gains = 10 ** (self.gain / 20 * (2 * torch.rand(size, generator=generator) - 1))
        recordings = self.views.batch(indices.tolist())
        prepared = [self._views(*one) for one in zip(indices, recordings, starts, strict=True)]
        lengths = torch.tensor([self.backbone.valid_samples(views[0]) for views in prepared])
        longest = max(views.shape[-1] for views in prepared)
        x = torch.stack([F.pad(torch.from_numpy(views), (0, longest - views.shape[-1])) for views in prepared])
        x = x * gains.reshape(*size, *[1] * (x.ndim - 2))
        labels = self.labels[indices]
        if self.mixup_beta is not None:
            x, labels, mixing = mix_beta(x, labels, self.mixup_beta, generator)
            lengths = lengths if self.backbone.masks_own_padding else mixing.lengths(lengths)
        return x, lengths, labels

    def _views(self, clip: int, recording: np.ndarray, starts: list[float]) -> np.ndarray:
        """(V, …, T)"""
        try:
            return np.stack([self.backbone.prepare(recording, start) for start in starts])
        except AsdError as error:
            raise AsdError(f"{self.views.clips[clip].path}: {error}") from error


def supervised_contrastive(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean over views i of the cross-entropy between the other views of i's group, all alike, and the softmax of
    cos(i, j) / temperature over all others j (Khosla et al., NeurIPS 2020, L_out) → scalar.

    Args:
        embeddings: (N, D)
        labels: (N, groups) one-hot; of soft ones, two views are of one group to the extent that they agree. A view
            without another of its group adds nothing.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        x = F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)))
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        log_p = (x @ x.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0.0)
        positives = (labels @ labels.T).masked_fill(itself, 0.0).to(x.dtype)
        return -((positives * log_p).sum(1) / positives.sum(1).clamp_min(1e-6)).mean()
