"""Outputs of a frozen encoder, computed once per clip and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asd_core.backbones.transformer import PatchTransformer
from asd_core.files import write_with

Waves = Callable[[np.ndarray], tuple[Tensor, Tensor]]


class TokenCache:
    """Hidden states of the last layer, in half precision (those of a 10 s clip are 496 × 768 values, 762 kB).

    One file per clip: memory stays bounded by the batch, the system's page cache makes rereading cheap, and a
    training that goes on after a stop finds them there. Without a folder they are computed anew each time.
    """

    def __init__(self, backbone: PatchTransformer, folder: Path | None) -> None:
        self.backbone, self.folder = backbone, folder

    def batch(self, rows: np.ndarray, waves: Waves) -> tuple[Tensor, Tensor]:
        """(B, tokens, D) float16, padded to the longest, and (B,) numbers of tokens that count; `waves` gives
        waveforms and lengths of the rows that are not there yet."""
        tokens = {row: self._read(row) for row in rows.tolist()}
        missing = [row for row, value in tokens.items() if value is None]
        device = next(self.backbone.trunk.parameters()).device
        size = self.backbone.batch_on(device)
        for first in range(0, len(missing), size):
            part = missing[first : first + size]
            for row, value in zip(part, self._compute(device, *waves(np.array(part))), strict=True):
                self._keep(row, value)
                tokens[row] = value
        found = [torch.from_numpy(tokens[row]) for row in rows.tolist()]
        return pad_sequence(found, batch_first=True), torch.tensor([len(value) for value in found])

    @torch.inference_mode()
    def _compute(self, device: torch.device, waves: Tensor, lengths: Tensor) -> list[np.ndarray]:
        last = self.backbone.trunk.depth
        hidden, valid = self.backbone.hidden(waves.to(device), lengths.to(device), {last})
        tokens = hidden[last].half().cpu().numpy()
        if valid is None:
            return list(tokens)
        counts = (valid.sum(1).cpu() + self.backbone.trunk.has_cls).tolist()
        return [own[:count].copy() for own, count in zip(tokens, counts, strict=True)]

    def _read(self, row: int) -> np.ndarray | None:
        file = None if self.folder is None else self.folder / f"{row}.npy"
        return None if file is None or not file.is_file() else np.load(file, allow_pickle=False)

    def _keep(self, row: int, tokens: np.ndarray) -> None:
        if self.folder is not None:
            write_with(self.folder / f"{row}.npy", lambda file: np.save(file, tokens))
