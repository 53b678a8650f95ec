"""The official baseline's log-mel spectrogram, and its statistics over a whole clip."""

from __future__ import annotations

import librosa
import numpy as np

from asd_core.types import SAMPLE_RATE, AsdError, Grid
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
        if min(n_mels, n_fft, hop) < 1:
            raise ValueError(f"n_mels, n_fft and hop must be at least 1, got {n_mels}, {n_fft}, {hop}")
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


class LogMelPercentiles(LogMel):
    """(3F,): the 5th, 50th and 95th percentile over time of each log-mel band of a clip, in dB: the quiet, the usual
    and the loud moments, which a few outliers do not move."""

    name = "logmel_percentiles"
    kind = "vector"

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return np.percentile(super().__call__(wave), (5, 50, 95), axis=1).astype(np.float32).ravel()


class LogMelPatches(LogMel):
    """(T', F, D) dB: the log-mel spectrogram cut into patches of `frames` frames × n_mels / bands mel bands; what is
    left over at the end is not heard. For scorers that look for short or narrow faults without any network."""

    name = "logmel_patches"
    kind = "patches"

    def __init__(
        self,
        channel: Channel = "near",
        n_mels: int = 128,
        n_fft: int = 1024,
        hop: int = 256,
        frames: int = 4,
        bands: int = 8,
    ) -> None:
        if min(frames, bands) < 1:
            raise ValueError(f"frames and bands must be at least 1, got {frames}, {bands}")
        if n_mels % bands:
            raise ValueError(f"n_mels {n_mels} cannot be cut into {bands} equal bands")
        super().__init__(channel, n_mels, n_fft, hop)
        self.frames, self.bands = frames, bands
        mels = librosa.mel_frequencies(n_mels + 2, fmax=SAMPLE_RATE / 2)  # peak of band i at i + 1
        borders = range(n_mels // bands, n_mels, n_mels // bands)
        inner = [float(mels[i] + mels[i + 1]) / 2 for i in borders]
        self.layout = Grid(frames * hop / SAMPLE_RATE, (0.0, *inner, SAMPLE_RATE / 2))

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        spectrogram = super().__call__(wave)
        steps = spectrogram.shape[1] // self.frames
        if not steps:
            raise AsdError(
                f"the clip has {spectrogram.shape[1]} frames of {self.hop} samples, fewer than the {self.frames} of a "
                f"patch. Remove shorter clips."
            )
        patches = spectrogram[:, : steps * self.frames].reshape(self.bands, -1, steps, self.frames)
        return np.ascontiguousarray(patches.transpose(2, 0, 1, 3)).reshape(steps, self.bands, -1)
