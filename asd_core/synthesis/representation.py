"""What the generator works on: whitened waveforms, looked at through a short-time Fourier transform.

A clip is divided, frequency by frequency, by its spectrum: the mean of its condition and microphone, and how far this
clip is off in the few ways in which clips of the machine differ. What is left is white, so white noise that is multiplied by that spectrum again has the right level and colour before anything is
learnt, and learning goes into what makes a machine more than coloured noise: tones, strokes, knocks. The division is a
filter, so a sample is a waveform at every step, and nothing needs a vocoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from asd_core.synthesis.conditions import Condition
from asd_core.types import AsdError

N_FFT, HOP = 1024, 512  # 64 ms every 32 ms: resolves the harmonics of a shaft, smears a click by one frame
BANDS = N_FFT // 2  # frequencies of the transform; 0 Hz is left out, recordings have nothing there
SPECTRUM = 1025  # frequencies of a mean spectrum, 7.8 Hz apart
FLOOR = 1e-10  # power density below which nothing is divided
DIRECTIONS = 8  # in which the spectra of a machine's clips may differ from their mean; fewer where clips are few
RIDGE = 0.1  # of the least squares behind an unrecorded combination

_WINDOW = torch.hann_window(N_FFT)
_SCALE = math.sqrt(2 / float(_WINDOW.square().sum()))  # white noise of variance 1 has parts of variance 1


def log_power(wave: Tensor) -> Tensor:
    """Natural log of the power density (…, SPECTRUM) of waveforms (…, T); 0 for white noise of variance 1."""
    size = 2 * (SPECTRUM - 1)
    window = torch.hann_window(size, device=wave.device)
    flat = wave.reshape(-1, wave.shape[-1])
    flat = F.pad(flat, (0, max(0, size - flat.shape[-1])))
    power = torch.stft(flat, size, size // 4, window=window, return_complex=True).abs().square().mean(-1)
    return (power / window.square().sum()).clamp_min(FLOOR).log().reshape(*wave.shape[:-1], SPECTRUM)


def filtered(wave: Tensor, log_gain: Tensor) -> Tensor:
    """Waveforms (…, T) through a filter without delay, its gain given by ln amplitude (…, SPECTRUM). Undone, up to
    rounding, by the negative gain."""
    frequencies = wave.shape[-1] // 2 + 1
    flat = log_gain.reshape(-1, 1, SPECTRUM)
    gain = F.interpolate(flat, size=frequencies, mode="linear", align_corners=True).exp()
    gain = gain.reshape(*log_gain.shape[:-1], frequencies)
    return torch.fft.irfft(torch.fft.rfft(wave) * gain, wave.shape[-1])


def smoothed(values: Tensor, width: int) -> Tensor:
    """Moving mean over the last axis, `width` odd; shorter at the ends."""
    flat = F.avg_pool1d(values.reshape(-1, 1, values.shape[-1]), width, 1, width // 2, count_include_pad=False)
    return flat.reshape(values.shape)


class Spectra:
    """Log power spectra (C, SPECTRUM): the mean over the clips of each condition, and how clips of a machine vary
    around it, which a rare condition cannot tell by itself.

    Attributes:
        means: by condition
        spreads: by machine, (K, C, SPECTRUM): principal directions in which its clips differ from their condition's
            mean, all microphones together, each as long as one standard deviation
    """

    def __init__(self, means: Mapping[str, np.ndarray], spreads: Mapping[str, np.ndarray]) -> None:
        self.means = {text: np.asarray(mean, dtype=np.float32) for text, mean in means.items()}
        self.spreads = {machine: np.asarray(rows, dtype=np.float32) for machine, rows in spreads.items()}

    @classmethod
    def measured(cls, waves: Iterable[np.ndarray], conditions: Sequence[Condition], channels: int) -> Spectra:
        """Of recordings (C, T), one after the other, and their conditions."""
        rows = np.stack([log_power(torch.from_numpy(wave[:channels])).numpy() for wave in waves])
        texts = np.array([condition.text for condition in conditions])
        machines = np.array([condition.machine for condition in conditions])
        means = {str(text): rows[texts == text].mean(axis=0) for text in np.unique(texts)}
        spreads = {}
        for machine in np.unique(machines):
            own = machines == machine
            apart = rows[own] - np.stack([means[text] for text in texts[own]])
            freedom = max(int(own.sum()) - len(np.unique(texts[own])), 1)
            _, lengths, directions = np.linalg.svd(apart.reshape(len(apart), -1), full_matrices=False)
            count = min(DIRECTIONS, freedom // 4, int((lengths > 1e-3 * lengths.max(initial=1e-3)).sum()))
            scaled = directions[:count] * lengths[:count, None] / math.sqrt(freedom)
            spreads[str(machine)] = scaled.reshape(count, *rows.shape[1:])
        return cls(means, spreads)

    @property
    def channels(self) -> int:
        return next(iter(self.means.values())).shape[0]

    def near(self, condition: Condition, own: Tensor) -> Tensor:
        """The spectrum within the spread of the condition that is nearest to that of a clip (C, SPECTRUM)."""
        mean, spread = self.of(condition), torch.from_numpy(self.spreads[condition.machine])
        amounts = ((own - mean) * spread).sum((1, 2)) / spread.square().sum((1, 2))
        return mean + torch.einsum("k,kcf->cf", amounts, spread)

    def drawn(self, condition: Condition, generator: torch.Generator, sign: int = 1) -> Tensor:
        """A spectrum (C, SPECTRUM) as one more clip of the condition might have it; sign −1 gives its opposite, as far
        on the other side of the mean."""
        spread = torch.from_numpy(self.spreads[condition.machine])
        amounts = sign * torch.randn(len(spread), generator=generator)
        return self.of(condition) + torch.einsum("k,kcf->cf", amounts, spread)

    def of(self, condition: Condition) -> Tensor:
        """The mean (C, SPECTRUM). A combination that nobody recorded gets what its parts add up to elsewhere: least
        squares over the machine's recorded conditions, of which each fact adds its own decibels at each frequency."""
        if condition.text in self.means:
            return torch.from_numpy(self.means[condition.text])
        recorded = [Condition.parse(text) for text in self.means]
        recorded = [other for other in recorded if other.machine == condition.machine]
        if not recorded:
            raise AsdError(f"The generator has heard no clip of {condition.machine}, so it cannot make one.")
        words = sorted({word for other in [*recorded, condition] for word in other.words})
        facts = np.array([[word in other.words for word in words] for other in recorded], dtype=float)
        heard = np.stack([self.means[other.text].ravel() for other in recorded])
        mean = heard.mean(axis=0)
        gram = facts.T @ facts + RIDGE * np.eye(len(words))
        effects = np.linalg.solve(gram, facts.T @ (heard - mean))
        own = np.array([word in condition.words for word in words], dtype=float)
        return torch.from_numpy((mean + own @ effects).reshape(-1, SPECTRUM).astype(np.float32))

    def arrays(self) -> dict[str, np.ndarray]:
        """For a file; `Spectra.read` takes them."""
        spreads = {f"spread {machine}": rows for machine, rows in self.spreads.items()}
        return {f"mean {text}": mean for text, mean in self.means.items()} | spreads

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray]) -> Spectra:
        parts: dict[str, dict[str, np.ndarray]] = {"mean": {}, "spread": {}}
        for name, values in arrays.items():
            kind, _, rest = name.partition(" ")
            parts[kind][rest] = values
        return cls(parts["mean"], parts["spread"])


