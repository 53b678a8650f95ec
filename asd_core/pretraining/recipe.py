"""What a pre-training is made of: sound, network, objective, training. Read from configs/pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from asd_core.config import CONFIGS, Component, Strict, Train, load
from asd_core.registry import did_you_mean
from asd_core.types import AsdError

FOLDER = CONFIGS / "pretraining"


class Sound(Strict):
    """Simulated designs and how they are mixed with noise."""

    designs: int = Field(ge=2)
    settings: int = Field(default=2, ge=1)  # ways in which a design is run
    faults: int = Field(default=3, ge=0)  # of a design, each in every setting
    takes: int = Field(default=6, ge=1)  # recordings of every state
    held_out: int = Field(default=40, ge=1)  # designs that only the evaluation hears
    held_out_takes: int = Field(default=12, ge=4)
    seconds: float = Field(default=3.0, gt=0.5)
    excerpt: float = Field(default=2.585, gt=0.2)  # s, heard at once in training; 1.305 s are 8 patches, 2.585 s are 16
    snr: tuple[float, float] = (-2.0, 18.0)  # dB at the near microphone
    far: float = Field(default=0.35, ge=0, le=1)  # share of clips of the far microphone
    far_loss: float = 6.0  # dB, what the far microphone loses
    gain: tuple[float, float] = (-6.0, 6.0)  # dB
    per_state: int = Field(default=2, ge=1)  # recordings of a state in one example
    # of a design's settings: classes of their own, or "one", so that running it otherwise is no reason to be far away
    healthy: Literal["each", "one"] = "each"
    processes: int = Field(default=2, ge=1)


class Objective(Strict):
    """Classes of states and hidden patches."""

    # "contrast" within the batch, or a loss of `training.losses` over all states; none: hidden patches alone
    loss: Component | None = None
    pooling: Component = Component(
        name="mean"
    )  # of the last layer's tokens; what systems that use it frozen should take
    masked: float = Field(default=0.3, ge=0, lt=1)  # share of the patches that are hidden
    reconstruction: float = Field(default=1.0, ge=0)  # weight of the hidden patches' error
    statistics: float = Field(
        default=0.0, ge=0
    )  # weight of the error of the noiseless clip's spectrum, see `objective`
    head: int | None = Field(default=None, ge=8)  # width of a projection between embedding and loss


class Recipe(Strict):
    name: str
    title: str = ""
    seed: int = 0
    threads: int = Field(default=2, ge=1)  # of the processor; with another number, sums round otherwise
    rate_every: int = Field(default=500, ge=1)  # steps between two ratings on held-out designs
    architecture: dict[str, Any]  # of the BEATs trunk
    sound: Sound
    objective: Objective
    train: Train


def load_recipe(name: str) -> Recipe:
    """A recipe of configs/pretraining by name, or any YAML file by path.

    Raises:
        AsdError: there is none, or it is not valid.
    """
    if name.endswith((".yaml", ".yml")):
        return load(Recipe, Path(name))
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if name not in known:
        raise AsdError(f'There is no recipe "{name}". Known: {", ".join(known)}.{did_you_mean(name, known)}')
    return load(Recipe, FOLDER / f"{name}.yaml")
