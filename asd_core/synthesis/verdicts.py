"""What is decided about generated clips: by a rule on what was measured, by quotas, and by people, who go over both.

`synthesis.screening` measures; all that is here looks at its tables only, so that the app can do it without a learning
library and without a single recording.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from filelock import FileLock

from asd_core.types import AsdError
from asd_core.views.base import MICROPHONES, Channel

MORE_SILENCE = 0.02  # share of frames that may be silent beyond what is in the recordings
CLIPPED = 1e-3  # share of samples at full scale that is always allowed
SURPLUS, KEPT, DROPPED = "surplus", "kept by hand", "dropped by hand"
STOPPED = "stopped by the applied rule"

Verdict = Literal["keep", "drop", "unsure"]  # of people
Outcome = Literal[
    "pass", "fail", "rule"
]  # of a rule that was applied later; "rule": what the generator's own rule says


@dataclass(frozen=True)
class Rule:
    """What a generated clip must fulfil at every microphone. Samples that are not finite, stretches of silence and
    clipping beyond those of the recordings always count against it."""

    agreement: bool = True  # the classifier must hear the intended condition and microphone
    confidence: tuple[float, float] = (0.5, 0.95)  # lowest and highest probability of these; above: nothing new
    near_copy: float = 0.01  # quantile of the distances between recordings; 0: copies are allowed
    level_margin: float = 5.0  # dB beyond the quietest and the loudest recording

    def __post_init__(self) -> None:
        low, high = self.confidence
        if not 0 <= low < high <= 1:
            raise ValueError(f"confidence must be [lowest, highest] between 0 and 1, got {list(self.confidence)}")
        if not 0 <= self.near_copy <= 1:
            raise ValueError(f"near_copy must lie between 0 and 1, got {self.near_copy}")
        if not self.level_margin >= 0:
            raise ValueError(f"level_margin must be at least 0 dB, got {self.level_margin}")


# ---------------------------------------------------------------- by rule


def apply_rule(table: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """A table of `screen`, newly judged by its stored figures: `passes`, `reasons` (sentences joined by "; ") and
    `failed` (in a word or two each, joined by ", "). Verdicts of people and quotas are to be applied again."""
    found: list[list[tuple[str, str]]] = [[] for _ in range(len(table))]
    for one, kind, rows in against(table, rule):
        places = np.flatnonzero(rows)
        names = {f"{one}_{name}": name for name in FIGURES} | {"condition": "condition"}
        figures = table.iloc[places][list(names)].rename(columns=names).to_dict("records")
        for place, x in zip(places, figures, strict=True):
            found[place].append((kind, f"{one}: {_sentence(kind, one, x, rule)}"))
    return table.drop(columns=["verdict", "kept"], errors="ignore").assign(
        passes=np.array([not own for own in found], dtype=bool),
        reasons=["; ".join(sentence for _, sentence in own) for own in found],
        failed=[", ".join(dict.fromkeys(kind for kind, _ in own)) for own in found],
    )


def reasons(row: Mapping[Any, Any], rule: Rule) -> list[str]:
    """Why a row of `screen` does not pass, in plain sentences; none: it passes."""
    said = apply_rule(pd.DataFrame([dict(row)]), rule)["reasons"].iloc[0]
    return said.split("; ") if said else []


FIGURES = (
    *("predicted", "confidence", "finite", "level", "quietest", "loudest", "silence", "most_silence"),
    *("clipping", "most_clipping", "copy_distance", "copy_of", "copy_share", "copy_least"),
)


def against(table: pd.DataFrame, rule: Rule) -> Iterator[tuple[Channel, str, np.ndarray]]:
    """What is against the N rows of a table of `screen`: the microphone, the kind of thing, and (N,) whom it is
    against."""
    low, high = rule.confidence
    condition = table["condition"]
    for one in MICROPHONES:
        if f"{one}_level" not in table or table.empty:
            continue
        x = {name: table[f"{one}_{name}"] for name in FIGURES}
        there = x["level"].notna()  # tables of several machines may be joined, and some are mono
        known = x["confidence"].notna()  # else nobody has recorded this condition: of its machine it must be
        own = x["predicted"].str.partition("|")[0] == condition.str.partition("|")[0]
        own &= x["predicted"].str.endswith(f"|{one}").eq(True)
        own = own.where(~known, x["predicted"] == condition + f"|{one}")
        most_clipping = x["most_clipping"].clip(lower=CLIPPED)
        for kind, bad in (
            ("not finite", x["finite"].isin([False])),
            ("wrong class", ~own & rule.agreement),
            ("low confidence", x["confidence"] < low),
            ("high confidence", x["confidence"] > high),
            ("too quiet", x["level"] < x["quietest"] - rule.level_margin),
            ("too loud", x["level"] > x["loudest"] + rule.level_margin),
            ("silent", x["silence"] > x["most_silence"] + MORE_SILENCE),
            ("clipped", x["clipping"] > most_clipping),
            ("near copy", x["copy_share"] < rule.near_copy),  # never so for NaN
        ):
            yield one, kind, (there & bad).to_numpy(dtype=bool)


def _sentence(kind: str, one: Channel, x: Mapping[Any, Any], rule: Rule) -> str:
    low, high = rule.confidence
    match kind:
        case "not finite":
            return "some samples are not finite"
        case "wrong class":
            heard, _, microphone = x["predicted"].rpartition("|")
            of_another = microphone != one or pd.isna(x["confidence"])
            return f"taken for {heard}" + (f" ({microphone})" if of_another else "")
        case "low confidence":
            return f"confidence {x['confidence']:.2f} below {low:g}"
        case "high confidence":
            return f"confidence {x['confidence']:.3f} above {high:g}"
        case "too quiet":
            return f"{x['level']:.1f} dBFS, recordings have {x['quietest']:.1f} dBFS at least"
        case "too loud":
            return f"{x['level']:.1f} dBFS, recordings have {x['loudest']:.1f} dBFS at most"
        case "silent":
            return f"{x['silence']:.0%} of it is silent, of recordings {x['most_silence']:.0%} at most"
        case "clipped":
            return f"{x['clipping']:.2%} of the samples are clipped, of recordings {x['most_clipping']:.2%}"
    others = (
        f"{x['copy_share']:.1%} of recordings are that near to another"
        if x["copy_share"]
        else f"recordings differ by {x['copy_least']:.2f} at least"
    )
    return f"a copy of {x['copy_of']} (distance {x['copy_distance']:.2f}, {others})"


# ---------------------------------------------------------------- how many are kept


def keep(table: pd.DataFrame, quotas: Mapping[str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first clips that pass, up to the quota of each condition; those that people keep come first and all stay.

    Returns:
        The table with `kept`; what passes and is not kept has the reason "surplus".
        What came of each quota: condition, wanted, drawn, passed, kept, short, reason (the commonest of those that
        fail, "" if none does).
    """
    table = table.copy()
    table.loc[table["failed"] == SURPLUS, ["reasons", "failed"]] = ""
    passes = table["passes"].to_numpy(bool)
    by_hand = passes & (table["verdict"].to_numpy() == "keep" if "verdict" in table else False)
    kept = by_hand.copy()
    rows = []
    for condition in dict.fromkeys([*quotas, *table["condition"]]):
        wanted, own = quotas.get(condition, 0), (table["condition"] == condition).to_numpy()
        others = np.flatnonzero(own & passes & ~by_hand)
        kept[others[: max(wanted - int((own & by_hand).sum()), 0)]] = True
        if condition in quotas:
            failed = Counter(kind for kinds in table["failed"][own & ~passes] for kind in kinds.split(", "))
            counts = {"drawn": own.sum(), "passed": (own & passes).sum(), "kept": (own & kept).sum()}
            rows.append(
                {"condition": condition, "wanted": wanted, **{name: int(n) for name, n in counts.items()}}
                | {
                    "short": max(wanted - int(counts["kept"]), 0),
                    "reason": failed.most_common(1)[0][0] if failed else "",
                }
            )
    table["kept"] = kept
    table.loc[passes & ~kept, ["reasons", "failed"]] = SURPLUS
    return table, pd.DataFrame(rows, columns=["condition", "wanted", "drawn", "passed", "kept", "short", "reason"])


