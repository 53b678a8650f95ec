"""One clip to look at and to listen to: its microphones over one time axis, where in it the score comes from, and
another clip beside it.

What is seen and heard is made in the browser (assets/player.js, assets/player_audio.js) from pictures and sounds
that the server hands out by id; this module says which. Nothing of it runs again while a clip plays: an unchanged mount leaves it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import streamlit as st

from asd_core import api
from pages.components import pictures, words
from pages.components.context import PAGES, workspace

ASSETS = PAGES.parent / "assets"
DIGITS = 4  # significant ones of a map's values: more cannot be seen
MOST_CELLS = 10_000  # of a map; a larger one would weigh more than the sound

HTML = """
<section class="player" role="group" tabindex="0" aria-label="Player">
  <header>
    <strong class="title"></strong><span class="clock"></span>
    <details>
      <summary title="Keys and mouse (H)">Keys<kbd>H</kbd></summary>
      <dl>
        <dt>Click</dt><dd>go to that moment</dd>
        <dt>Drag</dt><dd>loop that span</dd>
        <dt>Alt-drag, Shift-drag</dt><dd>loop that span and hear only that band</dd>
        <dt>Double-click</dt><dd>set a marker</dd>
        <dt><kbd>Esc</kbd></dt><dd>close this list; take span, band and marker away</dd>
        <dt><kbd>Space</kbd></dt><dd>play or pause</dd>
        <dt><kbd>←</kbd> <kbd>→</kbd></dt><dd>one second back or on, while the player has the focus</dd>
        <dt><kbd>N</kbd></dt><dd>near or far microphone</dd>
        <dt><kbd>L</kbd></dt><dd>loop</dd>
        <dt><kbd>M</kbd></dt><dd>heat map</dd>
        <dt><kbd>B</kbd></dt><dd>this clip or the other one</dd>
        <dt><kbd>O</kbd></dt><dd>only the anomaly</dd>
        <dt><kbd>H</kbd></dt><dd>this list</dd>
      </dl>
    </details>
  </header>
  <div class="row">
    <button class="play" data-do="play" title="Play or pause (Space)"><i></i><span>Play</span><kbd>Space</kbd></button>
    <span class="choice" role="group" aria-label="Microphone" title="Which microphone is heard (N: near or far)">
      <button data-do="pick" data-channel="near">Near</button
      ><button data-do="pick" data-channel="far">Far</button
      ><button data-do="pick" data-channel="both" title="Near in the left ear, far in the right">Both</button>
      <kbd>N</kbd>
    </span>
    <button data-do="loop" title="Repeat the marked span, or all of it (L)">Loop<kbd>L</kbd></button>
    <button data-do="other" title="Switch between this clip and the other one, at the same place (B)"
      >A/B<kbd>B</kbd></button>
    <button data-do="anomaly" title="Hear only what the heat map marks (O)">Only the anomaly<kbd>O</kbd></button>
    <button data-do="matched" title="Bring both microphones and both clips to the same RMS level">Match level</button>
    <select aria-label="Speed" title="Speed; the pitch follows it">
      <option value="0.5">0.5×</option><option value="0.75">0.75×</option><option value="1" selected>1×</option
      ><option value="1.5">1.5×</option><option value="2">2×</option>
    </select>
    <span class="map">
      <button data-do="heat" title="Show the map of local scores (M)">Heat<kbd>M</kbd></button>
      <input type="range" min="0" max="100" step="5" aria-label="Opacity of the heat map" title="Opacity">
      <button data-do="hottest" title="Loop the strongest evidence through its band; again for the next place"
        >Hottest patch</button>
    </span>
  </div>
  <div class="plot"></div>
  <div class="legend"><i></i></div>
  <p class="read"></p>
  <p class="said" role="status"></p>
  <p class="about"></p>
