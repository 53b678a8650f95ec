"""Spectrograms as images, kept on disk: one analysis, one colour map, one loudness scale per machine; and the
addresses under which the server hands out pictures and sounds.

Differences of spectrograms are dark where nothing differs, so that they read like the spectrograms do.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote, urlencode

import numpy as np

from asd_core import api

STYLE = 1  # raise it when pictures are drawn differently
KINDS = {f"{channel}-{axis}": (channel, axis) for channel in api.CHANNELS for axis in api.AXES}
THUMBNAIL = (160, 48)  # pixels
LOUDER_DB = 20.0  # both ends of the scale of a difference


def picture(workspace: api.Workspace, data: str, kind: str, clip_id: str) -> Path:
    """File of the lossless WebP image of a clip; kind is "<channel>-<axis>" or "thumbnail"."""
    path = workspace.cache / "pictures" / f"{api.picture_key(workspace, data, clip_id)}-{kind}-{STYLE}.webp"
    if not path.is_file():
        channel, axis = KINDS.get(kind, ("near", "mel"))
        api.write_bytes(path, _draw(workspace, data, clip_id, channel, axis, kind == "thumbnail"))
    return path


def sound_url(data: str, clip_id: str, channel: str, version: str) -> str:
    return f"/asd/sounds/{quote(data, safe='')}/{channel}/{quote(clip_id)}?v={version}"


def picture_url(data: str, clip_id: str, kind: str, version: str) -> str:
    return f"/asd/spectrograms/{quote(data, safe='')}/{kind}/{quote(clip_id)}?v={version}"


def thumbnail_url(data: str, clip_id: str, version: str) -> str:
    """Short, for a table has hundreds of them and is sent again whenever another of its rows is picked."""
    return f"/asd/thumbnails/{quote(data, safe='')}/{api.short_id(clip_id)}?v={version}"


def difference(
    workspace: api.Workspace, data: str, kind: str, clip_id: str, others: Sequence[str], others_data: str
) -> Path:
    """File of the lossless WebP image of `api.difference`; kind is "<channel>-<axis>"."""
    key = difference_key(workspace, data, clip_id, others, others_data)
    path = workspace.cache / "differences" / f"{key}-{kind}-{STYLE}.webp"
    if not path.is_file():
        channel, axis = KINDS[kind]
        levels = api.difference(workspace, data, clip_id, others, channel, axis, others_data)
        api.write_bytes(path, _image((levels[::-1] + LOUDER_DB) / (2 * LOUDER_DB), "berlin"))
    return path


def difference_key(
    workspace: api.Workspace, data: str, clip_id: str, others: Sequence[str], others_data: str | None = None
) -> str:
    """Changes when any of the recordings does.

    Raises:
        AsdError: one of them is missing.
    """
    keys = [api.picture_key(workspace, others_data or data, other) for other in others]
    return api.digest([api.picture_key(workspace, data, clip_id), *keys])


def difference_url(
    data: str, clip_id: str, kind: str, others: Sequence[str], version: str, others_data: str | None = None
) -> str:
    more = urlencode([*(("other", other) for other in others), ("of", others_data or data), ("v", version)])
    return f"/asd/difference/{quote(data, safe='')}/{kind}/{quote(clip_id)}?{more}"


def anomaly_url(run_id: str, clip_id: str, branch: str, version: str) -> str:
    return f"/asd/anomaly/{quote(run_id, safe='')}/{quote(clip_id)}?{urlencode({'branch': branch, 'v': version})}"


def colour_bar(colours: str = "magma") -> list[str]:
    """Colours from low to high, for the scale beside the pictures: "magma" of levels, "berlin" of differences."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[colours](step / 8)) for step in range(9)]


def framed(
    url: str,
    alt: str,
    ticks: Sequence[tuple[float, str]],
    seconds: float,
    scale: tuple[float, float],
    colours: Sequence[str],
) -> str:
    """A still picture between its scales, as HTML: Hz on the left, dB on the right, seconds below.

    Args:
        ticks: (position, label) as of `api.ticks`
        scale: dB at both ends of `colours`
    """
    high = "position:relative;height:10.5rem"
    at = "position:absolute;white-space:nowrap;opacity:0.85"
    step = next((size for size in (0.1, 0.2, 0.5, 1, 2, 5, 10) if seconds / size <= 6), 30)
    hertz = [
        f'<span style="{at};right:0.4rem;transform:translateY(50%);bottom:{100 * min(place, 0.97):.1f}%">{label}</span>'
        for place, label in ticks
    ]
    levels = [
        f'<span style="{at};left:1.6rem;transform:translateY(50%);bottom:{100 * min(max(part, 0.05), 0.95):.0f}%">'
        f"{_signed(scale[0] + (scale[1] - scale[0]) * part)} dB</span>"
        for part in (0.0, 0.5, 1.0)
    ]
    times = [
        f'<span style="{at};transform:translateX(-50%);left:{100 * t / seconds:.2f}%">{t:g} s</span>'
        for t in np.arange(0, seconds + 1e-9, step).round(1)
    ]
    bar = f"linear-gradient(to top,{','.join(colours)})"
    return (
        '<div style="display:grid;grid-template-columns:3.2rem 1fr 4.2rem;font-size:0.75rem">'
        f'<div style="{high}">{"".join(hertz)}</div>'
        f'<img src="{escape(url)}" alt="{escape(alt)}" style="width:100%;height:10.5rem;border-radius:3px">'
        f'<div style="{high}"><i style="position:absolute;left:0.6rem;width:0.7rem;top:0;bottom:0;border-radius:2px;'
        f'background:{bar}"></i>{"".join(levels)}</div>'
        f'<div></div><div style="position:relative;height:1.4rem">{"".join(times)}</div></div>'
    )


def _signed(value: float) -> str:
    return "0" if abs(value) < 0.5 else f"{value:+.0f}".replace("-", "−")


def _draw(workspace: api.Workspace, data: str, clip_id: str, channel: str, axis: api.Axis, small: bool) -> bytes:
    levels = api.spectrogram(workspace, data, clip_id, channel, axis)[::-1]  # high frequencies on top
    low, high = api.loudness_scale(workspace, data, api.clip(workspace, data, clip_id).machine)
    return _image((levels - low) / (high - low), "magma", THUMBNAIL if small else None)


def _image(shares: np.ndarray, colours: str, size: tuple[int, int] | None = None) -> bytes:
    """WebP of values (rows, frames) in 0…1, the first row on top; lossless in its own size, small files in another."""
    from matplotlib import colormaps
    from PIL import Image

    image = Image.fromarray(colormaps[colours](shares, bytes=True)[..., :3], "RGB")
    buffer = io.BytesIO()
    if size:
        image.resize(size, Image.Resampling.BOX).save(buffer, "WEBP", quality=80)
    else:
        image.save(buffer, "WEBP", lossless=True, method=2)
    return buffer.getvalue()
