"""The map of clips: a Plotly figure that stays as it is, and a small script beside it.

Streamlit's own way of telling what was picked on a figure sends 124 bytes per point with every later click, and a ring
drawn in the figure would make it a new one, without the selection. (Measured with 14,400 points: 488 kB per click with
a third of them selected. ECharts sends the figure again for every ring, 105 kB, and forgets the zoom.) So the figure is
only shown, and `assets/map_link.js` listens to it: one bit per point for a selection, 0.2 kB for a step.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from asd_core import api
from pages.components import charts, words
from pages.components.context import PAGES

KEY, LINK = "clip_map", "clip_map_link"
HEIGHT = 600
FULL = 32_000  # coordinates are sent as 16-bit numbers: 4 bytes per clip
MOST_GROUPS = 16  # of a colouring by words; the rarest share the last

GREY, OTHER = "#7A8794", "#A9B1B9"
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#B8A400", "#1B7F8C", "#A6542B"),
    *("#6A8F2F", "#E377C2", "#4C5FA8", "#C44E52", "#5FBF9F", "#8A8A8A"),
)
COLOURS = {
    "domain": charts.DOMAIN_COLOURS,
    "label": {"normal": "#0072B2", "anomaly": charts.THRESHOLD},
    "split": {"train": GREY, "test": "#0072B2", "generated": "#CC79A7"},
    "outcome": {"FP": "#E69F00", "FN": charts.THRESHOLD, "TP": "#009E73", "TN": "#0072B2"},
}
UNKNOWN = {
    "domain": "domain unknown",
    "label": "no label",
    "outcome": "not judged",
    "attributes": "attributes unknown",
}
SHAPES = {
    "training": ("circle", 4, 0.45),
    "normal": ("circle", 6, 0.8),
    "anomaly": ("x", 7, 0.9),
    "unknown": ("square", 6, 0.8),
    "generated": ("diamond", 7, 0.9),
}
SHAPES_IN_WORDS = "● normal (small: training) · × anomaly · ■ label unknown · ◆ generated"
SCALES = {  # neither end nor middle vanishes on white or on black
    "percentile": (["#2F6DB0", "#9AA3AB", "#E8A200"], 0, 100),
    "disagreement": (["#C93B3B", "#A9B1B9", "#1F7FC4"], -100, 100),
}
TITLES = {"percentile": "Percentile", "disagreement": "Points"}
CONFIG: dict[str, Any] = charts.CONFIG | {
    "scrollZoom": True,
    "modeBarButtonsToRemove": [],
    "modeBarButtons": [
        ["lasso2d", "select2d", "pan2d", "zoom2d"],
        ["zoomIn2d", "zoomOut2d", "resetScale2d"],
        ["toImage"],
    ],
}

_link = st.components.v2.component(
    "asd_map_link", html="<span></span>", js=(PAGES.parent / "assets" / "map_link.js").read_text()
)


@dataclass(frozen=True)
class Map:
    """A figure and what its points are."""

    key: str  # names the figure
    figure: go.Figure
    ids: np.ndarray  # (N,) clip ids in the order of the figure's traces
    sizes: list[int]  # points of each trace
    places: dict[str, tuple[int, int]]  # of every clip, as drawn


def build(
    key: str, clips: pd.DataFrame, colour: str, contours: bool, axes: Sequence[str], chosen: frozenset[str]
) -> Map:
    """The map of `api.mapped_clips`.

    Args:
        key: names all of the other arguments
        colour: one of the columns
        axes: what the axes are called; none for a map whose axes mean nothing
        chosen: clip ids that are selected from the beginning
    """
    places = np.stack([_quantised(clips["x"]), _quantised(clips["y"])], axis=1)
    figure, order = go.Figure(), []
    is_chosen = clips["clip_id"].isin(chosen).to_numpy()
    for name, rows, shape, marker, legend in _traces(clips, colour):
        symbol, size, opacity = SHAPES[shape]
        shown = html.escape(name)
        figure.add_scattergl(
            x=places[rows, 0],
            y=places[rows, 1],
            mode="markers",
            name=shown,
            legendgroup=shown,
            showlegend=legend,
            marker={"symbol": symbol, "size": size, "opacity": opacity, **marker},
            selectedpoints=np.flatnonzero(is_chosen[rows]).tolist() if is_chosen.any() else None,
            unselected={"marker": {"opacity": 0.12}},
            hovertemplate=_hover(shown, shape, colour),
        )
        order.append(rows)
    if contours:
        across, up, crowd = api.crowding(places[:, 0].astype(float), places[:, 1].astype(float))
        figure.add_contour(
            x=across.astype(np.float32), y=up.astype(np.float32), z=np.round(255 * crowd).astype(np.uint8),
            contours={"start": 8, "end": 248, "size": 30, "coloring": "lines"}, line={"width": 1}, showscale=False,
            colorscale=[[0, GREY], [1, GREY]], hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    if colour in SCALES:
        figure.update_layout(coloraxis=_colour_axis(colour))
    _lay_out(figure, axes)
    figure.update_layout(meta=key)
    ids = clips["clip_id"].to_numpy()
    where = {clip_id: (int(x), int(y)) for clip_id, (x, y) in zip(ids, places, strict=True)}
    return Map(key, figure, ids[np.concatenate(order)], list(map(len, order)), where)


def show(
    shown: Map, clip_id: str, alt: str, on_click: Callable[[str], None], on_draw: Callable[[list[str]], None]
) -> None:
    """Draw the map with a ring round a clip.

    Args:
        on_click: called with the id of a clicked clip
        on_draw: called with the ids that were drawn round; none when the drawing was taken away
    """
    st.plotly_chart(shown.figure, key=KEY, config=CONFIG, alt=alt)

    def clicked() -> None:
        event = st.session_state[LINK]["clicked"]
        if event and event.get("figure") == shown.key and 0 <= int(event["point"]) < len(shown.ids):
            on_click(str(shown.ids[int(event["point"])]))

    def drawn() -> None:
        event = st.session_state[LINK]["drawn"]
        if event and event.get("figure") == shown.key:
            on_draw([str(clip_id) for clip_id in shown.ids[unpacked(event["bits"], len(shown.ids))]])

    ring = shown.places.get(clip_id)
    facts = {"key": KEY, "figure": shown.key, "sizes": shown.sizes, "clip": clip_id, "ring": ring and list(ring)}
    _link(key=LINK, data=facts, height=1, on_clicked_change=clicked, on_drawn_change=drawn)


def unpacked(text: str, count: int) -> np.ndarray:
    """(count,) bool from base64 of one bit per point; all False where the length is another, as nothing was drawn."""
    packed = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    if len(packed) != -(-count // 8):
        return np.zeros(count, dtype=bool)
    return np.unpackbits(packed, count=count, bitorder="little").astype(bool)


def groups(clips: pd.DataFrame, colour: str) -> pd.Series:
    """The group of every clip in a colouring by words, as the legend calls it."""
    words_ = clips[colour].where(clips[colour] != "", UNKNOWN.get(colour, "unknown"))
    if colour == "outcome":
        return words_.replace(words.OUTCOMES)
    counts = words_.value_counts()
    if len(counts) > MOST_GROUPS:
        rare = counts.index[MOST_GROUPS - 1 :]
        words_ = words_.where(~words_.isin(rare), f"{len(rare)} others")
    return words_


def _traces(clips: pd.DataFrame, colour: str) -> list[tuple[str, np.ndarray, str, dict[str, Any], bool]]:
    """(group, rows, shape, marker, whether it stands in the legend); large groups first, so that small ones lie on top."""
    shapes = _shapes(clips)
    found: list[tuple[str, np.ndarray, str, dict[str, Any], bool]] = []
    if colour in SCALES:
        values = clips[colour].to_numpy()
        for shape in SHAPES:
            for name, part in (("not scored", np.isnan(values)), (shape, ~np.isnan(values))):
                rows = np.flatnonzero(part & (shapes == shape))
                if len(rows):
                    known = {"color": np.round(values[rows]).astype(np.int8), "coloraxis": "coloraxis"}
                    found.append((name, rows, shape, {"color": GREY} if name == "not scored" else known, True))
        return found
    names = groups(clips, colour)
    counts = names.value_counts()
    colours = _colours(colour, list(counts.index))
    for name in counts.index:
        own = (names == name).to_numpy()
        present = [shape for shape in SHAPES if (own & (shapes == shape)).any()]
        for shape in present:
            in_legend = shape == next((one for one in present if one != "training"), shape)  # which is too faint
            found.append(
                (str(name), np.flatnonzero(own & (shapes == shape)), shape, {"color": colours[name]}, in_legend)
            )
    return found


def _colours(colour: str, names: list[str]) -> dict[str, str]:
    """Colours with a meaning where there are some; else one per name, the same in every map of these clips."""
    meant = COLOURS.get(colour, {})
    if colour == "outcome":
        meant = {words.OUTCOMES[code]: value for code, value in meant.items()}
    free = iter(PALETTE)
    own = {name: meant.get(name) or next(free, OTHER) for name in sorted(names)}
    return own | {name: OTHER for name in names if name == UNKNOWN.get(colour, "unknown") or name.endswith(" others")}


def _shapes(clips: pd.DataFrame) -> np.ndarray:
    label = clips["label"].to_numpy()
    return np.select(
        [clips["split"] == "train", clips["split"] == "generated", label == "normal", label == "anomaly"],
        ["training", "generated", "normal", "anomaly"],
        "unknown",
    )


def _hover(name: str, shape: str, colour: str) -> str:
    if colour in SCALES:
        return f"{shape}<br>%{{marker.color}}<extra></extra>"
    return f"{name}<br>{shape}<extra></extra>"


def _quantised(values: pd.Series) -> np.ndarray:
    """Coordinates (N,) on a 16-bit scale: finer than a pixel at any zoom that matters."""
    low, high = float(values.min()), float(values.max())
    middle, reach = (low + high) / 2, max((high - low) / 2, 1e-12)
    return np.round((values.to_numpy() - middle) / reach * FULL).astype(np.int16)


def _colour_axis(colour: str) -> dict[str, Any]:
    scale, low, high = SCALES[colour]
    bar = {"title": TITLES[colour], "thickness": 12, "len": 0.6, "y": 0.5}
    return {"colorscale": scale, "cmin": low, "cmax": high, "colorbar": bar}


def _lay_out(figure: go.Figure, axes: Sequence[str]) -> None:
    bare = {
        "showgrid": False,
        "zeroline": False,
        "showticklabels": False,
        "ticks": "",
        "range": [-1.05 * FULL, 1.05 * FULL],
    }
    names = [*axes, "", ""]
    figure.update_xaxes(title_text=names[0], **bare)
    figure.update_yaxes(title_text=names[1], **bare)
    figure.update_layout(
        template="none",
        height=HEIGHT,
        margin={"l": 30 if axes else 6, "r": 6, "t": 36, "b": 30 if axes else 6},
        legend={
            "orientation": "h",
            "y": -0.02 if not axes else -0.07,
            "yanchor": "top",
            "x": 0,
            "itemsizing": "constant",
        },
        dragmode="lasso",
        hovermode="closest",
        uirevision="stays",
    )
