"""A health check of a folder of recordings: every file is opened, nothing stops it, and every finding says what to do.

It also examines what `manifest.scan` refuses, so that a folder with nothing but misnamed files gets a report and not
an exception. Rules look at one file, at one machine, or at pairs of files; `RULES` lists them.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import soundfile

from asd_core.artifacts import begin, finish, is_done, read_table, require_own, write_table
from asd_core.data.manifest import LABELLED, DataSet, attribute_key, attribute_text, parse_name, walk
from asd_core.files import read_json
from asd_core.types import (
    ANOMALY,
    FAR,
    NEAR,
    NORMAL,
    SAMPLE_RATE,
    SOURCE,
    TARGET,
    TEST,
    TRAIN,
    AsdError,
    Clip,
    Progress,
    Truth,
    no_progress,
)

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

SILENT_RMS = 1e-4  # -80 dB of full scale: three bits of 16
FULL_SCALE = 32766 / 32768
CLIPPED_RUN = 3  # samples in a row at full scale: a peak that was cut, not one that was normalised
CLIPPED_SHARE = 1e-4
DC_OFFSET = 0.01  # of full scale
SHORT = 1.0  # seconds
IDENTICAL = 0.9999  # correlation; two real microphones stay well below
FRAME = 1024  # samples of one short-time spectrum
BANDS = 24
CLEAR_ORDER = 1.5  # dB rms between the channels' spectra, below which near and far cannot be told apart
LOUDER = 3.0  # dB
CLEAR_PEAK = 0.05  # of the cross-correlation, below which a delay means nothing
SOUND_SUFFIXES = {".wav", ".flac", ".aif", ".aiff", ".ogg", ".mp3", ".m4a"}


@dataclass(frozen=True)
class Rule:
    severity: Severity
    title: str
    advice: str


RULES: dict[str, Rule] = {
    # one file
    "unreadable": Rule("error", "cannot be opened", "Give this user the right to read it, or restore the link."),
    "corrupt": Rule("error", "not a sound file", "Replace it or delete it."),
    "empty": Rule("error", "no samples", "Record it again or delete it."),
    "truncated": Rule("error", "shorter than its header says", "Copy or download it again: its end is lost."),
    "not_finite": Rule("error", "NaN or infinite samples", "Export it again as 16-bit PCM."),
    "silent": Rule("error", "silent", "Look for a dead microphone or a muted track; leave such clips out."),
    "clipped": Rule("warning", "clipped", "Record with less gain; cut peaks look like impulsive faults."),
    "dc_offset": Rule("warning", "constant offset", "Check the sound card, or remove the mean before use."),
    "short": Rule(
        "warning", "shorter than a second", "Most views need a second of sound; leave it out or join pieces."
    ),
    "identical_channels": Rule(
        "warning", "near and far are the same", "Record the far microphone, or save the clip as mono."
    ),
    # names
    "misnamed": Rule("warning", "not a name of this layout", "Rename it; until then it is passed over."),
    "misplaced": Rule("warning", "sound outside train and test", "Move it to <machine>/train or <machine>/test."),
    "linked": Rule("warning", "folder that is there twice", "Read under its other name only; remove the link."),
    "wrong_split": Rule("error", "name and folder disagree", "Find out which is right; it is passed over."),
    "anomaly_in_train": Rule("error", "anomaly in the training folder", "Move it to test; it is passed over."),
    "odd_attributes": Rule("warning", "attribute without a value", "Write key_value pairs, or noAttribute."),
    "attribute_case": Rule("note", "attribute spelled in several cases", "Nothing to do: they count as the same."),
    # two files
    "leak": Rule("error", "test clip equals a training clip", "Remove one: a detector would know the answer."),
    "duplicate": Rule("warning", "same sound twice", "Remove one, or find out why two names hold one recording."),
    # a file beside the rest of its machine
    "rate": Rule("warning", "sample rate", f"It is resampled to {SAMPLE_RATE} Hz on reading; nothing above is gained."),
    "channels": Rule("warning", "channels", "Expected two: near, far. Views of the far microphone need them."),
    "length": Rule("note", "length differs inside the machine", "Allowed; compare scores of such clips with care."),
    "swapped": Rule(
        "warning", "near and far may be swapped", "Listen to both channels; an unusual noise can also look like this."
    ),
    # a machine
    "far_louder": Rule(
        "note", "far is louder than near", "Normal where noise surrounds the far microphone; else swap the channels."
    ),
    "no_train": Rule("error", "no training clips", "Nothing can be learnt for this machine; add normal clips."),
    "no_source": Rule("warning", "no source clips in training", "Check the names: most training clips are source."),
    "no_target": Rule(
        "warning", "no target clips in training", "Allowed; what treats domains apart knows the source only."
    ),
    "no_test": Rule("warning", "no test clips", "The machine can be trained but not scored."),
    "one_class": Rule("warning", "one class in test", "AUC needs normal clips and anomalies."),
    "one_domain": Rule("warning", "a domain lacks normal test clips", "Its AUC and the official score are undefined."),
    "mixed_labels": Rule("warning", "labelled and unlabelled test clips", "Without all labels nothing is evaluated."),
    "machine_twice": Rule("error", "machine in two folders", "Rename one, or examine and use them one at a time."),
    # the folder
    "no_machine": Rule("error", "no machine found", "Expected <machine>/train/*.wav and <machine>/test/*.wav."),
    "description": Rule("error", "dataset.json", 'Write {"name": …, "kind": …} or delete it.'),
}


@dataclass(frozen=True)
class Finding:
    rule: str  # a key of RULES
    subject: str  # clip_id, machine, or path relative to the examined folder
    found: str  # what was found there

    @property
    def severity(self) -> Severity:
        return RULES[self.rule].severity

    @property
    def message(self) -> str:
        return f"{self.subject}: {self.found}. {RULES[self.rule].advice}"


@dataclass(frozen=True)
class Report:
    root: Path
    findings: tuple[Finding, ...]  # errors first, then in the order of RULES, then by subject
    machines: pd.DataFrame  # one row per machine: `DataSet.counts`, channels, rate (Hz), seconds, errors, warnings
    files: int  # sound files that were opened
    clips: pd.DataFrame  # one row per readable clip: `CLIP_COLUMNS`
    stamp: str  # of the files when the examination began, see `stamp`

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def ok(self) -> bool:
        """Nothing that would stop or falsify a run."""
        return not self.count("error")


CLIP_COLUMNS = {
    "clip_id": "",
    "machine": "",
    "split": "",
    "rate": "Hz",
    "channels": "",
    "seconds": "s",
    "peak": "dB of full scale, the highest of all channels",
    "near": "level, dB of full scale (RMS without its mean); NaN if not finite",
    "far": "the same of the far microphone; NaN for one channel",
    "correlation": "of near and far, −1…1; NaN where a channel is missing or silent",
    "lead": "ms by which the sound that both share reaches the near microphone first; NaN where they share too little",
}


@dataclass(frozen=True)
class _Place:
    """A file to open, and the clip its name makes it, if it does."""

    path: Path
    subject: str
    machine: str = ""
    clip: Clip | None = None
    truth: Truth | None = None


@dataclass(frozen=True)
class _Facts:
    """What one look at a file's samples tells."""

    rate: int
    channels: int
    frames: int
    digest: str = ""  # of the samples
    silent: bool = False
    tilt: np.ndarray | None = None  # (BANDS,) dB, near minus far
    louder: float = 0.0  # dB, near minus far
    lead: float | None = None  # ms by which the sound reaches the near microphone first
    correlation: float = np.nan
    levels: tuple[float, ...] = ()  # dB of full scale per channel, RMS without the mean
    peak: float = np.nan  # dB of full scale
    findings: tuple[tuple[str, str], ...] = ()  # (rule, found)

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def examine(root: Path, progress: Progress = no_progress) -> Report:
    """Open every recording below `root` and report what is wrong with files, names, machines and the folder.

    Raises:
        AsdError: `root` is not a folder. Everything else is a finding.
    """
    root = root.resolve()
    if not root.is_dir():
        raise AsdError(f"{root} is not a folder. Give the folder that holds <machine>/train and <machine>/test.")
    findings: list[Finding] = []
    before = stamp(root)
    places = list(_walk(root, findings))
    pairs: list[tuple[_Place, _Facts]] = []
    for place, facts in _look_at_all(places, progress):
        findings += [Finding(rule, place.subject, found) for rule, found in facts.findings]
        pairs.append((place, facts))
    findings += _folder_findings(root, places)
    findings += _same_sound(pairs)
    by_machine: dict[str, list[tuple[_Place, _Facts]]] = defaultdict(list)
    for place, facts in pairs:
        if place.clip is not None:
            by_machine[place.machine].append((place, facts))
    for machine, members in sorted(by_machine.items()):
        findings += _split_findings(machine, [place for place, _ in members])
        findings += _name_findings(machine, [place for place, _ in members])
        readable = [(place, facts) for place, facts in members if facts.frames]
        findings += _uneven(machine, readable)
        findings += _channel_order(machine, readable)
    order = list(RULES)
    findings.sort(key=lambda f: (SEVERITIES.index(f.severity), order.index(f.rule), f.subject))
    return Report(
        root, tuple(findings), _summary(root, by_machine, findings), len(places), _clip_facts(by_machine), before
    )


