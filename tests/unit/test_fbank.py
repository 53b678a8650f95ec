import math

import pytest
import torch

from asd_core.backbones import fbank
from asd_core.backbones.fbank import FLOOR, frame_count, kaldi_fbank
from asd_core.types import AsdError

WINDOWS = ["povey", "hann"]


def noise(batch: int = 3, samples: int = 16_000, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [399, 400, 559, 560, 96_000, 160_000, 192_000, 256_000])
def test_frame_count(samples):
    starts = range(0, max(0, samples - 399), 160)
    assert frame_count(samples) == len(starts)
    if starts:
        assert kaldi_fbank(torch.zeros(1, samples), "hann").shape == (1, len(starts), 128)


def test_the_published_clip_lengths():
    assert [frame_count(seconds * 16_000) for seconds in (6, 10, 12, 16)] == [598, 998, 1198, 1598]


@pytest.mark.parametrize("window", WINDOWS)
def test_a_batch_is_its_clips(window):
    wave = noise()
    alone = torch.cat([kaldi_fbank(clip[None], window) for clip in wave])
    torch.testing.assert_close(kaldi_fbank(wave, window), alone, atol=1e-6, rtol=0)


def test_pieces_make_no_difference(monkeypatch):
    wave = noise(5)
    whole = kaldi_fbank(wave, "povey")
    monkeypatch.setattr(fbank, "FRAMES_AT_ONCE", 250)  # two clips
    torch.testing.assert_close(kaldi_fbank(wave, "povey"), whole, atol=1e-6, rtol=0)


def test_a_frame_depends_on_its_own_samples_only():
    wave = noise(1)
    longer = torch.cat([wave, noise(1, 8_000, seed=1)], dim=1)
    ours = kaldi_fbank(longer, "hann")[:, : frame_count(wave.shape[1])]
    torch.testing.assert_close(ours, kaldi_fbank(wave, "hann"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("window", WINDOWS)
def test_gain_shifts_every_value(window):
    wave = noise()
    shift = kaldi_fbank(10 ** (6 / 20) * wave, window) - kaldi_fbank(wave, window)
    heard = kaldi_fbank(wave, window) > math.log(FLOOR) + 2  # mel filter 3 is narrower than an FFT bin: always silent
    torch.testing.assert_close(shift[heard], torch.full_like(shift[heard], 0.2303 * 6), atol=1e-3, rtol=0)
    assert heard.float().mean() > 0.99


def test_a_constant_is_not_heard():
    wave = noise()
    torch.testing.assert_close(kaldi_fbank(wave + 0.25, "povey"), kaldi_fbank(wave, "povey"), atol=1e-2, rtol=0)


def test_a_tone_peaks_in_its_band():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16_000) / 16_000)[None]
    mel = [1127 * math.log(1 + hz / 700) for hz in (20, 1000, 8000)]
    band = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 129 - 1
    assert abs(kaldi_fbank(tone, "povey").mean((0, 1)).argmax() - band) < 1


@pytest.mark.parametrize("window", WINDOWS)
def test_silence_is_the_floor(window):
    assert (kaldi_fbank(torch.zeros(2, 800), window) == math.log(FLOOR)).all()


def test_too_short():
    with pytest.raises(AsdError, match=r"399 samples \(24\.9 ms\).*400 samples"):
        kaldi_fbank(torch.zeros(1, 399), "povey")


def test_precision_is_kept():
    wave = noise(1)
    expected = kaldi_fbank(wave, "povey")
    assert kaldi_fbank(wave.double(), "povey").dtype == torch.float64
    assert kaldi_fbank(wave.half(), "povey").dtype == torch.float32
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            ours = kaldi_fbank(wave, "povey")
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(ours, expected)


def test_what_is_cached_serves_training_after_inference():
    for cached in (fbank._filters, fbank._window):
        cached.cache_clear()
    with torch.inference_mode():
        kaldi_fbank(noise(1), "povey")
    weight = torch.ones(128, requires_grad=True)
    (kaldi_fbank(noise(1), "povey") * weight).sum().backward()
    assert weight.grad is not None
