"""The generator of clips: trained on normal recordings of all machines, asked for conditions one by one."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
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

MICROPHONES = ("near", "far")
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
    channels = min(2, *(header.channels for header in headers), 2)
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
    if not frames:
        least = denoiser.frames * HOP / audio.SAMPLE_RATE
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
        write_arrays(folder / "spectra.npz", **spectra.means)
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
    kept: dict[int, Tensor] = field(default_factory=dict, compare=False)

    @property
    def rows(self) -> list[tuple[int, slice]]:
        """Clip and microphones of every example."""
        together = self.denoiser.channels
        every = range(0, next(iter(self.spectra.means.values())).shape[0], together)
        return [(clip, slice(first, first + together)) for first in every for clip in range(len(self.clips))]

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, indices: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        rows = self.rows
        chosen = [rows[i] for i in indices]
        whole = self._whitened([clip for clip, _ in chosen])
        starts, signs = torch.rand(2, len(chosen), generator=generator)
        parts, spectra, words = [], [], []
        for (clip, microphones), wave, start, sign in zip(chosen, whole, starts, signs, strict=True):
            first = int(start * (wave.shape[-1] - self.samples + 1))
            part = wave[microphones, first : first + self.samples]
            parts.append(part if sign < 0.5 else -part)  # upside down it sounds the same
            condition = self.conditions[clip]
            spectra.append(bands_of(self.spectra.of(condition))[microphones])
            words.append(condition.words + words_of(microphones, self.vocabulary))
        return torch.stack(parts), facts_of(words, self.vocabulary), torch.stack(spectra)

    def _whitened(self, clips: Sequence[int]) -> list[Tensor]:
        missing = [clip for clip in dict.fromkeys(clips) if clip not in self.kept]
        fresh = {}
        for clip, wave in zip(missing, stream([self.clips[i] for i in missing], lambda wave: wave), strict=True):
            spectrum = self.spectra.of(self.conditions[clip])
            fresh[clip] = filtered(torch.from_numpy(wave[: len(spectrum)]), -spectrum / 2)
        held = sum(wave.nbytes for wave in self.kept.values()) if fresh else 0
        found = [self.kept[clip] if clip in self.kept else fresh[clip] for clip in clips]
        for clip, white in fresh.items():
            held += white.nbytes
            if held <= CACHE:
                self.kept[clip] = white
        return found


def bands_of(spectrum: Tensor) -> Tensor:
    """(C, SPECTRUM) → (C, BANDS): what the network is told of it."""
    return spectrum[:, 2::2]


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
        return next(iter(self.spectra.means.values())).shape[0]

    def draw(
        self,
        condition: Condition,
        samples: int,
        numbers: Sequence[int],
        tell: Callable[[float], object] = lambda fraction: None,
    ) -> Tensor:
        """Whitened waveforms (B, C, samples) of the candidates with these numbers; each number has its own noise.

        Raises:
            AsdError: the condition has a machine or a fact that the generator was not trained on.
        """
        if unknown := [word for word in condition.words if word not in self.vocabulary]:
            raise AsdError(f"The generator was not trained on {unknown[0]}, which {condition.text} asks for.")
        own = self.denoiser.channels
        starts = range(0, self.channels, own)
        parts = [
            self._draw(condition, slice(first, first + own), samples, numbers, partial(_share, tell, n, len(starts)))
            for n, first in enumerate(starts)
        ]
        return torch.cat(parts, dim=1)[..., :samples]

    def _draw(
        self,
        condition: Condition,
        microphones: slice,
        samples: int,
        numbers: Sequence[int],
        tell: Callable[[float], object],
    ) -> Tensor:
        generators = [self._generator(condition, number, microphones.start) for number in numbers]
        shape = (self.denoiser.channels, self.denoiser.samples(samples))
        noise = torch.stack([torch.randn(shape, generator=own) for own in generators]).to(self.device)
        words = condition.words + words_of(microphones, self.vocabulary)
        facts = facts_of([words] * len(numbers), self.vocabulary).to(self.device)
        spectrum = bands_of(self.spectra.of(condition))[microphones].expand(len(numbers), -1, -1).to(self.device)

        def told(x: Tensor, step: Tensor) -> Tensor:
            return self.denoiser(x, step, facts, spectrum)

        def untold(x: Tensor, step: Tensor) -> Tensor:
            return self.denoiser(x, step, untold_facts(facts), spectrum)

        options = self.options.sampling
        bf16 = loop.use_bf16(self.options.train.precision, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            drawn = sample(guided(told, untold, options.guidance), noise, options, generators, tell)
        return drawn.float().cpu()

    def _generator(self, condition: Condition, number: int, microphone: int) -> torch.Generator:
        place = (zlib.crc32(condition.text.encode()), number, microphone)
        return torch.Generator().manual_seed(loop.seed_of(self.options.seed, *place))

    def equaliser(self, drawn: Tensor) -> np.ndarray:
        """ln amplitude (C, SPECTRUM) that makes whitened samples (B, C, T) white on average.

        A denoiser that has not learnt all there is, and few sampling steps, lose power, and not at all frequencies
        alike; what is lost is measured on samples and given back. No recording is looked at.
        """
        return (-smoothed(log_power(drawn).mean(dim=0), EVEN) / 2).numpy()

    def coloured(self, drawn: Tensor, condition: Condition, equaliser: np.ndarray) -> np.ndarray:
        """Whitened samples → waveforms (B, C, T) float32 as the microphones would have recorded them."""
        gain = self.spectra.of(condition) / 2 + torch.from_numpy(equaliser)
        return filtered(drawn, gain.expand(len(drawn), -1, -1)).numpy()


def _share(tell: Callable[[float], object], part: int, parts: int, fraction: float) -> None:
    tell((part + fraction) / parts)


def load_generator(folder: Path, options: config.Generator, device: str = "auto") -> Generator:
    """What `train_generator` left in a folder."""
    about = read_json(folder / "generator.json")
    denoiser = _denoiser(options, about)
    checkpoint.load_weights(folder / "model.safetensors", denoiser)
    denoiser.requires_grad_(False).eval().to(loop.pick_device(device))
    return Generator(options, denoiser, about["vocabulary"], Spectra(read_arrays(folder / "spectra.npz")))


def shaped_noise(generator: Generator, condition: Condition, samples: int, count: int, seed: int) -> np.ndarray:
    """(count, C, samples): noise with the condition's mean spectrum, what the generator must be better than."""
    noise = torch.randn(count, generator.channels, samples, generator=torch.Generator().manual_seed(seed))
    return generator.coloured(noise, condition, generator.equaliser(noise))
