"""The waveform of one microphone, as recorded."""

from __future__ import annotations

import numpy as np

from asd_core.views.base import Channel, View, microphone


class Stereo(View):
    """(C, T) samples of all microphones, for trainings that mix or tell them apart."""

    name = "stereo"
    kind = "stereo"

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return wave


class Waveform(View):
    """(T,) samples in [-1, 1]."""

    name = "waveform"
    kind = "waveform"

    def __init__(self, channel: Channel = "near") -> None:
        self.channel: Channel = channel

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        return microphone(wave, self.channel)
