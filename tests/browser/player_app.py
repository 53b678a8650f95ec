"""The player alone on a page, over a workspace: ``?clip=…&other=…&odd=missing`` say with what.

The map is invented. What stands for the sound of the anomaly is another clip. (`streamlit run` looks for st.App.)
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import streamlit as st

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from asd_core import api  # noqa: E402  found by the line above
from pages.components import context, player  # noqa: E402
from pages.shell.routes import middleware, routes  # noqa: E402


def heat(seconds: float, odd: str) -> player.Heat:
    if odd == "no-map":
        return player.Heat(reason="This system keeps no map: it looks at the clip as a whole.")
    edges = np.array([0, 250, 500, 1000, 2000, 4000, 8000])
    start = np.linspace(0, seconds, 12, endpoint=False)
    values = np.random.default_rng(3).gamma(2, 0.1, (12, 6))
    values[7:9, 3] = (0.9, 0.8)
    values[4, 4] = 0.7
    places = [(start[u], start[u + 1], edges[f], edges[f + 1], values[u, f], "") for u, f in ((7, 3), (8, 3), (4, 4))]
    stop = [*start[1:], np.inf]
    return player.Heat(
        values.tolist(), start.tolist(), stop, edges.tolist(), 0.1, 0.85, 0.6, "local", "local score", places
    )  # fmt: skip


def main() -> None:
    asked = st.query_params
    odd = asked.get("odd", "")
    st.set_page_config(page_title="Player", layout="wide", initial_sidebar_state="collapsed")
    data = asked.get("data") or next(iter(api.data_sets(context.workspace())))
    st.title("Player")
    clips = api.data_set(context.workspace(), data).clips
    ids = [one.clip_id for one in clips if one.split == "test"]
    with st.container(horizontal=True):
        st.text_input("Text", key="text")
        st.button("Run again", key="again")
        is_away = st.checkbox("Away")
        st.button("Next", key="next", shortcut="J", on_click=step, args=(ids,))
        st.segmented_control("Axis", api.AXES, default="mel", key="axis", required=True)
    st.dataframe({"clip": ids[:4]}, key="table", selection_mode="single-row", on_select="rerun", height=110)
    st.session_state["runs"] = st.session_state.get("runs", 0) + 1
    st.container(key="runs").caption(f"Run {st.session_state['runs']}")
    clip_id = asked.get("clip") or ids[0]
    clip, _ = player.sound(data, clip_id, st.session_state["axis"])
    other, _ = player.sound(data, asked.get("other") or ids[1], st.session_state["axis"])
    if odd == "missing":
        clip = replace(clip, sound=clip.sound.replace("/both/", "/both/nowhere/"))
    if odd == "mono":
        absent = player.ChannelView("Far", "", "", "This file has one channel only.")
        near = clip.sound.replace("/both/", "/near/")
        clip = replace(clip, channels=(clip.channels[0], absent), levels=clip.levels[:1], sound=near)
    if is_away:
        return
    left, _ = st.columns([int(asked.get("wide", 3)), int(asked.get("rest", 2))])
    with left:
        marker = player.mount(
            clip, other=other, heat=heat(clip.seconds, odd), anomaly=other.sound, autoplay="autoplay" in asked
        )  # fmt: skip
        if "two" in asked:
            player.mount(other, key="second", compact=True)
    if marker:
        st.text(f"Marker at {marker['seconds']:.2f} s")


def step(ids: list[str]) -> None:
    now = st.query_params.get("clip") or ids[0]
    st.query_params["clip"] = ids[(ids.index(now) + 1) % len(ids)]


if __name__ == "__main__":
    main()
else:
    app = st.App(__file__, routes=routes, middleware=middleware)
