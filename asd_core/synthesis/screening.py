"""Which generated clips are kept, and why the others are not (report of SATLab, 3.2; limits are our own choice).

Everything is measured first and stored, microphone by microphone; a `Rule` then looks at the stored figures only, so
that it can be changed and applied again without a single recording. What people say about a clip goes over any rule.

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

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from asd_core.data.stream import stream
from asd_core.synthesis.judge import Judge
from asd_core.types import SAMPLE_RATE, AsdError, Clip
from asd_core.views.base import MICROPHONES, Channel
from asd_core.views.logmel import LogMel

FRAME = SAMPLE_RATE // 20  # samples of the 50 ms whose silence is looked for
SILENT = 1e-3  # amplitude relative to the clip's own RMS: 60 dB below it
MORE_SILENCE = 0.02  # share of frames that may be silent beyond what is in the recordings
FULL_SCALE, CLIPPED = 0.999, 1e-3  # of a sample's range; share of such samples that is always allowed
QUIETEST = -200.0  # dBFS that digital silence is given
BANDS = 64  # mel bands that copies are looked for in
DEEPEST = 30.0  # dB below a band's median: one gap of digital silence would outweigh everything else in a clip
LEAST_OVERLAP = 0.4  # of the shorter clip; a copy turned round in its middle has two halves without their edges
LEAST_ENERGY = 0.1  # of a clip's whole, for an overlap with next to nothing in it proves nothing
CHUNK = (64, 256)  # generated and recorded clips correlated together: tens of MB

SURPLUS, KEPT, DROPPED = "surplus", "kept by hand", "dropped by hand"
Verdict = Literal["keep", "drop", "unsure"]


@dataclass(frozen=True)
class Rule:
    """What a generated clip must fulfil at every microphone. Samples that are not finite, stretches of silence and
    clipping beyond those of the recordings always count against it."""

    agreement: bool = True  # the classifier must hear the intended condition and microphone
    confidence: tuple[float, float] = (0.5, 0.95)  # lowest and highest probability of these; above: nothing new
    near_copy: float = 0.01  # quantile of the distances between recordings; 0: copies are allowed
    level_margin: float = 5.0  # dB beyond the quietest and the loudest recording

    def __post_init__(self) -> None:
        low, high = self.confidence
        if not 0 <= low < high <= 1:
            raise ValueError(f"confidence must be [lowest, highest] between 0 and 1, got {list(self.confidence)}")
        if not 0 <= self.near_copy <= 1:
            raise ValueError(f"near_copy must lie between 0 and 1, got {self.near_copy}")
        if not self.level_margin >= 0:
            raise ValueError(f"level_margin must be at least 0 dB, got {self.level_margin}")


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


def apply_rule(table: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """A table of `screen`, newly judged by its stored figures: `passes`, `reasons` (sentences joined by "; ") and
    `failed` (in a word or two each, joined by ", "). Verdicts of people and quotas are to be applied again."""
    found = [_findings(row, rule) for row in table.to_dict("records")]
    table = table.drop(columns=["verdict", "kept"], errors="ignore")
    return table.assign(
        passes=np.array([not own for own in found], dtype=bool),
        reasons=["; ".join(sentence for _, sentence in own) for own in found],
        failed=[", ".join(dict.fromkeys(kind for kind, _ in own)) for own in found],
    )


def reasons(row: Mapping[Any, Any], rule: Rule) -> list[str]:
    """Why a row of `screen` does not pass, in plain sentences; none: it passes."""
    return [sentence for _, sentence in _findings(row, rule)]


def _findings(row: Mapping[Any, Any], rule: Rule) -> list[tuple[str, str]]:
    """What is against a candidate: the kind of thing and a sentence."""
    return [
        (kind, f"{one}: {sentence}")
        for one in MICROPHONES
        if not pd.isna(row.get(f"{one}_level"))  # tables of several machines may be joined, and some are mono
        for kind, sentence in _against(one, str(row["condition"]), {n: row.get(f"{one}_{n}") for n in _FIGURES}, rule)
    ]


_FIGURES = (
    *("predicted", "confidence", "finite", "level", "quietest", "loudest", "silence", "most_silence"),
    *("clipping", "most_clipping", "copy_distance", "copy_of", "copy_share", "copy_least"),
)


def _against(one: Channel, condition: str, x: Mapping[str, Any], rule: Rule) -> Iterator[tuple[str, str]]:
    if not x["finite"]:
        yield "not finite", "some samples are not finite"
    heard, _, microphone = x["predicted"].rpartition("|")
    low, high = rule.confidence
    if pd.isna(x["confidence"]):  # nobody has recorded this condition: of its machine it must be
        if rule.agreement and (heard.partition("|")[0], microphone) != (condition.partition("|")[0], one):
            yield "wrong class", f"taken for {heard} ({microphone})"
    else:
        if rule.agreement and (heard, microphone) != (condition, one):
            yield "wrong class", f"taken for {heard}" + (f" ({microphone})" if microphone != one else "")
        if x["confidence"] < low:
            yield "low confidence", f"confidence {x['confidence']:.2f} below {low:g}"
        if x["confidence"] > high:
            yield "high confidence", f"confidence {x['confidence']:.3f} above {high:g}"
    if x["level"] < x["quietest"] - rule.level_margin:
        yield "too quiet", f"{x['level']:.1f} dBFS, recordings have {x['quietest']:.1f} dBFS at least"
    if x["level"] > x["loudest"] + rule.level_margin:
        yield "too loud", f"{x['level']:.1f} dBFS, recordings have {x['loudest']:.1f} dBFS at most"
    if x["silence"] > x["most_silence"] + MORE_SILENCE:
        yield "silent", f"{x['silence']:.0%} of it is silent, of recordings {x['most_silence']:.0%} at most"
    if x["clipping"] > max(x["most_clipping"], CLIPPED):
        yield "clipped", f"{x['clipping']:.2%} of the samples are clipped, of recordings {x['most_clipping']:.2%}"
    if x["copy_share"] < rule.near_copy:  # never so for NaN
        others = (
            f"{x['copy_share']:.1%} of recordings are that near to another"
            if x["copy_share"]
            else f"recordings differ by {x['copy_least']:.2f} at least"
        )
        yield "near copy", f"a copy of {x['copy_of']} (distance {x['copy_distance']:.2f}, {others})"


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


# ---------------------------------------------------------------- how many are kept


def keep(table: pd.DataFrame, quotas: Mapping[str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first clips that pass, up to the quota of each condition; those that people keep come first and all stay.

    Returns:
        The table with `kept`; what passes and is not kept has the reason "surplus".
        What came of each quota: condition, wanted, drawn, passed, kept, short, reason (the commonest of those that
        fail, "" if none does).
    """
    table = table.copy()
    table.loc[table["failed"] == SURPLUS, ["reasons", "failed"]] = ""
    passes = table["passes"].to_numpy(bool)
    by_hand = passes & (table["verdict"].to_numpy() == "keep" if "verdict" in table else False)
    kept = by_hand.copy()
    rows = []
    for condition in dict.fromkeys([*quotas, *table["condition"]]):
        wanted, own = quotas.get(condition, 0), (table["condition"] == condition).to_numpy()
        others = np.flatnonzero(own & passes & ~by_hand)
        kept[others[: max(wanted - int((own & by_hand).sum()), 0)]] = True
        if condition in quotas:
            failed = Counter(kind for kinds in table["failed"][own & ~passes] for kind in kinds.split(", "))
            counts = {"drawn": own.sum(), "passed": (own & passes).sum(), "kept": (own & kept).sum()}
            rows.append(
                {"condition": condition, "wanted": wanted, **{name: int(n) for name, n in counts.items()}}
                | {
                    "short": max(wanted - int(counts["kept"]), 0),
                    "reason": failed.most_common(1)[0][0] if failed else "",
                }
            )
    table["kept"] = kept
    table.loc[passes & ~kept, ["reasons", "failed"]] = SURPLUS
    return table, pd.DataFrame(rows, columns=["condition", "wanted", "drawn", "passed", "kept", "short", "reason"])


