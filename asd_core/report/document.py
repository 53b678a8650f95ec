"""What a report consists of, before it is HTML or PDF. All text is plain text; whoever writes it escapes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Tone = Literal["", "note", "warning"]


@dataclass(frozen=True)
class Text:
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Terms with what is to be said of each."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """Cells as written; the first column names the row, the others hold figures."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    means: int = 0  # how many rows at the end sum up those above
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure in the colours of `charts`; `alt` says what it shows."""

    figure: Figure
    alt: str


@dataclass(frozen=True)
class Picture:
    label: str
    image: Image
    alt: str


@dataclass(frozen=True)
class ClipCard:
    """One clip: its name, what is known of it, and how it looks."""

    name: str
    lines: tuple[str, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Code:
    caption: str
    text: str


Block = Text | Heading | Facts | Table | Chart | ClipCard | Code


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    title: str
    subtitle: str
    kind: str  # of the recordings, such as "simulated"; stands beside the title
    made: float  # seconds since 1970
    sections: tuple[Section, ...]