def stamp(root: Path) -> str:
    """Changes when a file below `root` is added, removed or written; looks at names, sizes and times only."""
    seen = hashlib.blake2b(digest_size=8)
    for folder, _, names in walk(root, on_error=lambda _: None):
        seen.update(os.fsencode(folder))
        for name in (name for name in names if not name.startswith(".")):
            with suppress(OSError):  # a link to nothing, or forbidden
                found = os.stat(f"{folder}/{name}")  # noqa: PTH116  the app looks often, and Path takes longer
                seen.update(b"%s/%d/%d" % (os.fsencode(name), found.st_size, found.st_mtime_ns))
    return seen.hexdigest()


# finding files --------------------------------------------------------------------------------------------------


def _walk(root: Path, findings: list[Finding]) -> Iterator[_Place]:
    """All sound files below `root`, and all other files inside train and test folders as findings."""

    def unreadable(error: OSError) -> None:
        findings.append(Finding("unreadable", str(Path(error.filename).relative_to(root)), str(error.strerror)))

    def repeated(folder: Path) -> None:
        findings.append(Finding("linked", str(folder.relative_to(root)), f"is {folder.resolve()}"))

    for folder, _, names in walk(root, unreadable, repeated):
        paths = [folder / name for name in names]
        for path in sorted(paths):
            if path.name.startswith("."):
                continue
            if path.parent.name in (TRAIN, TEST):
                yield from _named(path, root, findings)
            elif path.suffix.lower() in SOUND_SUFFIXES:
                subject = str(path.relative_to(root))
                findings.append(Finding("misplaced", subject, f"lies in {path.parent}"))
                yield _Place(path, subject)


