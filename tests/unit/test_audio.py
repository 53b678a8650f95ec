"""Reading and writing recordings: shape, scale, channels, rates, and refusals that help."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asd_core.data import audio
from asd_core.types import SAMPLE_RATE, AsdError


def tone(hz: float, seconds: float, rate: int, channels: int = 2) -> np.ndarray:
    """(C, T); channel c has the amplitude 0.5 / (c + 1)."""
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.stack([wave / (c + 1) for c in range(channels)]).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("seconds", [0.5, 6.0])
def test_what_was_written_is_read(tmp_path: Path, channels: int, seconds: float) -> None:
    wave = tone(440, seconds, SAMPLE_RATE, channels)
    path = tmp_path / "new" / "clip.wav"
    audio.write(path, wave)
    read = audio.read(path)
    assert read.shape == (channels, round(seconds * SAMPLE_RATE))
    assert read.dtype == np.float32
    assert read.flags.c_contiguous
    np.testing.assert_allclose(read, wave, atol=1 / 32768)
    assert audio.info(path) == audio.AudioInfo(SAMPLE_RATE, channels, wave.shape[1])
    assert audio.info(path).seconds == seconds


def test_scale_is_that_of_the_official_loader(tmp_path: Path) -> None:
    """int16 / 32768: the convention the published features rest on."""
    soundfile.write(tmp_path / "x.wav", np.array([[1, -32768], [16384, 32767]], dtype=np.int16), SAMPLE_RATE)
    expected = np.array([[1, 16384], [-32768, 32767]], dtype=np.float32) / 32768
    np.testing.assert_array_equal(audio.read(tmp_path / "x.wav"), expected)


def test_overload_is_clipped_not_wrapped(tmp_path: Path) -> None:
    audio.write(tmp_path / "x.wav", np.array([[2.0, -2.0, 0.0]]))
    np.testing.assert_allclose(audio.read(tmp_path / "x.wav"), [[1, -1, 0]], atol=1 / 32768)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_other_rates_are_resampled_with_one_notice(tmp_path: Path, rate: int, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.wav", "b.wav"):
        audio.write(tmp_path / name, tone(440, 2.0, rate), rate)
    with caplog.at_level(logging.WARNING):
        wave = audio.read(tmp_path / "a.wav")
        audio.read(tmp_path / "b.wav")
    assert [f"{rate} Hz" in record.message for record in caplog.records] == [True]
    assert wave.shape == (2, 2 * SAMPLE_RATE)
    middle = slice(SAMPLE_RATE // 2, -SAMPLE_RATE // 2)
    np.testing.assert_allclose(wave[:, middle], tone(440, 2.0, SAMPLE_RATE)[:, middle], atol=2e-3)


def test_own_rate_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audio.write(tmp_path / "x.wav", tone(440, 0.1, SAMPLE_RATE))
    audio.read(tmp_path / "x.wav")
    assert not caplog.records


def test_flac_and_float_are_read(tmp_path: Path) -> None:
    wave = tone(440, 0.2, SAMPLE_RATE)
    soundfile.write(tmp_path / "x.flac", wave.T, SAMPLE_RATE)
    soundfile.write(tmp_path / "x.wav", wave.T, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(audio.read(tmp_path / "x.flac"), wave, atol=1 / 32768)
    np.testing.assert_array_equal(audio.read(tmp_path / "x.wav"), wave)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    wave = tone(440, 0.1, SAMPLE_RATE)
    wave[1, 7] = value
    soundfile.write(tmp_path / "x.wav", wave.T, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(AsdError, match=r"x\.wav holds NaN or infinite samples.*16-bit"):
        audio.read(tmp_path / "x.wav")


@pytest.mark.parametrize("use", [audio.read, audio.info])
def test_bad_files_are_named_with_a_way_out(tmp_path: Path, use: object) -> None:
    assert callable(use)
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "nothing.wav").touch()
    for name in ("text.wav", "nothing.wav"):
        with pytest.raises(AsdError, match=rf"{name} cannot be read as sound.*doctor"):
            use(tmp_path / name)
    with pytest.raises(AsdError, match=r"is missing\. Check its name; .*--machines"):
        use(tmp_path / "absent.wav")


def test_header_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros((0, 2)), SAMPLE_RATE)
    assert audio.info(tmp_path / "x.wav").frames == 0
    with pytest.raises(AsdError, match="holds no samples"):
        audio.read(tmp_path / "x.wav")
