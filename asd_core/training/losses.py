"""Classification losses on embeddings. All take soft labels (B, classes), so that mixup needs no second path."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.registry import Registry


class Loss(nn.Module, ABC):
    """`loss(embeddings (B, D), soft labels (B, classes))` → scalar, the mean over clips; holds its own class centres.

    Computed in single precision at least, whatever the autocast around it: scaled cosines do not survive bfloat16.
    """

    name: ClassVar[str]
    linear_in_labels: ClassVar[bool] = True  # mixed labels give the mixed losses, a row of zeros adds nothing
    sees_batch: bool = False  # whether the batch as a whole matters, so that several processes cannot share it

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.dim, self.classes = dim, classes

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        kind = torch.promote_types(embeddings.dtype, torch.float32)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self._loss(embeddings.to(kind), labels.to(kind))

    @abstractmethod
    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor: ...


class CrossEntropy(Loss):
    """Softmax cross-entropy on a linear layer."""

    name = "cross_entropy"

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(dim, classes)
        self.layer = nn.Linear(dim, classes)

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.layer(embeddings), labels)


class ArcFace(Loss):
    """Softmax cross-entropy that asks for an angular margin (Deng et al., CVPR 2019).

    The logit of the clip's class is scale · cos(θ + margin), those of the others are scale · cos θ. A mixed clip
    gives λ · CE(own class) + (1 − λ) · CE(other class), either with the margin on its own class only.

    Args:
        margin: radians.
    """

    name = "arcface"

    def __init__(self, dim: int, classes: int, scale: float = 30.0, margin: float = 0.5) -> None:
        super().__init__(dim, classes)
        self.scale, self.margin = scale, checked_margin(scale, margin)
        self.centres = nn.Parameter(torch.empty(classes, dim))
        nn.init.xavier_uniform_(self.centres)

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = F.normalize(embeddings) @ F.normalize(self.centres).T  # (B, classes)
        narrowed = with_margin(cosine, self.margin)
        clip, own = labels.nonzero(as_tuple=True)  # one row per clip and class it belongs to
        logits = self.scale * cosine[clip].scatter(1, own[:, None], narrowed[clip, own][:, None])
        losses = F.cross_entropy(logits, own, reduction="none")
        return (labels[clip, own] * losses).sum() / len(labels)


class ArcFaceBce(Loss):
    """ArcFace's logits under binary cross-entropy, as the UNIS team trained in 2026.

    Logits scale · [y · cos(θ + margin) + (1 − y) · cos θ]: a mixed label blends the margin in. The loss is the mean
    over clips and classes of the binary cross-entropy with y.

    Args:
        margin: radians.
        easy_margin: margin only where cos θ > 0.
    """

    name = "arcface_bce"
    linear_in_labels = False

    def __init__(
        self, dim: int, classes: int, scale: float = 30.0, margin: float = 0.5, easy_margin: bool = False
    ) -> None:
        super().__init__(dim, classes)
        self.scale, self.margin, self.easy_margin = scale, checked_margin(scale, margin), easy_margin
        self.centres = nn.Parameter(torch.empty(classes, dim))
        nn.init.xavier_uniform_(self.centres)

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, D), (B, classes) → (B, classes); they depend on the labels."""
        cosine = F.normalize(embeddings) @ F.normalize(self.centres).T
        return self.scale * torch.lerp(cosine, with_margin(cosine, self.margin, self.easy_margin), labels)

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits(embeddings, labels), labels)


