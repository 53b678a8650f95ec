"""Does the copy check notice a generator that has learnt its clips by heart? ``python -m tests.memorised``

Thirty recordings of irregular taps in faint noise, each at moments and pitches of its own: nothing but copying gives one of them
back. A generator is overfitted to three of them, deliberately, and its samples are screened against all thirty, once
while it has learnt little and once in the end. Nothing is asked of the judge here: only the copy distance is read.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from asd_core import config
from asd_core.config import validate
from asd_core.data import audio
from asd_core.synthesis.conditions import Condition
from asd_core.synthesis.generator import load_generator, train_generator
from asd_core.synthesis.representation import HOP
from asd_core.synthesis.screening import RealClips, pattern
from asd_core.types import SAMPLE_RATE, TARGET, TRAIN, Clip

RECORDINGS, LEARNT, SAMPLES, TAPS = 30, 3, 31 * HOP, 8


def taps(rng: np.random.Generator) -> np.ndarray:
    """(1, SAMPLES): bursts of 60 to 200 ms at random moments, each in an octave of its own, in faint noise."""
    wave = 0.01 * rng.standard_normal((1, SAMPLES))
    frequency = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE)
    for start in rng.integers(0, SAMPLES - 1600, TAPS):
        low = 200 * 2 ** rng.uniform(0, 4.3)
        burst = np.zeros((1, SAMPLES))
        burst[:, start : start + rng.integers(960, 3200)] = 0.1
        spectrum = np.fft.rfft(burst * rng.standard_normal((1, SAMPLES)))
        wave += np.fft.irfft(spectrum * ((frequency > low) & (frequency < 2 * low)), SAMPLES)
    return wave.astype(np.float32)


def recorded(folder: Path) -> list[Clip]:
    rng = np.random.default_rng(0)
    clips = []
    for number in range(RECORDINGS):
        name = f"section_00_target_train_normal_{number:04d}_noAttribute.wav"
        audio.write(folder / name, taps(rng))
        clips.append(Clip(f"taps/train/{name}", folder / name, "taps", TRAIN, "00", TARGET))
    return clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 3000])
    asked = parser.parse_args()
    base = config.resolve_generator(config.load_generator("diffusion"), config.load_profile("quick"))
    with tempfile.TemporaryDirectory() as place:
        clips = recorded(Path(place))
        real = RealClips(clips)
        for steps in asked.steps:
            train = base.train.model_dump() | {"max_steps": steps, "batch_size": LEARNT, "ema": 0.98}
            changes = {"crop_seconds": 60.0, "untold": 0.0, "train": train}
            options = validate(config.Generator, base.model_dump() | changes, "overfitted")
            with tempfile.TemporaryDirectory() as folder:
                facts = train_generator(clips[:LEARNT], options, Path(folder))
                generator = load_generator(Path(folder), options)
            drawn = generator.draw(Condition.of(clips[0]), SAMPLES, range(8))
            waves = generator.coloured(drawn, generator.equaliser(drawn.white))
            for i, one in enumerate(real.microphones):
                found = list(real.copies([pattern(wave[i]) for wave in waves], one))
                distance = np.array([row["copy_distance"] for row in found])
                flagged = np.mean([row["copy_share"] < base.screening.near_copy for row in found])
                learnt = np.mean([row["copy_of"] in {clip.clip_id for clip in clips[:LEARNT]} for row in found])
                print(
                    f"{steps} steps (loss {facts['loss']:.3f}), {one}: copy distance {np.median(distance):.2f} "
                    f"({distance.min():.2f} to {distance.max():.2f}), recordings among each other "
                    f"{real.nearest[one][0]:.2f} to {real.nearest[one][-1]:.2f}; called copies {flagged:.0%}, nearest is "
                    f"one of the {LEARNT} for {learnt:.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
