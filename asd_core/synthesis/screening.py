"""What is measured of generated clips before a rule decides (report of SATLab, 3.2; limits are our own choice).

Everything is stored, microphone by microphone; a `verdicts.Rule` then looks at the stored figures only, so that it can
be changed and applied again without a single recording. What people say about a clip goes over any rule.

**Copies.** A generator that learnt a recording by heart gives it back: the same coincidences at the same moments. The
copy distance of two clips is 1 − the largest normalised cross-correlation of their log-mel spectrograms, over all lags
that leave at least 40 % of the shorter one, each band reduced to mean 0 and deviation 1 over its clip. So neither the
static spectrum nor the level counts, which clips of one machine always share, and a copy is found though it was moved
in time, turned round at its ends, or lies under some noise: measured on the demo's machines, such copies have distances
below 0.4. Noise of the same spectrum has 0.9, clips of steady machines 0.7 to 0.95, of machines with strokes or clicks
0.25 to 0.6, as the same thing happens in all of them. How near is too near is therefore read off the recordings: a
generated clip is a near copy if it lies closer to a recording than all but the nearest 1 % of recordings lie to one
another. Of fewer than 100 that is the nearest pair. Whoever is the newest of N + 1 recordings belongs to their nearest
pair with probability 2 / (N + 1), so that often each microphone calls a clip a copy that is as new as any recording:
with two microphones, one clip in 18 of the demo's (N = 70), one in six where there are 23. It costs draws, not quality.

Where recordings overlap one another, as windows cut from one long take do, that yardstick may be short: such windows
are copies of each other themselves, and only what repeats one of them more closely than its neighbours do is found.
Then look at the distance, which is stored, rather than at the verdict. (The windows of the bench BearingRig overlap by
five seconds of six, yet the nearest two differ by 0.6: backgrounds were added window by window.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from asd_core.data.stream import stream
from asd_core.synthesis.judge import Judge
from asd_core.synthesis.verdicts import Rule, apply_rule
from asd_core.types import SAMPLE_RATE, AsdError, Clip
from asd_core.views.base import MICROPHONES, Channel
from asd_core.views.logmel import LogMel

FRAME = SAMPLE_RATE // 20  # samples of the 50 ms whose silence is looked for
SILENT = 1e-3  # amplitude relative to the clip's own RMS: 60 dB below it
FULL_SCALE = 0.999  # of a sample's range; samples beyond count as clipped
QUIETEST = -200.0  # dBFS that digital silence is given
BANDS = 64  # mel bands that copies are looked for in
DEEPEST = 30.0  # dB below a band's median: one gap of digital silence would outweigh everything else in a clip
LEAST_OVERLAP = 0.4  # of the shorter clip; a copy turned round in its middle has two halves without their edges
LEAST_ENERGY = 0.1  # of a clip's whole, for an overlap with next to nothing in it proves nothing
CHUNK = (64, 256)  # generated and recorded clips correlated together: tens of MB


class RealClips:
    """What one machine's recordings measure, microphone by microphone: the yardsticks for generated ones."""

    def __init__(self, clips: Sequence[Clip], channels: int = len(MICROPHONES)) -> None:
        """Reads the recorded ones of some training clips, of at most `channels` microphones; generated ones are passed
        over.

        Raises:
            AsdError: there are none.
        """
        clips = [clip for clip in clips if clip.origin == "recorded"]
        if not clips:
            raise AsdError("There is no recorded clip to compare generated ones with. Screen a machine that has some.")
        if len({clip.machine for clip in clips}) > 1:
            raise ValueError("recordings of one machine are needed")
        self.machine = clips[0].machine
        self.clip_ids = [clip.clip_id for clip in clips]
        measured: list[Any] = list(stream(clips, _measured))  # type: ignore[arg-type] # what it returns passes through
        self.microphones = MICROPHONES[: min(channels, *map(len, measured))]
        self.patterns = {one: [clip[i][1] for clip in measured] for i, one in enumerate(self.microphones)}
        self.limits: dict[Channel, dict[str, float]] = {}
        self.nearest: dict[Channel, np.ndarray] = {}  # (N,) sorted distances of each to the nearest other one
        for i, one in enumerate(self.microphones):
            own = pd.DataFrame([clip[i][0] for clip in measured])
            self.limits[one] = {
                "quietest": float(own["level"].min()),
                "loudest": float(own["level"].max()),
                "most_silence": float(own["silence"].max()),
                "most_clipping": float(own["clipping"].max()),
            }
            between = copy_distances(self.patterns[one], self.patterns[one])
            np.fill_diagonal(between, np.inf)
            self.nearest[one] = np.sort(between.min(axis=1)) if len(clips) > 1 else np.empty(0)

    def copies(self, patterns: Sequence[np.ndarray], microphone: Channel) -> Iterator[dict[str, Any]]:
        """Of each pattern: distance to the nearest recording, which one that is, the share of recordings that lie as
        near to another one (NaN if there is only one), and the least distance between two of them."""
        distances = copy_distances(patterns, self.patterns[microphone])
        nearest = self.nearest[microphone]
        for row in distances:
            least = float(row.min())
            share = float(np.searchsorted(nearest, least, side="right")) / len(nearest) if len(nearest) else math.nan
            yield {
                "copy_distance": least,
                "copy_of": self.clip_ids[int(row.argmin())],
                "copy_share": share,
                "copy_least": float(nearest[0]) if len(nearest) else math.nan,
            }


