"""A harder variant of a data set: the same clips under the same names, with noise added at a stated level.

The signal-to-noise ratio is that of each channel by itself: the level of what was recorded (RMS over the clip, offset
removed) over the level of what is added. What was recorded holds noise already, so at 0 dB a clip's power doubles,
whatever share of it is the machine. A clip's noise follows from the seed and its id: the same at every level but for
its loudness, and independent of the other clips, except that "far" borrows from them.

=====  ================================================================================================
white  equal power per hertz
pink   equal power per octave (its density falls by 3 dB per octave), from 20 Hz on
far    what the far microphone heard in other clips of the machine: a factory as it was recorded, with
       a little of the machine. Only training clips lend theirs, so no anomaly gets into a normal clip
=====  ================================================================================================

Each channel gets a noise of its own, so the far microphone is no help in removing it from the near one.
"""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import soundfile
from filelock import FileLock, Timeout

from asd_core import remote
from asd_core.config import NAME_RULE, SAFE_NAME
from asd_core.data import audio
from asd_core.data.manifest import DataSet
from asd_core.files import read_json, write_bytes, write_json
from asd_core.types import FAR, TRAIN, AsdError, Clip, Progress, no_progress

Noise = Literal["pink", "white", "far"]
SNR_RANGE = (-40.0, 60.0)  # dB: outside it, 16 bits hold hardly anything of the one or of the other
LOWEST = 20.0  # Hz: in ten seconds of pink noise half the power would lie below, where no microphone hears
FULL_SCALE = 32767 / 32768
ROUNDING = 1e-9
ABOUT = "dataset.json"
TEXTS = {".csv", ".md", ".txt"}  # attributes, truth, provenance
PUBLISHED = "DCASE 2026"  # kind of the recordings that the reports' figures are of
AHEAD = 16  # clips that are worked on together: bounds the memory


@dataclass(frozen=True)
class Degraded:
    """What was written."""

    name: str
    root: Path
    clips: int
    gain_db: float  # of all clips alike, so that none exceeds full scale; 0 where none would
    silent: tuple[str, ...]  # clips with a channel that is silent, and therefore got no noise


