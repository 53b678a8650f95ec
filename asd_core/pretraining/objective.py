"""What is learned: which state of which machine is heard, and what the hidden patches hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones.beats import Beats
from asd_core.backbones.pooling import BANDS, POOLINGS
from asd_core.backbones.transformer import PATCH
from asd_core.pretraining.recipe import Objective
from asd_core.training.losses import LOSSES, Loss

SPECTRUM = 10.0  # the filter bank is in units of two deviations of AudioSet; this brings its error to the order of 1


class Contrast(nn.Module):
    """Supervised contrast (Khosla et al., NeurIPS 2020, equation 2): a recording must be nearer to those of its own state
    than to all others of the batch, among them the other states of its machine.

    Args:
        temperature: divides cosines.
    """

    name = "contrast"

    def __init__(self, name: str, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(N, D), (N,) → scalar; a recording that is alone in its state adds nothing."""
        x = F.normalize(embeddings.float())
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        log_shares = (x @ x.T / self.temperature).masked_fill(itself, -torch.inf).log_softmax(1)
        alike = (labels[:, None] == labels) & ~itself
        counts = alike.sum(1)
        own = -log_shares.masked_fill(~alike, 0.0).sum(1)[counts > 0] / counts[counts > 0]
        return own.mean() if len(own) else x.sum() * 0


class Pretrainer(nn.Module):
    """The last layer's tokens, pooled, under a contrast of states, and hidden patches under a squared error.

    Hidden patches hear nothing but their place, so the same pass serves both and hiding is an augmentation as well.
    A patch's target is its 16 × 16 cells of the filter bank, normalised to zero mean and unit variance within the patch
    (He et al., CVPR 2022).
    """

    def __init__(self, trunk: Beats, objective: Objective, classes: int) -> None:
        super().__init__()
        self.trunk, self.objective, self.classes = trunk, objective, classes
        width = trunk.width
        self.hidden = nn.Parameter(torch.randn(width) * 0.02)  # stands for a hidden patch
        self.predictor = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, PATCH * PATCH))
        self.pooling = POOLINGS.create(objective.pooling.spec, "objective.pooling", width=width)
        pooled = self.pooling.out_dim
        self.spectrum = nn.Linear(pooled, 2 * BANDS * PATCH)
        self.head: nn.Module = nn.Identity()
        self.loss: nn.Module | None = None
        if objective.loss is not None:
            dim = objective.head or pooled
            if objective.head:
                self.head = nn.Sequential(nn.Linear(pooled, width), nn.GELU(), nn.Linear(width, dim))
            spec = objective.loss.spec
            own = spec["name"] == Contrast.name
            self.loss = Contrast(**spec) if own else LOSSES.create(spec, "objective.loss", dim=dim, classes=classes)

    def forward(self, waves: Tensor, labels: Tensor) -> Tensor:
        """(B, R, 2, T) in noise and without, (B, R) → scalar"""
        (waves, clean), labels = waves.flatten(0, 1).unbind(1), labels.flatten()
        with torch.autocast(waves.device.type, enabled=False):
            with torch.no_grad():
                fbank, _ = self.trunk.fbank(waves)
                fbank = fbank[:, : fbank.shape[1] // PATCH * PATCH]
            x = self.trunk.embed(fbank)  # (B, N, D)
            hidden = torch.rand(x.shape[:2], device=x.device) < self.objective.masked
            x = torch.where(hidden[:, :, None], self.hidden.to(x.dtype), x)
        tokens = self.trunk.onwards(x, None, {self.trunk.depth})[self.trunk.depth].float()
        total = tokens.new_zeros(())
        if self.objective.reconstruction and self.objective.masked:
            total = total + self.objective.reconstruction * self.reconstruction(tokens, fbank, hidden)
        embeddings = self.pooling(tokens)
        if self.objective.statistics:
            total = total + self.objective.statistics * self.statistics(embeddings, clean)
        if self.loss is not None:
            embeddings = self.head(embeddings)
            one_hot = isinstance(self.loss, Loss)
            total = total + self.loss(embeddings, F.one_hot(labels, self.classes).float() if one_hot else labels)
        return total

    def statistics(self, embeddings: Tensor, clean: Tensor) -> Tensor:
        """Squared error of mean and deviation over time of the noiseless clip's filter bank, told from the embedding of
        the noisy one: it must hold what these know, and leave the noise out."""
        with torch.no_grad():
            fbank, _ = self.trunk.fbank(clean)
            wanted = torch.cat([fbank.mean(1), fbank.std(1)], dim=1)
        return F.mse_loss(self.spectrum(embeddings), wanted) * SPECTRUM

    def reconstruction(self, tokens: Tensor, fbank: Tensor, hidden: Tensor) -> Tensor:
        cells = fbank.unflatten(1, (-1, PATCH)).unflatten(3, (BANDS, PATCH))  # (B, T, 16, 8, 16)
        cells = cells.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)  # (B, N, 256), time-major as the tokens
        cells = (cells - cells.mean(-1, keepdim=True)) / (cells.std(-1, keepdim=True) + 1e-3)
        return F.mse_loss(self.predictor(tokens[hidden]).float(), cells[hidden])
