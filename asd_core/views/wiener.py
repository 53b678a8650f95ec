"""Near microphone with what the far one also hears turned down (report of Northeastern University, system 1).

The far microphone hears mostly factory noise, so its spectrum, brought to the near level, serves as the noise
estimate of a Wiener filter. Gain per time–frequency bin: G = clip(1 − α|X₂|² / (|X₁|² + ε), β, 1).
The report gives G, α and β; window, hop and RMS matching over the whole clip are our choice.
"""

from __future__ import annotations

from typing import Literal

import librosa
import numpy as np

from asd_core.types import FAR, NEAR
from asd_core.views.base import View

N_FFT, HOP = 1024, 256
EPSILON = 1e-10
STRENGTHS = {"mild": (0.5, 0.05), "strong": (1.0, 0.01)}  # (α, β)


class Wiener(View):
    """(T,) filtered near waveform. Without a far channel there is no noise estimate: the near one, unchanged."""

    name = "wiener"
    kind = "waveform"

    def __init__(self, strength: Literal["mild", "strong"] = "mild") -> None:
        self.alpha, self.beta = STRENGTHS[strength]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        near = wave[NEAR]
        if len(wave) <= FAR:
            return near
        far = wave[FAR] * (rms(near) / (rms(wave[FAR]) + 1e-12))
        X1 = librosa.stft(near, n_fft=N_FFT, hop_length=HOP)
        X2 = librosa.stft(far, n_fft=N_FFT, hop_length=HOP)
        return librosa.istft(gain(X1, X2, self.alpha, self.beta) * X1, hop_length=HOP, length=len(near))


def gain(X1: np.ndarray, X2: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Wiener gain in [β, 1] per bin of the complex spectra X1 (near) and X2 (far)."""
    return np.clip(1 - alpha * np.abs(X2) ** 2 / (np.abs(X1) ** 2 + EPSILON), beta, 1)


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
