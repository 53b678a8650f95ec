"""Data sets on this machine, and what can be seen and heard of a clip."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from asd_core.api.moment import once_a_moment
from asd_core.artifacts import Workspace
from asd_core.data.manifest import REPOSITORY, DataSet, fingerprint, is_fingerprinted, scan
from asd_core.data.spectrogram import Axis
from asd_core.files import digest, read_json, write_json, write_with
from asd_core.registry import did_you_mean
from asd_core.types import FAR, NEAR, TEST, TRAIN, AsdError, Clip

CHANNELS = {"near": NEAR, "far": FAR}
BOTH = "both"  # microphones, as the recording has them
GENERATED, UPLOADS = "generated", "uploads"  # "generated:<key>": candidates of a task; "uploads:<id>": a dropped file
SCALE_CLIPS = 12  # training clips that set a machine's loudness scale
SMALLEST_RANGE_DB = 40.0  # of that scale; less would paint silence as a storm


@dataclass(frozen=True)
class DataInfo:
    """A data set that was used in this workspace or is known and on this machine."""

    name: str
    kind: str
    root: Path
    argument: str  # what --data takes


@once_a_moment
def data_sets(workspace: Workspace) -> dict[str, DataInfo]:
    """By name: first those used in this workspace, then the known ones that are on this machine."""
    from asd_core.data.catalogue import dataset_names, load_dataset_config

    found: dict[str, DataInfo] = {}
    for path in sorted((workspace.root / "datasets").glob("*/dataset.json")):
        try:
            about = read_json(path)
            root = REPOSITORY / about["root"]
            found[about["name"]] = DataInfo(about["name"], about["kind"], root, str(root))
        except (AsdError, KeyError, TypeError):
            continue
    for name in dataset_names():
        known = load_dataset_config(name)
        root = REPOSITORY / known.root
        recorded = found[name].root if name in found else None
        if recorded == root or (root.is_dir() and not (recorded and recorded.is_dir())):  # the latter after a move
            found[name] = DataInfo(name, known.kind, root, name)
    return found


def data_set(workspace: Workspace, name: str) -> DataSet:
    """The clips of a data set as they lie on disk now.

    Raises:
        AsdError: unknown name, or its folder is gone or holds no clip.
    """
    known = data_sets(workspace)
    if name not in known:
        raise AsdError(f'There is no data set "{name}" in this workspace.{did_you_mean(name, known)}')
    info = known[name]
    return _scanned(info.root, info.name, info.kind, _stamp(info.root))


def clips_stamp(workspace: Workspace, data: str) -> str:
    """Changes when clips of a data set are added, removed or renamed, and with them the truth that their names tell; ""
    while the data set is not on this machine. Looks at folders only: 1 ms for 14,400 files."""
    known = data_sets(workspace).get(data)
    try:
        return _stamp(known.root) if known else ""
    except OSError:
        return ""


def clip(workspace: Workspace, data: str, clip_id: str) -> Clip:
    """The clip with this id. The id is looked up; it never becomes part of a path.

    Args:
        data: a data set's name; or "generated:<key of a generate task>", or "uploads:<id>"

    Raises:
        AsdError: unknown data set, or no file for this id.
    """
    clips = _clips(workspace, data)
    if clip_id not in clips:
        raise AsdError(f"{clip_id} is missing from {data}. Restore the file, or run again to leave it out.")
    return clips[clip_id]


def short_id(clip_id: str) -> str:
    """16 hex digits for a clip, in the addresses of a long table: with ids they would weigh more than all else in it."""
    return digest(clip_id)


def clip_of_short_id(workspace: Workspace, data: str, short: str) -> Clip:
    """The clip of a `short_id`; data and errors as of `clip`."""
    clips = _clips(workspace, data).by_short_id
    if short not in clips:
        raise AsdError(f"No clip of {data} is named {short} for short. It may have been deleted.")
    return clips[short]


class _Clips(dict[str, Clip]):
    """Clips by id; not to be changed."""

    @cached_property
    def by_short_id(self) -> Mapping[str, Clip]:
        return {short_id(clip_id): one for clip_id, one in self.items()}


def _clips(workspace: Workspace, data: str) -> _Clips:
    kind, _, key = data.partition(":")
    if kind == GENERATED and key:
        folder = _listed(workspace.root / "tasks" / "generate", key, "candidates.parquet", "set of generated clips")
        return _candidates(folder, (folder / "candidates.parquet").stat().st_mtime_ns)
    if kind == UPLOADS and key:
        folder = _listed(workspace.uploads, key, "upload.json", "dropped recording")
        machine = str(read_json(folder / "upload.json")["machine"])
        one = Clip(f"{key}.wav", folder / "clip.wav", machine, TEST, "00")
        return _Clips({one.clip_id: one})
    return _by_id(data_set(workspace, data))


def _listed(parent: Path, name: str, holds: str, what: str) -> Path:
    """A folder that is there and holds a file; `name` is compared with what is listed and never joined unseen."""
    for folder in parent.iterdir() if parent.is_dir() else ():
        if folder.name == name and (folder / holds).is_file():
            return folder
    raise AsdError(f'There is no {what} "{name}" in this workspace. It may have been deleted.')


@lru_cache(maxsize=8)
def _candidates(folder: Path, stamp: int) -> _Clips:
    from asd_core.artifacts import read_table
    from asd_core.pipeline.generated import candidates

    return _Clips({one.clip_id: one for one in candidates(folder, read_table(folder / "candidates.parquet"))})


def recorded_in(workspace: Workspace, data: str) -> str:
    """The data set that a clip's machine is of: of generated clips the one they imitate, of a dropped recording the
    one it is compared with; "" where that is not known."""
    kind, _, key = data.partition(":")
    if kind == GENERATED and key:
        folder = _listed(workspace.root / "tasks" / "generate", key, "meta.json", "finished set of generated clips")
        return str(read_json(folder / "meta.json").get("data", ""))
    if kind == UPLOADS and key:
        folder = _listed(workspace.uploads, key, "upload.json", "dropped recording")
        return str(read_json(folder / "upload.json")["data"])
    return data


@dataclass(frozen=True)
class ClipFacts:
    seconds: float
    sample_rate: int
    channels: int
    size: int  # bytes
    place: str  # relative to the data set's folder
    levels: tuple[tuple[float, float], ...]  # (peak, RMS) in dBFS per channel

    @property
    def is_clipped(self) -> bool:
        return any(peak > -0.01 for peak, _ in self.levels)

    @property
    def is_silent(self) -> bool:
        return any(rms < -100 for _, rms in self.levels)


def clip_facts(workspace: Workspace, data: str, clip_id: str) -> ClipFacts:
    from asd_core.data import audio

    found = clip(workspace, data, clip_id)
    header = audio.info(found.path)
    wave = audio.read(found.path)
    measured = np.stack([np.abs(wave).max(axis=1), np.sqrt((wave.astype(np.float64) ** 2).mean(axis=1))], axis=1)
    decibel = 20 * np.log10(np.maximum(measured, 1e-7))
    return ClipFacts(
        header.seconds,
        header.sample_rate,
        header.channels,
        found.path.stat().st_size,
        _place(workspace, data, found.path),
        tuple((float(peak), float(rms)) for peak, rms in decibel),
    )


def _place(workspace: Workspace, data: str, path: Path) -> str:
    """Relative to the data set's folder, or to the workspace."""
    own = data_sets(workspace).get(data)
    for root in (own.root.resolve() if own else workspace.root, workspace.root.resolve()):
        if path.resolve().is_relative_to(root):
            return path.resolve().relative_to(root).as_posix()
    return path.name


