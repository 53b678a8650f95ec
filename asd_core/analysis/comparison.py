"""Two systems on the same clips: is a difference more than chance?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core.analysis.runs import made_of, tuned_on
from asd_core.artifacts import Run
from asd_core.data.manifest import parse_name
from asd_core.metrics import compare
from asd_core.registry import did_you_mean
from asd_core.types import TEST, AsdError

SIGNIFICANT = 0.05  # of a corrected p


def runs_named(runs: Sequence[Run], name: str, data: str | None = None, profile: str | None = None) -> list[Run]:
    """The run with this id; or, of the system with this name, every seed as its newest run was made.

    Args:
        data, profile: which runs of the system; needed where it was run on several data sets or profiles

    Raises:
        AsdError: there is none, or several data sets or profiles fit; the message lists what there is.
    """
    if by_id := [run for run in runs if run.record["run_id"] == name]:
        return by_id
    own = [run for run in runs if run.record["system"] == name]
    if not own:
        known = [*dict.fromkeys(run.record["system"] for run in runs), *(run.record["run_id"] for run in runs)]
        raise AsdError(
            f'There is no finished run or system "{name}".{did_you_mean(name, known)} `table --json` lists the ids.'
        )
    fitting = [
        run for run in own if data in (None, run.record["data"]["name"]) and profile in (None, run.record["profile"])
    ]
    made = sorted({f"--data {run.record['data']['name']} --profile {run.record['profile']}" for run in fitting or own})
    if not fitting:
        raise AsdError(f"{name} has no finished run with {_given(data, profile)}. There is: {'; '.join(made)}.")
    if len(made) > 1:
        raise AsdError(f"{name} was run more than one way; say which: {'; '.join(made)}.")
    newest = max(fitting, key=lambda run: run.record["created"])
    return [run for run in fitting if made_of(run) == made_of(newest)]


def _given(data: str | None, profile: str | None) -> str:
    pairs = (("data", data), ("profile", profile))
    return " ".join(f"--{option} {value}" for option, value in pairs if value is not None)


def labelled_scores(run: Run) -> pd.DataFrame:
    """The test clips of a run whose names tell their truth, with columns label and domain; needs no recording."""
    scores = run.scores
    rows = scores[scores["split"] == TEST]
    truths = [
        parse_name(machine, Path(clip_id))[1] for machine, clip_id in zip(rows["machine"], rows["clip_id"], strict=True)
    ]
    known = np.array([truth is not None for truth in truths], dtype=bool)
    told = [truth for truth in truths if truth is not None]
    return rows[known].assign(label=[truth.label for truth in told], domain=[truth.domain for truth in told])


def compare_runs(first: Sequence[Run], second: Sequence[Run], *, bootstrap: int = 1000) -> dict[str, Any]:
    """`metrics.compare` of system a, `first`, with system b, `second`: one finished run of each, or one per seed.

    Returns:
        what `metrics.compare` returns (fractions), and ``systems``: {a, b: {system, title, profile, run_ids,
        transductive}}, ``data``: {name, kind}, ``clips``: how many were compared, and ``said``: sentences that say
        what follows and what does not

    Raises:
        AsdError: the runs were not made on the same recordings, or none of these is labelled.
    """
    sides = {"a": list(first), "b": list(second)}
    _require_same_recordings(*sides.values())
    tables = []
    for runs in sides.values():
        by_age = sorted(runs, key=lambda run: run.record["created"])
        tables.append({run.record["seed"]: labelled_scores(run) for run in by_age})  # the newest of each seed
    if any(table.empty for own in tables for table in own.values()):
        raise AsdError("No test clip of these runs is labelled, so that nothing tells which system is better.")
    found = compare(*tables, bootstrap=bootstrap)
    found["systems"] = {
        side: {
            "system": runs[0].record["system"],
            "title": runs[0].record.get("title", runs[0].record["system"]),
            "profile": runs[0].record["profile"],
            "run_ids": [run.record["run_id"] for run in runs],
            "transductive": bool(runs[0].record.get("transductive")),
        }
        for side, runs in sides.items()
    }
    data = sides["a"][0].record["data"]
    found["data"] = {"name": data["name"], "kind": data["kind"]}
    found["clips"] = len(next(iter(tables[0].values())))
    trained = any((runs[0].record.get("config") or {}).get("encoders") for runs in sides.values())
    names = _two_names(found["systems"])
    found["said"] = list(_said(found, *names, trained))
    for name, runs in zip(names, sides.values(), strict=True):
        if told := tuned_on(runs[0].record):
            found["said"].append(
                f"The fusion of {name} has weights from known labels, so these figures may flatter it. {told}"
            )
    return found


def _require_same_recordings(first: Sequence[Run], second: Sequence[Run]) -> None:
    """Raise an AsdError that says how the data of two groups of runs differ."""
    one = first[0].record
    for run in (*first[1:], *second):
        other = run.record
        kinds = [f"{record['data']['name']} ({record['data']['kind']})" for record in (one, other)]
        machines = [", ".join(sorted(record["machines"])) for record in (one, other)]
        if kinds[0] != kinds[1]:
            told = kinds
        elif machines[0] != machines[1]:
            told = machines
        elif one["data"].get("fingerprint") != other["data"].get("fingerprint"):
            told = [kinds[0], "recordings of that name that were changed in between"]
        else:
            continue
        raise AsdError(
            f"Only runs on the same clips can be compared: {one['run_id']} was made on {told[0]}, {other['run_id']} on "
            f"{told[1]}. Run both on the same data and machines."
        )


def _two_names(systems: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """What the two systems are called in a sentence; what tells them apart is added where the names do not."""
    names = [str(systems[side]["system"]) for side in ("a", "b")]
    if names[0] == names[1]:
        names = [f"{systems[side]['system']} ({systems[side]['profile']})" for side in ("a", "b")]
    if names[0] == names[1]:
        names = [str(systems[side]["run_ids"][0]) for side in ("a", "b")]
    return ("the first", "the second") if names[0] == names[1] else (names[0], names[1])


def _said(found: Mapping[str, Any], a: str, b: str, trained: bool) -> Iterator[str]:
    """Sentences on a comparison: the difference of Ω, the machines, the seeds."""
    omega = found["official"]
    if omega["difference"] is None:
        yield "Ω is undefined, because a machine lacks clips of some kind: see machine by machine."
    elif omega["interval"] is None:
        yield f"Ω differs by {_points(omega['difference'])}, but a group of clips is too small to tell chance from more."
    else:
        low, high = omega["interval"]
        span = f"95 %: {_points(low)} to {_points(high)}"
        if low == high == 0:
            yield f"Ω of {a} and of {b} is the same, whichever clips are drawn."
        elif low <= 0 <= high:
            side = "above" if omega["difference"] > 0 else "below"
            size = f"{abs(100 * omega['difference']):.1f} points {side} that of {b}"
            yield f"The difference is within chance: Ω of {a} is {size} ({span})."
        else:
            better, worse = (a, b) if low > 0 else (b, a)
            least, most = sorted((abs(low), abs(high)))
            size = f"{abs(100 * omega['difference']):.1f} points of Ω (95 %: {100 * least:.1f} to {100 * most:.1f})"
            yield f"{better} is better than {worse} by {size}."
    means = [
        (machine, entry["hmean"]) for machine, sections in found["machines"].items() for entry in sections.values()
    ]
    sure = [(machine, one) for machine, one in means if one["p_holm"] is not None and one["p_holm"] <= SIGNIFICANT]
    for name, sign in ((a, 1), (b, -1)):
        if won := list(dict.fromkeys(machine for machine, one in sure if sign * one["difference"] > 0)):
            yield f"{name} is better on {', '.join(won)}."
    if not sure and len(means) > 1:
        yield "On no machine by itself does the harmonic mean differ by more than chance."
    over = omega["over_seeds"]
    if over["a"] and over["b"] and max(len(found["seeds"]["a"]), len(found["seeds"]["b"])) > 1:
        told = [
            f"{name} {100 * over[side]['mean']:.1f}"
            + (f" ± {100 * over[side]['std']:.1f}" if over[side]["std"] is not None else " (one seed)")
            for name, side in ((a, "a"), (b, "b"))
        ]
        paired = over["difference"]
        if paired and paired["std"] is not None:
            told.append(f"difference {_points(paired['mean'])} ± {100 * paired['std']:.1f}")
        yield f"Ω over seeds: {', '.join(told)}."
    elif trained:
        yield "Each was trained once: what another seed would change is not in these figures."


def _points(fraction: float) -> str:
    """A difference of fractions in points of percent, with its sign."""
    return f"{100 * fraction:+.1f}".replace("-", "−")
