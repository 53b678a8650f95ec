"""Tables: what their columns are called and how their values are shown."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from pages.components import pictures, words

FIGURES = {"omega": "Ω", "auc_source": "AUC source", "auc_target": "AUC target", "pauc": "pAUC", "hmean": "h-mean"}
TINT = "38, 160, 148"  # red, green, blue of a good value's background


def leaderboard(board: pd.DataFrame, machines: list[str]) -> tuple[Any, dict[str, Any]]:
    """The board as shown, and its column configuration."""
    titles = map(words.marked, board["title"], board["transductive"])
    shown = pd.DataFrame(
        {"Name": board["system"], "System": list(titles), "Profile": board["profile"], "Ω": board["omega"]}
    )
    shown["±"] = board["half_width"]
    if board["omega_lomo"].notna().any():
        shown["Ω lomo"] = board["omega_lomo"]
    for name in ("auc_source", "auc_target", "pauc"):
        shown[FIGURES[name]] = board[name]
    shown["Dom.-restricted"] = board["restricted"]
    shown["Published"] = published(board)
    tinted = [machine for machine in machines if machine in board]
    for machine in tinted:
        shown[machine] = board[machine]
    shown["False alarms"] = 100 * pd.to_numeric(board["false_alarm_rate"])
    shown["Machines"] = board["measured"]
    shown["Seeds"] = board["seeds"]
    numbers = [*FIGURES.values(), "±", "Ω lomo", "Dom.-restricted", "False alarms", *tinted]
    numbers = [name for name in numbers if name in shown]
    shown[numbers] = shown[numbers].apply(pd.to_numeric)
    styled = shown.style.map(_tint, subset=tinted).format("{:.2f}", subset=numbers, na_rep="–")
    styled = styled.format("± {:.2f}", subset=["±"], na_rep="–").format("{:.1f} %", subset=["False alarms"], na_rep="–")
    helps = {
        "Ω": "Official score: harmonic mean of all AUCs and pAUCs of all machines, in percent",
        "±": "Half of the 95 % bootstrap interval of Ω",
        "Ω lomo": "Of tuned fusions: each machine with weights tuned on the other machines. Their Ω was tuned on the "
        "clips it is measured on, so believe this one",
        "Dom.-restricted": "Harmonic mean with AUCs inside each domain: another metric set, which some reports print",
        "Published": "From the system's report, DCASE 2026 development data; official or domain-restricted metric set",
        "False alarms": "Share of normal training clips above the threshold; means nothing of a transductive system",
    }
    config = {name: st.column_config.Column(name, help=text) for name, text in helps.items()}
    return styled, config


def published(table: pd.DataFrame) -> list[str]:
    """Published figures with their metric set; the two sets must not be compared."""
    return [
        "–" if value is None or value != value else f"{value:.2f} {words.METRIC_SETS[which]}"
        for value, which in zip(table["published"], table["metric_set"], strict=True)
    ]


def matrix(table: pd.DataFrame) -> Any:
    """Machine × figures with half widths of the intervals."""
    one_section = table["section"].nunique() == 1
    names = table["machine"] if one_section else table["machine"] + " " + table["section"]
    shown = pd.DataFrame({"Machine": names})
    figures = ("auc_source", "auc_target", "pauc", "hmean")
    for name in figures:
        shown[FIGURES[name]] = pd.to_numeric(table[name])
    shown["±"] = (pd.to_numeric(table["hmean_high"]) - pd.to_numeric(table["hmean_low"])) / 2
    shown["Dom.-restricted"] = pd.to_numeric(table["hmean_restricted"])
    columns = [FIGURES[name] for name in figures]
    styled = shown.style.map(_tint, subset=columns).format("{:.2f}", subset=[*columns, "Dom.-restricted"], na_rep="–")
    return styled.format("± {:.2f}", subset=["±"], na_rep="–")


def clips(table: pd.DataFrame, data: str, version: str, has_sound: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The clip table as shown, and its column configuration."""
    shown = pd.DataFrame(index=table.index)
    if has_sound:
        shown["Near"] = [pictures.picture_url(data, clip_id, "thumbnail", version) for clip_id in table["clip_id"]]
    shown["Score"] = table["score"]
    shown["Percentile"] = table["percentile"]
    if table["label"].notna().any():
        shown["Outcome"] = table["outcome"].map(words.OUTCOMES)
        shown["Label"] = table["label"].map({0: "○ normal", 1: "× anomaly"})
        shown["Domain"] = table["domain"]
        shown["Attributes"] = table["attributes"].replace("noAttribute", "–")
    else:
        shown["Flagged"] = table["decision"].map({0: "no", 1: "yes"})
    shown["Clip"] = table["clip_id"].str.rpartition("/")[2].str.removesuffix(".wav")
    low, high = float(table["score"].min()), float(table["score"].max())
    config = {
        "Near": st.column_config.ImageColumn("Near", help="Spectrogram of the near microphone", width="small"),
        "Score": st.column_config.ProgressColumn(
            "Score", format="%.4f", min_value=low - 0.05 * (high - low) - 1e-9, max_value=high + 1e-9
        ),
        "Percentile": st.column_config.NumberColumn(
            "Percentile", format="%.0f %%", help="Share of the machine's normal training clips that score at most this"
        ),
    }
    return shown, config


