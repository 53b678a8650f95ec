"""Spectrograms to look at: the same analysis for every clip and one loudness scale per machine, so that two
pictures can be compared. Detectors never see these; their representations are `asd_core.views`.

Levels are dB relative to a full-scale sine (dBFS); a row averages the power of its bins, so that a pure tone reads a
few dB lower. Rows run from low to high frequency.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from asd_core.types import SAMPLE_RATE

Axis = Literal["mel", "log", "linear"]
AXES: tuple[Axis, ...] = get_args(Axis)
WINDOW, HOP = 1024, 512  # samples, Hann
ROWS = 256
FLOOR_DB = -140.0
LOG_FROM = 50.0  # Hz, where the logarithmic axis begins
TICKS = (100, 200, 500, 1000, 2000, 4000, 8000)


def spectrogram(wave: np.ndarray, axis: Axis = "mel") -> np.ndarray:
    """(T,) waveform at 16 kHz → (ROWS, T') dBFS float32; column t is centred on sample t · HOP."""
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    if len(wave) < WINDOW:
        wave = np.pad(wave, (0, WINDOW - len(wave)))
    transform = ShortTimeFFT(
        hann(WINDOW, sym=False), HOP, SAMPLE_RATE, fft_mode="onesided2X", scale_to="magnitude", phase_shift=None
    )
    power = np.abs(transform.stft(wave, p0=0, p1=len(wave) // HOP + 1)) ** 2  # (WINDOW / 2 + 1, T')
    rows = _rows(axis) @ power
    return (10 * np.log10(np.maximum(rows, 10 ** (FLOOR_DB / 10)))).astype(np.float32)


def position(hertz: np.ndarray | float, axis: Axis) -> np.ndarray:
    """Where a frequency lies on the axis: 0 at its low end, 1 at half the sample rate."""
    low = LOG_FROM if axis == "log" else 0.0
    start, place, end = (_bend(np.asarray(value, dtype=float), axis) for value in (low, hertz, SAMPLE_RATE / 2))
    return np.asarray((place - start) / (end - start))


def _bend(hertz: np.ndarray, axis: Axis) -> np.ndarray:
    if axis == "mel":
        return np.log1p(hertz / 700)
    return np.log(hertz) if axis == "log" else hertz


def ticks(axis: Axis) -> list[tuple[float, str]]:
    """(position, label) of the frequencies to write beside the picture; a label never sits on another."""
    shown: list[tuple[float, str]] = []
    for hertz in TICKS:
        place = float(position(hertz, axis))
        if not shown or place - shown[-1][0] > 0.09:
            shown.append((place, f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"))
    return shown


@lru_cache(maxsize=len(AXES))
def _rows(axis: Axis) -> np.ndarray:
    """(ROWS, bins) weights: each row averages the power of its band, or interpolates where it is narrower than a bin."""
    hertz = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)
    place = np.linspace(0, SAMPLE_RATE / 2, 20_001)[1:]
    centres = np.interp((np.arange(ROWS) + 0.5) / ROWS, position(place, axis), place)
    width = np.maximum(np.gradient(centres), hertz[1])
    weights = np.maximum(0.0, 1 - np.abs(hertz - centres[:, None]) / width[:, None])
    return weights / weights.sum(1, keepdims=True)