def _named(path: Path, root: Path, findings: list[Finding]) -> Iterator[_Place]:
    machine = path.parent.parent.name
    try:
        clip, truth = parse_name(machine, path)
    except AsdError as error:
        subject = str(path.relative_to(root))
        found = str(error).partition(": ")[2].rstrip(".")
        findings.append(Finding(_name_rule(path), subject, found))
        if path.suffix.lower() in SOUND_SUFFIXES:
            yield _Place(path, subject, machine)
    else:
        yield _Place(path, clip.clip_id, machine, clip, truth)


def _name_rule(path: Path) -> str:
    match = LABELLED.fullmatch(path.name)
    if match is None:
        return "misnamed"
    return "anomaly_in_train" if match["split"] == path.parent.name else "wrong_split"


# one file -------------------------------------------------------------------------------------------------------


def _look_at_all(places: Sequence[_Place], progress: Progress) -> Iterator[tuple[_Place, _Facts]]:
    """Facts of every file, in order; a few files are in memory at a time."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for i, (place, facts) in enumerate(zip(places, pool.map(_look, (p.path for p in places)), strict=True)):
            progress((i + 1) / len(places), f"examining {place.subject}")
            yield place, facts
    finally:  # cancelled: do not open thousands of files first
        pool.shutdown(cancel_futures=True)


def _look(path: Path) -> _Facts:
    """Open a file; whatever is wrong with it becomes a finding of the result, never an exception."""
    try:
        with path.open("rb") as file:
            promised, held = announced_bytes(file.read(4096), path.stat().st_size)
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except OSError as error:
        return _Facts(SAMPLE_RATE, 0, 0, findings=(("unreadable", str(error.strerror or error)),))
    except soundfile.SoundFileError as error:
        rule = "corrupt" if path.stat().st_size else "empty"
        found = str(error).rpartition(": ")[2].rstrip(".") if path.stat().st_size else "the file has 0 bytes"
        return _Facts(SAMPLE_RATE, 0, 0, findings=((rule, found),))
    if not len(wave):
        return _Facts(rate, wave.shape[1], 0, findings=(("empty", "a header without samples"),))
    findings = []
    if held < promised:
        found = f"{len(wave) / rate:.2f} s of the {len(wave) / rate * promised / held:.2f} s its header announces"
        findings.append(("truncated", found))
    return _measure(np.ascontiguousarray(wave.T), rate, findings)


def announced_bytes(head: bytes, size: int) -> tuple[int, int]:
    """Bytes of sound that a WAV header announces, and those that the file can hold; equal where it does not tell."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 1, 1
    at = 12
    while at + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, at)
        if name == b"data":
            streamed = length in (0, 0xFFFFFFFF)  # written by a program that did not know the length yet
            return (1, 1) if streamed else (length, max(min(length, size - at - 8), 1))
        at += 8 + length + length % 2
    return 1, 1


