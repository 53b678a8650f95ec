"""The denoiser: a U-Net of `diffusers` over time and frequency, told the condition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asd_core.config import Network
from asd_core.shield import shield_from_broken_torchaudio
from asd_core.synthesis.representation import BANDS, HOP, analysed, frames_of, smoothed, synthesised

ENVELOPE = 65  # bands (1 kHz) over which a spectrum is smoothed to tell its tones from its colour
CHORUS = 8  # parts of the spectrum whose loudness is told everywhere
PLACES = 8  # inputs that tell the height of a band: convolutions treat all heights alike
PARTS = 3  # planes per microphone. In: real and imaginary part, log magnitude. Out: real, imaginary, gain
QUIET = 1e-4  # power added below roots and logarithms; white noise has 1


class Denoiser(nn.Module):
    """v̂ (B, C, T) of noisy whitened waveforms (B, C, T); v = √ᾱ ε − √(1 − ᾱ) x (Salimans & Ho, ICLR 2022).

    It sees the compressed complex transform (magnitude to the power ½, phase kept) and, at every frequency, how loud all
    parts of the spectrum are at that moment, for strokes and knocks sound everywhere at once and a mean over many bands
    shows them through much noise. It answers with a complex transform and a gain by which the noisy one is multiplied: for noise whose loudness changes, the best denoiser is a
    gain (Wiener's), which convolutions of a signal with random phase can hardly express. With weights of zero, where
    it starts, v̂ = 0 is already right for white noise.

    `facts` (B, words + 1) are 1 where the condition has a word, the last one stands for "no condition is told".
    `spectrum` (B, C, BANDS) is the condition's mean log power at each band.
    """

    def __init__(self, options: Network, words: int, channels: int) -> None:
        super().__init__()
        shield_from_broken_torchaudio()
        from diffusers.models.unets.unet_2d import UNet2DModel

        self.options, self.channels = options, channels
        self.high, self.long = options.patch
        cell = self.high * self.long
        widths = tuple(options.widths)
        levels, plain = len(widths), len(widths) - options.attention
        self.unet = UNet2DModel(
            in_channels=channels * (PARTS * cell + CHORUS * self.long + 2 * self.high) + PLACES,
            out_channels=channels * PARTS * cell,
            block_out_channels=widths,
            layers_per_block=options.layers,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * options.attention,
            up_block_types=("AttnUpBlock2D",) * options.attention + ("UpBlock2D",) * plain,
            add_attention=options.attention > 0,
            attention_head_dim=32,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
            norm_num_groups=8,
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)
        self.told = nn.Linear(words + 1, 4 * widths[0])
        self.frames = self.long * 2 ** (levels - 1)  # the number of frames must be a multiple of this
        height = torch.linspace(0, 1, BANDS // self.high)
        waves = [turn(torch.pi * 2**k * height) for k in range(PLACES // 2) for turn in (torch.sin, torch.cos)]
        self.register_buffer("places", torch.stack(waves), persistent=False)

    def samples(self, at_least: int) -> int:
        """The length of waveform this network takes that holds so many samples."""
        frames = -(-max(frames_of(at_least + HOP - 1), 4) // self.frames) * self.frames
        return (frames - 1) * HOP

    def forward(self, x: Tensor, step: Tensor, facts: Tensor, spectrum: Tensor) -> Tensor:
        found = analysed(x)
        magnitude = (found.square().sum(2, keepdim=True) + QUIET).sqrt()
        seen = torch.cat([found / magnitude.sqrt(), magnitude.log()], dim=2).flatten(1, 2)
        seen = torch.cat([self._folded(seen), self._chorus(magnitude.log()[:, :, 0])], dim=1)
        told = self._spectrum(spectrum, seen.shape[-1])
        answer = self.unet(torch.cat([seen, told], dim=1), step, class_labels=self.told(facts)).sample
        answer = self._unfolded(answer.float()).unflatten(1, (self.channels, PARTS))
        return synthesised(answer[:, :, :2] + answer[:, :, 2:] * found, x.shape[-1])

    def _chorus(self, level: Tensor) -> Tensor:
        """Mean log magnitude (B, C, BANDS, M) of parts of the spectrum, at every place (B, planes, BANDS / high, M / long)."""
        loud = level.unflatten(2, (CHORUS, -1)).mean(3).unflatten(3, (-1, self.long))  # B C parts M l
        return loud.permute(0, 1, 2, 4, 3).flatten(1, 3)[:, :, None].expand(-1, -1, BANDS // self.high, -1)

    def _spectrum(self, spectrum: Tensor, steps: int) -> Tensor:
        """Colour and tones of the condition, and the height, at every place (B, planes, BANDS / high, steps)."""
        colour = smoothed(spectrum, ENVELOPE)
        planes = torch.cat([colour - colour.mean(-1, keepdim=True), 2 * (spectrum - colour)], dim=1) / 2
        planes = planes.unflatten(2, (-1, self.high)).transpose(2, 3).flatten(1, 2)
        places = self.places.expand(len(spectrum), -1, -1)  # type: ignore[operator]
        return torch.cat([planes, places], dim=1)[..., None].expand(-1, -1, -1, steps)

    def _folded(self, planes: Tensor) -> Tensor:
        """(B, P, BANDS, M) → (B, P · high · long, BANDS / high, M / long): cells become channels."""
        cut = planes.unflatten(3, (-1, self.long)).unflatten(2, (-1, self.high))  # B P F h M l
        return cut.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    def _unfolded(self, cells: Tensor) -> Tensor:
        cut = cells.unflatten(1, (-1, self.high, self.long))  # B P h l F M
        return cut.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def facts_of(words: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> Tensor:
    """(B, words + 1) for the conditions of a batch."""
    place = {word: number for number, word in enumerate(vocabulary)}
    facts = torch.zeros(len(words), len(vocabulary) + 1)
    for row, own in enumerate(words):
        facts[row, [place[word] for word in own]] = 1
    return facts
