"""Evaluate score files; build and check packages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from asd_core import api, config, terminal
from asd_core.commands.options import (
    WORKSPACE,
    JsonOption,
    WorkspaceOption,
    open_workspace,
)

if TYPE_CHECKING:
    pass


def evaluate(
    tables: Annotated[
        Path, typer.Argument(help="CSV with file_name, score (domain, label), an official CSV, or a folder.")
    ],
    truth: Annotated[Path | None, typer.Option(help="CSV file_name, domain, label, where names do not tell.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Official and domain-restricted metrics, with intervals, of any score table: ours or another tool's."""
    import pandas as pd

    from asd_core import analysis, metrics

    result = metrics.evaluate(analysis.read_score_table(tables, truth))
    if as_json:
        terminal.print_json(result)
        return
    rows = []
    for machine, sections in result["machines"].items():
        for section, m in sections.items():
            percent = {n: None if m[n] is None else 100 * m[n] for n in (*metrics.TRIPLE, "hmean", "hmean_restricted")}
            rows.append(
                {"machine": machine, "section": section, **percent, "why": "; ".join(sorted(set(m["why"].values())))}
            )
    official, restricted = result["official"], result["domain_restricted"]
    caption = "Ω undefined: " + official["why"] if official["omega"] is None else ""
    if official["omega"] is not None:
        caption = f"Ω {100 * official['omega']:.2f} (no interval: a group has fewer than two clips)"
        if official["interval"]:
            low, high = official["interval"]
            caption = f"Ω {100 * official['omega']:.2f} (95 %: {100 * low:.2f} to {100 * high:.2f})"
    if restricted["hmean"] is not None:
        caption += f", domain-restricted {100 * restricted['hmean']:.2f}"
    terminal.print_table(pd.DataFrame(rows), "percent", caption)


def export(
    spec: Annotated[Path, typer.Option(help="YAML or JSON that describes the package (authors, systems, report).")],
    output: Annotated[Path | None, typer.Option(help="Zip or folder; default: the workspace's exports.")] = None,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Build a submission package and check it against every rule."""
    from asd_core.artifacts import load_run
    from asd_core.export import submission

    place = open_workspace(workspace)
    package = config.load(submission.Package, spec)
    path = submission.build(package, place, output or place.exports)
    terminal.out.print(f"Wrote {escape(str(path))}")
    runs = [load_run(place, run_id) for system in package.systems for run_id in system.runs]
    machines = package.machines or [machine for r in runs for machine in submission.unlabelled_machines(r)]
    _check(path, api.expected_clips(runs, machines))


def check_submission(
    package: Annotated[Path, typer.Argument(help="A zip or a folder.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Check against the unlabelled machines of this data set; default: the DCASE 2026 evaluation set."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a submission package: rule, file and row of everything that is wrong."""
    expected = None
    if data is not None:
        from asd_core.data.manifest import open_dataset

        found = open_dataset(data)
        unlabelled = [machine for machine in found.machines if not found.is_labelled(machine)]
        expected = {machine: [clip.file_name for clip in found.of(machine, "test")] for machine in unlabelled}
    _check(package, expected, as_json)


def _check(package: Path, expected: dict[str, list[str]] | None, as_json: bool = False) -> None:
    findings = api.check_package(package, expected)
    failed = (findings["ok"] == "fail").sum()
    if as_json:
        terminal.print_json(findings.to_dict(orient="records"))
    else:
        signs = {"pass": "[green]✓[/]", "fail": "[red]✗[/]", "warn": "[yellow]![/]"}
        for check in findings.itertuples():
            row = "" if check.row is None or check.row != check.row else f", row {check.row:.0f}"
            place = f" {check.file}{row}" if check.file else ""
            terminal.out.print(
                f"{signs[check.ok]} [b]{check.rule}[/]{escape(place)}: {escape(check.message)}", highlight=False
            )
        terminal.out.print(f"{failed} of {len(findings)} checks failed." if failed else "The package keeps every rule.")
    if failed:
        raise typer.Exit(1)
