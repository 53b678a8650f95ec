"""What two microphones tell beyond one: maps over mel bands and time, and a summary of the clip's spatial cues.

Near is microphone 1, far microphone 2. Signs, everywhere: a level difference (ILD, dB) is positive where the near
microphone is louder; a lag (samples) is positive where the far one hears later, and the phase difference (IPD) is that
of X₁ X₂*, which such a lag of d makes 2π f d / 16000 at f Hz.
"""

from __future__ import annotations

from functools import cache

import librosa
import torch
from torch import Tensor
from torch.nn import functional as F

from asd_core.types import SAMPLE_RATE

MAPS = ("near", "far", "ild", "cos_ipd", "sin_ipd", "mid", "side")
ILD_BANDS, IPD_BANDS = 16, 8
SUMMARY = 2 * ILD_BANDS + IPD_BANDS + 8
MAX_LAG = 256  # samples: 16 ms, microphones 5.5 m apart
# of a bin's magnitude: 16-bit rounding gives 1.7e-4 in a window of 1024 samples, so that this is nothing to be heard
QUIET = 1e-4
FLOOR = 1e-10  # of mel energies, −100 dB: below 16-bit rounding too


def spectra(wave: Tensor, n_fft: int, hop: int) -> Tensor:
    """(B, 2, samples) → (B, 2, n_fft / 2 + 1, frames) complex64: Hann window, 1 + ⌊samples / hop⌋ centred frames."""
    window = torch.hann_window(n_fft, device=wave.device)
    flat = torch.stft(
        wave.flatten(0, 1), n_fft, hop, window=window, center=True, pad_mode="constant", return_complex=True
    )
    return flat.unflatten(0, (-1, 2))


def maps(x: Tensor, mels: int) -> Tensor:
    """(B, 2, F, T) spectra → (B, 7, mels, T) as in `MAPS`: log-mel energies (dB) of near, far, mid (x₁ + x₂) / 2 and
    side (x₁ − x₂) / 2; level difference (dB), cosine and sine of the phase difference, averaged over a band's bins."""
    near, far = x[:, 0], x[:, 1]
    triangles, averages = _filters(mels, 2 * (x.shape[2] - 1), x.device)
    phasor = _phasor(near, far)
    ild = 20 * ((near.abs() + QUIET) / (far.abs() + QUIET)).log10()
    energies = [triangles @ _energy(signal) for signal in (near, far, (near + far) / 2, (near - far) / 2)]
    levels = [10 * energy.clamp_min(FLOOR).log10() for energy in energies]
    cues = [averages @ cue for cue in (ild, phasor.real, phasor.imag)]
    return torch.stack([*levels[:2], *cues, *levels[2:]], dim=1)


def summary(wave: Tensor, x: Tensor, maps: Tensor, hop: int) -> Tensor:
    """Spatial cues of whole clips (B, 48), from waves (B, 2, samples), their spectra (B, 2, F, T) and their maps.

    In order: mean, then standard deviation over time of the ILD in 16 bands (dB); length of the mean phasor of the
    IPD in 8 bands (1: the same at all times); lag (samples) and height of the peak of the cross-correlation with
    phase transform, deviation of the lag over stretches of 1 s; mean and deviation over time of the energy of mid over
    that of side (dB); level of near over far (dB), correlation coefficient, mean coherence of the two waves.
    """
    near, far = x[:, 0], x[:, 1]
    ild = maps[:, 2].unflatten(1, (ILD_BANDS, -1)).mean(2)  # (B, 16, T)
    steady = maps[:, 3:5].unflatten(2, (IPD_BANDS, -1)).mean((3, 4)).norm(dim=1)  # (B, 8)
    balance = 10 * (_per_frame((near + far) / 2) / _per_frame((near - far) / 2)).log10()  # (B, T)
    lag, peak, wander = lags(x, max(1, round(SAMPLE_RATE / hop)))
    singles = [
        lag,
        peak,
        wander,
        balance.mean(1),
        balance.std(1, correction=0),
        *_whole(wave),
        _coherence(near, far),
    ]
    return torch.cat([ild.mean(2), ild.std(2, correction=0), steady, torch.stack(singles, dim=1)], dim=1)


def lags(x: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 2, F, T) spectra → (B,) lag of the whole clip in samples, height of its peak (1 for a pure delay), and
    deviation of the lags of stretches of `block` frames, 0 where there is but one.

    GCC-PHAT (Knapp and Carter, IEEE TASSP 1976): the inverse transform of the mean phasor of X₁* X₂ over time.
    """
    phasor = _phasor(x[:, 1], x[:, 0])  # (B, F, T)
    whole, peak = _peak(phasor.mean(2))
    count = phasor.shape[2] // block
    if count < 2:
        return whole, peak, torch.zeros_like(whole)
    blocks = phasor[:, :, : count * block].unflatten(2, (count, block)).mean(3)  # (B, F, count)
    each, _ = _peak(blocks.transpose(1, 2).flatten(0, 1))
    return whole, peak, each.unflatten(0, (-1, count)).std(1, correction=0)


def _peak(phasor: Tensor) -> tuple[Tensor, Tensor]:
    """(N, F) → (N,) lag in samples and height of the largest correlation within ±`MAX_LAG`; of silence 0 and 0."""
    correlation = torch.fft.irfft(phasor)  # (N, n_fft)
    furthest = min(MAX_LAG, correlation.shape[1] // 2 - 1)
    nearest_first = sorted(range(-furthest, furthest + 1), key=abs)  # the first of equals is taken
    candidates = torch.tensor(nearest_first, device=phasor.device)
    heights, places = correlation[:, candidates].max(dim=1)
    return candidates[places].float(), heights


def _phasor(a: Tensor, b: Tensor) -> Tensor:
    """a b* / |a b|, bin by bin; 0 where there is nothing to be heard."""
    cross = a * b.conj()
    return cross / (cross.abs() + QUIET**2)


def _energy(x: Tensor) -> Tensor:
    return x.real.square() + x.imag.square()


def _per_frame(x: Tensor) -> Tensor:
    """(B, F, T) → (B, T) energies, never 0."""
    return _energy(x).sum(1) + QUIET**2 * x.shape[1]


def _whole(wave: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2, samples) → (B,) level of near over far in dB, (B,) correlation coefficient, 0 where one is constant."""
    level = wave.square().mean(2).sqrt() + 1e-6
    near, far = (wave - wave.mean(2, keepdim=True)).unbind(1)
    return 20 * (level[:, 0] / level[:, 1]).log10(), F.cosine_similarity(near, far, dim=1)


def _coherence(near: Tensor, far: Tensor) -> Tensor:
    """(B,) magnitude-squared coherence, averaged over frequency: how far one microphone is a filtered other."""
    cross = (near * far.conj()).mean(2).abs().square()
    return (cross / (_energy(near).mean(2) * _energy(far).mean(2) + QUIET**4)).mean(1)


@cache
def _filters(mels: int, n_fft: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(mels, F) Slaney filters of constant area, as the log-mel view has, and the same as weights that sum to 1."""
    with torch.inference_mode(False):  # what is cached must serve everybody
        triangles = torch.from_numpy(librosa.filters.mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=mels)).to(device)
        return triangles, triangles / triangles.sum(1, keepdim=True).clamp_min(1e-12)