def degrade(
    data: DataSet,
    output: Path,
    snr: float,
    noise: Noise = "pink",
    seed: int = 0,
    machines: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> Degraded:
    """Copy a data set with noise added to every clip of both splits, into a folder that is complete or absent.

    Sample rate and format, names, attributes and truth are those of `data`; ``dataset.json`` says what was done. The
    kind stays too, except that "DCASE 2026" becomes "DCASE 2026 with noise": reports' figures are not of these clips.

    Args:
        output: a folder that is not there yet, or is empty
        snr: dB
        machines: some of the machines; default: all

    Raises:
        AsdError: the folder holds something, there is no such noise, level or machine, a clip cannot be read, there is
            nothing to borrow, or no room. Nothing is left of what was written.
    """
    snr, output = snr + 0.0, output.resolve()  # + 0.0: there is no −0 dB
    name = f"{data.name}+{noise}{snr:g}dB"
    _check(data, output, snr, noise, seed, name)
    chosen = data.machines if machines is None else sorted(set(machines))
    clips = [clip for machine in chosen for clip in data.of(machine)]
    lenders = {machine: data.of(machine, TRAIN) if noise == "far" else () for machine in chosen}
    # a machine's folder given as a data set: its name is the machine's and must stay
    base = data.root.parent if any(clip.path.parent.parent == data.root for clip in clips) else data.root
    output.parent.mkdir(parents=True, exist_ok=True)
    remote.require_room(1.02 * sum(clip.path.stat().st_size + 4096 for clip in clips), output.parent, "The copy needs")
    partial = output.with_name(f".{output.name}.part")

    def write(clip: Clip, gain: float) -> tuple[float, bool]:
        """One clip; its peak before `gain`, and whether a channel is silent."""
        wave = audio.read(clip.path, audio.info(clip.path).sample_rate)
        rng = np.random.default_rng([seed, zlib.crc32(clip.clip_id.encode())])
        noisy, is_silent = add_noise(wave, snr, _noises(noise, clip, wave.shape[1], lenders[clip.machine], rng))
        _write_like(clip.path, partial / clip.path.relative_to(base), gain * noisy)
        return float(np.abs(noisy).max()), is_silent

    def write_all(gain: float, doing: str) -> tuple[float, list[str]]:
        """Every clip; the highest peak before `gain`, and the clips with a silent channel."""
        found: list[tuple[float, bool]] = []
        with ThreadPoolExecutor() as pool:
            for first in range(0, len(clips), AHEAD):
                part = clips[first : first + AHEAD]
                found += pool.map(lambda clip: write(clip, gain), part)
                progress(len(found) / len(clips), f"{part[-1].machine}: {doing}")
        return max(peak for peak, _ in found), [c.clip_id for c, (_, flag) in zip(clips, found, strict=True) if flag]

    with _alone(output):
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
        try:
            peak, silent = write_all(1.0, "adding noise")
            gain = min(1.0, FULL_SCALE / peak) if peak > 0 else 1.0
            if gain < 1:  # the same for all, so that clips keep their levels among one another
                write_all(gain, "again, lower, so that nothing is clipped")
            gain_db = 20 * float(np.log10(gain))
            for path in _texts(data.root, {clip.path.parent.parent for clip in clips}):
                write_bytes(partial / path.relative_to(base), path.read_bytes())
            about = read_json(data.root / ABOUT) if (data.root / ABOUT).is_file() else {}
            facts = {
                "source": {**about, "name": data.name, "kind": data.kind},
                "noise": noise,
                "snr_db": snr,
                "seed": seed,
                "gain_db": gain_db,
                "machines": chosen,
                "silent": silent,
            }
            write_json(partial / ABOUT, {"name": name, "kind": _kind(data.kind), "degraded": facts})
            partial.replace(output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Degraded(name, output, len(clips), gain_db, tuple(silent))


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """One writer per folder: a second would delete what the first has written so far."""
    lock = FileLock(output.with_name(f".{output.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise AsdError(f"Another process is writing {output}. Wait for it, or choose another folder.") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def add_noise(wave: np.ndarray, snr: float, noises: Iterator[np.ndarray]) -> tuple[np.ndarray, bool]:
    """A recording (C, T) plus the next noise (T,) for each channel at `snr` dB of that channel, float64.

    The ratio holds exactly, for this clip and not on average. A silent channel has no level to set a noise against: it
    stays as it is, and the second value is True.
    """
    noisy = wave.astype(np.float64)
    levels = [_level(channel) for channel in noisy]
    for channel, level in enumerate(levels):
        if level > 0:
            added = next(noises)
            added = added - added.mean()
            noisy[channel] += added * (level * 10 ** (-snr / 20) / _level(added))
    return noisy, min(levels) == 0


def white(samples: int, rng: np.random.Generator) -> np.ndarray:
    """(T,) Gaussian noise of equal power per hertz."""
    return rng.standard_normal(samples)


def pink(samples: int, rng: np.random.Generator, rate: float) -> np.ndarray:
    """(T,) Gaussian noise at `rate` Hz whose power density falls as 1/f; nothing below 20 Hz."""
    frequency = np.fft.rfftfreq(samples, 1 / rate)
    real, imaginary = rng.standard_normal((2, len(frequency)))
    shape = np.where(frequency >= LOWEST, np.maximum(frequency, LOWEST) ** -0.5, 0)
    return np.fft.irfft(shape * (real + 1j * imaginary), samples)


def _noises(
    noise: Noise, clip: Clip, samples: int, lenders: Sequence[Clip], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Noises (T,) for the channels of a clip, one after the other."""
    rate = audio.info(clip.path).sample_rate
    if noise == "far":
        return _borrowed(clip, samples, rate, lenders, rng)
    make = {"white": lambda: white(samples, rng), "pink": lambda: pink(samples, rng, rate)}[noise]
    return (make() for _ in count())


def _borrowed(
    clip: Clip, samples: int, rate: int, lenders: Sequence[Clip], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Excerpts (T,) of what the far microphone heard in other training clips, each of another clip: two of one clip
    would be alike. One that is shorter is repeated."""
    others = [other for other in lenders if other.clip_id != clip.clip_id]
    order = [others[i] for i in rng.permutation(len(others))]
    for lender in order:
        wave = audio.read(lender.path, rate)
        if len(wave) <= FAR:
            raise AsdError(
                f"{lender.path} has no far microphone, whose sound could serve as noise. Choose pink or white noise."
            )
        begin = int(rng.integers(max(wave.shape[1] - samples, 0) + 1))
        excerpt = np.resize(wave[FAR, begin:], samples).astype(np.float64)
        if _level(excerpt) > 0:
            yield excerpt
    raise AsdError(
        f"{clip.machine} has no other training clip whose far microphone heard anything to serve as noise for "
        f"{clip.clip_id}; every channel takes one. Choose pink or white noise, or leave the machine out with --machines."
    )


def _texts(root: Path, machines: set[Path]) -> list[Path]:
    """What tells about the clips in words: in the data set's folder, in machines' folders and, by their names, beside
    them (``<machine>_truth.csv``)."""
    paths = {path for folder in (root, *machines) for path in folder.iterdir()}
    paths |= {
        path for folder in machines for path in folder.parent.iterdir() if path.name.startswith(f"{folder.name}_")
    }
    return sorted(path for path in paths if path.suffix.lower() in TEXTS and path.is_file())


def _write_like(source: Path, path: Path, wave: np.ndarray) -> None:
    """Write (C, T) in the rate and format of another file; through memory, so that a full disk is noticed."""
    about = soundfile.info(source)
    samples = wave.T
    if about.subtype == "PCM_16":  # the library would scale by 32767 what it has divided by 32768
        samples = np.clip(np.rint(wave.T * 32768), -32768, 32767).astype(np.int16)
    payload = io.BytesIO()
    soundfile.write(payload, samples, about.samplerate, subtype=about.subtype, format=about.format)
    write_bytes(path, payload.getvalue())


def _level(wave: np.ndarray) -> float:
    """RMS without the offset; 0 for what differs from silence by rounding only."""
    level = float(wave.std())
    return level if level > ROUNDING else 0.0


def _kind(kind: str) -> str:
    return f"{kind} with noise" if kind == PUBLISHED else kind


def _check(data: DataSet, output: Path, snr: float, noise: str, seed: int, name: str) -> None:
    if noise not in get_args(Noise):
        raise AsdError(f'There is no noise "{noise}". Allowed: {", ".join(get_args(Noise))}.')
    low, high = SNR_RANGE
    if not low <= snr <= high:
        raise AsdError(f"An SNR of {snr:g} dB cannot be made: it must lie between {low:g} and {high:g} dB.")
    if seed < 0:
        raise AsdError(f"A seed is a whole number from 0 on; got {seed}.")
    if not SAFE_NAME.fullmatch(name):
        raise AsdError(f'The copy would be called "{name}", but {NAME_RULE}. Give {data.root} a shorter name.')
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise AsdError(f"{output} is there already. Choose a new or empty folder.")
    if output.resolve().is_relative_to(data.root):
        raise AsdError(f"{output} lies inside {data.root}, where its clips would count twice. Choose another folder.")
