"""The generator of clips: trained on normal recordings of all machines, asked for conditions one by one."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asd_core import config
from asd_core.artifacts import read_arrays, write_arrays
from asd_core.data import audio
from asd_core.data.stream import stream
from asd_core.files import read_json, write_json
from asd_core.synthesis.conditions import Condition
from asd_core.synthesis.diffusion import Denoising, guided, sample, untold_facts
from asd_core.synthesis.network import Denoiser, facts_of
from asd_core.synthesis.representation import HOP, Spectra, filtered, frames_of, log_power, smoothed
from asd_core.training import checkpoint, distributed, loop
from asd_core.training.samplers import class_balance
from asd_core.types import AsdError, Clip, Progress, no_progress
from asd_core.views.base import MICROPHONES

LEAST_FRAMES = 4  # of an excerpt: fewer cannot be transformed
CACHE = 1_500_000_000  # bytes of whitened clips that are kept
EVEN = 17  # frequencies (133 Hz) over which the equaliser is smoothed


def train_generator(
    clips: Sequence[Clip],
    options: config.Generator,
    folder: Path,
    device: str = "auto",
    checkpoint_seconds: float = 30.0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train on normal clips and write model.safetensors, spectra.npz, losses.npz and generator.json; returns facts.

    Raises:
        AsdError: a clip is too short for the network's coarsest level, or cannot be read.
    """
    headers = [audio.info(clip.path) for clip in clips]
    channels = min(len(MICROPHONES), *(header.channels for header in headers))
    conditions = [Condition.of(clip) for clip in clips]
    progress(0.0, f"spectra of {len(clips)} clips")
    spectra = Spectra.measured(stream(clips, lambda wave: wave), conditions, channels)
    words = {word for condition in conditions for word in condition.words}
    if options.network.microphones == "each":
        words |= set(MICROPHONES[:channels])
    about: dict[str, Any] = {"vocabulary": sorted(words), "channels": channels}
    torch.manual_seed(loop.seed_of(options.seed, 2**32 - 1))  # initial weights; steps seed themselves
    denoiser = _denoiser(options, about)
    shortest = min(int(header.seconds * audio.SAMPLE_RATE) for header in headers)
    room = min(int(options.crop_seconds * audio.SAMPLE_RATE), shortest)
    frames = frames_of(room) // denoiser.frames * denoiser.frames
    if frames < LEAST_FRAMES:
        least = denoiser.samples(LEAST_FRAMES * HOP) / audio.SAMPLE_RATE
        raise AsdError(
            f"The shortest excerpt is {room / audio.SAMPLE_RATE:.2f} s, but this generator's network needs {least:.2f} "
            f"s. Leave short clips out, raise crop_seconds, or give the network fewer widths."
        )
    examples = Excerpts(clips, conditions, spectra, denoiser, about["vocabulary"], (frames - 1) * HOP)
    history = loop.fit(
        Denoising(denoiser, options.untold),
        examples,
        options.train,
        seed=options.seed,
        weights=class_balance([conditions[clip].text for clip, _ in examples.rows], options.balance),
        checkpoint_file=folder / ".checkpoint.safetensors",
        checkpoint_seconds=checkpoint_seconds,
        device=device,
        progress=progress,
    )

    def keep() -> dict[str, Any]:
        checkpoint.save_weights(folder / "model.safetensors", denoiser)
        write_arrays(folder / "spectra.npz", **spectra.arrays())
        write_arrays(folder / "losses.npz", losses=history.losses)
        write_json(folder / "generator.json", about)
        return {
            "parameters": sum(p.numel() for p in denoiser.parameters()),
            "steps": len(history.losses),
            "loss": float(history.losses[-100:].mean()),
            "conditions": len(spectra.means),
            "device": str(loop.pick_device(device)),
        }

    return distributed.join(device).by_main(keep)  # alone: simply keep()


