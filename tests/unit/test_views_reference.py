"""Views against a second, independent way of computing them: scipy instead of librosa."""

import numpy as np
import pytest
from scipy import signal

from asd_core.views import VIEWS
from asd_core.views.wiener import gain

STFT = {"fs": 16_000, "window": "hann", "nperseg": 1024, "noverlap": 1024 - 256, "boundary": "zeros"}
STRENGTHS = {"mild": (0.5, 0.05), "strong": (1.0, 0.01)}


@pytest.fixture
def machine():
    """A hum and hiss near, other noise far, a little of each in the other; levels that change during the clip."""
    rng = np.random.default_rng(0)
    t = np.arange(96 * 256) / 16_000
    hum = (1 + np.sin(5 * t)) * sum(np.sin(2 * np.pi * 110 * h * t) / h for h in range(1, 6))
    noise = rng.normal(size=t.size) * (1 + (t > 0.8))
    hiss = rng.normal(size=t.size)
    return np.stack([0.1 * hum + 0.1 * hiss + 0.03 * noise, 0.02 * hum + 0.2 * noise]).astype(np.float32)


def wiener(wave, alpha, beta):
    near, far = wave.astype(np.float64)
    far = far * np.sqrt(np.mean(near**2) / np.mean(far**2))
    scale = 512.0  # scipy divides spectra by the window's sum; the gain's floor is meant for undivided ones
    X1, X2 = (signal.stft(x, **STFT)[2] * scale for x in (near, far))
    G = np.maximum(np.minimum(1 - alpha * np.abs(X2) ** 2 / (np.abs(X1) ** 2 + 1e-10), 1), beta)
    options = {k: v for k, v in STFT.items() if k != "boundary"}
    return signal.istft(G * X1 / scale, **options)[1][: len(near)], G


@pytest.mark.parametrize("strength", STRENGTHS)
def test_wiener_equals_scipy(machine, strength):
    ours = VIEWS.create({"name": "wiener", "strength": strength})(machine)
    expected, G = wiener(machine, *STRENGTHS[strength])
    assert 0.05 < np.mean(G < 0.5) < 0.95  # it does something here
    # librosa and scipy treat the last hop differently; it is 16 ms
    np.testing.assert_allclose(ours[:-512], expected[:-512], atol=2e-4 * np.abs(machine[0]).max())
    assert ours.dtype == np.float32
    assert ours.shape == machine[0].shape


@pytest.mark.parametrize("level", [1.0, 0.05])
def test_wiener_matches_levels_over_the_whole_clip(machine, level):
    """How loud the far microphone was set does not matter."""
    quiet = machine * np.array([[1], [level]], dtype=np.float32)
    expected = VIEWS.create({"name": "wiener"})(machine)
    np.testing.assert_allclose(VIEWS.create({"name": "wiener"})(quiet), expected, atol=1e-5)


def test_default_is_mild(machine):
    mild = VIEWS.create({"name": "wiener", "strength": "mild"})(machine)
    np.testing.assert_array_equal(VIEWS.create({"name": "wiener"})(machine), mild)


def test_gain_by_hand():
    """|X₂|² of 0, ½, 1 and 4 times |X₁|², and a silent bin."""
    X1 = np.array([2, 2j, -2, 2, 0], dtype=complex)
    X2 = np.array([0, np.sqrt(2), 2, 4, 1], dtype=complex)
    np.testing.assert_allclose(gain(X1, X2, 0.5, 0.05), [1, 0.75, 0.5, 0.05, 0.05], rtol=1e-6)
    np.testing.assert_allclose(gain(X1, X2, 1.0, 0.01), [1, 0.5, 0.01, 0.01, 0.01], rtol=1e-6)


def test_log_mel_equals_scipy(machine):
    """Hann 1024 hop 512, centred on zeros, power, Slaney filters of equal area, 10 log₁₀."""
    spectrum = signal.stft(machine[0].astype(np.float64), 16_000, "hann", 1024, 512, boundary="zeros")[2] * 512
    power = mel_filters() @ np.abs(spectrum) ** 2
    ours = VIEWS.create({"name": "logmel"})(machine)
    np.testing.assert_allclose(ours, 10 * np.log10(np.maximum(power, np.finfo(float).eps)), atol=2e-3)


def mel_filters():
    """Slaney's: linear up to 1 kHz (3 mel per 200 Hz), above that 27 steps per factor 6.4; area 2 / width."""

    def to_mel(hz):
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    def to_hz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * np.exp((mel - 15) * np.log(6.4) / 27)

    edges = np.array([to_hz(m) for m in np.linspace(to_mel(0.0), to_mel(8000.0), 130)])
    bins = np.arange(513) * 16_000 / 1024
    filters = []
    for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
        triangle = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
        filters.append(np.maximum(triangle, 0) * 2 / (high - low))
    return np.array(filters)