</section>
"""

# what is given here travels with every clip, so the files behind it are fetched by the browser, once
STUB = """
export default function (shared) {
  let end
  let isOver = false
  import(new URL('/asd/assets/player.js', location.origin).href).then((player) => {
    if (!isOver) end = player.default(shared)
  })
  return () => {
    isOver = true
    end?.()
  }
}
"""
_player = st.components.v2.component(
    "asd_player", html=f'<link rel="stylesheet" href="/asd/assets/player.css">{HTML}', js=STUB
)


@dataclass(frozen=True)
class ChannelView:
    name: str
    picture: str  # address; "": there is none, see `reason`
    alt: str
    reason: str = ""


@dataclass(frozen=True)
class Sound:
    """A recording as the player needs it."""

    title: str
    data: str
    clip_id: str
    seconds: float
    sample_rate: int
    axis: api.Axis
    channels: tuple[ChannelView, ...]
    low: float  # dBFS, the darkest and
    high: float  # the brightest level of the pictures
    levels: tuple[tuple[float, float], ...]  # (peak, RMS) in dBFS per channel
    sound: str  # address of the WAV with all channels


@dataclass(frozen=True)
class Heat:
    """Local scores of the clip: U stretches of time × F bands; without values, the `reason` why there are none."""

    values: Sequence[Sequence[float]] = ()  # (U, F), in `unit`
    start: Sequence[float] = ()  # (U,) s
    stop: Sequence[float] = ()  # (U,) s; infinite: to the end of the clip
    edges: Sequence[float] = ()  # (F + 1,) Hz
    low: float = 0.0  # of the colour scale, transparent
    high: float = 1.0  # full colour
    threshold: float | None = None  # drawn as a contour
    branch: str = ""
    unit: str = ""  # sentences on what the colours mean
    places: Sequence[tuple[float, float | None, float, float, float, str]] = ()
    """(start, stop in s, low, high in Hz, score, words), strongest first; stop None: to the end of the clip."""
    reason: str = ""
    channel: str = ""  # near or far, the one the map belongs to; "": it is drawn over both


def drawn(found: api.Heat) -> Heat:
    """A branch's map as the player draws it."""
    own = found.map
    if own.values.size > MOST_CELLS:
        return Heat(reason=f"The map has {own.values.size:,} cells, too many to draw.", branch=found.branch)
    return Heat(
        values=own.values.tolist(),
        start=own.start.tolist(),
        stop=own.stop.tolist(),
        edges=own.edges.tolist(),
        low=found.low,
        high=found.high,
        threshold=found.limit,
        branch=found.branch,
        unit=_sentences(found),
        places=[(p.start, p.stop, p.low, p.high, p.score, _compared(p)) for p in found.places],
        channel=found.channel,
    )


def _compared(place: api.Place) -> str:
    if not place.match:
        return "nearest to an invented example"
    at = "" if place.match_start is None else f" at {place.match_start:.1f} s"
    return f"nearest to {words.clip_title(place.match)}{at}"


def _sentences(found: api.Heat) -> str:
    """What a map's colours and its contour stand for."""
    what, _, scale = found.unit.partition("; scale: ")
    what = f"{what[:1].upper()}{what[1:]}."
    return f"{what} Orange: {scale}; red: above it. Contour at {found.limit:.4g}: {found.limit_words}."


def sound(data: str, clip_id: str, axis: api.Axis) -> tuple[Sound, api.ClipFacts]:
    """A clip for the player, and its file's facts.

    Raises:
        AsdError: the file is missing or cannot be read.
    """
    facts = api.clip_facts(workspace(), data, clip_id)
    version = api.picture_key(workspace(), data, clip_id)
    low, high = api.loudness_scale(workspace(), data, api.clip(workspace(), data, clip_id).machine)
    views = []
    for number, channel in enumerate(api.CHANNELS):
        if number < facts.channels:
            picture = pictures.picture_url(data, clip_id, f"{channel}-{axis}", version)
            alt = f"Spectrogram of the {channel} microphone, {facts.seconds:.1f} s, {axis} frequency axis"
            views.append(ChannelView(channel.capitalize(), picture, alt))
        else:
            views.append(ChannelView(channel.capitalize(), "", "", "This file has one channel only."))
    made = Sound(
        title=words.clip_title(clip_id),
        data=data,
        clip_id=clip_id,
        seconds=facts.seconds,
        sample_rate=facts.sample_rate,
        axis=axis,
        channels=tuple(views),
        low=low,
        high=high,
        levels=facts.levels,
        sound=pictures.sound_url(data, clip_id, "both", version),
    )
    return made, facts