class SubclusterAdaCos(Loss):
    """Softmax cross-entropy over several centres per class (Wilkinghoff, IJCNN 2021); with one, AdaCos of fixed scale.

    p_c = Σ_k softmax(s · cos(x, w))_{c,k}, loss = −Σ_c y_c ln p_c, with the scale s = √2 · ln(classes · subclusters − 1).

    Args:
        trainable: learn the centres; otherwise they stay where they were drawn.
        dynamic: let every training step set the scale (see `adapted_scale`) from the cosines of its batch, the
            angle to a class being that to its nearest centre.
    """

    name = "subcluster_adacos"

    def __init__(
        self, dim: int, classes: int, subclusters: int = 16, trainable: bool = True, dynamic: bool = False
    ) -> None:
        super().__init__(dim, classes)
        if classes * subclusters < 3:
            raise ValueError(f"{classes} classes of {subclusters} sub-clusters: the scale √2·ln(2 − 1) would be 0")
        self.subclusters, self.dynamic, self.sees_batch = subclusters, dynamic, dynamic
        self.centres = nn.Parameter(torch.empty(dim, classes * subclusters), requires_grad=trainable)
        nn.init.xavier_uniform_(self.centres)
        # a scale that moves is part of what was learnt
        scale = torch.tensor(math.sqrt(2) * math.log(classes * subclusters - 1))
        self.register_buffer("scale", scale, persistent=dynamic)
        self.scale: Tensor

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = F.normalize(embeddings) @ F.normalize(self.centres, dim=0)  # (B, classes · subclusters)
        if self.dynamic and self.training:
            nearest = cosine.unflatten(1, (self.classes, self.subclusters)).amax(dim=2)
            self.scale.copy_(adapted_scale(self.scale * cosine, nearest, labels))
        scale = self.scale.clone()  # for the gradient, which the next step's scale must not reach
        log_p = F.log_softmax(scale * cosine, dim=1).unflatten(1, (self.classes, self.subclusters))
        return -(labels * log_p.logsumexp(dim=2)).sum(dim=1).mean()


class AdaProj(Loss):
    """Softmax cross-entropy over the cosine between an embedding and its projection onto a subspace per class
    (Wilkinghoff, "AdaProj", DCASE 2024).

    The scale is AdaCos's √2 · ln(classes − 1), for two classes that of three (it would be 0).

    Args:
        subspace: vectors that span the subspace of a class; as in the paper they are not kept orthogonal.
        trainable: learn these vectors; otherwise they stay where they were drawn.
        dynamic: let every training step set the scale, as in `subcluster_adacos`; the clip's own class enters the
            sum as exp(0).
    """

    name = "adaproj"

    def __init__(
        self, dim: int, classes: int, subspace: int = 32, trainable: bool = True, dynamic: bool = False
    ) -> None:
        super().__init__(dim, classes)
        self.dynamic = self.sees_batch = dynamic
        self.centres = nn.Parameter(torch.randn(classes, subspace, dim), requires_grad=trainable)
        scale = torch.tensor(math.sqrt(2) * math.log(max(classes, 3) - 1))
        self.register_buffer("scale", scale, persistent=dynamic)
        self.scale: Tensor

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        x, w = F.normalize(embeddings), F.normalize(self.centres, dim=2)
        projected = torch.einsum("bck,ckd->bcd", torch.einsum("bd,ckd->bck", x, w), w)
        cosine = torch.einsum("bd,bcd->bc", x, F.normalize(projected, dim=2))
        if self.dynamic and self.training:
            others = torch.where(labels < 1, self.scale * cosine, 0.0)
            self.scale.copy_(adapted_scale(others, cosine, labels))
        return F.cross_entropy(self.scale.clone() * cosine, labels)  # cloned as in SubclusterAdaCos


class Center(Loss):
    """Half the squared distance to the centre of the clip's class (Wen et al., ECCV 2016); beside another loss.

    The centres start at the origin. In training each batch moves them by a plain gradient step of this very loss,
    so their pace depends neither on the optimiser nor on the weight that the loss has among others.

    Args:
        lr: length of that step.
    """

    name = "center"
    sees_batch = True

    def __init__(self, dim: int, classes: int, lr: float = 0.5) -> None:
        super().__init__(dim, classes)
        if not 0 <= lr <= 1:
            raise ValueError(f"lr must be between 0 and 1 (a longer step overshoots), got {lr}")
        self.lr = lr
        self.register_buffer("centres", torch.zeros(classes, dim))
        self.centres: Tensor

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        clip, own = labels.nonzero(as_tuple=True)
        squared = (embeddings[clip] - self.centres[own]).square().sum(dim=1)
        if self.training:
            with torch.no_grad():
                pull = labels.T @ embeddings - labels.sum(dim=0)[:, None] * self.centres
                self.centres += self.lr / len(labels) * pull
        return 0.5 * (labels[clip, own] * squared).sum() / len(labels)


