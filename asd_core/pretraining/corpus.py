"""The sound that an encoder is pre-trained on: simulated designs on disk, mixed with noise anew in every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import torch
from torch import Tensor

from asd_core.data.simulate import wide
from asd_core.data.simulate.write import generator
from asd_core.files import digest, read_json, write_json, write_with
from asd_core.pretraining.recipe import Sound
from asd_core.types import SAMPLE_RATE, Progress, no_progress

VERSION = 1  # raise it with every change that alters a sample


@dataclass(frozen=True)
class Corpus:
    """Clips of many designs, memory-mapped: machine and noise apart, two microphones."""

    clips: list[np.ndarray]  # per design (states, takes, 2, T) int16
    noise: list[np.ndarray]  # per design (PLACES, 2, T) int16
    states: list[list[dict[str, object]]]  # per design: what `wide.State` says
    kinds: list[str]

    @property
    def classes(self) -> int:
        return sum(len(states) for states in self.states)


def build(folder: Path, sound: Sound, part: str, seed: int, progress: Progress = no_progress) -> Corpus:
    """Record the designs of a `part` ("train" or "held_out") under `folder`; what is there is used again.

    Designs of different parts, and of different seeds, are independent draws.
    """
    count, takes = (sound.designs, sound.takes) if part == "train" else (sound.held_out, sound.held_out_takes)
    samples = round(sound.seconds * SAMPLE_RATE)
    key = digest([VERSION, seed, part, takes, samples, sound.settings, sound.faults])[:12]
    place = folder / f"{part}-{key}"
    place.mkdir(parents=True, exist_ok=True)
    files = [place / f"{number:05d}.json" for number in range(count)]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    work = (joblib.delayed(_record)(place, part, seed, number, takes, samples, sound) for number in missing)
    for done, _ in enumerate(joblib.Parallel(n_jobs=sound.processes, return_as="generator", batch_size=4)(work), 1):
        progress(done / len(missing), f"recording {done} of {len(missing)} designs ({part})")
    facts = [read_json(file) for file in files]
    return Corpus(
        [np.load(file.with_name(f"{file.stem}_clips.npy"), mmap_mode="r") for file in files],
        [np.load(file.with_name(f"{file.stem}_noise.npy"), mmap_mode="r") for file in files],
        [fact["states"] for fact in facts],
        [fact["kind"] for fact in facts],
    )


def _record(place: Path, part: str, seed: int, number: int, takes: int, samples: int, sound: Sound) -> None:
    rng = generator(seed, "pretraining", part, str(number))
    design = wide.draw_design(rng, sound.settings, sound.faults)
    recorded = wide.record(design, takes, samples, rng)
    for name, array in (("clips", recorded.clips), ("noise", recorded.noise)):
        write_with(place / f"{number:05d}_{name}.npy", partial(np.save, arr=array))
    about = {"kind": design.kind, "states": [asdict(state) for state in design.states]}
    write_json(place / f"{number:05d}.json", about)  # last: the design is complete


def _classes(states: list[list[dict[str, object]]], one: bool) -> list[list[int]]:
    """Per design the class of each state: a number of its own, or for "one" the first healthy state's for all of them."""
    found, first = [], 0
    for design in states:
        numbers = [0 if one and not state["fault"] else number for number, state in enumerate(design)]
        found.append([first + number for number in numbers])
        first += len(design)
    return found


class Mixtures:
    """Excerpts of a corpus' clips in noise, at random.

    An example is a design: R recordings of its states, (R, 2, T) waveforms, in noise and without it, and (R,) classes;
    of designs with fewer states some are heard more often. Machine, noise, microphone, signal-to-noise ratio,
    loudness and excerpt are drawn independently for every recording. The noise is that of any design's rooms, so it
    tells nothing.
    """

    def __init__(self, corpus: Corpus, sound: Sound) -> None:
        self.corpus, self.sound = corpus, sound
        self.samples = round(sound.excerpt * SAMPLE_RATE)
        self.class_of = _classes(corpus.states, sound.healthy == "one")
        self.most = max(map(len, corpus.states))

    def __len__(self) -> int:
        return len(self.corpus.clips)

    def load(self, indices: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
        """(B, R, 2, T) and (B, R)"""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        rows = [row for design in indices.tolist() for row in self._rows(rng, design)]
        waves = np.stack([self.mixed(rng, *row) for row in rows])
        classes = np.array([self.class_of[design][state] for design, state, _ in rows])
        shape = len(indices), -1
        return torch.from_numpy(waves).unflatten(0, shape), torch.from_numpy(classes).unflatten(0, shape)

    def _rows(self, rng: np.random.Generator, design: int) -> Iterator[tuple[int, int, int]]:
        clips = self.corpus.clips[design]
        states = np.resize(rng.permutation(len(clips)), self.most)
        left = {state: rng.permutation(clips.shape[1]).tolist() for state in range(len(clips))}
        for state in states.tolist():
            for _ in range(self.sound.per_state):
                yield design, state, left[state].pop() if left[state] else int(rng.integers(clips.shape[1]))

    def mixed(self, rng: np.random.Generator, design: int, state: int, take: int) -> np.ndarray:
        """(2, T) float32: one recording in noise, and the same without."""
        sound = self.sound
        microphone = int(rng.random() < sound.far)
        clip = self.corpus.clips[design][state, take, microphone]
        start = int(rng.integers(len(clip) - self.samples + 1))
        noises = self.corpus.noise[int(rng.integers(len(self)))]
        noise = noises[int(rng.integers(len(noises))), int(rng.integers(2))]
        snr = rng.uniform(*sound.snr) - microphone * sound.far_loss
        gain = 10 ** (rng.uniform(*sound.gain) / 20)
        noise = np.roll(noise, int(rng.integers(len(noise))))[: self.samples]
        machine = clip[start : start + self.samples].astype(np.float32)
        both = np.stack([machine + noise * np.float32(10 ** (-snr / 20)), machine])
        return both * np.float32(gain / 32767)
