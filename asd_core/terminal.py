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

PROSE = 40  # characters from which a cell may wrap
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


def print_leaderboard(board: pd.DataFrame, machines: Mapping[str, Sequence[str]]) -> None:
    """The table of `analysis.leaderboard`, one block per data set; `machines` are the labelled ones of each."""
    for (name, kind), rows in board.groupby(["data", "kind"], sort=False):
        rows = rows.assign(system=marked(rows["system"], rows["transductive"]))
        shown = rows[["system", "profile", "seeds"]].copy()
        shown["Ω"] = [_plus_minus(*pair) for pair in zip(rows["omega"], rows["half_width"], strict=True)]
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
            + (f"\n{TRANSDUCTIVE}" if rows["transductive"].any() else ""),
        )
        for why in sorted({why for why in rows["why"] if why}):
            out.print(f"– Ω undefined: {escape(why)}", highlight=False)
        labelled = [machine for machine in machines.get(str(name), []) if machine in rows]
        if labelled:
            print_table(rows[["system", "profile", *labelled]], f"{name} ({kind}), percent per machine")


def _cell(value: Any) -> str:
    if _missing(value):
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else escape(str(value))


def _missing(value: Any) -> bool:
    return value is None or value != value  # NaN


def _plus_minus(value: float | None, spread: float | None) -> str:
    if value is None or _missing(value):
        return "–"
    return f"{value:.2f}" if spread is None or _missing(spread) else f"{value:.2f} ± {spread:.1f}"
