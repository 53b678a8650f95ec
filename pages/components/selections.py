"""Saved selections, to be picked from a list."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from asd_core import api
from pages.components import words
from pages.components.context import asked, remember, workspace


def pick(data: str, then: Callable[[], None] = lambda: None) -> None:
    """A select box of the selections of a data set, if there are any; it sets the choice ``selection``."""
    saved = {one.id: one for one in api.selections(workspace(), data)}
    if not saved:
        return
    wanted = asked("selection")
    st.session_state["saved_selection"] = wanted if wanted in saved else None

    def take() -> None:
        remember("selection", st.session_state["saved_selection"] or "")
        then()

    st.selectbox(
        "Selection",
        list(saved),
        index=None,
        key="saved_selection",
        placeholder=f"{len(saved)} saved",
        format_func=lambda name: described(saved[name]),
        on_change=take,
        help="Clips picked on the map of Explore, most recently saved first",
    )


def described(one: api.Selection) -> str:
    of = one.machines[0] if len(one.machines) == 1 else f"{len(one.machines)} machines"
    return f"{len(one.ids)} clip{'s' * (len(one.ids) != 1)} of {of}, {words.ago(one.created)}"
