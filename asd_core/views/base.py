"""The contract of a view, and the choice of a microphone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, get_args

import numpy as np

from asd_core.types import FAR, NEAR, AsdError, Grid

Channel = Literal["near", "far"]
MICROPHONES: tuple[Channel, ...] = get_args(Channel)  # in the order of a recording's channels


class View(ABC):
    """A pure function of one recording. The constructor's arguments are its options in a system's YAML."""

    name: ClassVar[str]
    # "waveform" (T,), "stereo" (C, T), "logmel" (F, T'); or what a scorer can take as it is: "vector" (D,) or
    # "patches" (T', F, D)
    kind: ClassVar[str]
    layout: Grid | None = None  # of patches
    version: ClassVar[int] = 1  # raise it when results change, so that nothing stale is reused

    @abstractmethod
    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """(C, T) float32 at 16 kHz, channel 0 near and 1 far → the view, float32."""


def microphone(wave: np.ndarray, channel: Channel) -> np.ndarray:
    """One channel (T,) of a recording (C, T).

    Raises:
        AsdError: the far microphone of a one-channel recording was asked for.
    """
    index = {"near": NEAR, "far": FAR}[channel]
    if index >= len(wave):
        raise AsdError(
            f"The {channel} microphone is channel {index}, but the recording has {len(wave)} channel(s). "
            f"Use a system that listens to the near microphone, or record both."
        )
    return wave[index]