def sound(workspace: Workspace, data: str, clip_id: str, channel: str) -> Path:
    """A WAV file of one channel, or of "both", sample for sample as recorded: no gain, no resampling."""
    import soundfile

    found = clip(workspace, data, clip_id)
    if channel == BOTH:
        return found.path
    header = soundfile.info(found.path)
    if header.channels == 1 and channel == "near":
        return found.path
    if CHANNELS[channel] >= header.channels:
        raise AsdError(f"{clip_id} has one channel; there is no {channel} recording.")
    path = workspace.cache / "sounds" / f"{digest([data, channel, header.subtype, *_identity(found)])}.wav"
    if not path.is_file():
        samples, rate, subtype = samples_of(found.path)
        one = samples[:, CHANNELS[channel]]
        write_with(path, lambda file: soundfile.write(file, one, rate, subtype=subtype, format="WAV"))
    return path


def samples_of(path: Path) -> tuple[np.ndarray, int, str]:
    """(T, C) samples as they are stored, their rate in Hz, and the subtype that a WAV file keeps them in: int16 of
    16-bit PCM, of anything else float32, for libsndfile makes silence of floats that are read as integers."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        kind, subtype = ("int16", "PCM_16") if file.subtype == "PCM_16" else ("float32", "FLOAT")
        return file.read(dtype=kind, always_2d=True), file.samplerate, subtype


def spectrogram(workspace: Workspace, data: str, clip_id: str, channel: str, axis: Axis = "mel") -> np.ndarray:
    """(rows, frames) in dBFS, low frequencies first, to be shown on the machine's `loudness_scale`."""
    from asd_core.data import audio
    from asd_core.data.spectrogram import spectrogram as analyse

    wave = audio.read(clip(workspace, data, clip_id).path)
    if CHANNELS[channel] >= len(wave):
        raise AsdError(f"{clip_id} has one channel; there is no {channel} recording.")
    return analyse(wave[CHANNELS[channel]], axis)