def _denoiser(options: config.Generator, about: dict[str, Any]) -> Denoiser:
    together = about["channels"] if options.network.microphones == "joint" else 1
    return Denoiser(options.network, len(about["vocabulary"]), together)


@dataclass(frozen=True)
class Excerpts:
    """Whitened excerpts (B, C, samples), facts and spectra of their conditions; of one microphone or of all."""

    clips: Sequence[Clip]
    conditions: Sequence[Condition]
    spectra: Spectra
    denoiser: Denoiser
    vocabulary: Sequence[str]
    samples: int
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False)

    @cached_property
    def rows(self) -> list[tuple[int, slice]]:
        """Clip and microphones of every example."""
        together = self.denoiser.channels
        every = range(0, self.spectra.channels, together)
        return [(clip, slice(first, first + together)) for first in every for clip in range(len(self.clips))]

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, indices: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = [self.rows[i] for i in indices]
        whole = self._whitened([clip for clip, _ in chosen])
        starts, signs = torch.rand(2, len(chosen), generator=generator)
        parts, spectra, words = [], [], []
        for (clip, microphones), (wave, spectrum), start, sign in zip(chosen, whole, starts, signs, strict=True):
            first = int(start * (wave.shape[-1] - self.samples + 1))
            part = wave[microphones, first : first + self.samples]
            parts.append(part if sign < 0.5 else -part)  # upside down it sounds the same
            spectra.append(spectrum[microphones])
            words.append(self.conditions[clip].words + words_of(microphones, self.vocabulary))
        return torch.stack(parts), facts_of(words, self.vocabulary), torch.stack(spectra)

    def _whitened(self, clips: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Whole clips (C, T), white, and what the network is told of their spectra (C, BANDS)."""
        missing = [clip for clip in dict.fromkeys(clips) if clip not in self.kept]
        fresh = {}
        for clip, wave in zip(missing, stream([self.clips[i] for i in missing], lambda wave: wave), strict=True):
            heard = torch.from_numpy(wave[: self.spectra.channels])
            spectrum = self.spectra.near(self.conditions[clip], log_power(heard))
            fresh[clip] = filtered(heard, -spectrum / 2), bands_of(spectrum)
        held = sum(white.nbytes for white, _ in self.kept.values()) if fresh else 0
        found = [self.kept[clip] if clip in self.kept else fresh[clip] for clip in clips]
        for clip, pair in fresh.items():
            held += pair[0].nbytes
            if held <= CACHE:
                self.kept[clip] = pair
        return found


def bands_of(spectrum: Tensor) -> Tensor:
    """(…, C, SPECTRUM) → (…, C, BANDS): what the network is told of it."""
    return spectrum[..., 2::2]


def words_of(microphones: slice, vocabulary: Sequence[str]) -> list[str]:
    """The word for the microphone, where the generator was trained on one at a time."""
    word = MICROPHONES[microphones.start]
    return [word] if word in vocabulary else []


class Generator:
    """A trained generator."""

    def __init__(self, options: config.Generator, denoiser: Denoiser, vocabulary: Sequence[str], spectra: Spectra):
        self.options, self.denoiser, self.vocabulary, self.spectra = options, denoiser, list(vocabulary), spectra
        self.device = next(denoiser.parameters()).device

    @property
    def channels(self) -> int:
        return self.spectra.channels

    def draw(
        self,
        condition: Condition,
        samples: int,
        numbers: Sequence[int],
        tell: Callable[[float], object] = lambda fraction: None,
    ) -> Drawn:
        """The candidates with these numbers; each number has its own noise and spectrum. Spectra of an even number and
        the next lie on opposite sides of the mean, so that a few clips already have it in their middle.

        Raises:
            AsdError: the condition has a machine or a fact that the generator was not trained on.
        """
        if unknown := [word for word in condition.words if word not in self.vocabulary]:
            raise AsdError(f"The generator was not trained on {unknown[0]}, which {condition.text} asks for.")
        generators = [self._generator(condition, number) for number in numbers]
        sides = [(self._generator(condition, number // 2, 1), 1 - 2 * (number % 2)) for number in numbers]
        spectra = torch.stack([self.spectra.drawn(condition, own, sign) for own, sign in sides])
        own = self.denoiser.channels
        starts = range(0, self.channels, own)
        parts = []
        for part, first in enumerate(starts):
            microphones = slice(first, first + own)
            words = condition.words + words_of(microphones, self.vocabulary)
            told = partial(_share, tell, part, len(starts))
            parts.append(self._draw(words, bands_of(spectra)[:, microphones], samples, generators, told))
        return Drawn(torch.cat(parts, dim=1)[..., :samples], spectra)

    def _draw(
        self,
        words: Sequence[str],
        spectra: Tensor,
        samples: int,
        generators: Sequence[torch.Generator],
        tell: Callable[[float], object],
    ) -> Tensor:
        """Whitened waveforms (B, microphones drawn together, at least `samples`)."""
        shape = (self.denoiser.channels, self.denoiser.samples(samples))
        noise = torch.stack([torch.randn(shape, generator=own) for own in generators]).to(self.device)
        facts = facts_of([words] * len(generators), self.vocabulary).to(self.device)
        spectra = spectra.to(self.device)

        def told(x: Tensor, step: Tensor) -> Tensor:
            return self.denoiser(x, step, facts, spectra)

        def untold(x: Tensor, step: Tensor) -> Tensor:
            return self.denoiser(x, step, untold_facts(facts), spectra)

        options = self.options.sampling
        bf16 = loop.use_bf16(self.options.train.precision, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            drawn = sample(guided(told, untold, options.guidance), noise, options, generators, tell)
        return drawn.float().cpu()

    def _generator(self, condition: Condition, number: int, purpose: int = 0) -> torch.Generator:
        place = (zlib.crc32(condition.text.encode()), number, purpose)
        return torch.Generator().manual_seed(loop.seed_of(self.options.seed, *place))

    def equaliser(self, white: Tensor) -> np.ndarray:
        """ln amplitude (C, SPECTRUM) that makes whitened samples (B, C, T) white on average.

        A denoiser that has not learnt all there is, and few sampling steps, lose power, and not at all frequencies
        alike; what is lost is measured on samples and given back. No recording is looked at.
        """
        return (-smoothed(log_power(white).mean(dim=0), EVEN) / 2).numpy()

    def coloured(self, drawn: Drawn, equaliser: np.ndarray) -> np.ndarray:
        """Waveforms (B, C, T) float32 as the microphones would have recorded them."""
        return filtered(drawn.white, drawn.spectra / 2 + torch.from_numpy(equaliser)).numpy()


@dataclass(frozen=True)
class Drawn:
    """Samples of the generator."""

    white: Tensor  # (B, C, T) whitened waveforms
    spectra: Tensor  # (B, C, SPECTRUM) log power that each is to have


def _share(tell: Callable[[float], object], part: int, parts: int, fraction: float) -> None:
    tell((part + fraction) / parts)


def load_generator(folder: Path, options: config.Generator, device: str = "auto") -> Generator:
    """What `train_generator` left in a folder."""
    about = read_json(folder / "generator.json")
    denoiser = _denoiser(options, about)
    checkpoint.load_weights(folder / "model.safetensors", denoiser)
    denoiser.requires_grad_(False).eval().to(loop.pick_device(device))
    return Generator(options, denoiser, about["vocabulary"], Spectra.read(read_arrays(folder / "spectra.npz")))


def shaped_noise(generator: Generator, condition: Condition, samples: int, count: int, seed: int) -> np.ndarray:
    """(count, C, samples): noise with the condition's mean spectrum, what the generator must be better than."""
    white = torch.randn(count, generator.channels, samples, generator=torch.Generator().manual_seed(seed))
    spectra = generator.spectra.of(condition).expand(count, -1, -1)
    return generator.coloured(Drawn(white, spectra), generator.equaliser(white))
