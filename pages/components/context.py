"""Where we are: the workspace, and the choices that cross pages (data set, run, machine, clip).

The address bar is their home, so every view can be linked and the browser's back button works. A copy in the
session brings them back after a page switch, which empties the address.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from asd_core import api
from pages.components import words

PAGES = Path(__file__).resolve().parent.parent


@cache
def workspace() -> api.Workspace:
    """The one given after ``--`` on the command line, or the repository's."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--workspace", type=Path, default=api.DEFAULT_WORKSPACE)
    return api.Workspace(parser.parse_known_args(sys.argv[1:])[0].workspace.resolve())


def page(name: str) -> str:
    """A page to link or switch to; paths relative to the router's folder would be fragile."""
    return str(PAGES / f"{name}.py")


def hold() -> None:
    """Write what is chosen from now on into the address all at once, when the page has been drawn: a click that changes
    several choices is one step of the browser's back button. A callback has to ask for it, as it runs before the page.
    """
    st.session_state.setdefault("held", {})


def release() -> None:
    """Write what was held."""
    held: dict[str, str] = st.session_state.pop("held", None) or {}
    if not held:
        return
    st.query_params.update({key: value or [] for key, value in held.items()})  # nothing is written of an empty list
    for key, value in held.items():
        if not value:
            st.query_params.pop(key, None)  # the same address again, which the browser leaves alone


def remember(key: str, value: str) -> None:
    """Set a choice, or with "" drop it; to be called where it is made."""
    st.session_state.setdefault("place", {})[key] = value
    if "held" in st.session_state:
        st.session_state["held"][key] = value
    elif not value:
        st.query_params.pop(key, None)
    elif st.query_params.get(key) != value:
        st.query_params[key] = value


def asked(key: str) -> str | None:
    """The choice as the address or else the session has it, unchecked."""
    held: dict[str, str] = st.session_state.get("held", {})
    if key in held:
        return held[key] or None
    return st.query_params.get(key) or st.session_state.get("place", {}).get(key)


def spelled(wanted: str, options: Sequence[str]) -> str:
    """`wanted` as the options have it: the + of a typed address arrives as a space."""
    return wanted if wanted in options else next((one for one in options if one.replace("+", " ") == wanted), wanted)


def choose(key: str, options: Sequence[str], default: str, what: str) -> str:
    """The asked option if it exists, else the default, with a note if the address asked for something unknown."""
    wanted = spelled(asked(key) or "", options)
    if wanted in options:
        remember(key, wanted)
        return wanted
    if st.query_params.get(key):
        note(f"There is no {what} “{wanted}” here. Shown instead: {default or 'nothing'}.")
    remember(key, default)
    return default


def picker(key: str, label: str, options: Sequence[str], default: str, describe: Callable[[str], str] = str) -> str:
    """A select box for one of the crossing choices."""
    value = choose(key, options, default, label.lower())
    st.session_state[f"{key}_picker"] = value

    def take() -> None:
        hold()  # another machine has another clip
        remember(key, st.session_state[f"{key}_picker"])

    st.selectbox(
        label,
        options,
        format_func=describe,
        key=f"{key}_picker",
        on_change=take,
    )
    return value


def pick_profile() -> str:
    """The profile that systems and generators run under; the quick one by default."""
    profiles = api.profiles()
    picked = st.segmented_control(
        "Profile",
        list(profiles),
        default="quick" if "quick" in profiles else next(iter(profiles)),
        format_func=lambda name: f"{name}: {profiles[name].title.lower()}",
        key="profile",
        required=True,
        bind="query-params",
    )
    return picked or "quick"


def note(sentence: str) -> None:
    """Queue a yellow note for the top of the page."""
    notes = st.session_state.setdefault("notes", [])
    if sentence not in notes:
        notes.append(sentence)


def show_notes() -> None:
    for sentence in st.session_state.pop("notes", []):
        st.warning(words.plain(sentence), icon=":material/info:")


def link() -> str:
    """The address of exactly this view."""
    base = (st.context.url or "").partition("?")[0]
    now = st.query_params.to_dict() | st.session_state.get("held", {})
    return f"{base}?{urlencode({key: value for key, value in now.items() if value})}"
