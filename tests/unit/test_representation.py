"""Whitening and the transform can be undone, and white noise is white in both."""

import numpy as np
import pytest
import torch

from asd_core.synthesis.conditions import Condition
from asd_core.synthesis.representation import (
    BANDS,
    HOP,
    N_FFT,
    SPECTRUM,
    Spectra,
    analysed,
    filtered,
    frames_of,
    log_power,
    smoothed,
    synthesised,
)
from asd_core.types import SAMPLE_RATE, AsdError

torch.set_num_threads(1)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def without_zero_hertz(wave):
    """High-pass at 200 Hz: the transform leaves 0 Hz out."""
    spectrum = torch.fft.rfft(wave)
    spectrum[..., : wave.shape[-1] * 200 // SAMPLE_RATE] = 0
    return torch.fft.irfft(spectrum, wave.shape[-1])


def tone(band, frames, phase=0.3):
    turns = torch.arange((frames - 1) * HOP, dtype=torch.float64) * band / N_FFT
    return torch.cos(2 * torch.pi * turns + phase).float()


# ---------------------------------------------------------------- whitening


@pytest.mark.parametrize("samples", [16_000, 15_999, 4_001, 100])
def test_a_filter_is_undone_by_its_negative(samples):
    wave, gain = noise(3, 2, samples), noise(3, 2, SPECTRUM, seed=1)
    torch.testing.assert_close(filtered(filtered(wave, gain), -gain), wave, atol=1e-4, rtol=0)
    assert filtered(wave, gain).shape == wave.shape
    torch.testing.assert_close(filtered(wave, torch.zeros(3, 2, SPECTRUM)), wave, atol=1e-5, rtol=0)


def test_a_filter_scales_tones_by_its_gain_and_does_not_delay_them():
    gain = torch.linspace(-1, 1, SPECTRUM)
    for band in (32, 200, 480):  # whole periods in the clip, which the filter takes for periodic
        wave = tone(band, 64)
        torch.testing.assert_close(filtered(wave, gain), wave * gain[2 * band].exp(), atol=2e-3, rtol=0)


def test_white_noise_has_a_log_power_of_nothing():
    """And a filter adds twice its log gain."""
    found = log_power(noise(200, 32_000))
    assert found.shape == (200, SPECTRUM)
    assert abs(found[:, 2:-2].exp().mean().item() - 1) < 0.01
    assert abs(found[:, 2:-2].mean().item()) < 0.05  # the logarithm of a mean of 60 frames is a little low
    gain = smoothed(noise(SPECTRUM), 65) * 3
    coloured = log_power(filtered(noise(200, 32_000), gain.expand(200, -1)))
    assert ((coloured - found).mean(0) - 2 * gain)[4:-4].square().mean().sqrt() < 0.06


def test_whitened_recordings_are_white():
    colour = 4 * smoothed(noise(SPECTRUM), 129) - 6
    waves = filtered(noise(40, 1, 32_000), colour.expand(40, 1, -1))
    condition = Condition.parse("fan|00|source|spd_1")
    mean = Spectra.measured(waves.numpy(), [condition] * 40, 1).of(condition)
    white = filtered(waves, -mean / 2)
    assert white.var().item() == pytest.approx(1, abs=0.05)
    assert log_power(white).mean(0)[0, 4:-4].abs().max() < 0.1


def test_short_and_silent_waveforms_have_a_log_power():
    assert torch.isfinite(log_power(torch.zeros(2, 100))).all()
    assert torch.isfinite(log_power(noise(2, 100))).all()


def test_a_moving_mean_is_shorter_at_the_ends():
    values = torch.arange(10.0)
    torch.testing.assert_close(smoothed(values, 3)[:3], torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(smoothed(torch.ones(2, 3, 9), 5), torch.ones(2, 3, 9))


# ---------------------------------------------------------------- the transform


def test_parts_of_white_noise_have_variance_one():
    parts = analysed(noise(20, 2, 63 * HOP))
    assert parts.shape == (20, 2, 2, BANDS, 64)
    inner = parts[..., :-1, 2:-2]  # the last band is real; the first and last frames see the reflected ends
    assert inner.mean().abs() < 0.01
    assert inner.var().item() == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(inner.var(dim=(0, 1, 3, 4)), torch.ones(2), atol=0.02, rtol=0)


@pytest.mark.parametrize("frames", [3, 8, 63])
def test_synthesis_undoes_analysis(frames):
    wave = without_zero_hertz(noise(3, 2, (frames - 1) * HOP))
    parts = analysed(wave)
    assert frames_of(wave.shape[-1]) == parts.shape[-1] == frames
    error = synthesised(parts, wave.shape[-1]) - wave
    assert error.square().mean() < 2e-3  # mirrored ends have something at 0 Hz
    if frames > 4:
        assert error[..., N_FFT:-N_FFT].abs().max() < 1e-3


def test_analysis_undoes_synthesis_up_to_what_no_waveform_has():
    """The nearest waveform to a transform of a waveform is that waveform; applied twice, nothing changes."""
    parts = noise(2, 2, BANDS, 16)
    once = synthesised(parts, 15 * HOP)
    twice = synthesised(analysed(once), 15 * HOP)
    assert (twice - once).square().mean() < 5e-3 * once.square().mean()  # 0 Hz is lost


@pytest.mark.parametrize("band", [20, 21, 100, 511])
def test_a_tone_in_the_middle_of_a_band_keeps_its_phase(band):
    """From frame to frame, and it turns with the tone's."""
    found = [torch.complex(*analysed(tone(band, 32, phase))[:, band - 1, 2:-2]) for phase in (0.0, 0.3)]
    for one in found:  # the first band is the first above 0 Hz
        torch.testing.assert_close(one, one[:1].expand(28), atol=1e-3 * one[0].abs().item(), rtol=0)
    torch.testing.assert_close((found[1] / found[0]).angle(), torch.full((28,), 0.3), atol=1e-3, rtol=0)


# ---------------------------------------------------------------- spectra of conditions


def additive(*left_out):
    """Spectra that are sums of a number per fact, at each frequency and microphone."""
    effects = {}
    means = {}
    for domain in ("source", "target"):
        for speed in "123":
            for load in "123":
                condition = Condition.parse(f"fan|00|{domain}|spd_{speed}_load_{load}")
                for word in condition.words:
                    effects.setdefault(word, noise(2, SPECTRUM, seed=len(effects)).numpy())
                means[condition.text] = np.sum([effects[word] for word in condition.words], axis=0)
    means["valve|00|source|noattribute"] = 100 + noise(2, SPECTRUM, seed=99).numpy()  # of no concern
    hidden = {text: means.pop(text) for text in left_out}
    spreads = {machine: np.zeros((0, 2, SPECTRUM)) for machine in ("fan", "valve")}
    return Spectra(means, spreads), hidden


def test_an_unrecorded_combination_gets_what_its_facts_add_up_to():
    spectra, hidden = additive("fan|00|target|spd_3_load_3", "fan|00|target|spd_1_load_2")
    for text, expected in hidden.items():
        found = spectra.of(Condition.parse(text)).numpy()
        assert found.dtype == np.float32
        error = np.sqrt(np.square(found - expected).mean())
        nearest = min(np.sqrt(np.square(other - expected).mean()) for other in spectra.means.values())
        assert error < 0.15  # the effects have deviation 1; the ridge takes a little off
        assert error < 0.15 * nearest


def test_a_recorded_condition_is_taken_as_it_is():
    spectra, _ = additive()
    for text, mean in spectra.means.items():
        assert torch.equal(spectra.of(Condition.parse(text)), torch.from_numpy(mean))


def test_a_value_nobody_recorded_gets_the_mean_of_the_others():
    """The generator refuses it; here it is only finite and like the rest."""
    spectra, _ = additive()
    found = spectra.of(Condition.parse("fan|00|target|spd_9_load_1"))
    assert found.shape == (2, SPECTRUM)
    assert found.abs().max() < 20


def test_a_machine_nobody_recorded_is_refused():
    spectra, _ = additive()
    with pytest.raises(AsdError, match="has heard no clip of bearing, so it cannot make one"):
        spectra.of(Condition.parse("bearing|00|source|spd_1"))


def test_spectra_are_means_over_the_clips_of_a_condition():
    one, other = Condition.parse("fan|00|source|spd_1"), Condition.parse("fan|00|target|spd_2")
    waves = [noise(2, 8000, seed=seed).numpy() for seed in range(3)]
    spectra = Spectra.measured(waves, [one, other, one], 2)
    assert set(spectra.means) == {one.text, other.text}
    expected = (log_power(torch.from_numpy(waves[0])) + log_power(torch.from_numpy(waves[2]))) / 2
    torch.testing.assert_close(spectra.of(one), expected)
    near = Spectra.measured(waves, [one, other, one], 1)  # where some machines are mono
    assert (spectra.channels, near.channels) == (2, 1)
    torch.testing.assert_close(near.of(one), expected[:1])


ONE, TWO = Condition.parse("fan|00|source|spd_1"), Condition.parse("fan|00|source|spd_2")
TILTS = torch.stack(  # unit vectors: a tilt of the far microphone, a tilt of both the other way round
    [torch.stack([0 * torch.linspace(-1, 1, SPECTRUM), torch.linspace(-1, 1, SPECTRUM)]),
     torch.stack([torch.linspace(-1, 1, SPECTRUM).square(), torch.linspace(1, -1, SPECTRUM).square()])]
)  # fmt: skip


@pytest.fixture(scope="module")
def varied():
    """Recordings of two conditions which differ in level, and from clip to clip by two tilts: 1 and 0.5 nepers."""
    amounts = noise(60, 2, seed=3) * torch.tensor([1.0, 0.5])
    gains = torch.einsum("nk,kcf->ncf", amounts, TILTS)
    conditions = [ONE, TWO] * 30
    gains[1::2] += 3
    waves = filtered(noise(60, 2, 32_000, seed=4), gains / 2)
    return list(waves.numpy()), conditions, amounts, gains


def test_how_clips_of_a_machine_vary_is_told_by_all_of_them(varied):
    waves, conditions, amounts, _ = varied
    spectra = Spectra.measured(waves, conditions, 2)
    rows = torch.from_numpy(spectra.spreads["fan"]).flatten(1)
    angles = rows @ rows.T
    assert (angles - torch.diag(angles.diag())).abs().max() < 1e-3 * angles.max()  # principal, so orthogonal
    found = rows.T @ rows  # covariance, but for the small directions that are left out
    tilts = TILTS.flatten(1)
    apart = torch.cat([part - part.mean(0) for part in (amounts[::2], amounts[1::2])])
    expected = tilts.T @ (apart.T @ apart / 58) @ tilts
    assert (found - expected).norm() < 0.15 * expected.norm()


def test_a_drawn_spectrum_is_one_that_a_clip_might_have(varied):
    waves, conditions, *_ = varied
    spectra = Spectra.measured(waves, conditions, 2)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([spectra.drawn(TWO, generator) for _ in range(400)])
    difference = (drawn.mean(0) - spectra.of(TWO)).square().mean().sqrt()
    assert difference < 0.1
    spread = torch.from_numpy(spectra.spreads["fan"]).square().sum(0).sqrt()
    torch.testing.assert_close(drawn.std(0), spread, atol=0.05, rtol=0.15)
    again = spectra.drawn(TWO, torch.Generator().manual_seed(0))
    assert torch.equal(again, drawn[0])


def test_the_spectrum_of_a_clip_is_found_within_the_spread(varied):
    """So a clip is divided by what it sounds like, not by chance: the gains are known here."""
    waves, conditions, _, gains = varied
    spectra = Spectra.measured(waves, conditions, 2)
    for number in (0, 1, 17, 30):
        heard = log_power(torch.from_numpy(waves[number]))
        near = spectra.near(conditions[number], heard)
        error = (near - gains[number])[:, 4:-4].square().mean().sqrt()
        assert error < 0.7 * (heard - gains[number])[:, 4:-4].square().mean().sqrt()
        torch.testing.assert_close(spectra.near(conditions[number], near), near, atol=1e-3, rtol=0)


def test_single_and_equal_clips_do_not_vary():
    wave = noise(2, 8000).numpy()
    for conditions in ([ONE], [ONE, TWO], [ONE, ONE]):
        spectra = Spectra.measured([wave] * len(conditions), conditions, 2)
        assert spectra.spreads["fan"].shape == (0, 2, SPECTRUM)
        assert torch.equal(spectra.drawn(ONE, torch.Generator()), spectra.of(ONE))
        assert torch.equal(spectra.near(ONE, torch.zeros(2, SPECTRUM)), spectra.of(ONE))


def test_spectra_can_be_stored(varied):
    waves, conditions, *_ = varied
    spectra = Spectra.measured(waves[:6], conditions[:6], 2)
    again = Spectra.read(spectra.arrays())
    for name in ("means", "spreads"):
        mine, other = getattr(spectra, name), getattr(again, name)
        assert mine.keys() == other.keys()
        assert all(np.array_equal(mine[key], other[key]) for key in mine)