def frames_of(samples: int) -> int:
    """Frames of a waveform of that many samples, which `HOP` must divide."""
    return samples // HOP + 1


def analysed(wave: Tensor) -> Tensor:
    """(…, T) → (…, 2, BANDS, M): real and imaginary part of the transform, each of variance 1 for white noise.

    Phases are told against the middle of each band: a steady tone there keeps its phase from frame to frame.
    """
    flat = wave.reshape(-1, wave.shape[-1])
    window = _WINDOW.to(wave.device)
    found = torch.stft(flat, N_FFT, HOP, window=window, return_complex=True)[:, 1:] * _SCALE
    found = found * _turns(found)
    return torch.stack([found.real, found.imag], dim=1).reshape(*wave.shape[:-1], 2, BANDS, -1)


def synthesised(parts: Tensor, samples: int) -> Tensor:
    """The waveform (…, T) whose transform is nearest to (…, 2, BANDS, M)."""
    flat = parts.reshape(-1, *parts.shape[-3:])
    found = torch.complex(flat[:, 0].contiguous(), flat[:, 1].contiguous())
    found = F.pad(found * _turns(found), (0, 0, 1, 0)) / _SCALE
    wave = torch.istft(found, N_FFT, HOP, window=_WINDOW.to(parts.device), length=samples)
    return wave.reshape(*parts.shape[:-3], samples)


def _turns(found: Tensor) -> Tensor:
    """±1 (BANDS, M): the phase that band k gains in m frames of half a window."""
    band = torch.arange(1, BANDS + 1, device=found.device)[:, None]
    return 1 - 2 * ((band * torch.arange(found.shape[-1], device=found.device)) % 2)
