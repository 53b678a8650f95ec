"""Layers between pooling and embedding, from a list in a system's YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.registry import did_you_mean

PLAIN: dict[str, Callable[[int], nn.Module]] = {
    "norm": lambda width: BatchNorm(width),
    "relu": lambda width: nn.ReLU(),
    "linear": lambda width: nn.Linear(width, width),
}
SIZED = ("linear", "dropout")


class BatchNorm(nn.BatchNorm1d):
    """Batch norm of (B, D) that takes a training batch of one row, such as the last of an epoch: its own variance
    being 0, it is normalised by the running statistics, which stay as they are. (The UNIS team's code passes such a
    clip on as it is, at another scale than all others.)"""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class Head(nn.Sequential):
    """(B, width) → (B, out_dim), in single precision: distances between embeddings are compared to many digits."""

    def __init__(self, layers: Sequence[nn.Module], out_dim: int) -> None:
        super().__init__(*layers)
        self.out_dim = out_dim

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(torch.promote_types(x.dtype, torch.float32)))


def build_head(width: int, layers: Sequence[str | Mapping[str, float]]) -> Head:
    """Layers in order: "norm" (batch norm), "relu", "linear" (of the same width), {"linear": width}, {"dropout": p}.

    An empty list gives the input back.

    Raises:
        ValueError: an unknown layer, or a size out of range.
    """
    built = []
    for layer in layers:
        module, width = _layer(layer, width)
        built.append(module)
    return Head(built, width)


def _layer(layer: str | Mapping[str, float], width: int) -> tuple[nn.Module, int]:
    """A layer for inputs of `width`, and its output's width."""
    if isinstance(layer, str) and layer in PLAIN:
        return PLAIN[layer](width), width
    kind, size = next(iter(layer.items())) if isinstance(layer, Mapping) and len(layer) == 1 else (layer, None)
    if kind not in SIZED or size is None or isinstance(size, bool) or not isinstance(size, int | float):
        raise ValueError(
            f"a head has no layer {layer!r}. Allowed: norm, relu, linear, {{linear: width}}, {{dropout: probability}}."
            + did_you_mean(kind, {*PLAIN, *SIZED} - {str(kind)})
        )
    if kind == "dropout":
        if not 0 <= size < 1:
            raise ValueError(f"dropout of a head must be a probability below 1, got {size}")
        return nn.Dropout(size), width
    if not (size >= 1 and size % 1 == 0):
        raise ValueError(f"the width of a head's linear layer must be a whole number above 0, got {size}")
    return nn.Linear(width, int(size)), int(size)
