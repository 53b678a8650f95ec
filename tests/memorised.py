"""Does the copy check notice a generator that has learnt its clips by heart? ``python -m tests.memorised``

A generator is overfitted to three clips of one machine, deliberately, and its samples are screened against all the
machine's recordings, once while it has heard little and once more in the end. Nothing is asked of the judge here: only
the copy distance is read.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from asd_core import config
from asd_core.config import validate
from asd_core.data import audio
from asd_core.data.manifest import open_dataset
from asd_core.synthesis.conditions import Condition
from asd_core.synthesis.generator import load_generator, train_generator
from asd_core.synthesis.screening import RealClips, pattern
from asd_core.types import SAMPLE_RATE, TRAIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--machine", default="ToyCarSim")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of each clip: short ones are learnt by heart sooner"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 3000])
    parser.add_argument("--clips", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        judge_copies(asked, Path(folder))


def judge_copies(asked: argparse.Namespace, place: Path) -> None:
    length = int(asked.seconds * SAMPLE_RATE)
    every = []
    for clip in open_dataset(asked.data).of(asked.machine, TRAIN):
        path = place / clip.file_name
        audio.write(path, audio.read(clip.path)[:, :length])
        every.append(replace(clip, path=path))
    clips = [clip for clip in every if clip.domain == "target"][: asked.clips]
    real = RealClips(every)
    condition = Condition.of(clips[0])
    base = config.resolve_generator(config.load_generator("diffusion"), config.load_profile("quick"))
    for steps in asked.steps:
        changes = {"crop_seconds": 60.0, "untold": 0.0}
        train = base.train.model_dump() | {"max_steps": steps, "batch_size": 3, "ema": 0.98}
        options = validate(config.Generator, base.model_dump() | changes | {"train": train}, "overfitted")
        with tempfile.TemporaryDirectory() as folder:
            facts = train_generator(clips, options, Path(folder))
            generator = load_generator(Path(folder), options)
        drawn = generator.draw(condition, length, range(8))
        waves = generator.coloured(drawn, generator.equaliser(drawn.white))
        for i, one in enumerate(real.microphones):
            found = list(real.copies([pattern(wave[i]) for wave in waves], one))
            distance = np.array([row["copy_distance"] for row in found])
            flagged = np.mean([row["copy_share"] < base.screening.near_copy for row in found])
            learnt = np.mean([row["copy_of"] in {clip.clip_id for clip in clips} for row in found])
            print(
                f"{steps} steps (loss {facts['loss']:.3f}), {one}: copy distance {np.median(distance):.2f} "
                f"({distance.min():.2f} to {distance.max():.2f}), recordings among each other "
                f"{real.nearest[one][0]:.2f} to {real.nearest[one][-1]:.2f}; called copies {flagged:.0%}, nearest is one "
                f"of the {len(clips)} for {learnt:.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
