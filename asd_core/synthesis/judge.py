"""The auxiliary classifier: trained on recorded clips only, it says which condition and which microphone a clip sounds
like (report of SATLab, 3.2; the network is our own choice).

Its classes are conditions as heard by one microphone: ``fan|00|target|spd_1|near``. Labels are smoothed while it
learns, so that its confidence is graded instead of being 1 for whatever it has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asd_core.config import Train
from asd_core.data import audio
from asd_core.data.manifest import LABEL_PRESETS, class_of
from asd_core.files import read_json, write_json
from asd_core.training import loop
from asd_core.training.checkpoint import load_weights, save_weights
from asd_core.training.classification import split
from asd_core.training.distributed import join
from asd_core.training.objective import ViewCache
from asd_core.training.samplers import class_balance
from asd_core.types import AsdError, Clip, Progress, no_progress
from asd_core.views.base import MICROPHONES, Channel, View
from asd_core.views.logmel import LogMel

BANDS, LEAST_FRAMES = 128, 63  # mel bands; frames of 32 ms in the shortest excerpt, 2 s
MASK = 6  # bands, and frames, covered at most, in every other excerpt: more would make whole clips all too certain
SMOOTHING = 0.1
BALANCE = 0.5  # classes are drawn in proportion to √count
CHUNK = 32  # clips looked at together


class Judge(nn.Module):
    """Log-mel spectrograms (B, 128, T') dB of single microphones → embeddings (B, dim) and logits (B, classes).

    Four strided convolution blocks, then mean and maximum over time in each of eight frequency bands: where in the
    spectrum something sounds matters, when does not.
    """

    mean: Tensor  # (128, 1) dB, of the training clips
    deviation: Tensor  # (128, 1) dB

    def __init__(self, classes: Sequence[str], width: int = 16, dim: int = 128) -> None:
        super().__init__()
        self.classes = list(classes)
        self.register_buffer("mean", torch.zeros(BANDS, 1))
        self.register_buffer("deviation", torch.ones(BANDS, 1))
        widths = [1, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(*(_block(before, after) for before, after in pairwise(widths)))
        bands = BANDS // 2 ** (len(widths) - 1)
        self.embedding = nn.Sequential(
            nn.Linear(2 * widths[-1] * bands, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU()
        )
        self.logits = nn.Linear(dim, len(self.classes))

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.blocks(((levels - self.mean) / self.deviation)[:, None])  # (B, width, bands, T' / 16)
        pooled = torch.cat([maps.mean(dim=-1), maps.amax(dim=-1)], dim=1).flatten(1)
        embeddings = self.embedding(pooled)
        return embeddings, self.logits(embeddings)

    @property
    def microphones(self) -> list[Channel]:
        """Those it has heard."""
        return [one for one in MICROPHONES if any(name.endswith(f"|{one}") for name in self.classes)]

    def judge(self, waves: Sequence[np.ndarray]) -> Judged:
        """What whole recordings (C, T) at 16 kHz sound like; all have the same number C of microphones.

        Raises:
            AsdError: a recording has microphones that no training clip had.
        """
        for wave in waves:
            if len(wave) != len(waves[0]) or len(wave) > len(self.microphones):
                raise AsdError(
                    f"A recording has {len(wave)} microphone(s), the classifier knows {' and '.join(self.microphones)}. "
                    f"Judge recordings with the same microphones together; train it on clips of all of them."
                )
        channels = len(waves[0]) if waves else 0
        probabilities = np.zeros((len(waves), channels, len(self.classes)), dtype=np.float32)
        embeddings = np.zeros((len(waves), channels, self.logits.in_features), dtype=np.float32)
        for i, found in enumerate(self.judge_levels(map(_levels, waves))):
            probabilities[i], embeddings[i] = found
        return Judged(np.array(self.classes)[probabilities.argmax(axis=-1)], probabilities, embeddings)

    @torch.no_grad()
    def judge_levels(self, spectrograms: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Probabilities (C, classes) and embeddings (C, dim) of each clip (C, 128, T'): one at a time, as lengths
        differ and as a clip's figures must not depend on its neighbours."""
        self.eval()
        for levels in spectrograms:
            whole = _excerpt(levels, 0.0, max(levels.shape[-1], LEAST_FRAMES))
            embeddings, logits = self(torch.from_numpy(whole).float().to(self.mean.device))
            yield logits.softmax(dim=1).cpu().numpy(), embeddings.cpu().numpy()


@dataclass(frozen=True)
class Judged:
    """What N recordings of C microphones sound like."""

    labels: np.ndarray  # (N, C) str, the most probable class
    probabilities: np.ndarray  # (N, C, classes) float32, in the order of `Judge.classes`
    embeddings: np.ndarray  # (N, C, dim) float32


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


def train_judge(
    clips: Sequence[Clip],
    options: Train,
    held_out: float,
    seed: int,
    folder: Path,
    device: str = "auto",
    checkpoint_seconds: float = 30.0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train on the recorded ones of some normal training clips; generated ones are passed over.

    Leaves `judge.safetensors` and `judge.json` in `folder`. A training that was stopped goes on where it was.

    Args:
        held_out: share of each condition's clips that it does not learn and is measured on; a condition's only clip
            is always learnt.

    Returns:
        accuracy: of held-out clips, microphone by microphone; None if nothing is held out.
        confidence: {"0.05": …, "0.5": …, "0.95": …} quantiles of their probability of being what they are.
        confidences: those probabilities, sorted. conditions: {class: {"held_out", "accuracy", "confidence"}}.
        notices: what the user should know.

    Raises:
        AsdError: fewer than two classes.
    """
    clips = [clip for clip in clips if clip.origin == "recorded"]
    progress(0.0, f"reading {len(clips)} clips")
    problem = _Excerpts.of(clips)
    conditions = np.unique([class_of(clip, LABEL_PRESETS["full"]) for clip in clips], return_inverse=True)[1]
    known, new = split(conditions, held_out, seed)
    training, measured = problem.part(known), problem.part(new)
    torch.manual_seed(loop.seed_of(seed, 2**32 - 1))  # initial weights; steps seed themselves
    judge = Judge(problem.classes)
    judge.mean[:], judge.deviation[:] = training.moments()
    loop.fit(
        _Learner(judge),
        replace(training, fill=judge.mean.clone()),
        options,
        seed=seed,
        held_out=measured if len(measured) and options.patience is not None else None,
        weights=class_balance(training.targets, BALANCE),
        checkpoint_file=folder / ".checkpoint.safetensors",
        checkpoint_seconds=checkpoint_seconds,
        device=device,
        progress=progress,
    )

    def keep() -> dict[str, Any]:
        save_weights(folder / "judge.safetensors", judge)
        write_json(folder / "judge.json", {"classes": judge.classes, "channels": judge.microphones})
        return {"classes": len(judge.classes), "clips": len(clips), **_measure(judge, measured)}

    return join(device).by_main(keep)


def load_judge(folder: Path, device: str = "cpu") -> Judge:
    """What `train_judge` left in a folder."""
    judge = Judge(read_json(folder / "judge.json")["classes"])
    load_weights(folder / "judge.safetensors", judge)
    return judge.to(loop.pick_device(device)).eval()


def _measure(judge: Judge, held_out: _Excerpts) -> dict[str, Any]:
    """How it does on clips that it has not learnt."""
    own, right = [], []
    for first in range(0, len(held_out), CHUNK):
        rows = range(first, min(first + CHUNK, len(held_out)))
        for row, (probabilities, _) in zip(rows, judge.judge_levels(held_out.levels(rows)), strict=True):
            own.append(float(probabilities[0, held_out.targets[row]]))
            right.append(bool(probabilities[0].argmax() == held_out.targets[row]))
    confidences, hits = np.array(own), np.array(right)
    conditions = {}
    for target in np.unique(held_out.targets):
        rows_of = held_out.targets == target
        conditions[judge.classes[target]] = {
            "held_out": int(rows_of.sum()),
            "accuracy": float(hits[rows_of].mean()),
            "confidence": float(np.median(confidences[rows_of])),
        }
    notices = []
    if missing := len(judge.classes) - len(conditions):
        notices.append(
            f"{missing} of {len(judge.classes)} classes of the classifier have no held-out clip: how well it knows "
            f"them was not measured."
        )
    return {
        "accuracy": float(hits.mean()) if len(hits) else None,
        "confidence": {str(q): float(np.quantile(confidences, q)) for q in (0.05, 0.5, 0.95)} if len(hits) else {},
        "confidences": sorted(own),
        "conditions": conditions,
        "held_out": len(hits),
        "notices": notices,
    }


class _Learner(nn.Module):
    """Cross-entropy of excerpts (B, 128, T') dB with smoothed labels (B,)."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, levels: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.judge(levels)[1], labels, label_smoothing=SMOOTHING)


class _BothLogMels(View):
    """(C, 128, T') dB in half precision (steps of 0.06 dB): twice as many clips stay in memory."""

    name = "log-mels of all microphones"
    kind = "logmel"

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return _levels(wave).astype(np.float16)


_VIEWS = [LogMel(channel, BANDS) for channel in MICROPHONES]


def _levels(wave: np.ndarray) -> np.ndarray:
    """(C, T) → (C, 128, T') dB; microphones beyond the second are not heard."""
    return np.stack([view(wave) for view, _ in zip(_VIEWS, wave, strict=False)])


def _excerpt(levels: np.ndarray, start: float, frames: int) -> np.ndarray:
    """(…, T') → (…, frames): from `start` of the possible places; a shorter clip is repeated."""
    length = levels.shape[-1]
    first = int(start * max(length - frames + 1, 1))
    return levels[..., (first + np.arange(frames)) % length]


@dataclass(frozen=True)
class _Excerpts:
    """Random excerpts of one microphone's log-mel (B, 128, T') dB, all of a batch equally long, with some bands and
    frames covered, and their classes (B,)."""

    cache: ViewCache
    rows: np.ndarray  # (N, 2) clip and channel of every example
    targets: np.ndarray  # (N,) number of its class
    classes: list[str]
    fill: Tensor | None = None  # (128, 1) dB that covers; None: excerpts are as long as can be and not covered

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> _Excerpts:
        """Every microphone of every clip is an example."""
        rows, names = [], []
        for i, clip in enumerate(clips):
            condition = class_of(clip, LABEL_PRESETS["full"])
            for channel in range(min(audio.info(clip.path).channels, len(MICROPHONES))):
                rows.append((i, channel))
                names.append(f"{condition}|{MICROPHONES[channel]}")
        classes = sorted(set(names))
        if len(classes) < 2:
            raise AsdError(
                f"{len(clips)} recorded clips of {len(classes)} condition(s) with one microphone leave a classifier "
                f"nothing to tell apart. Screen with more machines, conditions or microphones."
            )
        targets = np.array([classes.index(name) for name in names])
        return cls(ViewCache(clips, _BothLogMels()), np.array(rows), targets, classes)

    def part(self, clips: np.ndarray) -> _Excerpts:
        """All microphones of some of the clips."""
        chosen = np.isin(self.rows[:, 0], clips)
        return replace(self, rows=self.rows[chosen], targets=self.targets[chosen])

    def __len__(self) -> int:
        return len(self.rows)

    def levels(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """(1, 128, T') dB of whole examples."""
        chosen = self.rows[indices]
        clips = np.unique(chosen[:, 0]).tolist()
        found = dict(zip(clips, self.cache.batch(clips), strict=True))
        return [found[clip][channel : channel + 1] for clip, channel in chosen]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (128, 1) of each band over all frames, in dB."""
        count, total, squares = 0, np.zeros(BANDS), np.zeros(BANDS)
        for first in range(0, len(self), CHUNK):
            for levels in self.levels(range(first, min(first + CHUNK, len(self)))):
                x = levels[0].astype(np.float64)
                count, total, squares = count + x.shape[1], total + x.sum(axis=1), squares + np.square(x).sum(axis=1)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-4))  # a band of digital silence does not vary
        return torch.from_numpy(mean).float()[:, None], torch.from_numpy(deviation).float()[:, None]

    def load(self, indices: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        levels, count = self.levels(indices), len(indices)
        longest = max(min(x.shape[-1] for x in levels), LEAST_FRAMES)
        labels = torch.from_numpy(self.targets[indices])
        if self.fill is None:
            return torch.from_numpy(np.concatenate([_excerpt(x, 0.0, longest) for x in levels])).float(), labels
        frames = int(torch.randint(LEAST_FRAMES, longest + 1, (), generator=generator))
        starts, bands, times, wide, long = torch.rand(5, count, generator=generator).tolist()
        batch = torch.empty(count, BANDS, frames)
        for x, own, start, band, time, width, length in zip(
            batch, levels, starts, bands, times, wide, long, strict=True
        ):
            x.copy_(torch.from_numpy(_excerpt(own[0], start, frames)))
            width, length = (max(0, int((2 * share - 1) * (MASK + 1))) for share in (width, length))
            low, first = int(band * (BANDS - width + 1)), int(time * (frames - length + 1))
            x[low : low + width] = self.fill[low : low + width]
            x[:, first : first + length] = self.fill
        return batch, labels
