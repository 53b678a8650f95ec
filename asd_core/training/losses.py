"""Classification losses on embeddings. All take soft labels (B, classes), so that mixup needs no second path."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.registry import Registry


class Loss(nn.Module, ABC):
    """`loss(embeddings (B, D), soft labels (B, classes))` → scalar; holds its own class centres."""

    name: ClassVar[str]

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.dim, self.classes = dim, classes

    @abstractmethod
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor: ...


class SubclusterAdaCos(Loss):
    """Softmax cross-entropy over several centres per class (Wilkinghoff, IJCNN 2021).

    p_c = Σ_k softmax(s · cos(x, w))_{c,k}, loss = −Σ_c y_c ln p_c, with the fixed scale
    s = √2 · ln(classes · subclusters − 1).

    Args:
        trainable: learn the centres; otherwise they stay where they were drawn.
    """

    name = "subcluster_adacos"

    def __init__(self, dim: int, classes: int, subclusters: int = 16, trainable: bool = True) -> None:
        super().__init__(dim, classes)
        if classes * subclusters < 3:
            raise ValueError(f"{classes} classes of {subclusters} sub-clusters: the scale √2·ln(2 − 1) would be 0")
        self.subclusters = subclusters
        self.centres = nn.Parameter(torch.empty(dim, classes * subclusters), requires_grad=trainable)
        nn.init.xavier_uniform_(self.centres)
        self.scale = math.sqrt(2) * math.log(classes * subclusters - 1)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = F.normalize(embeddings) @ F.normalize(self.centres, dim=0)  # (B, classes · subclusters)
        log_p = F.log_softmax(self.scale * cosine, dim=1).unflatten(1, (self.classes, self.subclusters))
        return -(labels * log_p.logsumexp(dim=2)).sum(dim=1).mean()


LOSSES: Registry[Loss] = Registry("loss", "asd_core.training.losses", Loss)
