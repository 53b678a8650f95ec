"""The filter bank that BEATs and EAT hear: Kaldi's log mel energies, for whole batches and on any device.

16 kHz, frames of 25 ms every 10 ms with nothing added at the edges, mean of each frame removed, pre-emphasis
0.97, power spectrum of 512 points, triangular filters on Kaldi's mel scale from 20 Hz to 8 kHz, natural log.
Povey et al., "The Kaldi speech recognition toolkit", ASRU 2011; written from its definition, and pinned by
figures of the implementation that the published weights were trained with (torchaudio's).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from asd_core.types import SAMPLE_RATE, AsdError

FRAME, HOP, FFT = 400, 160, 512  # samples
LOWEST_HZ = 20.0
PRE_EMPHASIS = 0.97
FLOOR = torch.finfo(torch.float32).eps  # of the energies, before the logarithm
FRAMES_AT_ONCE = 1 << 12  # bounds memory, and larger pieces leave the CPU's cache

Window = Literal["povey", "hann"]


def frame_count(samples: int) -> int:
    """Frames of a clip of so many samples; 0 if there is no room for one."""
    return max(0, 1 + (samples - FRAME) // HOP)


def band_edges(bands: int, mels: int = 128) -> tuple[float, ...]:
    """(bands + 1,) Hz: where the filter bank's mels, cut into `bands` equal groups, pass from one to the next."""
    lowest, highest = (1127 * math.log1p(hz / 700) for hz in (LOWEST_HZ, SAMPLE_RATE / 2))
    spacing = (highest - lowest) / (mels + 1)
    inner = [lowest + (band * mels / bands + 0.5) * spacing for band in range(1, bands)]
    return tuple(700 * math.expm1(mel / 1127) for mel in (lowest, *inner, highest))


@torch.no_grad()
def kaldi_fbank(wave: Tensor, window: Window, mels: int = 128) -> Tensor:
    """(B, samples) → (B, frames, mels) natural logarithms of mel energies, not below log(2⁻²³) = -15.94.

    In float64 if `wave` is, otherwise in float32 and never less, whatever autocast says. Each frame is what it would
    be alone, so padding at a clip's end only adds frames.

    Args:
        wave: at 16 kHz. Its scale is kept: a factor g adds 2·ln(g).
        window: "povey" is the symmetric Hann window to the power 0.85.

    Raises:
        AsdError: there is less than one frame.
    """
    samples = wave.shape[-1]
    frames = frame_count(samples)
    if not frames:
        raise AsdError(
            f"A clip of {samples} samples ({1000 * samples / SAMPLE_RATE:.1f} ms) is shorter than one frame of the "
            f"filter bank ({FRAME} samples, 25 ms). Remove it from the data, or join it to another one."
        )
    if wave.dtype != torch.float64:
        wave = wave.float()
    with torch.autocast(wave.device.type, enabled=False):
        parts = wave.split(max(1, FRAMES_AT_ONCE // frames))
        return torch.cat([_log_mel(part, window, mels) for part in parts])


def _log_mel(wave: Tensor, window: Window, mels: int) -> Tensor:
    taper = _window(window, wave.device, wave.dtype)
    frames = wave.unfold(-1, FRAME, HOP)  # (B, frames, 400), a view
    frames = frames - frames.mean(-1, keepdim=True)
    before = F.pad(frames[..., :-1], (1, 0))
    before[..., 0] = frames[..., 0]  # the first sample is its own predecessor
    frames.sub_(before.mul_(PRE_EMPHASIS)).mul_(taper)
    # float64 from here: the rounding of float32 FFTs shows in quiet bands and depends on the CPU, and a float32
    # matrix product may have been set to a rougher one for all of the program
    spectrum = torch.view_as_real(torch.fft.rfft(frames.double(), n=FFT))  # (B, frames, 257, 2)
    energies = spectrum.square_().sum(-1) @ _filters(mels, wave.device)
    return energies.to(wave.dtype).clamp_(min=FLOOR).log_()


@cache
def _window(name: Window, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(400,)"""
    with torch.inference_mode(False):  # what is cached must serve everybody
        hann = torch.hann_window(FRAME, periodic=False, dtype=dtype).double()
        return {"povey": hann**0.85, "hann": hann}[name].to(device, dtype)


@cache
def _filters(mels: int, device: torch.device) -> Tensor:
    """(257, mels) float64: triangles in mel, 1 at their own peak and 0 at the neighbours'.

    They are made in float32, as those of the published models were: mel being large numbers there, the weights differ
    from the exact ones by up to 1e-5, which can be seen in the output.
    """
    with torch.inference_mode(False):
        lowest, highest = (1127 * math.log1p(hz / 700) for hz in (LOWEST_HZ, SAMPLE_RATE / 2))
        spacing = (highest - lowest) / (mels + 1)
        peaks = torch.arange(mels + 2) * spacing + lowest  # mel; the outermost have no triangle
        left, centre, right = peaks[:-2], peaks[1:-1], peaks[2:]
        ratio = 1 + torch.arange(FFT // 2 + 1) * (SAMPLE_RATE / FFT) / 700
        mel = 1127 * ratio.double().log().float().unsqueeze(1)  # float32 logarithms would vary with the CPU
        triangles = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
        return triangles.clamp(min=0).double().to(device)
