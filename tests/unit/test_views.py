"""Views of recordings."""

import numpy as np
import pytest

from asd_core.types import AsdError
from asd_core.views import VIEWS
from asd_core.views.wiener import Wiener, gain


@pytest.fixture
def stereo():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(2, 16_000)) * [[0.1], [0.05]]).astype(np.float32)


def test_microphones(stereo):
    np.testing.assert_array_equal(VIEWS.create({"name": "waveform"})(stereo), stereo[0])
    np.testing.assert_array_equal(VIEWS.create({"name": "waveform", "channel": "far"})(stereo), stereo[1])


@pytest.mark.parametrize("name", ["waveform", "logmel", "logmel_statistics"])
def test_far_microphone_of_a_mono_recording_is_refused(stereo, name):
    with pytest.raises(AsdError, match=r"far microphone is channel 1.*has 1 channel"):
        VIEWS.create({"name": name, "channel": "far"})(stereo[:1])


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_wiener_without_far_sound_changes_nothing(stereo, strength):
    silent_far = stereo * [[1], [0]]
    np.testing.assert_allclose(Wiener(strength)(silent_far), stereo[0], atol=1e-6)
    np.testing.assert_array_equal(Wiener(strength)(stereo[:1]), stereo[0])


def test_wiener_removes_what_both_hear(stereo):
    both = np.stack([stereo[0], 0.3 * stereo[0]])  # level differences are matched first
    np.testing.assert_allclose(Wiener("strong")(both), 0.01 * stereo[0], atol=1e-6)
    np.testing.assert_allclose(Wiener("mild")(both), 0.5 * stereo[0], atol=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.05), (1.0, 0.01)])
def test_wiener_gain_is_bounded(alpha, beta):
    rng = np.random.default_rng(1)
    X1, X2 = (rng.normal(size=(2, 50, 20, 2)) @ [1, 1j]).astype(np.complex64)
    g = gain(X1, X2, alpha, beta)
    assert g.min() >= beta
    assert g.max() <= 1


def test_statistics_are_mean_then_deviation(stereo):
    logmel = VIEWS.create({"name": "logmel"})(stereo)
    assert logmel.shape == (128, 32)
    statistics = VIEWS.create({"name": "logmel_statistics"})(stereo)
    np.testing.assert_allclose(statistics, np.concatenate([logmel.mean(1), logmel.std(1)]))


@pytest.mark.parametrize("name", sorted(VIEWS.classes))
def test_every_view_gives_its_kind_for_any_length(name):
    view = VIEWS.create({"name": name})
    for samples in (3_000, 16_000, 40_001):
        x = view(np.random.default_rng(0).normal(size=(2, samples)).astype(np.float32))
        assert x.dtype == np.float32
        assert x.ndim == {"waveform": 1, "stereo": 2, "logmel": 2, "vector": 1, "patches": 3}[view.kind]
        assert np.isfinite(x).all()
        assert np.isfinite(view(np.zeros((2, samples), dtype=np.float32))).all()


def test_patches_are_pieces_of_the_spectrogram(stereo):
    options = {"n_mels": 64, "hop": 256, "frames": 4, "bands": 8}
    patches = VIEWS.create({"name": "logmel_patches", **options})(stereo)
    logmel = VIEWS.create({"name": "logmel", "n_mels": 64, "hop": 256})(stereo)
    assert patches.shape == (15, 8, 8 * 4)  # 63 frames
    np.testing.assert_array_equal(patches[5, 3].reshape(8, 4), logmel[24:32, 20:24])


@pytest.mark.parametrize("band", range(8))
def test_a_tone_lies_in_the_band_that_the_layout_names(band):
    view = VIEWS.create({"name": "logmel_patches"})
    middle = np.sqrt(max(view.layout.edges[band], 50) * view.layout.edges[band + 1])
    tone = np.sin(2 * np.pi * middle * np.arange(16_000) / 16_000).astype(np.float32)[None]
    patches = view(tone)
    assert patches.shape[1] == len(view.layout.edges) - 1
    assert patches.max(axis=2).mean(axis=0).argmax() == band


@pytest.mark.parametrize("option", ["n_mels", "n_fft", "hop", "frames", "bands"])
@pytest.mark.parametrize("value", [0, -8])
def test_sizes_that_cannot_be_are_refused_before_any_clip(option, value):
    with pytest.raises(AsdError, match=rf"{option}.* must be at least 1, got .*{value}"):
        VIEWS.create({"name": "logmel_patches", option: value})
