"""The filter bank against figures of torchaudio's, as BEATs and EAT call it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from asd_core.backbones.fbank import kaldi_fbank

FOLDER = Path(__file__).parent / "encoders"
BEATS_SCALE = 2 * 6.55582  # what the stored figures of BEATs, and the tolerance, are divided by
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def beats():
    return dict(np.load(FOLDER / "beats_tiny_io.npz"))


@pytest.fixture(scope="module")
def eat():
    return dict(np.load(FOLDER / "eat_tiny_io.npz"))


def of_beats(pcm: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    fbank = kaldi_fbank(torch.from_numpy(np.atleast_2d(pcm)).to(dtype), "povey")
    return ((fbank - 15.41663) / BEATS_SCALE).numpy()


def of_eat(pcm: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    wave = torch.from_numpy(pcm[None]).to(dtype) / 32768
    return kaldi_fbank(wave - wave.mean(), "hann")[0].numpy()


@pytest.mark.parametrize(("wave", "fbank"), [("wave_i16", "masked_fbank"), ("wave10_i16", "clip10_fbank")])
def test_beats(beats, wave, fbank):
    np.testing.assert_allclose(of_beats(beats[wave], torch.float32), beats[fbank], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("wave", "fbank"), [("wave2s_i16", "a2s_T208"), ("wave10s_i16", "c10s_T1024")])
def test_eat(eat, wave, fbank):
    ours = of_eat(eat[wave], torch.float32)
    np.testing.assert_allclose(ours, eat[f"{fbank}_fbank_raw"], atol=TOLERANCE * BEATS_SCALE, rtol=0)


def test_double_precision_agrees_to_rounding(beats, eat):
    """So what differs in single precision is rounding, and nothing else."""
    ours = of_beats(beats["wave_i16"], torch.float64)
    np.testing.assert_allclose(ours, beats["masked_fbank_f64"], atol=1e-12, rtol=0)
    np.testing.assert_allclose(of_eat(eat["wave2s_i16"], torch.float64), eat["a2s_fbank_raw_f64"], atol=1e-12, rtol=0)
