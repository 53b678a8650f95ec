"""Tables: what their columns are called and how their values are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd
import streamlit as st
from pandas.io.formats.style import Styler

from pages.components import pictures, words

FIGURES = {"omega": "Ω", "auc_source": "AUC source", "auc_target": "AUC target", "pauc": "pAUC", "hmean": "h-mean"}
ROWS: Final = ("single-row", "single-cell")  # selection modes of a table in which a cell stands for its row
GREY = "background-color: transparent; color: #8A949C"
TINT = "38, 160, 148"  # red, green, blue of a good value's background


def leaderboard(board: pd.DataFrame, machines: list[str]) -> tuple[Any, dict[str, Any]]:
    """The board as shown, and its column configuration."""
    shown = pd.DataFrame({"Name": board["system"], "Ω": board["omega"], "±": board["half_width"]})
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
    shown["Profile"] = board["profile"]
    shown["System"] = list(map(words.marked, board["title"], board["transductive"]))
    numbers = [*FIGURES.values(), "±", "Ω lomo", "Dom.-restricted", "False alarms", *tinted]
    numbers = [name for name in numbers if name in shown]
    shown[numbers] = shown[numbers].apply(pd.to_numeric)
    told = styled(shown, "leaderboard").map(_tint, subset=tinted).format("{:.2f}", subset=numbers, na_rep="–")
    told = told.format("± {:.2f}", subset=["±"], na_rep="–").format("{:.1f} %", subset=["False alarms"], na_rep="–")
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
    return told, config | {"Name": st.column_config.Column("Name", pinned=True)}


def published(table: pd.DataFrame) -> list[str]:
    """Published figures with their metric set; the two sets must not be compared."""
    return [
        "–" if value is None or value != value else f"{value:.2f} {words.METRIC_SETS[which]}"
        for value, which in zip(table["published"], table["metric_set"], strict=True)
    ]


def matrix(table: pd.DataFrame, few: pd.DataFrame) -> Any:
    """Machine × figures with half widths of the intervals; grey where `few` says that there are too few clips."""
    shown = pd.DataFrame({"Machine": _machines(table)})
    figures = ("auc_source", "auc_target", "pauc", "hmean")
    for name in figures:
        shown[FIGURES[name]] = pd.to_numeric(table[name])
    shown["±"] = (pd.to_numeric(table["hmean_high"]) - pd.to_numeric(table["hmean_low"])) / 2
    shown["Dom.-restricted"] = pd.to_numeric(table["hmean_restricted"])
    columns = [FIGURES[name] for name in figures]
    told = styled(shown, "matrix").map(_tint, subset=columns)
    told = told.format("{:.2f}", subset=[*columns, "Dom.-restricted"], na_rep="–")
    grey = few.rename(columns=FIGURES)[columns].map(lambda is_few: GREY if is_few else "")
    return told.apply(lambda _: grey, axis=None, subset=columns).format("± {:.2f}", subset=["±"], na_rep="–")


def differences(table: pd.DataFrame) -> Any:
    """Machine × how many points one run is above another: sign and arrow, never colour alone."""
    shown = pd.DataFrame({"Machine": _machines(table)})
    figures = ("auc_source", "auc_target", "pauc", "hmean")
    for name in figures:
        shown[FIGURES[name]] = table[name]
    shown["95 % of h-mean"] = [
        "–" if pd.isna(low) else f"{words.points(low)} to {words.points(high)}"
        for low, high in zip(table["low"], table["high"], strict=True)
    ]
    shown["p (Holm)"] = table["p"]
    told = styled(shown, "matrix").format(_arrow, subset=[FIGURES[name] for name in figures], na_rep="–")
    return told.format("{:.3f}", subset=["p (Holm)"], na_rep="–")


def styled(shown: pd.DataFrame, name: str) -> Styler:
    """A table for colours and formats. Pandas would give each a name by chance, and Streamlit would send it with every
    click, though it is in the browser already."""
    return shown.style.set_uuid(name)


def _machines(table: pd.DataFrame) -> pd.Series:
    return table["machine"] if table["section"].nunique() == 1 else table["machine"] + " " + table["section"]


def _arrow(value: float) -> str:
    return f"{'▲' if value > 0 else '▼' if value < 0 else '='} {words.points(value)}"


def clips(table: pd.DataFrame, data: str, version: str, has_sound: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The clip table as shown, and its column configuration."""
    shown = pd.DataFrame(index=table.index)
    if has_sound:
        shown["Near"] = [pictures.thumbnail_url(data, clip_id, version) for clip_id in table["clip_id"]]
    shown["Score"] = table["score"]
    shown["Percentile"] = table["percentile"]
    if "percentile_other" in table:
        shown["Other"] = table["percentile_other"]
        shown["Differ by"] = table["disagreement"]
    if table["machine"].nunique() > 1:
        shown["Machine"] = table["machine"]
    if table["label"].notna().any():
        shown["Outcome"] = table["outcome"].map(words.OUTCOMES)
        shown["Label"] = table["label"].map({0: "○ normal", 1: "× anomaly"})
        shown["Domain"] = table["domain"]
        shown["Attributes"] = table["attributes"].replace("noAttribute", "–")
    else:
        shown["Flagged"] = table["decision"].map({0: "no", 1: "yes"})
    shown["Clip"] = table["clip_id"].str.rpartition("/")[2].str.removesuffix(".wav")
    few = [name for name in ("Machine", "Outcome", "Label", "Domain", "Attributes") if name in shown]
    shown = shown.astype(dict.fromkeys(few, "category")).reset_index(drop=True)  # half the bytes to send
    finite = table["score"][table["score"].abs() < float("inf")]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    config = {
        "Near": st.column_config.ImageColumn("Near", help="Spectrogram of the near microphone", width="small"),
        "Score": st.column_config.ProgressColumn(
            "Score", format="%.4f", min_value=low - 0.05 * (high - low) - 1e-9, max_value=high + 1e-9
        ),
        "Percentile": st.column_config.NumberColumn(
            "Percentile", format="%.0f %%", help="Share of the machine's normal training clips that score at most this"
        ),
        "Other": st.column_config.NumberColumn("Other", format="%.0f %%", help="Percentile in the run compared with"),
        "Differ by": st.column_config.NumberColumn("Differ by", format="%+.0f", help="Percentile minus the other's"),
    }
    return shown, config