def _measure(wave: np.ndarray, rate: int, findings: list[tuple[str, str]]) -> _Facts:
    """All that is measured on the samples, (C, T)."""
    channels, frames = wave.shape
    digest = hashlib.blake2b(wave.tobytes(), digest_size=16, salt=rate.to_bytes(8, "little")).hexdigest()
    if frames < SHORT * rate:
        findings.append(("short", f"{frames / rate:.3f} s"))
    bad = int(wave.size - np.isfinite(wave).sum())
    if bad:
        findings.append(("not_finite", f"{bad} of {wave.size} samples"))
        return _Facts(rate, channels, frames, digest, findings=tuple(findings))
    mean = wave.mean(axis=1, dtype=np.float64)
    rms = np.array([np.sqrt(max(np.vdot(x, x) / frames - m * m, 0.0)) for x, m in zip(wave, mean, strict=True)])
    silent = rms < SILENT_RMS
    levels, peak = tuple(map(_decibel, rms)), _decibel(max(wave.max(), -wave.min()))
    for c in range(channels):
        name = _channel_name(c, channels)
        if silent[c]:
            found = f"{name} at {20 * np.log10(rms[c]):.0f} dB of full scale" if rms[c] else f"{name} is constant"
            findings.append(("silent", found))
        if abs(mean[c]) > DC_OFFSET:
            findings.append(("dc_offset", f"{name} has a mean of {mean[c]:+.3f} of full scale"))
        findings += [("clipped", f"{name}: {found}") for found in _clipping(wave[c])]
    if channels < 2 or silent[:2].any():
        return _Facts(
            rate, channels, frames, digest, bool(silent.all()), levels=levels, peak=peak, findings=tuple(findings)
        )
    near, far = (wave[c] - np.float32(mean[c]) for c in (NEAR, FAR))
    correlation = float(np.vdot(near, far)) / (frames * rms[NEAR] * rms[FAR])
    louder = float(20 * np.log10(rms[NEAR] / rms[FAR]))
    if abs(correlation) > IDENTICAL:
        found = "sample by sample" if np.array_equal(wave[NEAR], wave[FAR]) else f"correlation {correlation:.5f}"
        findings.append(("identical_channels", found))
        same = {"louder": louder, "correlation": correlation, "levels": levels, "peak": peak}
        return _Facts(rate, channels, frames, digest, findings=tuple(findings), **same)
    tilt, lead = _compare(near, far, rate)
    return _Facts(rate, channels, frames, digest, False, tilt, louder, lead, correlation, levels, peak, tuple(findings))


def _decibel(value: float) -> float:
    """Of full scale; silence is −140 dB."""
    return float(20 * np.log10(max(float(value), 1e-7)))


def _channel_name(c: int, channels: int) -> str:
    if channels == 1:
        return "the only channel"
    return ("near", "far")[c] if c < 2 else f"channel {c}"


def _clipping(x: np.ndarray) -> Iterator[str]:
    """Says how much of a channel is at full scale, when it is a cut and not a single peak."""
    if max(x.max(), -x.min()) < FULL_SCALE:
        return
    full = np.abs(x) >= FULL_SCALE
    edges = np.flatnonzero(np.diff(np.concatenate([[False], full, [False]])))
    longest, share = int((edges[1::2] - edges[::2]).max()), full.mean()
    if longest >= CLIPPED_RUN and share >= CLIPPED_SHARE:
        yield f"{share:.2%} of the samples at full scale, up to {longest} in a row"