@once_a_moment
def loudness_scale(workspace: Workspace, data: str, machine: str) -> tuple[float, float]:
    """(darkest, brightest) level in dBFS of all pictures of a machine, near and far, so that they can be compared.

    From the training clips: 1 % of their spectrograms lies below and 0.1 % above, to the next 5 dB. Generated and
    dropped clips are shown on the scale of the machine that they are of, where that is known.
    """
    known, origin = data_sets(workspace), recorded_in(workspace, data)
    if origin in known and machine in data_set(workspace, origin).machines:
        clips = data_set(workspace, origin).of(machine, TRAIN) or data_set(workspace, origin).of(machine)
    else:
        clips = tuple(one for one in _clips(workspace, data).values() if one.machine == machine)
    some = clips[:: max(1, len(clips) // SCALE_CLIPS)][:SCALE_CLIPS]
    path = workspace.cache / "scales" / f"{digest([_identity(one) for one in some])}.json"
    if not path.is_file():
        from asd_core.data import audio
        from asd_core.data.spectrogram import spectrogram as analyse

        levels = [np.percentile(analyse(channel), (1, 99.9)) for one in some for channel in audio.read(one.path)]
        low, high = np.median(levels, axis=0)
        write_json(path, [float(5 * np.floor(low / 5)), float(5 * np.ceil(high / 5))])
    low, high = read_json(path)
    return low, max(high, low + SMALLEST_RANGE_DB)


def picture_key(workspace: Workspace, data: str, clip_id: str) -> str:
    """Changes when the clip's file or its machine's loudness scale does; part of a cached picture's name."""
    found = clip(workspace, data, clip_id)
    return digest([*_identity(found), loudness_scale(workspace, data, found.machine)])


def _identity(found: Clip) -> list[Any]:
    stat = found.path.stat()
    return [str(found.path), stat.st_size, stat.st_mtime_ns]


@lru_cache(maxsize=4)
def _scanned(root: Path, name: str, kind: str, stamp: str) -> DataSet:
    return scan(root, name, kind)


@lru_cache(maxsize=4)
def _indexed(root: Path, name: str, kind: str, stamp: str) -> _Clips:
    return _Clips({one.clip_id: one for one in _scanned(root, name, kind, stamp).clips})


def _by_id(data: DataSet) -> _Clips:
    return _indexed(data.root, data.name, data.kind, _stamp(data.root))


def known_fingerprint(workspace: Workspace, data: str, machines: Sequence[str]) -> str:
    """The fingerprint of these machines' clips, or "" if the command line has not read some file as it is now."""
    found, cache = data_set(workspace, data), workspace.fingerprints
    if not all(is_fingerprinted(found.of(machine), cache) for machine in machines):
        return ""
    return digest([fingerprint(found.of(machine, split), cache) for machine in machines for split in (TRAIN, TEST)])


@once_a_moment
def _stamp(root: Path) -> str:
    """Changes when files are added to or removed from the folders of clips; looks at folders only, linked ones too."""
    seen: dict[tuple[int, int], tuple[str, int]] = {}
    ahead = [root] if root.is_dir() else []
    while ahead:
        folder = ahead.pop()
        stat = folder.stat()
        if (stat.st_dev, stat.st_ino) in seen:  # a link back
            continue
        seen[stat.st_dev, stat.st_ino] = str(folder), stat.st_mtime_ns
        if folder.name not in (TRAIN, TEST):
            with os.scandir(folder) as entries:
                ahead += [Path(entry.path) for entry in entries if entry.is_dir()]
    return digest(sorted(seen.values()))