def neighbours(near: pd.DataFrame, thumbnails: Sequence[str | None]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of `api.neighbours` as shown; a clip without a picture has no sound either."""
    play = [":material/play_arrow:" if address else None for address in thumbnails]
    shown = pd.DataFrame({"Near": thumbnails, "Play": play, "Distance": near["distance"], "Domain": near["domain"]})
    shown["Attributes"] = near["attributes"].replace({"noAttribute": "–", "": "–"})
    shown["Clip"] = near["clip_id"].map(short_name)
    config = {
        "Near": st.column_config.ImageColumn("Near", help="Spectrogram of the near microphone", width="small"),
        "Distance": st.column_config.NumberColumn("Distance", format="%.4g"),
    }
    return shown, config


def streams(rows: Sequence[Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The streams of an explanation as shown."""
    shown = pd.DataFrame(
        {
            "Stream": [f"{row.name} (decides)" if row.decides else row.name for row in rows],
            "Score": [row.score for row in rows],
            "Percentile": [row.percentile for row in rows],
            "Weight": pd.to_numeric(pd.Series([row.weight for row in rows], dtype=object)),
            "Contribution": pd.to_numeric(pd.Series([row.contribution for row in rows], dtype=object)),
        }
    )
    number = st.column_config.NumberColumn
    config = {
        "Score": number(format="%.4g"),
        "Percentile": number(
            format="%.0f %%", help="Share of the machine's normal training clips that score at most this"
        ),
        "Weight": number(format="%.2f"),
        "Contribution": number(
            format="%+.3f", help="Weight × (normalised score − its mean over normal training clips)"
        ),
    }
    return shown, config


def places(rows: Sequence[Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The hottest places of a map as shown."""
    shown = pd.DataFrame(
        {
            "Time": [f"{row.start:.2f}–{'end' if row.stop is None else f'{row.stop:.2f} s'}" for row in rows],
            "Band": [f"{row.low / 1000:.1f}–{row.high / 1000:.1f} kHz" for row in rows],
            "Score": [row.score for row in rows],
            "At": [row.match_start for row in rows],
            "Nearest normal clip": [short_name(row.match) if row.match else "a made-up one" for row in rows],
        }
    )
    config = {
        "Score": st.column_config.NumberColumn(format="%.4g", help="Local score, in units of the branch's"),
        "At": st.column_config.NumberColumn(format="%.2f s", help="Where in the nearest normal clip"),
    }
    return shown, config


def scores_by_system(table: pd.DataFrame, run_id: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of `api.scores_by_system` as shown; the run at hand is pointed at."""
    names = [
        words.marked(name, bool(is_so)) for name, is_so in zip(table["system"], table["transductive"], strict=True)
    ]
    shown = pd.DataFrame(
        {
            "System · seed": [
                f"{'▸ ' * (one == run_id)}{name} · {seed}"
                for name, seed, one in zip(names, table["seed"], table["run_id"], strict=True)
            ],
            "Flagged": table["flagged"].map({True: "yes", False: "no"}),
            "Percentile": table["percentile"],
            "Score": table["score"],
            "Threshold": table["threshold"],
        }
    )
    number = st.column_config.NumberColumn
    config = {
        "Percentile": st.column_config.ProgressColumn("Percentile", format="%.0f %%", min_value=0, max_value=100),
        "Score": number(format="%.4g"),
        "Threshold": number(format="%.4g"),
    }
    return shown, config


def short_name(clip_id: str) -> str:
    return clip_id.rpartition("/")[2].removesuffix(".wav")


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
    """Select a row of a table that is drawn afterwards, and in it the cell in whose column one is; None selects
    nothing."""
    if row is None:
        pick_rows(key, [])
    else:
        pick_rows(key, [row], [[row, column] for _, column in _selected(key)[1]])


def pick_rows(key: str, rows: list[int], cells: list[list[Any]] | None = None) -> None:
    """Select rows and cells of a table that is drawn afterwards. What is selected already is left alone: a table whose
    selection is set is sent to the browser anew."""
    wanted = {"rows": rows, "columns": [], "cells": cells or []}
    if _selected(key) != [rows, wanted["cells"]]:
        st.session_state[key] = {"selection": wanted}
    st.session_state[f"{key}_drawn"] = [rows, wanted["cells"]]


def pick_cell(key: str, row: int | None, column: str) -> None:
    """The same of one cell."""
    pick_rows(key, [], [] if row is None else [[row, column]])


def is_echo(key: str) -> bool:
    """Whether the browser only says again what was selected for it. It does so at any click elsewhere, and what that
    click has chosen must not be undone."""
    return _selected(key) == st.session_state.get(f"{key}_drawn")


def picked_cell(key: str) -> tuple[int, str] | None:
    """The cell that a visitor has picked; None if there is none, or no other than before."""
    cells = st.session_state[key]["selection"]["cells"]
    return (int(cells[0][0]), str(cells[0][1])) if cells and not is_echo(key) else None


def picked_rows(key: str) -> list[int]:
    return list(st.session_state[key]["selection"]["rows"])


def picked_row(key: str) -> int | None:
    """The row that a visitor has picked, by its tick box or by a cell; None if there is none, or no other than before."""
    rows, cells = _selected(key)
    before, _ = st.session_state.get(f"{key}_drawn", ([], []))
    new = [row for row in (*rows, *(row for row, _ in cells)) if row not in before]
    return new[0] if new else None


def _selected(key: str) -> list[list[Any]]:
    now = st.session_state.get(key, {}).get("selection", {})
    return [list(now.get("rows", ())), [list(cell) for cell in now.get("cells", ())]]


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


def machines(joined: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Machines of a data set: `DataSet.counts` with their balance and their first header, as shown."""
    shown = pd.DataFrame(
        {
            "Machine": joined["machine"],
            "Train source": joined["train_source"],
            "Train target": joined["train_target"],
            "Ratio": joined["ratio"],
            "Kinds": joined["attributes"],
        }
    )
    columns = {
        "test_source_normal": ("○ source", "Normal test clips of the source domain"),
        "test_source_anomaly": ("× source", "Anomalous test clips of the source domain"),
        "test_target_normal": ("○ target", "Normal test clips of the target domain"),
        "test_target_anomaly": ("× target", "Anomalous test clips of the target domain"),
        "test_unlabelled": ("Unlabelled", "Test clips whose names tell no label"),
    }
    config = {
        "Ratio": st.column_config.NumberColumn("Ratio", format="%.1f", help="Source training clips per target clip"),
        "Kinds": st.column_config.NumberColumn("Kinds", help="Different attributes among the training clips"),
    }
    for name, (title, told) in columns.items():
        if joined[name].any():
            shown[title] = joined[name]
            config[title] = st.column_config.NumberColumn(title, help=told)
    shown["Recording"] = [
        f"{row.seconds:.1f} s · {row.rate / 1000:g} kHz · {row.channels:.0f} ch" if not row.problem else "unreadable"
        for row in joined.itertuples()
    ]
    config["Recording"] = st.column_config.TextColumn("Recording", help="The first training clip")
    return shown, config


def attributes(counts: pd.DataFrame) -> pd.DataFrame:
    """Clips by attribute, as shown; groups that are empty everywhere are left out."""
    names = {
        "attributes": "Attributes",
        "train_source": "Train source",
        "train_target": "Train target",
        "test_source": "Test source",
        "test_target": "Test target",
        "test_unknown": "Test unknown",
    }
    kept = [name for name in names if name == "attributes" or counts[name].any()]
    return counts[kept].rename(columns=names)


MICROPHONE_COLUMNS = {
    "Near": st.column_config.NumberColumn("Near", format="%.1f dB", help="Level, RMS relative to full scale"),
    "Far": st.column_config.NumberColumn("Far", format="%.1f dB", help="Level, RMS relative to full scale"),
    "Near − far": st.column_config.NumberColumn("Near − far", format="%+.1f dB"),
    "Correlation": st.column_config.NumberColumn(
        "Correlation", format="%.2f", help="Sample by sample, without a shift; 1 would be the same recording twice"
    ),
    "Near hears first by": st.column_config.NumberColumn(
        "Near hears first by",
        format="%.1f ms",
        help="Delay of the sound that both share; 1 ms is 34 cm. Empty where less than half of the clips tell",
    ),
    "Clips that tell": st.column_config.NumberColumn("Clips that tell", format="percent"),
}


def microphones(compared: pd.DataFrame) -> pd.DataFrame:
    """How near and far differ, as shown."""
    names = {
        "machine": "Machine",
        "clips": "Clips",
        "near": "Near",
        "far": "Far",
        "difference": "Near − far",
        "correlation": "Correlation",
        "lead": "Near hears first by",
        "telling": "Clips that tell",
    }
    return compared[list(names)].rename(columns=names)


def sounds(facts: pd.DataFrame) -> pd.DataFrame:
    """Durations, rates and channels, as shown."""
    same = facts["shortest"].round(2) == facts["longest"].round(2)
    length = facts["shortest"].map("{:.1f}".format)
    return pd.DataFrame(
        {
            "Machine": facts["machine"],
            "Split": facts["split"],
            "Clips": facts["clips"],
            "Length (s)": length.where(same, length + "–" + facts["longest"].map("{:.1f}".format)),
            "Total": facts["hours"],
            "Rate (Hz)": facts["rates"],
            "Channels": facts["channels"],
        }
    )


SCREENED = {"kept": "✓ kept", "surplus": "○ surplus", "dropped": "✗ dropped"}
SAID = {"keep": "✓ keep", "drop": "✗ drop", "unsure": "? unsure", "": "–"}


def candidate(row: pd.Series, window: tuple[float, float]) -> pd.DataFrame:
    """What was measured of a generated clip, a column per microphone, as Markdown."""
    low, high = window
    shown: dict[str, dict[str, str]] = {}
    for one in ("near", "far"):
        get = lambda name, one=one: row.get(f"{one}_{name}")  # noqa: E731
        if pd.isna(get("level")):
            continue
        sure = get("confidence")
        place = (
            "unknown condition" if pd.isna(sure) else "below" if sure < low else "above" if sure > high else "inside"
        )
        heard = "not asked" if pd.isna(sure) else f"{sure:.3f}, {place}" + ("" if pd.isna(sure) else " the window")
        predicted, _, microphone = get("predicted").rpartition("|")
        taken = "as meant" if get("agrees") else words.plain(f"{words.condition(predicted)}, {microphone}")
        near_copy = f"{get('copy_distance'):.2f} (recordings: {get('copy_least'):.2f} at least)"
        shown[one.capitalize()] = {
            "Taken for": f"{'✓' if get('agrees') else '✗'} {taken}",
            "Confidence": heard,
            "Copy distance": near_copy,
            "Level": f"{get('level'):.1f} dBFS (recordings: {get('quietest'):.1f} to {get('loudest'):.1f})",
            "Silence": f"{get('silence'):.1%} (at most {get('most_silence'):.1%})",
            "Clipping": f"{get('clipping'):.2%} (at most {get('most_clipping'):.2%})",
        }
    return pd.DataFrame(shown)


def reasons(row: pd.Series) -> str:
    """Why a generated clip does not pass. A confidence has three digits, rounded down: with two, 0.499 reads as the 0.5
    that it is below."""
    said = str(row["reasons"])
    for one in ("near", "far"):
        sure = row.get(f"{one}_confidence")
        if sure is not None and not pd.isna(sure):
            told = f"{one}: confidence {math.floor(1000 * sure) / 1000:.3f} below"
            said = said.replace(f"{one}: confidence {sure:.2f} below", told)
    return said


def screened_state(table: pd.DataFrame) -> pd.Series:
    """In a word with its sign, what becomes of each generated clip."""
    states = table["kept"].map({True: "kept", False: "dropped"}).astype(object)
    return states.mask(table["passes"] & ~table["kept"].astype(bool), "surplus").map(SCREENED)


def candidates(table: pd.DataFrame, version: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Generated clips as shown, and their column configuration."""
    rows = list(zip(table["data"], table["clip"], strict=True))
    shown = pd.DataFrame(
        {
            "Near": [pictures.thumbnail_url(data, name, version) for data, name in rows],
            "Listen": [pictures.sound_url(data, name, "near", version) for data, name in rows],
            "State": screened_state(table),
            "By hand": table["said"].map(SAID),
            "Confidence": table["confidence"],
            "Condition": table["condition"].map(words.condition),
            "Findings": table["failed"].where(table["failed"] != "", "–"),
            "Drawing": table["number"],
        }
    )
    config = {
        "Near": st.column_config.ImageColumn("Near", help="Spectrogram of the near microphone", width="small"),
        "Listen": st.column_config.AudioColumn("Listen", help="Near microphone; double-click to play", width="small"),
        "Confidence": st.column_config.ProgressColumn(
            "Confidence", format="%.3f", min_value=0, max_value=1, help="The lower of the two microphones'"
        ),
    }
    return shown, config


def rule_preview(table: pd.DataFrame) -> pd.DataFrame:
    """What another rule would keep, as shown."""
    names = {
        "condition": "Condition",
        "wanted": "Wanted",
        "drawn": "Drawn",
        "near": "Pass near",
        "far": "Pass far",
        "passes": "Pass both",
        "kept": "Kept",
    }
    shown = table[[name for name in names if name in table]].rename(columns=names)
    shown["Condition"] = shown["Condition"].map(words.condition)
    shown["Share"] = 100 * table["passes"] / table["drawn"]
    change = table["kept"] - table["before"]
    shown["Change"] = change.astype("Int64").mask(change == 0)
    return shown


DISTANCES = {"Generated": "generated", "Recorded": "real", "Other condition": "other", "Shaped noise": "noise"}


def quality(distances: pd.DataFrame, space: str, measure: str) -> pd.DataFrame:
    """Distances of one space and measure, as shown."""
    own = distances[(distances["space"] == space) & (distances["measure"] == measure)]
    return pd.DataFrame(
        {
            "Condition": own["condition"].map(words.condition),
            "Microphone": own["microphone"],
            **{name: own[column] for name, column in DISTANCES.items()},
            "Against": own["reference"],
            "In words": own["said"],
        }
    )


SAMPLES = ("Confidence", "Diversity", "Copy distance")


def samples(table: pd.DataFrame) -> pd.DataFrame:
    """Diversity, copies and agreement of generated clips, as shown."""
    shown = table.drop(columns=["machine"]).assign(condition=table["condition"].map(words.condition))
    shown[["taken for it", "copies"]] = 100 * shown[["taken for it", "copies"]]
    names = {"taken for it": "Taken for it, %", "copies": "Copies, %"}
    return shown.rename(columns=lambda name: names.get(name, name.capitalize()))


def judged(table: pd.DataFrame, names: Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Dropped recordings with what a run said of them, as shown; `names` by id."""
    shown = pd.DataFrame(
        {
            "Recording": table["upload"].map(names),
            "Verdict": table["decision"].map({0: "✓ not flagged", 1: "! flagged"}),
            "Score": table["score"],
            "Threshold": table["threshold"],
            "Percentile": table["percentile"],
        }
    )
    config = {
        "Score": st.column_config.NumberColumn("Score", format="%.4f"),
        "Threshold": st.column_config.NumberColumn("Threshold", format="%.4f"),
        "Percentile": st.column_config.NumberColumn(
            "Percentile", format="%.0f %%", help="Share of the machine's normal training clips that score at most this"
        ),
    }
    return shown, config


def enrichment(found: pd.DataFrame, names: Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What a selection has more or less of than all clips, as shown; `found` as of `api.enriched`, `names` of its
    columns where they have others than their own."""
    outcome = found["column"] == "outcome"
    more = found["share_here"] > found["share"]
    shown = pd.DataFrame(
        {
            "Of": [names.get(column, column.capitalize()) for column in found["column"]],
            "Value": found["value"].where(~outcome, found["value"].replace(words.OUTCOMES)),
            "Here": found["share_here"],
            "Overall": found["share"],
            "": ["▲" if one else "▼" for one in more],
            "p": ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in found["p"]],
        }
    )
    config = {
        "Here": st.column_config.NumberColumn("Here", format="%.0f %%", help="Share of the selected clips"),
        "Overall": st.column_config.NumberColumn("Overall", format="%.0f %%", help="Share of all clips of the map"),
        "": st.column_config.TextColumn("", width=30, help="More or less than overall"),
    }
    return shown, config


def selected_clips(rows: pd.DataFrame, thumbnails: Sequence[str] | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows of `api.mapped_clips` as shown."""
    shown = pd.DataFrame(index=rows.index)
    if thumbnails is not None:
        shown["Near"] = thumbnails
    shown["Clip"] = rows["clip_id"].map(short_name)
    shown["Percentile"] = rows["percentile"]
    if "disagreement" in rows:
        shown["Other run"] = rows["disagreement"]
    shown["Machine"], shown["Split"] = rows["machine"], rows["split"]
    if (rows["label"] != "").any():
        shown["Label"] = rows["label"].replace({"normal": "○ normal", "anomaly": "× anomaly", "": "–"})
    shown["Domain"] = rows["domain"].replace("", "–")
    shown["Attributes"] = rows["attributes"].replace("", "–")
    config = {
        "Near": st.column_config.ImageColumn("Near", help="Spectrogram of the near microphone", width="small"),
        "Percentile": st.column_config.NumberColumn(
            "Percentile", format="%.0f %%", help="Share of the machine's normal training clips that score at most this"
        ),
        "Other run": st.column_config.NumberColumn("Other run", format="%+.0f", help="Its percentile less this one's"),
    }
    return shown, config