def _compare(near: np.ndarray, far: np.ndarray, rate: int) -> tuple[np.ndarray | None, float | None]:
    """How two channels (T,) differ in spectrum, (BANDS,) dB, and by how many ms the near one leads.

    The lead is the peak of the inverse transform of the complex coherence (an averaged cross-spectrum divided by the
    channels' levels), so that only what both microphones hear counts; None where they share too little.
    """
    if len(near) < 8 * FRAME:  # too few spectra for an average
        return None, None
    window = np.hanning(FRAME).astype(np.float32)
    a, b = (np.fft.rfft(x[: len(x) // FRAME * FRAME].reshape(-1, FRAME) * window) for x in (near, far))
    power_a, power_b = ((x.real**2 + x.imag**2).mean(axis=0) for x in (a, b))
    edges = np.unique(np.geomspace(2, FRAME // 2, BANDS + 1).round().astype(int))[:-1]
    floor = 1e-12
    tilt = 10 * np.log10((np.add.reduceat(power_a, edges) + floor) / (np.add.reduceat(power_b, edges) + floor))
    coherence = (np.conj(a) * b).mean(axis=0) / np.sqrt(power_a * power_b + floor)
    correlation = np.fft.irfft(coherence)
    peak = int(np.argmax(np.abs(correlation)))
    # irfft divides by FRAME: equal channels give a peak of 1
    if abs(correlation[peak]) < CLEAR_PEAK:
        return tilt, None
    lag = peak if peak < FRAME // 2 else peak - FRAME
    return tilt, 1000 * lag / rate


# files beside one another ---------------------------------------------------------------------------------------


def _same_sound(pairs: Iterable[tuple[_Place, _Facts]]) -> Iterator[Finding]:
    groups: dict[str, list[_Place]] = defaultdict(list)
    for place, facts in pairs:
        if facts.frames and not facts.silent:
            groups[facts.digest].append(place)
    for group in groups.values():
        # training clips first: they are what the others are said to equal
        first, *others = sorted(group, key=lambda p: (p.clip is None or p.clip.split != TRAIN, p.subject))
        for place in others:
            crosses = first.clip and place.clip and first.clip.split != place.clip.split
            yield Finding("leak" if crosses else "duplicate", place.subject, f"the same samples as {first.subject}")


def _uneven(machine: str, members: Sequence[tuple[_Place, _Facts]]) -> Iterator[Finding]:
    """Rate, channels and length: what all clips share is said once, what a few differ in is said of each."""
    yield from _odd_ones(machine, members, "rate", lambda f: f.rate, "{} Hz".format, expected=SAMPLE_RATE)
    yield from _odd_ones(machine, members, "channels", lambda f: f.channels, _channel_text, expected=2)
    yield from _odd_ones(machine, members, "length", lambda f: round(f.seconds, 3), "{:.2f} s".format)


def _odd_ones(
    machine: str,
    members: Sequence[tuple[_Place, _Facts]],
    rule: str,
    value: Callable[[_Facts], float],
    text: Callable[[float], str],
    expected: float | None = None,
) -> Iterator[Finding]:
    count = Counter(value(facts) for _, facts in members)
    if not count:
        return
    usual = count.most_common(1)[0][0]
    if expected is not None and usual != expected:
        yield Finding(rule, machine, f"{text(usual)} in {count[usual]} of {len(members)} clips")
    for place, facts in members:
        if value(facts) != usual:
            yield Finding(rule, place.subject, f"{text(value(facts))}; usual here: {text(usual)}")


def _channel_text(channels: float) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def _channel_order(machine: str, members: Sequence[tuple[_Place, _Facts]]) -> Iterator[Finding]:
    """Clips whose near channel looks like the machine's far channel and the other way round.

    Swapping negates the difference of the two spectra. Projected on the machine's typical difference, usual clips lie
    near 1 and swapped ones near -1; a machine without a clear order gets no finding. All clips swapped alike cannot
    be told from none: then only level and delay are reported.
    """
    compared = [(place, facts, facts.tilt) for place, facts in members if facts.tilt is not None]
    if len(compared) < 5:
        return
    tilts = np.array([tilt for _, _, tilt in compared])
    typical = np.median(tilts, axis=0)
    if np.sqrt(np.mean(typical**2)) >= CLEAR_ORDER:
        likeness = tilts @ typical / (typical @ typical)
        if np.mean(likeness > 0.5) >= 0.6:
            for (place, facts, _), value in zip(compared, likeness, strict=True):
                if value < -0.5:
                    found = f"likeness to the machine's usual order {value:+.2f}, near is {facts.louder:+.1f} dB"
                    yield Finding("swapped", place.subject, found)
    louder = float(np.median([facts.louder for _, facts, _ in compared]))
    if louder < -LOUDER:
        yield Finding("far_louder", machine, f"by {-louder:.1f} dB (median){_lead_text([f for _, f, _ in compared])}")


def _lead_text(facts: Sequence[_Facts]) -> str:
    leads = [f.lead for f in facts if f.lead is not None]
    if len(leads) < len(facts) / 2:
        return "; they share too little sound to tell where it arrives first"
    lead = float(np.median(leads))
    if lead == 0:
        return "; the sound they share reaches both at the same time"
    return f"; the sound they share reaches the {'near' if lead > 0 else 'far'} one first, by {abs(lead):.1f} ms"


# machines and the folder ----------------------------------------------------------------------------------------


def _split_findings(machine: str, places: Sequence[_Place]) -> Iterator[Finding]:
    domains = Counter(p.clip.domain for p in places if p.clip and p.clip.split == TRAIN)
    test = [p for p in places if p.clip and p.clip.split == TEST]
    kinds = Counter((p.truth.domain, p.truth.label) for p in test if p.truth)
    if not domains:
        yield Finding("no_train", machine, "no usable file in train")
    for domain, rule in ((SOURCE, "no_source"), (TARGET, "no_target")):
        if domains and not domains[domain]:
            yield Finding(rule, machine, f"all {domains.total()} training clips are of the other domain")
    if not test:
        yield Finding("no_test", machine, "no usable file in test")
    if 0 < kinds.total() < len(test):
        yield Finding("mixed_labels", machine, f"{kinds.total()} of {len(test)} test clips have a label")
    labels = {label for _, label in kinds}
    if len(labels) == 1:
        yield Finding("one_class", machine, f"all are {'anomalies' if ANOMALY in labels else 'normal'}")
    elif labels:
        for domain in (SOURCE, TARGET):
            if not kinds[domain, NORMAL]:
                yield Finding("one_domain", machine, f"no normal test clip of {domain}")


def _name_findings(machine: str, places: Sequence[_Place]) -> Iterator[Finding]:
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for place in places:
        attributes = (place.truth.attributes if place.truth else place.clip.attributes) if place.clip else ()
        spellings[attribute_key(attributes)][attribute_text(attributes)] += 1
        odd = ["_".join(pair).strip("_") or "_" for pair in attributes if not all(pair)]
        if odd:
            yield Finding("odd_attributes", place.subject, f"no key_value pair: {', '.join(odd)}")
    for counts in spellings.values():
        if len(counts) > 1:
            yield Finding("attribute_case", machine, ", ".join(f"{text} ×{n}" for text, n in sorted(counts.items())))


def _folder_findings(root: Path, places: Sequence[_Place]) -> Iterator[Finding]:
    homes: dict[str, set[Path]] = defaultdict(set)
    for place in places:
        if place.clip is not None:
            homes[place.machine].add(place.path.parent.parent)
    if not homes:
        yield Finding("no_machine", str(root), f"{len(places)} sound files, none of which is a clip of a machine")
    for machine, folders in sorted(homes.items()):
        if len(folders) > 1:
            yield Finding("machine_twice", machine, " and ".join(map(str, sorted(folders))))
    description = root / "dataset.json"
    if description.is_file():
        try:
            if not isinstance(read_json(description), dict):
                yield Finding("description", description.name, "not a JSON object")
        except (AsdError, OSError, UnicodeDecodeError) as error:
            yield Finding("description", description.name, f"cannot be read ({error})")


def _summary(
    root: Path, by_machine: dict[str, list[tuple[_Place, _Facts]]], findings: Sequence[Finding]
) -> pd.DataFrame:
    clips = [(place.clip, place.truth) for members in by_machine.values() for place, _ in members if place.clip]
    truth = {clip.clip_id: known for clip, known in clips if known}
    data = DataSet(root.name, "", root, tuple(clip for clip, _ in clips), truth)
    severities = Counter((finding.subject.partition("/")[0], finding.severity) for finding in findings)
    rows = {}
    for machine, members in by_machine.items():
        facts = [f for _, f in members if f.frames]
        rows[machine] = {
            "clips": len(members),
            "channels": _values(f.channels for f in facts),
            "rate": _values(f.rate for f in facts),
            "seconds": _values(round(f.seconds, 2) for f in facts),
            "errors": severities[machine, "error"],
            "warnings": severities[machine, "warning"],
        }
    columns = ["clips", "channels", "rate", "seconds", "errors", "warnings"]
    return data.counts().merge(
        pd.DataFrame.from_dict(rows, orient="index", columns=columns), left_on="machine", right_index=True
    )


def _clip_facts(by_machine: dict[str, list[tuple[_Place, _Facts]]]) -> pd.DataFrame:
    """`CLIP_COLUMNS` of all clips that could be read."""
    rows = [
        (
            *(place.clip.clip_id, machine, place.clip.split, facts.rate, facts.channels, facts.seconds, facts.peak),
            *(*facts.levels, np.nan, np.nan)[:2],
            *(facts.correlation, np.nan if facts.lead is None else facts.lead),
        )
        for machine, members in sorted(by_machine.items())
        for place, facts in members
        if place.clip is not None and facts.frames
    ]
    return pd.DataFrame(rows, columns=list(CLIP_COLUMNS))


def _values(numbers: Iterable[float]) -> str:
    """``10`` or, where they differ, ``6–10``."""
    found = sorted(set(numbers))
    return "–".join(f"{number:g}" for number in dict.fromkeys(found[:1] + found[-1:]))


# telling --------------------------------------------------------------------------------------------------------


def render(report: Report, per_rule: int = 5) -> str:
    """Plain text for a terminal: a table of machines, then the findings by rule, `per_rule` of each."""
    lines = [f"{report.root}: {report.files} sound files"]
    if len(report.machines):
        shown = report.machines.loc[:, [c for c in report.machines if not (report.machines[c] == 0).all()]]
        lines += ["", shown.to_string(index=False)]
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.rule].append(finding)
    for rule, found in groups.items():
        about = RULES[rule]
        lines += ["", f"{about.severity.upper()} {about.title} ({rule}, {len(found)}×). {about.advice}"]
        lines += [f"  {finding.subject}: {finding.found}" for finding in found[:per_rule]]
        if len(found) > per_rule:
            lines.append(f"  … and {len(found) - per_rule} more")
    counts = ", ".join(f"{n} {severity}{'s' * (n != 1)}" for severity in SEVERITIES if (n := report.count(severity)))
    return "\n".join([*lines, "", counts or "Nothing to complain about.", ""])


def to_json(report: Report) -> str:
    """The whole report, every finding, as JSON text."""
    return json.dumps(
        {
            "root": str(report.root),
            "files": report.files,
            "ok": report.ok,
            "machines": report.machines.to_dict("records"),
            "findings": [
                {"severity": f.severity, "rule": f.rule, "subject": f.subject, "found": f.found, "message": f.message}
                for f in report.findings
            ],
        },
        indent=1,
        ensure_ascii=False,
    )


# keeping --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A report that was kept, as tables."""

    findings: pd.DataFrame  # severity, rule, title, advice, subject, found; errors first
    clips: pd.DataFrame  # `CLIP_COLUMNS`
    stamp: str  # of the files when they were examined
    files: int  # sound files that were opened
    created: float  # when, s since 1970


def require_place(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier report, as `artifacts.require_own` does."""
    require_own(folder, "findings.parquet", "clips.parquet")


def keep(report: Report, folder: Path) -> None:
    """Write a report to a folder of its own; `kept` reads it.

    Raises:
        AsdError: as of `require_place`.
    """
    require_place(folder)
    begin(folder)
    rows = [
        (f.severity, f.rule, RULES[f.rule].title, RULES[f.rule].advice, f.subject, f.found) for f in report.findings
    ]
    columns = ["severity", "rule", "title", "advice", "subject", "found"]
    write_table(folder / "findings.parquet", pd.DataFrame(rows, columns=columns, dtype="str"))
    write_table(folder / "clips.parquet", report.clips)
    finish(folder, root=str(report.root), stamp=report.stamp, examined=report.files)


def kept(folder: Path) -> Kept | None:
    """The report in a folder, or None if there is no whole one."""
    if not is_done(folder):
        return None
    about = read_json(folder / "meta.json")
    findings, clips = (read_table(folder / f"{name}.parquet") for name in ("findings", "clips"))
    return Kept(findings, clips, about["stamp"], about["examined"], about["created"])
