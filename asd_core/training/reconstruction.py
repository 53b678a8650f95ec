"""Learning to reconstruct normal spectra, as the official baseline does, covariances and all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.backbones import Backbone
from asd_core.backbones.autoencoder import Autoencoder
from asd_core.data.stream import stream
from asd_core.training.loop import order
from asd_core.training.objective import Objective, Problem
from asd_core.types import TARGET, AsdError, Clip
from asd_core.views import View

COVARIANCE_PASS, THRESHOLD_PASS = 2**31 - 1, 2**31 - 2  # "epochs" whose order no training epoch shares


class Reconstruction(Objective):
    """Mean squared error over vectors of five log-mel frames.

    Args:
        validation: fraction of the *vectors* held out, from the same clips (so it measures little; kept
            because the official code trains on the remainder and fits its threshold on both).
    """

    name = "reconstruction"
    trains = "mse"

    def __init__(self, validation: float = 0.1) -> None:
        if not 0 < validation < 1:
            raise ValueError(f"validation must lie between 0 and 1, got {validation}")
        self.validation = validation

    def problem(
        self, backbone: Backbone, clips: Sequence[Clip], view: View, seed: int, scratch: Path | None = None
    ) -> Problem:
        if not isinstance(backbone, Autoencoder):
            raise AsdError(f'objective "reconstruction" trains an autoencoder, not "{backbone.name}".')
        logmels = list(stream(clips, lambda wave: backbone.prepare(view(wave))))
        vectors = FrameVectors.of(logmels, np.array([clip.domain == TARGET for clip in clips]), backbone.frames)
        if len(vectors) < 4:
            raise AsdError(
                f"{len(clips)} training clips give {len(vectors)} vectors of {backbone.frames} frames; "
                f"an autoencoder needs hundreds. Add or lengthen recordings."
            )
        training, held_out = train_test_split(
            np.arange(len(vectors)), test_size=self.validation, random_state=seed % 2**32
        )
        return Problem(Reconstructor(backbone), vectors.part(training), vectors.part(held_out))

    @torch.no_grad()
    def finish(self, problem: Problem, losses: np.ndarray, batch_size: int, seed: int) -> dict[str, np.ndarray]:
        """Measure the covariances of residual rows per domain, and the batch scores the official threshold
        is fitted to: "batch_mse" and "batch_mahala", one value per mini-batch of shuffled vectors."""
        learner, vectors, held_out = problem.learner, problem.examples, problem.held_out
        assert isinstance(learner, Reconstructor)
        assert isinstance(vectors, FrameVectors)
        assert isinstance(held_out, FrameVectors)
        net = learner.backbone.cpu().eval()
        sums = {domain: torch.zeros(net.n_mels, net.n_mels) for domain in (False, True)}
        counts = {False: 0, True: 0}
        passes = order(len(vectors), batch_size, seed, COVARIANCE_PASS)
        for batch in passes:
            (x,), target = vectors.load(batch), vectors.is_target(batch)
            residual = x - net(x)
            for domain in sums:
                if (target == domain).any():
                    rows = net.rows(residual[target == domain])
                    rows = rows - rows.mean(0)  # of this batch: the official code loses the scatter between batches
                    sums[domain] += rows.T @ rows
                    counts[domain] += int((target == domain).sum())  # vectors, though each has five rows
        problem.notices += self._store(net, sums, counts)

        fresh = [vectors.load(batch)[0] for batch in order(len(vectors), batch_size, seed, THRESHOLD_PASS)]
        validation = [held_out.load(batch)[0] for batch in order(len(held_out), batch_size, seed, 0)]
        return {
            "batch_mse": np.concatenate([losses[-len(passes) :], [float(learner(x)) for x in validation]]),
            "batch_mahala": np.array([float(net.mahala(x - net(x)).min()) for x in fresh + validation]),
        }

    @staticmethod
    def _store(net: Autoencoder, sums: dict[bool, Tensor], counts: dict[bool, int]) -> list[str]:
        notices = []
        for domain, missing, present in ((True, "target", "source"), (False, "source", "target")):
            if counts[domain] < 2:
                notices.append(f"No {missing} clip in training: the {present} covariance serves both domains.")
                sums[domain], counts[domain] = sums[not domain], counts[not domain]
        for name, domain in (("source", False), ("target", True)):
            covariance = sums[domain] / (counts[domain] - 1)
            if torch.linalg.cond(covariance) > 1e7:  # beyond single precision
                covariance += torch.eye(len(covariance)) * covariance.trace() / len(covariance) * 1e-6
                notices.append(f"The {name} covariance of residuals is near singular; a ridge of 1e-6 was added.")
            getattr(net, f"cov_{name}").copy_(covariance)
        return notices


class Reconstructor(nn.Module):
    """Mean squared reconstruction error of vectors (B, 640)."""

    def __init__(self, backbone: Autoencoder) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, vectors: Tensor) -> Tensor:
        return F.mse_loss(self.backbone(vectors), vectors)


@dataclass(frozen=True)
class FrameVectors:
    """Vectors of consecutive frames, gathered on demand from one matrix of frames (a fifth of their memory)."""

    matrix: Tensor  # (all frames of all clips, n_mels) dB
    first_frame: Tensor  # (all vectors,) row of `matrix` a vector begins at
    target: Tensor  # (all vectors,) bool
    frames: int  # per vector
    rows: np.ndarray  # the vectors that are examples here

    @classmethod
    def of(cls, logmels: Sequence[np.ndarray], target_clip: np.ndarray, frames: int) -> FrameVectors:
        """All vectors of clips (n_mels, T'), none of which reaches over the end of its clip."""
        lengths = np.array([x.shape[1] for x in logmels])
        starts = np.cumsum(lengths) - lengths
        counts = lengths - frames + 1
        first = np.concatenate([start + np.arange(n) for start, n in zip(starts, counts, strict=True)])
        matrix = torch.from_numpy(np.concatenate([x.T for x in logmels]))
        target = torch.from_numpy(np.repeat(target_clip, counts))
        return cls(matrix, torch.from_numpy(first), target, frames, np.arange(len(first)))

    def part(self, rows: np.ndarray) -> FrameVectors:
        return replace(self, rows=rows)

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, indices: np.ndarray, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Vectors (B, frames · n_mels) in dB."""
        first = self.first_frame[torch.from_numpy(self.rows[indices])]
        return (self.matrix[first[:, None] + torch.arange(self.frames)].flatten(1),)

    def is_target(self, indices: np.ndarray) -> Tensor:
        """(B,) bool."""
        return self.target[torch.from_numpy(self.rows[indices])]
