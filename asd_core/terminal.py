"""How results look on a terminal: tables, progress, JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table

from asd_core import jobs
from asd_core.types import Cancelled, printable
from asd_core.types import Progress as ProgressCall

if TYPE_CHECKING:
    import pandas as pd

    from asd_core.pipeline.explain import BranchEvidence, Explanation, Place
    from asd_core.tuning import Tuning

PROSE = 40  # characters from which a cell may wrap
LOMO = (
    "Ω lomo: each machine scored with weights tuned on the other machines; Ω of such a system was tuned on the clips it "
    "is measured on."
)
TRANSDUCTIVE = "ᵗ transductive: what is said of a clip depends on the other test clips. Not for a running machine."


class _Console(Console):
    """Prints no control characters but its own: a name from a file must not steer the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for part in super().render(renderable, options):
            yield part if part.control else Segment(printable(part.text), part.style)


out, err = _Console(), _Console(stderr=True)


@contextmanager
def reporting(job: Path | None) -> Iterator[ProgressCall]:
    """Progress to a job folder when the app started this, to a bar on the terminal otherwise."""
    if job is not None:
        with jobs.reporting(job) as progress:
            yield progress
        return
    percent = TextColumn("{task.percentage:3.0f} %")
    columns = (BarColumn(), percent, TimeRemainingColumn(), TextColumn("{task.description}"))
    is_main = os.environ.get("RANK", "0") == "0"  # of several processes only one tells
    with Progress(*columns, console=err, disable=not (err.is_terminal and is_main), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        interrupted = False

        def progress(fraction: float, message: str, **values: float) -> None:
            bar.update(task, completed=fraction, description=escape(message))
            if interrupted:
                raise Cancelled

        def stop(*_: object) -> None:
            nonlocal interrupted
            interrupted = True
            signal.signal(signal.SIGINT, previous)  # a second time: at once
            if is_main:
                err.print("Stopping after this step, so that nothing is lost. Press again to stop at once.")

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield progress
        finally:
            signal.signal(signal.SIGINT, previous)


def print_table(rows: pd.DataFrame, title: str = "", caption: str = "") -> None:
    """A table whose numbers and names stay whole; into a file or pipe it is as wide as it needs to be."""
    titles = escape(title) or None, escape(caption) or None  # they hold names from outside
    table = Table(title=titles[0], caption=titles[1], caption_justify="left", title_justify="left")
    for name in rows.columns:
        cells = [_cell(value) for value in rows[name]]
        numeric = any(isinstance(value, int | float) for value in rows[name])
        prose = max(map(len, cells), default=0) > PROSE
        table.add_column(escape(str(name)), justify="right" if numeric else "left", no_wrap=not prose)
    for _, row in rows.iterrows():
        table.add_row(*(_cell(value) for value in row))
    (out if out.is_terminal else _Console(width=200)).print(table)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


def marked(names: Iterable[str], transductive: Iterable[bool]) -> list[str]:
    """Names of systems, with the sign that `TRANSDUCTIVE` explains."""
    return [f"{name} ᵗ" if sign else name for name, sign in zip(names, transductive, strict=True)]


def print_tuning(found: Tuning, data: Mapping[str, Any]) -> None:
    """Streams with their weights, then the figures that tell what the weights are worth, then the verdict."""
    import pandas as pd

    from asd_core.fusion.normalise import NORMALISATIONS

    title = f"{data['name']} ({data['kind']}), {len(found.machines)} labelled machines"
    streams = pd.DataFrame(
        {
            "stream": stream.name,
            "weight": f"{stream.weight:.3f}",
            "folds": "–" if stream.lowest is None else f"{stream.lowest:.3f} to {stream.highest:.3f}",
            "Ω alone": _in_percent(stream.alone),
            "contribution": _in_percent(stream.contribution),
        }
        for stream in found.streams
    )
    print_table(
        streams,
        f"{title}, percent",
        "folds: weights when one machine is left out of the tuning. contribution: Ω lost without this stream; – where "
        "nothing is left without it.",
    )
    figures = pd.DataFrame(
        [
            ("tuned weights", found.omega_tuned, found.omega_lomo),
            ("equal weights", found.omega_equal, found.omega_equal),
            (f"best stream alone ({found.single})", found.omega_single, found.omega_lomo_single),
        ],
        columns=["fusion", "on these clips", "left-out machines"],
    )
    figures[["on these clips", "left-out machines"]] = figures[["on these clips", "left-out machines"]].map(_in_percent)
    print_table(
        figures,
        "Ω, percent",
        f"left-out machines: each machine with what was chosen on the others. Search: {found.search}, "
        f"{found.candidates} candidates; scores: {found.normalise}."
        + (f"\n{TRANSDUCTIVE}" if NORMALISATIONS[found.normalise].transductive else ""),
    )
    for sentence in (found.said, *found.left_out):
        out.print(escape(sentence), highlight=False, soft_wrap=True)


def print_targets(targets: pd.DataFrame) -> None:
    print_table(targets, "Clips to generate", f"{int(targets['wanted'].sum())} clips in all.")


def print_shortfall(table: pd.DataFrame, name: str, kind: str) -> None:
    """What came of each condition's quota."""
    shown = table.assign(
        accepted=[f"{p / d:.0%}" if d else "–" for p, d in zip(table.passed, table.drawn, strict=True)]
    )
    shown = shown.rename(columns={"reason": "mostly against the others"})
    totals = {name: int(table[name].sum()) for name in ("kept", "drawn", "short")}
    said = f"{totals['kept']} clips kept of {totals['drawn']} drawn"
    said += f"; {totals['short']} fewer than wanted." if totals["short"] else "."
    print_table(shown, f"Generated clips, {name} ({kind})", said)


def print_candidates(table: pd.DataFrame) -> None:
    """Every generated clip with the classifier's confidence and what is against it."""
    columns = {"clip": table["clip"], "kept": ["yes" if kept else "no" for kept in table["kept"]]}
    for one in ("near", "far"):
        if f"{one}_confidence" in table:
            columns[f"{one} confidence"] = table[f"{one}_confidence"]
            columns[f"{one} copy distance"] = table[f"{one}_copy_distance"]
    import pandas as pd

    print_table(pd.DataFrame(columns | {"why": table["reasons"]}))


def print_quality(distances: pd.DataFrame, samples: pd.DataFrame, name: str, kind: str) -> None:
    """Distances to recorded clips beside the yardsticks, then what there is to know about the generated set."""
    title = f"{name} ({kind})"
    shown = distances[
        ["condition", "microphone", "space", "measure", "reference", "generated", "real", "other", "noise"]
    ]
    print_table(
        shown,
        f"Distance to recorded clips of the condition, {title}",
        "reference: held-out clips are labelled normal test clips, which nothing was trained on. real: other recorded "
        "clips of the condition. other: recorded clips of the nearest other condition. noise: shaped to the mean "
        "spectrum.",
    )
    if distances.empty:
        out.print("No clip is kept, so there is nothing to measure; `screen --clips` tells why.")
    for (space, measure), rows in distances[distances["reference"] == "held-out"].groupby(["space", "measure"]):
        said = []
        for one, yardstick in (("any other condition", "other"), ("shaped noise", "noise")):
            compared = rows.dropna(subset=["generated", yardstick])
            closer = int((compared["generated"] < compared[yardstick]).sum())
            said.append(f"than {one} for {closer} of {len(compared)} conditions and microphones")
        out.print(f"{space}, {measure}: closer to held-out clips {', '.join(said)}.", highlight=False, soft_wrap=True)
    print_table(
        samples.drop(columns="machine"),
        f"Generated clips, {title}",
        "taken for it, confidence: of the classifier, before screening. diversity: spread of kept clips over that of "
        "recorded ones. copy distance: to the most alike recording. copies: share that screening calls near copies.",
    )


def print_leaderboard(board: pd.DataFrame, machines: Mapping[str, Sequence[str]]) -> None:
    """The table of `analysis.leaderboard`, one block per data set; `machines` are the labelled ones of each."""
    for (name, kind), rows in board.groupby(["data", "kind"], sort=False):
        rows = rows.assign(system=marked(rows["system"], rows["transductive"]))
        shown = rows[["system", "profile", "seeds"]].copy()
        labelled = [machine for machine in machines.get(str(name), []) if machine in rows]
        measured = rows[labelled].notna().sum(axis=1)
        if measured.nunique() > 1:  # an Ω of fewer machines is another figure
            shown["machines"] = measured
        shown["Ω"] = [_plus_minus(*pair) for pair in zip(rows["omega"], rows["half_width"], strict=True)]
        tuned = rows["omega_lomo"].notna().any()
        if tuned:
            shown["Ω lomo"] = rows["omega_lomo"]
        if (rows["seeds"] > 1).any():
            shown["over seeds"] = [
                _plus_minus(*pair) for pair in zip(rows["omega_mean"], rows["omega_std"], strict=True)
            ]
        shown[["source", "target", "pAUC", "restricted"]] = rows[["auc_source", "auc_target", "pauc", "restricted"]]
        shown["alarms"] = [None if _missing(f) else 100 * f for f in rows["false_alarm_rate"]]
        shown["published"] = [
            "–" if _missing(p) else f"{p:.2f}{'' if metric == 'official' else ' r'}"
            for p, metric in zip(rows["published"], rows["metric_set"], strict=True)
        ]
        shown["difference"] = rows["difference"]
        print_table(
            shown,
            f"{name} ({kind}), percent",
            "Ω official score ± half its 95 % bootstrap interval; source, target, pAUC its parts; restricted: the same "
            "with AUCs inside each domain.\nalarms: training normals above the threshold. published: on DCASE 2026 "
            "development data (r: restricted); a difference only on the same data."
            + (f"\n{LOMO}" if tuned else "")
            + (f"\n{TRANSDUCTIVE}" if rows["transductive"].any() else ""),
        )
        for why in sorted({why for why in rows["why"] if why}):
            out.print(f"– Ω undefined: {escape(why)}", highlight=False)
        _print_tuned(rows)
        if labelled:
            print_table(rows[["system", "profile", *labelled]], f"{name} ({kind}), percent per machine")


def print_machine_results(table: pd.DataFrame) -> None:
    """The table of `analysis.machine_results`, one block per data set."""
    import pandas as pd

    for (name, kind), rows in table.groupby(["data", "kind"], sort=False):
        shown = pd.DataFrame({"system": marked(rows["system"], rows["transductive"]), "profile": rows["profile"]})
        shown["machine"] = rows["machine"].to_numpy()
        sets = rows["metric_set"].str.replace("_", "-").to_numpy()
        shown["metric"] = sets
        shown["ours"] = rows["ours"].to_numpy()
        spans = zip(rows["low"], rows["high"], strict=True)
        shown["95 %"] = ["–" if _missing(low) else f"{low:.2f} to {high:.2f}" for low, high in spans]
        shown["published"], shown["difference"] = rows["published"].to_numpy(), rows["difference"].to_numpy()
        reasons = "\n".join(f"– {why}." for why in dict.fromkeys(rows["why"]) if why)
        caption = "Harmonic means in the metric set of the report. A difference only on the same data:"
        print_table(shown, f"{name} ({kind}), percent by machine", f"{caption}\n{reasons}" if reasons else "")
        _print_tuned(rows)


def _print_tuned(rows: pd.DataFrame) -> None:
    """Which of these systems have weights that were tuned on known labels, and what these are worth."""
    for (system, said), _ in rows[rows["tuned_on"] != ""].groupby(["system", "tuned_on"], sort=False):
        out.print(escape(f"– {system}, weights from known labels: {said}"), highlight=False, soft_wrap=True)


def print_comparison(found: Mapping[str, Any]) -> None:
    """What `analysis.compare_runs` found: the whole, machine by machine, and what follows from it."""
    import pandas as pd

    from asd_core.analysis import SIGNIFICANT

    systems, data = found["systems"], found["data"]
    names = marked(*zip(*((systems[side]["system"], systems[side]["transductive"]) for side in "ab"), strict=True))
    sides = [f"a: {names[0]}, {systems['a']['profile']}", f"b: {names[1]}, {systems['b']['profile']}"]
    seeds = [", ".join(map(str, found["seeds"][side])) for side in "ab"]
    told = [f"{side}, seed{'s' if ',' in own else ''} {own}" for side, own in zip(sides, seeds, strict=True)]
    overall = [
        {
            "percent": title,
            **{side: _percent(found[key][side]) for side in "ab"},
            "a − b": _signed(found[key]["difference"]),
            "95 %": _span(found[key]["interval"]),
            "p": _p_value(found[key]["p"]),
        }
        for key, title in (("official", "Ω"), ("domain_restricted", "domain-restricted"))
    ]
    title = f"{data['name']} ({data['kind']}), {found['clips']} labelled clips\n" + "\n".join(told)
    print_table(pd.DataFrame(overall), title)
    rows = []
    titles = {"auc_source": "source", "auc_target": "target", "pauc": "pAUC", "hmean": "hmean"}
    for machine, sections in found["machines"].items():
        for section, entry in sections.items():
            row = {"machine": machine if section == "00" else f"{machine} {section}"}
            row |= {side: _percent(entry["hmean"][side]) for side in "ab"}
            for name, heading in titles.items():
                sign = " *" if entry[name]["p_holm"] is not None and entry[name]["p_holm"] <= SIGNIFICANT else ""
                row[f"{heading} a − b"] = (
                    f"{_signed(entry[name]['difference'])} ({_span(entry[name]['interval'])}){sign}"
                )
            rows.append(row)
    caption = (
        "a, b: harmonic mean of source, target and pAUC. In brackets 95 % intervals for clips drawn like these: AUCs by "
        "DeLong, the others by\npaired bootstrap. * p ≤ 0.05 after Holm's correction for the number of machines."
    )
    any_transductive = systems["a"]["transductive"] or systems["b"]["transductive"]
    print_table(pd.DataFrame(rows), "by machine, percent", caption + (f"\n{TRANSDUCTIVE}" if any_transductive else ""))
    for sentence in found["said"]:
        out.print(escape(sentence), highlight=False, soft_wrap=True)


def print_explanation(found: Explanation, silent: Mapping[str, str]) -> None:
    """A clip's verdict, what its streams add to the score, and where each branch finds its evidence.

    Args:
        silent: by branch, why it has no evidence
    """
    import pandas as pd

    verdict = "anomalous" if found.is_anomalous else "normal"
    among = "" if found.percentile is None else f", {found.percentile:.0f} % of the training normals score at most this"
    section = "" if found.section == "00" else f" section {found.section}"
    out.print(f"[b]{escape(found.clip_id)}[/], {escape(found.machine + section)}", highlight=False, soft_wrap=True)
    told = f"{verdict}: score {found.score:.6g}, threshold {found.threshold:.6g}{among}"
    out.print(told, highlight=False, soft_wrap=True)
    streams = pd.DataFrame(
        {
            "stream": f"{stream.name} ←" if stream.decides else stream.name,
            "score": f"{stream.score:.6g}",
            "normals below": f"{stream.percentile:.0f} %",
            "normalised": _short(stream.normalised),
            "weight": _short(stream.weight),
            "contribution": _short(stream.contribution),
            "share": "–" if stream.share is None else f"{100 * stream.share:.0f} %",
        }
        for stream in found.streams
    )
    caption = f"fusion: {found.fusion}" + ("" if found.normalise is None else f", normalised: {found.normalise}") + "."
    if any(stream.decides for stream in found.streams):
        caption += " ←: the smallest normalised score, which is the score."
    if any(stream.contribution is not None for stream in found.streams):
        caption += (
            f"\ncontribution: weight × (normalised − its mean over training normals).\nThey add up to "
            f"{_short(found.score - found.usual)}, the score less the mean score of training normals.\nshare: of that sum, "
            f"for clips above the mean."
        )
    print_table(streams, found.run_id, caption)
    for branch in found.branches:
        if branch.name in silent:
            out.print(escape(f"{branch.name}: {silent[branch.name]}"), highlight=False, soft_wrap=True)
        else:
            _print_places(branch)


def _print_places(branch: BranchEvidence) -> None:
    import pandas as pd

    rows = pd.DataFrame(
        {
            "seconds": _stretch(place.start, place.stop),
            "Hz": f"{place.low:.0f}–{place.high:.0f}",
            "local score": f"{place.score:.6g}",
            "beside": _beside(place),
        }
        for place in branch.places
    )
    title = f"{branch.name} ({branch.scorer}), score {branch.score:.6g}: highest local scores"
    print_table(rows, title, "beside: the normal training clip it was compared with, and where in that clip.")


def _beside(place: Place) -> str:
    if place.match is None:
        return "–"
    return (
        place.match if place.match_start is None else f"{place.match} {_stretch(place.match_start, place.match_stop)}"
    )


def _stretch(start: float, stop: float | None) -> str:
    """Seconds from–to."""
    if stop is None:
        return "whole clip" if start == 0 else f"{start:.2f}–end"
    return f"{start:.2f}–{stop:.2f}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}".replace("-", "−")


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _signed(fraction: float | None) -> str:
    """A difference of fractions in points of percent."""
    return "–" if fraction is None else f"{100 * fraction:+.2f}".replace("-", "−")


def _span(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else " to ".join(map(_signed, interval))


def _p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cell(value: Any) -> str:
    if _missing(value):
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else escape(str(value))


def _in_percent(fraction: float | None) -> float | None:
    return None if fraction is None or _missing(fraction) else 100 * fraction


def _missing(value: Any) -> bool:
    return value is None or value != value  # NaN


def _plus_minus(value: float | None, spread: float | None) -> str:
    if value is None or _missing(value):
        return "–"
    return f"{value:.2f}" if spread is None or _missing(spread) else f"{value:.2f} ± {spread:.1f}"
