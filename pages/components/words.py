"""How states, times and figures are written, the same on every page."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

STATES = {
    "not started": (":material/radio_button_unchecked:", "gray"),
    "queued": (":material/schedule:", "blue"),
    "running": (":material/play_circle:", "blue"),
    "cancelling": (":material/hourglass_bottom:", "orange"),
    "cancelled": (":material/cancel:", "gray"),
    "interrupted": (":material/power_off:", "orange"),
    "failed": (":material/error:", "red"),
    "invalid": (":material/error:", "red"),
    "done": (":material/check_circle:", "green"),
}
SIGNS = {
    "not started": "○", "queued": "◷", "running": "▶", "cancelling": "◌", "cancelled": "⊘",
    "interrupted": "⚡", "failed": "✗", "invalid": "✗", "done": "✓",
}  # fmt: skip
METRIC_SETS = {"official": "official", "domain_restricted": "restricted"}
OUTCOMES = {"FP": "false alarm", "FN": "missed", "TP": "found", "TN": "quiet", "": "unknown"}


def plain(text: str) -> str:
    """Markdown that shows `text` as it is: names from files and addresses must neither load pictures nor make links."""
    escaped = re.sub(r"([\\`*_\[\]<>$~|#&!]|:(?=[\w/]))", r"\\\1", text)
    return re.sub(r"\s*\n\s*", "  \n", escaped)  # lines stay


def clip_title(clip_id: str) -> str:
    """A clip's name without what says nothing: folder, ending, the only section, no attribute."""
    name = clip_id.rpartition("/")[2].removesuffix(".wav").removesuffix("_noAttribute")
    return re.sub(r"^section_00_(?=[a-z])", "", name)


def state_badge(state: str) -> None:
    icon, colour = STATES[state]
    st.badge(state, icon=icon, color=colour)  # type: ignore[arg-type]


def kind_badge(kind: str) -> None:
    """Where the recordings come from; stands on every page that shows results."""
    if kind == "simulated":
        st.badge(
            "simulated", icon=":material/science:", color="orange", help="Invented machines, for trying things out."
        )
    else:
        st.badge(kind, icon=":material/mic:", color="blue")


def marked(name: str, transductive: bool) -> str:
    """A system's name, with a word where its verdicts depend on the other test clips."""
    return f"{name} (transductive)" if transductive else name


def run_name(record: Mapping[str, Any]) -> str:
    """A run among others on the same recordings."""
    name = marked(record["system"], bool(record.get("transductive")))
    return f"{name} · {record['profile']} · seed {record['seed']}"


def duration(seconds: float | None) -> str:
    if seconds is None or seconds != seconds:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    if seconds < 90:
        return "just now"
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {name}{'s' if number > 1 else ''} ago"
    return "just now"


def percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def omega(value: float) -> str:
    """Ω in percent, or what there is instead."""
    return "no labels" if value != value else f"Ω {percent(value)}"


def size(number: float) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


def points(difference: float) -> str:
    """A difference of percentages, with its sign."""
    return f"{difference:+.2f}".replace("-", "−")


def condition(text: str) -> str:
    """A generator's condition as a person reads it: ``fan|00|target|spd_1`` → fan · 00 · target · spd_1."""
    return text.replace("|noattribute", "").replace("|", " · ")


def needs(system: Mapping[str, Any]) -> str:
    """What a row of `api.system_states` needs besides recordings."""
    parts = [*system["weights"]]
    parts += ["two microphones"] if system["two_microphones"] else []
    parts += ["generated clips (made by it)"] if system["generated"] else []
    return ", ".join(parts) or "nothing"
