"""Matrix products and attention that make the most of a CPU, and numbers kept from one forward pass to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOGITS_AT_ONCE = 1 << 20  # on a CPU: what its cache holds, a few heads of one clip


class Linear(nn.Linear):
    """A linear layer, twice as fast in single precision on processors that are not Intel's.

    Single-precision products of CPUs go through oneDNN, as 1×1 convolutions: MKL, which torch would call, leaves half
    of other processors' speed unused. Under autocast a frozen weight is converted once and kept.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self._half = Frozen()

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            return F.linear(x, self._half(lambda: self.weight.to(dtype), self.weight, kind=dtype), self.bias)
        if torch.get_num_threads() == 1:  # convolutions would not go through oneDNN
            return super().forward(x)
        pixels = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # channels last: rows stay where they are
        y = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Frozen:
    """Keeps a tensor that is made from parameters, while they are frozen and unchanged."""

    def __init__(self) -> None:
        self.key: object = None
        self.value: Tensor | None = None

    def __call__(self, make: Callable[[], Tensor], *parameters: Tensor, kind: object = None) -> Tensor:
        if any(p.requires_grad for p in parameters):
            # nor without gradients: fused optimisers change weights behind the back of version counters
            self.key = self.value = None
            return make()
        key = (kind, [(p.data_ptr(), p._version) for p in parameters])
        if self.value is None or key != self.key:
            with torch.inference_mode(False):  # what is kept must serve everybody
                self.key, self.value = key, make()
        return self.value


def full_precision(x: Tensor) -> torch.autocast:
    """Whatever autocast says: no conversions within, on the device of x."""
    return torch.autocast(x.device.type, enabled=False)


def half_precision(x: Tensor) -> Tensor:
    """x as autocast's matrix products take it: converted once where several do. Without autocast, x itself."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """(B, H, N, d) softmax(q kᵀ / √d + bias) v. The softmax sees single precision, whatever q, k and v have."""
    fused = q.device.type != "cpu" or (q.dtype == torch.float32 and (bias is None or not torch.is_grad_enabled()))
    if fused:
        mask = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    # on CPUs that is half as fast in half precision, and not fused either where the bias has a gradient
    logits = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).float()
    if bias is not None:
        logits = logits.add_(bias)
    return F.dropout(logits.softmax(-1), dropout).to(v.dtype) @ v


def pieces(tensors: Sequence[Tensor], size: int, dim: int) -> Iterator[tuple[Tensor, ...]]:
    """All tensors cut alike."""
    return zip(*(tensor.split(size, dim) for tensor in tensors), strict=True)