# ---------------------------------------------------------------- what people say


def apply_verdicts(table: pd.DataFrame, effective: Mapping[str, str]) -> pd.DataFrame:
    """A table of `apply_rule` with the verdicts of people, by clip, in `verdict`: "keep" and "drop" go over the rule,
    "unsure" leaves it its say. What was measured stays."""
    verdicts = table["clip"].map(lambda clip: effective.get(clip, ""))
    table = table.assign(verdict=verdicts)
    table.loc[verdicts == "keep", ["passes", "reasons", "failed"]] = [True, KEPT, ""]
    table.loc[verdicts == "drop", ["passes", "reasons", "failed"]] = [False, DROPPED, DROPPED]
    return table


class Verdicts:
    """A log of what people said about generated clips, one JSON object per line: clip, verdict, when, who.

    Nothing in it is ever changed: "undo" is a line too. A last line without an end, left by a process that was
    killed, was never said: reading ignores it and the next `add` removes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, clip: str, verdict: Verdict | Literal["undo"], who: str) -> None:
        """Append one verdict; it is on disk when this returns."""
        if verdict not in (allowed := (*get_args(Verdict), "undo")):
            raise AsdError(f'"{verdict}" is not a verdict. Allowed: {", ".join(allowed)}.')
        when = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"clip": clip, "verdict": verdict, "when": when, "who": who}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            said = self.path.read_bytes()
            if said and not said.endswith(b"\n"):
                os.ftruncate(handle, said.rfind(b"\n") + 1)
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)

    def said(self) -> list[dict[str, str]]:
        """All lines, oldest first.

        Raises:
            AsdError: a line other than a torn last one is damaged.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        found = []
        for number, line in enumerate(lines, 1):
            try:
                one = json.loads(line)
                found.append({name: str(one[name]) for name in ("clip", "verdict", "when", "who")})
            except (ValueError, KeyError, TypeError) as error:
                raise AsdError(
                    f"{self.path}, line {number} is not a verdict ({error}). Repair or delete this line."
                ) from error
        return found

    def effective(self) -> dict[str, Verdict]:
        """The latest verdict of each clip that was not undone; each undo takes one back, as far as there are any."""
        stacks: defaultdict[str, list[Any]] = defaultdict(list)
        for one in self.said():
            own = stacks[one["clip"]]
            if one["verdict"] != "undo":
                own.append(one["verdict"])
            elif own:
                own.pop()
        return {clip: own[-1] for clip, own in stacks.items() if own}

    def deciding(self) -> dict[str, Verdict]:
        """The effective verdicts without "unsure", which decides nothing."""
        return {clip: verdict for clip, verdict in self.effective().items() if verdict != "unsure"}