def mount(
    clip: Sound,
    *,
    key: str = "player",
    other: Sound | None = None,
    heat: Heat | None = None,
    anomaly: str | None = None,
    autoplay: bool = False,
    play_other: int = 0,
    compact: bool = False,
    about: str = "",
    on_marker: Callable[[], None] | None = None,
) -> dict[str, Any] | None:
    """Draw the player.

    Args:
        other: what the A/B switch goes to
        heat: None where no map belongs to such a recording; its controls are then left out
        anomaly: address of a WAV as long as the clip, with only what the map marks
        autoplay: whether a new clip plays at once, as soon as the browser allows it: after the first click or key
        play_other: how often the other clip was asked for; one more plays it
        compact: lower pictures and no list of keys, for two players side by side
        about: what the clip is looked at for, such as a run; when it or the clip changes, a column that scrolls by itself
            goes back to its top
        on_marker: called after a double-click

    Returns:
        the marker {"clip_id", "seconds", "hertz"} if one was set on this clip
    """
    state = _player(
        key=key,
        data={
            "clip": asdict(clip),
            "other": asdict(other) if other else None,
            "heat": _compact(heat, clip.seconds) if heat else None,
            "anomaly": anomaly,
            "autoplay": autoplay,
            "playOther": play_other,
            "compact": compact,
            "about": about,
            "ticks": api.ticks(clip.axis),
            "range": [api.LOG_FROM if clip.axis == "log" else 0.0, api.SAMPLE_RATE / 2],
            "palette": _palette(),
        },
        on_marker_change=on_marker or _nothing,
    )
    marker = state.get("marker")
    return marker if marker and marker["clip_id"] == clip.clip_id else None


def _nothing() -> None:
    """A state needs a callback to exist."""


def _compact(heat: Heat, seconds: float) -> dict[str, Any]:
    """The map as it is sent: rounded, nothing infinite; without one that cannot be drawn, the reason."""
    values = np.asarray(heat.values, dtype=np.float64)
    if not np.isfinite(values).all():
        return asdict(Heat(reason=f"The map of {heat.branch} holds values that are not finite, so it is not drawn."))
    if values.size > MOST_CELLS:
        return asdict(Heat(reason=f"The map of {heat.branch} has {values.size} cells; {MOST_CELLS} can be drawn."))
    return asdict(heat) | {
        "values": [[float(f"{one:.{DIGITS}g}") for one in row] for row in values],
        "low": float(heat.low),
        "high": float(heat.high),
        "threshold": None if heat.threshold is None else float(heat.threshold),
        "start": [round(float(at), 4) for at in heat.start],
        "stop": [round(min(float(at), seconds), 4) for at in heat.stop],
        "edges": [round(float(hertz), 2) for hertz in heat.edges],
        "places": [
            {
                "start": round(float(start), 4),
                "stop": round(seconds if stop is None else min(float(stop), seconds), 4),
                "low": round(float(low), 2),
                "high": round(float(high), 2),
                "score": float(f"{score:.{DIGITS}g}"),
                "words": words,
            }
            for start, stop, low, high, score, words in heat.places
        ],
    }


@cache
def _palette() -> str:
    """The pictures' 256 colours from quiet to loud, six hexadecimal digits each: from them the pointer reads levels."""
    from matplotlib import colormaps

    return bytes(colormaps["magma"](np.arange(256), bytes=True)[:, :3]).hex()