# ---------------------------------------------------------------- what people say


def apply_verdicts(table: pd.DataFrame, deciding: Mapping[str, str]) -> pd.DataFrame:
    """A table of `apply_rule` with what was said of clips since, in `verdict`: "keep" and "drop" of people go over the
    rule, "unsure" leaves it its say; "pass" and "fail" are another rule's. What was measured stays."""
    verdicts = table["clip"].map(lambda clip: deciding.get(clip, ""))
    table = table.assign(verdict=verdicts)
    table.loc[verdicts == "keep", ["passes", "reasons", "failed"]] = [True, KEPT, ""]
    table.loc[verdicts == "drop", ["passes", "reasons", "failed"]] = [False, DROPPED, DROPPED]
    table.loc[verdicts == "pass", ["passes", "reasons", "failed"]] = [True, "", ""]
    table.loc[verdicts == "fail", ["passes", "reasons", "failed"]] = [False, STOPPED, STOPPED]
    return table


class Log:
    """Lines that are only ever appended, one JSON object each with its own `fields`, `when` and `who`.

    A last line without an end, left by a process that was killed, was never said: reading ignores it and the next
    line removes it.
    """

    fields: tuple[str, ...]

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, lines: Sequence[Mapping[str, str]], who: str) -> None:
        """They are on disk when this returns."""
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = "".join(json.dumps({**line, "when": when, "who": who}) + "\n" for line in lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):  # what another tab is writing is not torn
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                said = self.path.read_bytes()
                if said and not said.endswith(b"\n"):
                    os.ftruncate(handle, said.rfind(b"\n") + 1)
                left = text.encode()
                while left:  # a disk that fills up takes a part; the next try says why
                    left = left[os.write(handle, left) :]
                os.fsync(handle)
            finally:
                os.close(handle)

    def said(self) -> list[dict[str, str]]:
        """All lines, oldest first.

        Raises:
            AsdError: a line other than a torn last one is damaged.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        found = []
        for number, line in enumerate(lines, 1):
            try:
                one = json.loads(line)
                found.append({name: str(one[name]) for name in (*self.fields, "when", "who")})
            except (ValueError, KeyError, TypeError) as error:
                raise AsdError(
                    f"{self.path}, line {number} is not a verdict ({error}). Repair or delete this line."
                ) from error
        return found


class Verdicts(Log):
    """What was said about generated clips. Nothing in it is ever changed: "undo" is a line too.

    Verdicts of people lie one upon another, and "undo" takes the uppermost away. Below all of them lies the outcome of
    the rule that was applied last, if that is another than the generator's own; so a rule never goes over a person.
    """

    fields = ("clip", "verdict")

    def add(self, clip: str, verdict: Verdict | Outcome | Literal["undo"], who: str) -> None:
        """Append one verdict; it is on disk when this returns."""
        self.add_all([clip], verdict, who)

    def add_all(self, clips: Sequence[str], verdict: Verdict | Outcome | Literal["undo"], who: str) -> None:
        """Append the same verdict on several clips, all or none.

        Raises:
            AsdError: there is no such verdict.
        """
        if verdict not in (allowed := (*get_args(Verdict), "undo", *get_args(Outcome))):
            raise AsdError(f'"{verdict}" is not a verdict. Allowed: {", ".join(allowed)}.')
        self.append([{"clip": clip, "verdict": verdict} for clip in clips], who)

    def effective(self) -> dict[str, Verdict]:
        """The latest verdict of people on each clip that was not undone."""
        return {clip: own[-1]["verdict"] for clip, own in self.standing().items()}  # type: ignore[misc]

    def standing(self) -> dict[str, list[dict[str, str]]]:
        """By clip, the lines of people that were not undone, oldest first; each undo takes one back, as far as there
        are any."""
        stacks: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        for one in self.said():
            own = stacks[one["clip"]]
            if one["verdict"] in get_args(Verdict):
                own.append(one)
            elif one["verdict"] == "undo" and own:
                own.pop()
        return {clip: own for clip, own in stacks.items() if own}

    def applied(self) -> dict[str, Outcome]:
        """Clips of which the rule that was applied last says something else than the generator's own."""
        latest: dict[str, Any] = {one["clip"]: one["verdict"] for one in self.said() if one["verdict"] in _OUTCOMES}
        return {clip: outcome for clip, outcome in latest.items() if outcome != "rule"}

    def deciding(self) -> dict[str, Verdict | Outcome]:
        """What decides about each clip: people, where they are not "unsure", else the applied rule."""
        people = {clip: verdict for clip, verdict in self.effective().items() if verdict != "unsure"}
        return {**self.applied(), **people}


_OUTCOMES = get_args(Outcome)


class BlindAnswers(Log):
    """What people said who did not know whether a clip was recorded or generated."""

    fields = ("round", "data", "clip", "condition", "truth", "answer")  # truth and answer: "recorded" or "generated"
