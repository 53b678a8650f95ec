"""Noise and back: the sampler against a case that can be computed, guidance, the loss, and the network."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from asd_core.config import Network, Sampling
from asd_core.synthesis.diffusion import SCHEDULE, STEPS, Denoising, guided, sample, untold_facts, weight_of
from asd_core.synthesis.network import Denoiser, facts_of
from asd_core.synthesis.representation import BANDS, HOP, analysed

torch.set_num_threads(1)
ALPHAS = DDPMScheduler(**SCHEDULE).alphas_cumprod.double()  # ᾱ of each step: x_t = √ᾱ x + √(1 − ᾱ) ε


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- the sampler

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.3, 0.2, 0.1]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T


def exact(x, step):
    """E[v | x_t] for x ~ N(MEAN, COVARIANCE)."""
    alpha = ALPHAS[step[0]]
    gain = torch.linalg.solve(alpha * COVARIANCE + (1 - alpha) * torch.eye(3, dtype=torch.float64), COVARIANCE)
    clean = MEAN + alpha.sqrt() * (x - alpha.sqrt() * MEAN) @ gain
    noise = (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


def moments(steps):
    """Mean and covariance of what is drawn: with the exact v of a Gaussian, samples are an affine map of the noise,
    which its values at 0 and at the unit vectors tell without any chance."""
    noise = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    drawn = sample(exact, noise, Sampling(steps=steps))
    axes = drawn[1:] - drawn[0]
    return drawn[0], axes.T @ axes


def test_the_exact_score_of_a_gaussian_gives_its_mean_and_covariance():
    """Within the error of the steps, which falls as 1 / steps."""
    error = {}
    for steps in (25, 50, 100, 200):
        mean, covariance = moments(steps)
        torch.testing.assert_close(mean, MEAN, atol=1e-4, rtol=0)
        error[steps] = ((covariance - COVARIANCE).norm() / COVARIANCE.norm()).item()
    assert error[25] < 0.12
    assert error[200] < 0.015
    for fewer, more in ((25, 50), (50, 100), (100, 200)):
        assert 0.4 < error[more] / error[fewer] < 0.6


@pytest.mark.parametrize("steps", [30, 600])
def test_steps_that_do_not_divide_the_schedule_are_refused(steps):
    """DDIM of diffusers goes back by ⌊1000 / steps⌋, its places lie 1000 / steps apart: the mean would be off."""
    with pytest.raises(ValueError, match="must divide 1000"):
        Sampling(steps=steps)


def test_with_noise_on_the_way_samples_have_the_same_moments():
    """eta 1, as DDPM: 3000 samples, within what chance and 100 steps allow."""
    generators = [seeded(number) for number in range(3000)]
    noise = torch.randn(3000, 3, dtype=torch.float64, generator=seeded(-1))
    drawn = sample(exact, noise, Sampling(steps=100, eta=1.0), generators)
    torch.testing.assert_close(drawn.mean(0), MEAN, atol=0.06, rtol=0)
    assert (torch.cov(drawn.T) - COVARIANCE).norm() < 0.1 * COVARIANCE.norm()


def test_with_noise_on_the_way_samples_depend_on_their_own_generators_only():
    noise = torch.randn(4, 3, dtype=torch.float64, generator=seeded(0))
    options = Sampling(steps=10, eta=0.7)
    whole = sample(exact, noise, options, [seeded(number) for number in range(4)])
    part = sample(exact, noise[2:3], options, [seeded(2)])
    torch.testing.assert_close(part, whole[2:3])
    assert not torch.allclose(sample(exact, noise[2:3], options, [seeded(9)]), part)


def test_equal_noise_gives_equal_bytes_and_is_left_as_it_is():
    noise = torch.randn(4, 3, dtype=torch.float64, generator=seeded(0))
    before, options = noise.clone(), Sampling(steps=8)
    assert torch.equal(sample(exact, noise, options), sample(exact, noise, options))
    assert torch.equal(noise, before)


def test_progress_rises_to_one():
    told = []
    sample(exact, torch.zeros(1, 3).double(), Sampling(steps=4), tell=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]


# ---------------------------------------------------------------- guidance


def never(x, step):
    raise AssertionError("this one need not be asked")


def with_condition(x, step):
    return torch.sin(3 * x) + step[:, None] / STEPS


def without_condition(x, step):
    return torch.cos(x)


def test_guidance_of_one_is_the_model_and_of_zero_the_one_that_is_told_nothing():
    noise, options = torch.randn(5, 3, generator=seeded(0)), Sampling(steps=10)
    told, untold = (sample(predict, noise, options) for predict in (with_condition, without_condition))
    assert not torch.allclose(told, untold)
    assert torch.equal(sample(guided(with_condition, never, 1.0), noise, options), told)
    assert torch.equal(sample(guided(never, without_condition, 0.0), noise, options), untold)
    both = guided(with_condition, with_condition, 3.0)
    torch.testing.assert_close(sample(both, noise, options), told)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0])
def test_guidance_is_linear_between_and_beyond(scale):
    x, step = torch.randn(5, 3, generator=seeded(0)), torch.full((5,), 300)
    low, high = without_condition(x, step), with_condition(x, step)
    found = guided(with_condition, without_condition, scale)(x, step)
    torch.testing.assert_close(found, (1 - scale) * low + scale * high)


# ---------------------------------------------------------------- the loss


class Watching(nn.Module):
    """A denoiser that knows the clean sample, or says 0, and remembers what it was asked."""

    def __init__(self, clean=None):
        super().__init__()
        self.clean = clean

    def forward(self, x, step, facts, spectrum):
        self.asked = x, step, facts
        if self.clean is None:
            return torch.zeros_like(x)
        alpha = ALPHAS.float()[step].reshape(-1, 1, 1)
        noise = (x - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean


FLAT = torch.zeros(1, 1, BANDS)


def test_who_knows_v_has_no_loss_and_who_says_nothing_a_loss_of_one():
    """The target is v = √ᾱ ε − √(1 − ᾱ) x: of variance one at every step if x is white."""
    white, facts = torch.randn(60, 1, 15 * HOP, generator=seeded(0)), torch.zeros(60, 3)
    torch.manual_seed(0)
    assert Denoising(Watching(white), 0.1)(white, facts, FLAT).item() < 1e-3
    assert Denoising(Watching(), 0.1)(white, facts, FLAT).item() == pytest.approx(1, abs=0.02)


def test_errors_count_more_in_the_bands_of_tones():
    """The first of two equal errors lies where a tone stands above the colour; on average all bands count the same."""
    spectrum = torch.linspace(2, -2, BANDS).expand(2, 2, BANDS).clone()
    spectrum[0, 1, 100] += 5
    weight = weight_of(spectrum)
    torch.testing.assert_close(weight.mean(-1), torch.ones(2, 2))
    inner = weight[1, :, 33:-33]  # beyond, a moving mean is shorter
    torch.testing.assert_close(inner, torch.ones_like(inner), atol=0.02, rtol=0)  # colour alone changes nothing
    assert weight[0, 1].argmax() == 100
    assert weight[0, 1, 100] / weight[0, 1, 300] == pytest.approx(6, rel=0.05)
    assert weight.min() > 0.5

    class Wrong(Watching):
        def forward(self, x, step, facts, spectrum):
            return super().forward(x, step, facts, spectrum) + self.error

    silent, facts = torch.zeros(1, 1, 15 * HOP), torch.zeros(1, 3)
    wrong, losses = Wrong(silent), []
    for band in (101, 301):  # the first of `BANDS` is the first above 0 Hz
        wrong.error = torch.cos(2 * torch.pi * band / 1024 * torch.arange(15 * HOP).double()).float()
        torch.manual_seed(0)
        losses.append(Denoising(wrong, 0.0)(silent, facts, spectrum[:1, 1:]).item())
    assert losses[0] > 2.5 * losses[1] > 0  # a window smears the tone over its neighbours


def test_all_steps_are_drawn_and_a_share_goes_untold():
    silent, watching = torch.zeros(4000, 1, 2 * HOP), Watching()
    facts = facts_of([["b"], ["a", "c"]] * 2000, "abc")
    torch.manual_seed(0)
    Denoising(watching, 0.3)(silent, facts, FLAT)
    _, step, told = watching.asked
    assert step.min() < 5
    assert step.max() > STEPS - 6
    assert step.float().mean().item() == pytest.approx(STEPS / 2, abs=20)
    nothing = torch.tensor([0.0, 0, 0, 1])
    untold = (told == nothing).all(1)
    assert untold.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(told[~untold], facts[~untold])
    Denoising(watching, 0.0)(silent, facts, FLAT)
    assert torch.equal(watching.asked[2], facts)


def test_facts_are_ones_in_the_places_of_the_words():
    facts = facts_of([["b"], ["c", "a"], []], ["a", "b", "c"])
    assert facts.tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert untold_facts(facts).tolist() == [[0, 0, 0, 1]] * 3
    assert facts.sum() == 3  # a copy


# ---------------------------------------------------------------- the network


def network(channels=1, words=2, **options):
    torch.manual_seed(0)
    return Denoiser(Network(**{"widths": [32], "layers": 1, "patch": (32, 8)} | options), words, channels)


def inputs(denoiser, rows=2, samples=1, seed=0):
    x = torch.randn(rows, denoiser.channels, denoiser.samples(samples), generator=seeded(seed))
    spectrum = torch.randn(rows, denoiser.channels, BANDS, generator=seeded(seed + 1))
    return x, torch.full((rows,), 500), facts_of([["a"]] * rows, "ab"), spectrum


SIZES = {
    "one level": {},
    "levels": {"widths": [32, 32, 64], "patch": (16, 2)},
    "attention": {"widths": [32, 32], "attention": 1, "layers": 2},
    "long cells": {"patch": (8, 8)},
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("channels", [1, 2])
def test_any_length_of_clip_fits_and_the_first_answer_is_nothing(name, channels):
    denoiser = network(channels, **SIZES[name])
    for wanted in (1, 512, 4096, 16_000, 33_333):
        length = denoiser.samples(wanted)
        assert wanted <= length < wanted + (denoiser.frames + 1) * HOP
        assert denoiser.samples(length) == length
    x, *known = inputs(denoiser, samples=9000)
    answer = denoiser(x, *known)
    assert answer.shape == x.shape
    assert not answer.any()
    assert answer.requires_grad


def test_microphones_and_clips_are_told_apart():
    """A clip's answer does not depend on those it is asked with, and depends on both of its microphones."""
    denoiser = network(2)
    nn.init.normal_(denoiser.unet.conv_out.weight, std=0.05)
    x, *known = inputs(denoiser, 3)
    with torch.no_grad():
        whole = denoiser(x, *known)
        alone = denoiser(x[1:2], *(part[1:2] for part in known))
        torch.testing.assert_close(alone, whole[1:2], atol=1e-5, rtol=1e-4)
        changed = denoiser(x * torch.tensor([[1.0], [0.0]]), *known)
    assert whole.std() > 0.01
    assert not torch.allclose(changed[:, 0], whole[:, 0], atol=1e-3)


