"""Spectrograms as images, kept on disk: one analysis, one colour map, one loudness scale per machine; and the
addresses under which the server hands out pictures and sounds."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import quote

from asd_core import api

STYLE = 1  # raise it when pictures are drawn differently
KINDS = {f"{channel}-{axis}": (channel, axis) for channel in api.CHANNELS for axis in api.AXES}
THUMBNAIL = (160, 48)  # pixels


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


def colour_bar() -> list[str]:
    """Colours from quiet to loud, for the scale beside the pictures."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["magma"](step / 8)) for step in range(9)]


def _draw(workspace: api.Workspace, data: str, clip_id: str, channel: str, axis: api.Axis, small: bool) -> bytes:
    from matplotlib import colormaps
    from PIL import Image

    levels = api.spectrogram(workspace, data, clip_id, channel, axis)[::-1]  # high frequencies on top
    low, high = api.loudness_scale(workspace, data, api.clip(workspace, data, clip_id).machine)
    colours = colormaps["magma"]((levels - low) / (high - low), bytes=True)[..., :3]
    image = Image.fromarray(colours, "RGB")
    buffer = io.BytesIO()
    if small:
        image.resize(THUMBNAIL, Image.Resampling.BOX).save(buffer, "WEBP", quality=80)
    else:
        image.save(buffer, "WEBP", lossless=True, method=2)
    return buffer.getvalue()
