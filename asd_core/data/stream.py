"""Many recordings in order, decoded ahead by threads (decoding and FFTs run outside Python's lock)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from asd_core.data.audio import read
from asd_core.types import AsdError, Clip

READ_AHEAD = 32  # clips decoded together: bounds the memory

Transform = Callable[[np.ndarray], np.ndarray]


def load(clip: Clip, transform: Transform) -> np.ndarray:
    """`transform` of one recording (C, T); an error names the file."""
    wave = read(clip.path)
    try:
        return transform(wave)
    except AsdError as error:
        raise AsdError(f"{clip.path}: {error}") from error


def stream(clips: Sequence[Clip], transform: Transform) -> Iterator[np.ndarray]:
    """`transform` of each recording, in the order of `clips`."""
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(clips), READ_AHEAD):
            yield from pool.map(lambda clip: load(clip, transform), clips[first : first + READ_AHEAD])
