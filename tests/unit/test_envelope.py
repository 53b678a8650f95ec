"""Rhythms against planted ones."""

import numpy as np
import pytest

from asd_core.types import AsdError
from asd_core.views import VIEWS
from asd_core.views.envelope import EnvelopeSpectrum

LINES = np.geomspace(5, 800, 21)  # Hz, between the default ranges


def noise(seconds=6.0, seed=0):
    return np.random.default_rng(seed).normal(size=(1, int(seconds * 16_000))) * 0.1


def modulated(rate, seconds=6.0, depth=0.9):
    time = np.arange(int(seconds * 16_000)) / 16_000
    return (noise(seconds) * (1 + depth * np.sin(2 * np.pi * rate * time))).astype(np.float32)


def spectra(wave, **options):
    view = EnvelopeSpectrum(**options)
    return view(wave).reshape(len(view.filters), -1)


@pytest.mark.parametrize("rate", [8.0, 37.0, 120.0, 600.0])
def test_a_rhythm_stands_out_at_its_rate_in_every_band(rate):
    found = spectra(modulated(rate)) - spectra(noise().astype(np.float32))
    assert (found.argmax(axis=1) == np.searchsorted(LINES, rate) - 1).all()
    assert found.max(axis=1).min() > 6  # dB


def test_a_rhythm_of_one_band_stays_in_that_band():
    time = np.arange(96_000) / 16_000
    tone = 0.1 * np.sin(2 * np.pi * 4000 * time) * (1 + 0.8 * np.sin(2 * np.pi * 50 * time))
    found = spectra((noise() + tone)[0][None].astype(np.float32)) - spectra(noise().astype(np.float32))
    assert np.unravel_index(found.argmax(), found.shape) == (2, np.searchsorted(LINES, 50) - 1)
    assert found[2].max() > found[[0, 1, 3]].max() + 6


def test_level_does_not_matter():
    wave = modulated(30.0)
    np.testing.assert_allclose(spectra(wave), spectra(wave * 0.01), atol=1e-3)


def test_depth_of_a_modulation_is_its_power():
    """An envelope 1 + d·sin has a line of power d²/2."""
    rate = 104 * 2000 / 4096  # a line of the spectrum
    time = np.arange(16_000 * 8) / 16_000
    wave = np.sin(2 * np.pi * 2200 * time) * (1 + 0.5 * np.sin(2 * np.pi * rate * time))
    found = spectra(wave[None].astype(np.float32))[1]
    assert found[np.searchsorted(LINES, rate) - 1] == pytest.approx(10 * np.log10(0.5**2 / 2), abs=0.5)


def test_clips_shorter_than_a_window():
    found = spectra(modulated(50.0, seconds=0.7))
    assert (found.argmax(axis=1) == np.searchsorted(LINES, 50) - 1).all()


def test_tone_and_rhythm_is_both():
    wave = np.concatenate([modulated(20.0), noise(seed=1).astype(np.float32)])
    parts = [VIEWS.create({"name": name})(wave) for name in ("logmel_percentiles", "envelope_spectrum")]
    np.testing.assert_array_equal(VIEWS.create({"name": "tone_and_rhythm"})(wave), np.concatenate(parts))
    logmel = VIEWS.create({"name": "logmel"})(wave)
    np.testing.assert_allclose(parts[0].reshape(3, 128)[1], np.median(logmel, axis=1), rtol=1e-6)
    far = VIEWS.create({"name": "tone_and_rhythm", "channel": "far"})(wave)
    np.testing.assert_array_equal(far, VIEWS.create({"name": "tone_and_rhythm"})(wave[::-1]))


@pytest.mark.parametrize(
    "wrong", [{"edges": [500.0]}, {"edges": [500.0, 400.0]}, {"edges": [500.0, 9000.0]}, {"lowest": 0.0}, {"lines": 0}]
)
def test_impossible_options(wrong):
    with pytest.raises(AsdError, match="must"):
        VIEWS.create({"name": "envelope_spectrum", **wrong})


@pytest.mark.parametrize("seconds", [3.0, 6.0, 10.0, 12.3])
def test_the_end_of_a_clip_is_heard(seconds):
    """A rhythm in the last half second, whatever the length of the clip."""
    quiet = noise(seconds).astype(np.float32)
    late = quiet.copy()
    late[:, -8000:] = modulated(60.0, seconds)[:, -8000:]
    assert np.abs(spectra(late) - spectra(quiet)).max() > 1
