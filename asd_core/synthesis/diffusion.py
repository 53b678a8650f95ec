"""Noise and back: what the denoiser learns (DDPM, Ho et al., NeurIPS 2020) and how it draws (DDIM, Song et al., ICLR
2021, with guidance without a classifier, Ho & Salimans, 2022). The schedules are those of `diffusers`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asd_core.config import Sampling
from asd_core.shield import shield_from_broken_torchaudio
from asd_core.synthesis.network import ENVELOPE, Denoiser
from asd_core.synthesis.representation import analysed, smoothed

STEPS = 1000  # of the noise schedule
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": STEPS,
    "beta_schedule": "squaredcos_cap_v2",  # the cosine schedule of Nichol & Dhariwal (ICML 2021)
    "prediction_type": "v_prediction",
}

Predict = Callable[[Tensor, Tensor], Tensor]
"""v̂ of noisy samples (B, …) at the noise step (B,)."""


class Denoising(nn.Module):
    """The loss: how well `denoiser` tells v. Randomness is torch's own, which the loop seeds before every step."""

    def __init__(self, denoiser: Denoiser, untold: float) -> None:
        super().__init__()
        shield_from_broken_torchaudio()
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        self.denoiser, self.untold = denoiser, untold
        self.schedule = DDPMScheduler(**SCHEDULE)

    def forward(self, x: Tensor, facts: Tensor, spectrum: Tensor) -> Tensor:
        """Whitened waveforms (B, C, T) and their conditions → scalar. A share `untold` of them go without facts;
        the spectrum is told to all."""
        step = torch.randint(STEPS, (len(x),), device=x.device)
        noise = torch.randn_like(x)
        told = untold_facts(facts).where(torch.rand(len(x), 1, device=x.device) < self.untold, facts)
        v = self.schedule.get_velocity(x, noise, step)
        error = self.denoiser(self.schedule.add_noise(x, noise, step), step, told, spectrum) - v
        heard = analysed(error).square().mean(dim=(2, 4))  # (B, C, BANDS)
        return (heard * weight_of(spectrum)).mean()


def weight_of(spectrum: Tensor) -> Tensor:
    """What an error counts in each band (B, C, BANDS), 1 on average: more where a tone stands above the colour around
    it. There are few such bands, and by them a machine is known."""
    weight = 1 + (spectrum - smoothed(spectrum, ENVELOPE)).clamp_min(0)
    return weight / weight.mean(-1, keepdim=True)


def untold_facts(facts: Tensor) -> Tensor:
    """The same shape, with nothing told but that nothing is told."""
    nothing = torch.zeros_like(facts)
    nothing[:, -1] = 1
    return nothing


def guided(told: Predict, untold: Predict, scale: float) -> Predict:
    """v̂ = v̂_untold + scale · (v̂_told − v̂_untold): 0 forgets the facts, 1 is the model itself, more exaggerates
    what the condition changes."""
    if scale == 1:
        return told
    if scale == 0:
        return untold

    def predict(x: Tensor, step: Tensor) -> Tensor:
        without = untold(x, step)
        return without + scale * (told(x, step) - without)

    return predict


@torch.no_grad()
def sample(
    predict: Predict,
    noise: Tensor,
    options: Sampling,
    generators: Sequence[torch.Generator] = (),
    tell: Callable[[float], object] = lambda fraction: None,
) -> Tensor:
    """DDIM from `noise` (B, …) to samples of the same shape. Without `options.eta` the noise decides all; with it, noise
    of `generators`, one per sample, is added on the way."""
    shield_from_broken_torchaudio()
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    schedule = DDIMScheduler(**SCHEDULE, clip_sample=False, timestep_spacing="trailing")
    schedule.set_timesteps(options.steps)
    x = noise
    for done, step in enumerate(schedule.timesteps):
        v = predict(x, step.expand(len(x)).to(x.device))
        own: Any = {"eta": options.eta, "generator": list(generators)} if options.eta else {}
        x = schedule.step(v, step, x, **own).prev_sample
        tell((done + 1) / options.steps)
    return x