def findings(checks: pd.DataFrame) -> pd.DataFrame:
    """A validator's findings as shown."""
    signs = {"pass": "✓ passed", "warn": "! look", "fail": "✗ failed"}
    return pd.DataFrame(
        {
            "Result": checks["ok"].map(signs),
            "Rule": checks["meaning"],
            "Finding": checks["message"],
            "File": checks["file"].str.rpartition("/")[2],
            "Row": pd.to_numeric(checks["row"]).astype("Int64"),
        }
    )


def changes(found: pd.DataFrame) -> pd.DataFrame:
    """What changed between two packages, as shown."""
    names = {
        "system": "System",
        "machine": "Machine",
        "section": "Section",
        "clips": "Clips in both",
        "added": "Added",
        "removed": "Removed",
        "changed_scores": "Other score",
        "changed_decisions": "Other decision",
        "rank_correlation": "Rank correlation",
    }
    shown = found[list(names)].rename(columns=names)
    shown["Rank correlation"] = pd.to_numeric(shown["Rank correlation"])
    shown["Clips"] = [_some(changed) for changed in found["changed"]]
    return shown


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name.removesuffix(".wav") for name in names[:most]) + more


def pick_row(key: str, row: int | None) -> None:
    """Select a row of a table that is drawn afterwards; None selects nothing."""
    st.session_state[key] = {"selection": {"rows": [] if row is None else [row], "columns": [], "cells": []}}


def picked_row(key: str) -> int | None:
    rows = st.session_state[key]["selection"]["rows"]
    return rows[0] if rows else None


def _tint(value: float) -> str:
    if value != value:
        return ""
    strength = min(max((value - 50) / 50, 0.0), 1.0) * 0.55
    return f"background-color: rgba({TINT}, {strength:.2f})"


def sets_note(board: pd.DataFrame) -> str:
    """What must not be compared with what."""
    note = "Figures are percent. Ω is the official score; “dom.-restricted” is another metric set and not comparable."
    if board["measured"].nunique() > 1:
        note += " Rows over fewer machines stand below the others; their Ω is of another set of machines."
    if board["published"].notna().any() and board["difference"].isna().all():
        note += " Published figures are of the DCASE 2026 development data; these runs are of other recordings."
    if tuned := list(dict.fromkeys(board["title"][board["tuned_on"] != ""])):
        note += f" Weights tuned on known labels, which flatters Ω: {', '.join(tuned)}."
    return note
