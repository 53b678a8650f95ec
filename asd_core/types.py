"""The values that cross stages. Nothing here imports another module of the package.

Conventions held everywhere: a waveform is (C, T) float32 in [-1, 1] with channel 0 = near microphone and
channel 1 = far microphone; an anomaly score is float64, finite and *higher = more anomalous*; a clip is
known by its ``clip_id`` (``<machine>/<split>/<file name>``) and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

SOURCE, TARGET = "source", "target"
TRAIN, TEST = "train", "test"
NORMAL, ANOMALY = 0, 1
SAMPLE_RATE = 16_000  # Hz; recordings at other rates are resampled when read
NEAR, FAR = 0, 1  # channels

Attributes = tuple[tuple[str, str], ...]
"""Ordered (key, value) pairs as written in the file name; a key may come twice (``mic_2_mic_1``)."""


class Progress(Protocol):
    """Called by long work. It may raise :class:`Cancelled` to stop the work politely."""

    def __call__(self, fraction: float, message: str, **values: float) -> None:
        """`fraction` of the work done in [0, 1], what is being done, and numbers to plot such as ``loss``."""


class AsdError(Exception):
    """A problem the user can act on: the message says what came, what is allowed and what to do next.

    It may quote names from files and servers, so `str` has only printable characters.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class Cancelled(Exception):  # noqa: N818  it is a request that was honoured, not an error
    """The work was asked to stop; whatever it had finished is on disk and will be reused."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording as the detectors may see it: a test clip has no domain, no attributes and no label."""

    clip_id: str
    path: Path
    machine: str
    split: str  # TRAIN or TEST
    section: str  # "00"
    domain: str = ""  # SOURCE or TARGET for training clips, "" for test clips
    attributes: Attributes = ()  # of training clips
    origin: str = "recorded"  # or "generated"

    @property
    def file_name(self) -> str:
        return self.clip_id.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Truth:
    """What only `metrics` and `analysis` may know about a labelled test clip."""

    clip_id: str
    label: int  # NORMAL or ANOMALY
    domain: str
    attributes: Attributes = ()


@dataclass(frozen=True)
class Grid:
    """Where the cells of a patch grid lie in a recording."""

    step: float  # seconds from one time step to the next
    edges: tuple[float, ...]  # (F + 1,) Hz, band f lies between edges f and f + 1


@dataclass(frozen=True)
class EmbeddingSet:
    """Embeddings of clips of one machine, row by row, without any truth."""

    x: np.ndarray  # (N, D) float32; "bands" (N, V, F, D): V summaries over time; "patches" (N, T, F, D), half precision
    clip_ids: np.ndarray  # (N,) str
    sections: np.ndarray  # (N,) str
    domains: np.ndarray  # (N,) str, "" where unknown (test clips)
    attributes: np.ndarray | None = None  # (N,) str, as in file names, of training clips; "" where unknown
    steps: np.ndarray | None = None  # (N,) valid time steps of patches; None: all of them
    grid: Grid | None = None  # where bands and patches lie

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __getitem__(self, rows: np.ndarray | slice) -> EmbeddingSet:
        """The rows picked by a slice, an index or a boolean array; consecutive ones are not copied: patches are large."""
        if isinstance(rows, np.ndarray) and rows.dtype == bool and rows.any():
            run = slice(int(rows.argmax()), len(rows) - int(rows[::-1].argmax()))
            rows = run if rows[run].all() else rows
        attributes, steps = (None if part is None else part[rows] for part in (self.attributes, self.steps))
        own = self.x[rows], self.clip_ids[rows], self.sections[rows], self.domains[rows]
        return EmbeddingSet(*own, attributes, steps, self.grid)


@dataclass(frozen=True)
class Evidence:
    """Where the scores of N clips come from: local scores of U stretches of time × F frequency bands, in the units of
    the score, and the normal clip that each was compared with."""

    values: np.ndarray  # (N, U, F) float32; NaN where a clip has no such stretch
    clip: np.ndarray  # (N, U, F) int32, row of the nearest normal clip among the training clips; −1: none
    unit: np.ndarray  # (N, U, F) int32, stretch of that clip
    start: np.ndarray  # (U,) s
    stop: np.ndarray  # (U,) s; infinite: to the end of the clip
    edges: np.ndarray  # (F + 1,) Hz, band f lies between edges f and f + 1


def printable(text: str) -> str:
    """`text` without what could steer a terminal or reverse the direction of writing: "�" in its place, lines stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)


def no_progress(fraction: float, message: str, **values: float) -> None:
    """The default progress callback: says nothing."""