def checked_margin(scale: float, margin: float) -> float:
    """`margin`, if both are in range."""
    if scale <= 0 or not 0 <= margin < math.pi / 2:
        raise ValueError(f"scale must be above 0 and margin in [0, π/2) radians; got {scale} and {margin}")
    return margin


def with_margin(cosine: Tensor, margin: float, easy: bool = False) -> Tensor:
    """cos θ → cos(θ + margin), elementwise.

    Beyond θ = π − margin, where that would rise again, cos θ − margin · sin(margin) goes on falling; with `easy`,
    cos θ stays as it is from θ = π/2 on.
    """
    # the floor keeps the gradient finite at θ = 0 and π
    sine = (1 - cosine.square()).clamp_min(torch.finfo(cosine.dtype).eps).sqrt()
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    if easy:
        return torch.where(cosine > 0, turned, cosine)
    return torch.where(cosine > -math.cos(margin), turned, cosine - margin * math.sin(margin))


@torch.no_grad()
def adapted_scale(logits: Tensor, cosine: Tensor, labels: Tensor) -> Tensor:
    """AdaCos's scale for the next step: ln(mean over clips of Σ_j exp(logit_j)) / cos(min(π/4, median θ)).

    Args:
        logits: (B, n) scaled cosines that enter the sum.
        cosine: (B, classes) to each class; θ is a clip's angle to its own, of a mixed clip the mean angle.
        labels: (B, classes).

    Returns:
        scalar of at least 1: few classes that all point elsewhere would make it negative
    """
    theta = (labels * cosine.clamp(-1, 1).acos()).sum(dim=1).median().clamp(max=math.pi / 4)
    return ((logits.flatten().logsumexp(0) - math.log(len(logits))) / theta.cos()).clamp(min=1.0)


LOSSES: Registry[Loss] = Registry("loss", "asd_core.training.losses", Loss)


class AttributeHeads(nn.Module):
    """One classifier per attribute that only some clips have.

    Args:
        dim: width of the embeddings.
        sizes: number of values of each attribute; its order is that of the targets' columns.
        loss: name of a loss that is linear in its labels.
    """

    sees_batch = True  # a mean over the clips that have the attribute

    def __init__(self, dim: int, sizes: Mapping[str, int], loss: str = "cross_entropy") -> None:
        super().__init__()
        self.sizes = dict(sizes)
        if not LOSSES[loss].linear_in_labels:
            linear = sorted(name for name, cls in LOSSES.classes.items() if cls.linear_in_labels)
            raise ValueError(
                f"{loss} would take a clip without the attribute for one of no class; use one of {', '.join(linear)}"
            )
        self.heads = nn.ModuleList(
            LOSSES.create({"name": loss}, f"attribute {name}", dim=dim, classes=size)
            for name, size in self.sizes.items()
        )

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """(B, D) embeddings, (B, attributes) int64 values, −1 = the clip lacks the attribute → scalar.

        Per attribute the mean loss over the clips of the batch that have it, 0 without any; summed over attributes.
        """
        total = embeddings[:0].sum()
        for column, (size, head) in enumerate(zip(self.sizes.values(), self.heads, strict=True)):
            values = targets[:, column]
            present = values >= 0
            labels = F.one_hot(values.clamp_min(0), size) * present[:, None]  # a clip without adds nothing
            total = total + head(embeddings, labels) * (len(values) / present.sum().clamp_min(1))
        return total
