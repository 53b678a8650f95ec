"""Reading recordings: (C, T) float32 in [-1, 1], channel 0 = near microphone, channel 1 = far microphone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asd_core.types import SAMPLE_RATE, AsdError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioInfo:
    sample_rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


def info(path: Path) -> AudioInfo:
    """The header of a sound file."""
    try:
        header = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, error) from error
    return AudioInfo(header.samplerate, header.channels, header.frames)


def read(path: Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """The whole file as (C, T) float32, resampled to `sample_rate` where it differs, with a notice.

    Raises:
        AsdError: missing, corrupt or empty file, or samples that are not finite.
    """
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, error) from error
    if not len(wave):
        raise AsdError(f"{path} holds no samples. Delete it or record it again; `doctor` lists all such files.")
    if not np.isfinite(wave).all():
        raise AsdError(f"{path} holds NaN or infinite samples. Export it again as 16-bit PCM.")
    if rate != sample_rate:
        _notice_rate(path.parent, rate, sample_rate)
        wave = soxr.resample(wave, rate, sample_rate)
    return np.ascontiguousarray(wave.T)


def write(path: Path, wave: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write (C, T) float as 16-bit PCM; what exceeds full scale is clipped, as a recorder would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(wave.T, -1, 1), sample_rate, subtype="PCM_16", format="WAV")


@lru_cache(maxsize=256)
def _notice_rate(folder: Path, rate: int, sample_rate: int) -> None:
    log.warning("%s: recordings at %d Hz are resampled to %d Hz (said once per folder)", folder, rate, sample_rate)


def _unreadable(path: Path, error: Exception) -> AsdError:
    if not path.exists():
        return AsdError(
            f"{path} is missing. Check its name; a clip of a data set may be restored, or its machine left out "
            f"with --machines."
        )
    return AsdError(
        f"{path} cannot be read as sound ({error}). Allowed: PCM or float WAV, for `score` also FLAC. "
        f"Delete or replace it; `python -m asd_core doctor` lists all such files."
    )