def test_cells_are_put_back_where_they_were():
    denoiser = network(2, patch=(8, 4))
    planes = torch.randn(2, 6, BANDS, 12, generator=seeded(0))
    folded = denoiser._folded(planes)
    assert folded.shape == (2, 6 * 8 * 4, BANDS // 8, 3)
    assert torch.equal(denoiser._unfolded(folded), planes)


def test_conditions_spectra_and_steps_are_heard_after_a_few_steps_of_training():
    """Two conditions that differ in a sign: what the network is told comes to matter, through all its inputs."""
    denoiser = network()
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    x, step, _, spectrum = inputs(denoiser, 4, 4000)
    facts = facts_of([["a"], ["b"]] * 2, "ab")
    sign = torch.tensor([1.0, -1, 1, -1])[:, None, None]
    for number in range(12):
        loss = (denoiser(x, step, facts, spectrum) - sign * x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        if number:  # at first only the last layer moves, all others see its zeros
            grown = denoiser.told.weight.grad.abs().sum(0)
            assert (grown[:2] > 0).all()
            assert grown[2] == 0  # nothing was untold
        optimiser.step()
    with torch.no_grad():
        told = denoiser(x, step, facts, spectrum)
        scale = told.std()
        for other in (
            denoiser(x, step, facts.flip(0), spectrum),
            denoiser(x, step, untold_facts(facts), spectrum),
            denoiser(x, step - 400, facts, spectrum),
            denoiser(x, step, facts, -spectrum),
        ):
            assert (other - told).square().mean().sqrt() > 1e-3 * scale
    assert loss < 1


def test_a_gain_for_the_noise_is_easy_to_learn():
    """The answer c·x is a third plane of constants: the network finds it, whatever the phases are."""
    denoiser = network()
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    for number in range(60):
        x, *known = inputs(denoiser, 4, 4000, seed=number)
        loss = (denoiser(x, *known) - 0.7 * x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.03 * 0.49


def test_quiet_and_silent_inputs_do_no_harm():
    denoiser = network()
    nn.init.normal_(denoiser.unet.conv_out.weight, std=0.05)
    x, *known = inputs(denoiser)
    for scale in (0.0, 1e-6, 1e3):
        own = (scale * x).requires_grad_()
        answer = denoiser(own, *known)
        answer.sum().backward()
        assert torch.isfinite(answer).all()
        assert torch.isfinite(own.grad).all()
    assert analysed(x).shape[-1] % denoiser.frames == 0
