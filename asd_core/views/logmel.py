"""The official baseline's log-mel spectrogram, and its statistics over a whole clip."""

from __future__ import annotations

import librosa
import numpy as np

from asd_core.types import SAMPLE_RATE
from asd_core.views.base import Channel, View, microphone

EPS = np.finfo(np.float64).eps  # power of digital silence, −156.54 dB


class LogMel(View):
    """(F, T') dB: 10 log₁₀ of the Slaney mel power spectrogram, T' = 1 + ⌊samples / hop⌋.

    Hann window, centred frames padded with zeros, no reference level and no normalisation, as the official
    code of the DCASE 2026 baseline computes it.
    """

    name = "logmel"
    kind = "logmel"

    def __init__(self, channel: Channel = "near", n_mels: int = 128, n_fft: int = 1024, hop: int = 512) -> None:
        self.channel: Channel = channel
        self.n_fft, self.hop = n_fft, hop
        self.filters = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=n_mels)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        spectrum = librosa.stft(microphone(wave, self.channel), n_fft=self.n_fft, hop_length=self.hop)
        power = self.filters @ np.square(np.abs(spectrum))
        return (10 * np.log10(np.maximum(power, EPS))).astype(np.float32)


class LogMelStatistics(LogMel):
    """(2F,): mean, then standard deviation over time, of each log-mel band of a clip, in dB."""

    name = "logmel_statistics"
    kind = "vector"

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        bands = super().__call__(wave)
        return np.concatenate([bands.mean(axis=1), bands.std(axis=1)])
