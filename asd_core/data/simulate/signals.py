"""Building blocks of machine sound: turning shafts, pulse trains, resonating housings, coloured noise.

Signals are (T,) float64 at 16 kHz in arbitrary pressure units, of RMS about 1 where a docstring says so. A shaft's
*angle* counts revolutions (not radians), so an order-k component is a function of ``k * angle``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
from scipy.signal import oaconvolve

from asd_core.data.audio import SAMPLE_RATE

Spectrum = Callable[[np.ndarray], np.ndarray]
"""Amplitude weight of each frequency in Hz."""

TOP = 0.48 * SAMPLE_RATE  # Hz; partials above are left out instead of being folded back


def smooth(rng: np.random.Generator, samples: int, cutoff: float) -> np.ndarray:
    """A slow random curve of about zero mean and unit variance that turns about `cutoff` (Hz) times a second."""
    knots = rng.standard_normal(int(np.ceil(samples * cutoff / SAMPLE_RATE)) + 2)
    return np.interp(np.arange(samples) * (cutoff / SAMPLE_RATE) + rng.random(), np.arange(len(knots)), knots)


def turn(rng: np.random.Generator, rate: float | np.ndarray, samples: int, wander: float) -> np.ndarray:
    """Angle in revolutions of a shaft at `rate` (Hz), from a random start; `wander` is its relative speed unrest."""
    speed = rate * (1 + wander * smooth(rng, samples, 3.0))
    return np.cumsum(speed) / SAMPLE_RATE + rng.random()


def series(angle: np.ndarray, rate: float, amplitudes: np.ndarray) -> np.ndarray:
    """Fourier series over the angle: the sum of Re(a_k exp(2πi k angle)) for orders k = 1 … K.

    `rate` (Hz) is the speed of the angle; orders above the audible band are dropped.
    """
    orders = np.arange(1, len(amplitudes) + 1)
    kept = amplitudes[orders * rate < TOP]
    if not len(kept):
        return np.zeros(len(angle))
    z = np.exp(2j * np.pi * angle)
    total = np.full(len(angle), kept[-1], complex)
    for amplitude in kept[-2::-1]:  # Horner's rule: one complex product per order
        total *= z
        total += amplitude
    return (total * z).real


def partials(part: np.random.Generator, amplitudes: Sequence[float] | np.ndarray, spread: float = 0.2) -> np.ndarray:
    """Complex amplitudes with the random phases and the amplitude tolerance (relative) of one specimen."""
    amplitudes = np.asarray(amplitudes, float)
    phases = np.exp(2j * np.pi * part.random(len(amplitudes)))
    return amplitudes * phases * (1 + spread * part.standard_normal(len(amplitudes)))


def passages(angle: np.ndarray) -> np.ndarray:
    """When a growing angle passes whole numbers, in samples (with fractions)."""
    whole = np.arange(np.ceil(angle[0]), np.floor(angle[-1]) + 1)
    return np.interp(whole, angle, np.arange(len(angle)))


def strikes(at: np.ndarray, amplitudes: float | np.ndarray, samples: int) -> np.ndarray:
    """Unit impulses at fractional sample positions, shared linearly between the two neighbouring samples."""
    at, amplitudes = np.broadcast_arrays(np.asarray(at, float), np.asarray(amplitudes, float))
    inside = (at >= 0) & (at < samples - 1)
    at, amplitudes = at[inside], amplitudes[inside]
    first = at.astype(int)
    late = at - first
    signal = np.bincount(first, amplitudes * (1 - late), samples)
    signal += np.bincount(first + 1, amplitudes * late, samples)
    return signal


def resonator(modes: Sequence[tuple[float, float, float]] | np.ndarray) -> np.ndarray:
    """Impulse response, of unit energy, of a structure with modes (frequency in Hz, damping ratio, weight).

    Each mode is the damped oscillation w · exp(−2πfζt) · sin(2πft).
    """
    frequency, damping, weight = np.asarray(modes, float).T[:, :, None]
    seconds = min(0.12, float((5 / (2 * np.pi * frequency * damping)).max()))  # decayed by 43 dB
    t = np.arange(int(seconds * SAMPLE_RATE) + 1) / SAMPLE_RATE
    decay = np.exp(-2 * np.pi * frequency * damping * t)
    response = (weight * decay * np.sin(2 * np.pi * frequency * t)).sum(0)
    return response / np.sqrt((response**2).sum())


def ring(excitation: np.ndarray, response: np.ndarray) -> np.ndarray:
    """What a structure of this impulse response makes of an excitation, same length."""
    return oaconvolve(excitation, response)[: len(excitation)]


def coloured(rng: np.random.Generator, samples: int, spectrum: Spectrum) -> np.ndarray:
    """Gaussian noise whose amplitude spectrum follows `spectrum`, of expected RMS 1."""
    length = scipy.fft.next_fast_len(samples, real=True)
    weight = spectrum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE))
    weight[0] = 0
    half = np.empty(len(weight), complex)
    half.real, half.imag = rng.standard_normal((2, len(weight)))
    half *= weight * (length / (2 * np.sqrt((weight**2).sum())))  # not linalg.norm: BLAS bits vary with its threads
    return scipy.fft.irfft(half, length)[:samples]


def band(centre: float, octaves: float) -> Spectrum:
    """A hump of noise around `centre` (Hz), `octaves` wide at half its height on either side."""
    return lambda f: np.exp2(-((np.log2(np.maximum(f, 1) / centre) / octaves) ** 2))


def tilt(exponent: float, corner: float = 100.0) -> Spectrum:
    """Amplitude falling as f^-exponent above `corner` (Hz): 0 white, 0.5 pink, 1 brown."""
    return lambda f: np.maximum(f, corner) ** -exponent * np.minimum(f / 40, 1)