def screen(
    candidates: Sequence[np.ndarray],
    conditions: Sequence[str],
    real: RealClips,
    judge: Judge,
    rule: Rule,
    clips: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Measure generated recordings (C, T) of one machine and apply a rule to them.

    Args:
        conditions: what each was made for, as `Condition.text`.
        clips: their names; default "0", "1", …

    Returns:
        One row per candidate: clip, condition; then for near, and far where there is one: near_predicted (a class of
        the judge), near_agrees, near_confidence (probability of the intended condition and microphone; NaN if the
        judge has heard none), near_level (dBFS), near_quietest, near_loudest (of the recordings), near_silence,
        near_most_silence, near_clipping, near_most_clipping (shares), near_finite, near_copy_distance, near_copy_of,
        near_copy_share, near_copy_least (see `RealClips.copies`); then what `apply_rule` adds.

    Raises:
        AsdError: a candidate has other microphones than the recordings.
    """
    names = [str(i) for i in range(len(candidates))] if clips is None else list(clips)
    for name, wave, condition in zip(names, candidates, conditions, strict=True):
        if len(wave) != len(real.microphones):
            raise AsdError(
                f"The generated clip {name} has {len(wave)} microphone(s), recordings of {real.machine} have "
                f"{len(real.microphones)}. Generate it again for this machine."
            )
        if condition.partition("|")[0] != real.machine:
            raise ValueError(f"{condition} is not a condition of {real.machine}")
    finite = [np.nan_to_num(wave, nan=0.0, posinf=0.0, neginf=0.0) for wave in candidates]
    judged = judge.judge(finite)
    measured = [_measured(wave) for wave in finite]
    columns: dict[str, Sequence[Any]] = {"clip": names, "condition": list(conditions)}
    number = {name: i for i, name in enumerate(judge.classes)}
    for i, one in enumerate(real.microphones):
        wanted = [f"{condition}|{one}" for condition in conditions]
        rows = [
            {
                "predicted": str(judged.labels[row, i]),
                "agrees": judged.labels[row, i] == own,
                "confidence": float(judged.probabilities[row, i, number[own]]) if own in number else math.nan,
                "finite": bool(np.isfinite(candidates[row][i]).all()),
                **measured[row][i][0],
                **real.limits[one],
                **copy,
            }
            for row, (own, copy) in enumerate(
                zip(wanted, real.copies([clip[i][1] for clip in measured], one), strict=True)
            )
        ]
        columns |= {f"{one}_{name}": [row[name] for row in rows] for name in (rows[0] if rows else ())}
    return apply_rule(pd.DataFrame(columns), rule)


# ---------------------------------------------------------------- measuring


def _measured(wave: np.ndarray) -> list[tuple[dict[str, float], np.ndarray]]:
    """Figures and copy pattern of each microphone of (C, T)."""
    return [(_figures(x), pattern(x)) for x in wave[: len(MICROPHONES)]]


def _figures(x: np.ndarray) -> dict[str, float]:
    """Level in dBFS (0: RMS of 1), share of silent frames of 50 ms, share of clipped samples, of (T,)."""
    x = x.astype(np.float64)
    rms = math.sqrt(np.square(x).mean())
    frames = x[: len(x) // FRAME * FRAME].reshape(-1, FRAME) if len(x) >= FRAME else x[None]
    return {
        "level": max(20 * math.log10(rms), QUIETEST) if rms else QUIETEST,
        "silence": float((np.sqrt(np.square(frames).mean(axis=1)) <= SILENT * rms).mean()),
        "clipping": float((np.abs(x) >= FULL_SCALE).mean()),
    }


_LOGMEL = LogMel("near", BANDS)


def pattern(x: np.ndarray) -> np.ndarray:
    """(T,) at 16 kHz → (64, T') what happens when: log-mel bands of mean 0 and deviation 1 over time.

    The first and the last frame, half of which lies outside the clip, are left out: all clips have that in common.
    """
    levels = _LOGMEL(x[None])
    levels = levels[:, 1:-1] if levels.shape[1] > 2 else levels
    levels = np.maximum(levels, np.median(levels, axis=1, keepdims=True) - DEEPEST)
    levels = levels - levels.mean(axis=1, keepdims=True)
    deviation = levels.std(axis=1, keepdims=True)
    return np.where(deviation > 1e-3, levels / np.maximum(deviation, 1e-3), np.float32(0))  # dB: digital silence


def copy_distances(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """(N, M) between patterns (F, T'), whose lengths may differ: 0 for copies, about 1 for strangers (above at most
    by what chance leaves; never above 2).

    All lags at once by FFT over time, and the sum over bands as one matrix product per frequency.
    """
    found = np.empty((len(a), len(b)))
    for mine in _alike(a, CHUNK[0]):
        for theirs in _alike(b, CHUNK[1]):
            own, others = (torch.from_numpy(np.stack([x[i] for i in r])) for x, r in ((a, mine), (b, theirs)))
            found[np.ix_(mine, theirs)] = 1 - _largest_correlation(own, others).numpy()
    return found


def _alike(patterns: Sequence[np.ndarray], most: int) -> Iterator[list[int]]:
    """Indices of patterns of equal length, at most so many together."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i, one in enumerate(patterns):
        groups[one.shape[1]].append(i)
    for group in groups.values():
        yield from (group[first : first + most] for first in range(0, len(group), most))


def _largest_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of (N, F, A) and (M, F, B): (N, M)

    max over lags l of Σ_ft a[f, t + l] b[f, t] / √(Σ_ft a[f, t + l]² · Σ_ft b[f, t]²), t over the common stretch.
    """
    A, B = a.shape[2], b.shape[2]
    least = math.ceil(LEAST_OVERLAP * min(A, B))
    lags = torch.arange(least - B, A - least + 1)
    size = next_fast_len(A + B - least, real=True)  # so long that no lag that is used is folded onto another
    spectra = (torch.fft.rfft(x, size).permute(2, 0, 1) for x in (a, b.flip(2)))
    products = torch.matmul(next(spectra), next(spectra).transpose(1, 2))  # (frequencies, N, M)
    sums = torch.fft.irfft(products, size, dim=0)[(lags + B - 1) % size]  # convolution with b turned round
    mine = _energy(a, lags.clamp(min=0), (B + lags).clamp(max=A))
    theirs = _energy(b, (-lags).clamp(min=0), (A - lags).clamp(max=B))
    return (sums / (mine.T[:, :, None] * theirs.T[:, None, :]).sqrt().clamp(min=1e-12)).amax(dim=0)


def _energy(x: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """(N, lags) energy of (N, F, T') between frames, at least a tenth of the whole."""
    summed = torch.nn.functional.pad(x.double().square().sum(dim=1).cumsum(dim=1), (1, 0))
    return torch.maximum(summed[:, last] - summed[:, first], LEAST_ENERGY * summed[:, -1:]).float()
