"""Rhythms of a machine: how the loudness of a few frequency bands fluctuates.

What turns, strikes or meshes modulates the noise around it; a fault changes how fast and how strongly before it changes
the mean spectrum. The spectrum of the band-passed signal's envelope is the classic tool of bearing diagnosis (Randall
and Antoni, "Rolling element bearing diagnostics — a tutorial", MSSP 2011).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import signal

from asd_core.types import SAMPLE_RATE
from asd_core.views.base import Channel, View, microphone
from asd_core.views.logmel import LogMelPercentiles

RATE = 2000  # Hz, of the envelopes
SMOOTH = 16  # samples of the moving average before they are thinned out
WINDOW = 4096  # envelope samples: 2 s, so lines 0.5 Hz apart
FLOOR = 1e-6  # of the power, before the logarithm


class EnvelopeSpectrum(View):
    """(B · L,) dB: the strongest line of the envelope's spectrum in each of L ranges of rate, in B frequency bands.

    Envelopes are divided by their mean, so the view does not depend on level, nor on what colours a whole band.

    Args:
        edges: Hz, between the B frequency bands.
        lines: L ranges, evenly spaced in logarithm from `lowest` to `highest` Hz.
    """

    name = "envelope_spectrum"
    kind = "vector"

    def __init__(
        self,
        channel: Channel = "near",
        edges: list[float] = (500.0, 1500.0, 3000.0, 5000.0, 7800.0),  # type: ignore[assignment]
        lines: int = 20,
        lowest: float = 5.0,
        highest: float = 800.0,
    ) -> None:
        if len(edges) < 2 or not all(0 < a < b < SAMPLE_RATE / 2 for a, b in pairwise(edges)):
            raise ValueError(f"edges must rise between 0 and {SAMPLE_RATE / 2:g} Hz, got {list(edges)}")
        if not 0 < lowest < highest <= RATE / 2 or lines < 1:
            raise ValueError(f"lines must lie between 0 and {RATE / 2:g} Hz, got {lines} of {lowest:g} to {highest:g}")
        self.channel: Channel = channel
        self.filters = [signal.butter(4, band, "bandpass", fs=SAMPLE_RATE, output="sos") for band in pairwise(edges)]
        ranges = np.geomspace(lowest, highest, lines + 1)
        rates = np.fft.rfftfreq(WINDOW, 1 / RATE)
        inside = (rates >= ranges[:-1, None]) & (rates < ranges[1:, None])
        middle = np.sqrt(ranges[:-1] * ranges[1:])
        # a range narrower than the lines are apart has the nearest line
        self.inside = [
            np.flatnonzero(own) if own.any() else np.abs(rates - at).argmin()[None]
            for own, at in zip(inside, middle, strict=True)
        ]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        sound = microphone(wave, self.channel).astype(np.float64)
        power = np.stack([self._spectrum(sound, band) for band in self.filters])
        strongest = np.stack([power[:, lines].max(axis=1) for lines in self.inside], axis=1)  # (B, L)
        return (10 * np.log10(strongest + FLOOR)).ravel().astype(np.float32)

    def _spectrum(self, sound: np.ndarray, band: np.ndarray) -> np.ndarray:
        """(lines,) mean power spectrum of the envelope in units of its mean. Windows overlap by half; the last one ends
        with the clip, so that all of it is heard."""
        loudness = np.abs(signal.sosfilt(band, sound))
        envelope = np.convolve(loudness, np.full(SMOOTH, 1 / SMOOTH), "same")[:: SAMPLE_RATE // RATE]
        envelope = envelope / (envelope.mean() + 1e-12) - 1
        envelope = np.pad(envelope, (0, max(0, WINDOW - len(envelope))))
        last = len(envelope) - WINDOW
        starts = [*range(0, last, WINDOW // 2), last]
        taper = signal.get_window("hann", WINDOW)
        windows = np.stack([envelope[start : start + WINDOW] for start in starts]) * (taper / taper.sum())
        return 2 * np.square(np.abs(np.fft.rfft(windows))).mean(axis=0)


class ToneAndRhythm(View):
    """(3 · 128 + B · L,) dB: what a machine sounds like (`logmel_percentiles`), and how that fluctuates
    (`envelope_spectrum`, whose default bands and rates it has)."""

    name = "tone_and_rhythm"
    kind = "vector"
    version = LogMelPercentiles.version + EnvelopeSpectrum.version

    def __init__(self, channel: Channel = "near") -> None:
        self.parts = (LogMelPercentiles(channel), EnvelopeSpectrum(channel))

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return np.concatenate([part(wave) for part in self.parts])
