"""Learning to tell normal clips apart by what is known about them; what embeds them well detects the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones import Backbone
from asd_core.data.manifest import LABEL_FIELDS, class_of
from asd_core.training.losses import LOSSES
from asd_core.training.objective import Objective, Problem, ViewCache
from asd_core.types import AsdError, Clip
from asd_core.views import View


class Classification(Objective):
    """Classify clips by `labels`, fields of machine, section, domain, attributes.

    Where these fields give a single class (one machine alone), all four are used instead, with a notice.

    Args:
        loss: {"name": …} of `training.losses`.
        mixup: probability that a clip is mixed with another, λ ~ U(0, 1), waveform and label alike.
    """

    name = "classification"
    trains = "clip"

    def __init__(self, labels: list[str], loss: dict[str, Any], mixup: float = 0.0) -> None:
        unknown = [name for name in labels if name not in LABEL_FIELDS]
        if unknown or not labels:
            raise ValueError(f"labels must be some of {', '.join(LABEL_FIELDS)}, got {labels}")
        if not 0 <= mixup <= 1:
            raise ValueError(f"mixup must be a probability, got {mixup}")
        if not isinstance(loss.get("name"), str):
            raise ValueError(f"loss needs a name, one of {', '.join(sorted(LOSSES.classes))}; got {loss}")
        LOSSES.check(loss, "loss")
        self.labels, self.loss, self.mixup = labels, loss, mixup

    def problem(self, backbone: Backbone, clips: Sequence[Clip], view: View, seed: int) -> Problem:
        names, notices = self._classes(clips)
        classes = sorted(set(names))
        targets = torch.tensor([classes.index(name) for name in names])
        head = LOSSES.create(self.loss, "objective.loss", dim=backbone.embed_dim, classes=len(classes))
        examples = LabelledClips(ViewCache(clips, view), backbone, targets, len(classes), self.mixup)
        return Problem(Classifier(backbone, head), examples, notices=notices)

    def _classes(self, clips: Sequence[Clip]) -> tuple[list[str], list[str]]:
        """The class of each clip, and what the user should know about the choice."""
        names = [class_of(clip, self.labels) for clip in clips]
        if len(set(names)) > 1:
            return names, []
        names = [class_of(clip, LABEL_FIELDS) for clip in clips]
        if len(set(names)) == 1:
            raise AsdError(
                f'All {len(clips)} training clips are of one class ("{names[0]}"), so there is nothing to tell '
                f"apart. Train on more than one machine, or on clips with attributes or a target domain."
            )
        return names, [
            f"The labels {', '.join(self.labels)} give a single class here; machine, section, domain and "
            f"attributes were used instead ({len(set(names))} classes)."
        ]


class Classifier(nn.Module):
    """Loss of a backbone's clip embeddings against soft labels."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.head(self.backbone.embed(x), labels)


class LabelledClips:
    """Prepared views (B, …) with one-hot or mixed labels (B, classes)."""

    def __init__(self, views: ViewCache, backbone: Backbone, targets: Tensor, classes: int, mixup: float) -> None:
        self.views, self.prepare, self.targets = views, backbone.prepare, targets
        self.classes, self.mixup = classes, mixup

    def __len__(self) -> int:
        return len(self.targets)

    def load(self, indices: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts = torch.rand(len(indices), generator=generator).tolist()
        views = self.views.batch(indices.tolist())
        x = np.stack([self.prepare(view, start) for view, start in zip(views, starts, strict=True)])
        labels = F.one_hot(self.targets[torch.from_numpy(indices)], self.classes).float()
        return mix(torch.from_numpy(x), labels, self.mixup, generator)


def mix(x: Tensor, labels: Tensor, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup per example: with `probability`, λ·own + (1 − λ)·another's, λ ~ U(0, 1)."""
    if not probability:
        return x, labels
    partner = torch.randperm(len(x), generator=generator)
    weight = torch.rand(len(x), generator=generator)
    chosen = torch.rand(len(x), generator=generator) < probability
    weight = torch.where(chosen, weight, torch.ones(()))
    w = weight.reshape(-1, *[1] * (x.ndim - 1))
    return w * x + (1 - w) * x[partner], weight[:, None] * labels + (1 - weight[:, None]) * labels[partner]
