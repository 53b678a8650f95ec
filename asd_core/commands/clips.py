"""Single recordings: score them, explain their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asd_core import api, terminal
from asd_core.commands.options import (
    WORKSPACE,
    JobOption,
    JsonOption,
    WorkspaceOption,
    open_workspace,
)
from asd_core.types import AsdError


def score(
    wavs: Annotated[list[Path], typer.Argument(help="Recordings to judge; any length, resampled if needed.")],
    run_id: Annotated[str, typer.Option("--run", help="A finished run; `table --json` lists their ids.")],
    machine: Annotated[str, typer.Option(help="Which machine of the run these recordings are of.")],
    section: Annotated[str, typer.Option(help="Section of the machine.")] = "00",
    output: Annotated[
        Path | None, typer.Option(help="Keep the scores, with nearest clips and evidence, in this folder, too.")
    ] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """Score loose recordings with a trained system: anomaly score, threshold, decision, percentile among normals."""
    with terminal.reporting(job) as progress:
        progress(0.0, "loading")
        from asd_core.pipeline import loose

        if output is not None:
            loose.require_place(output)
        judged = loose.judge_files(open_workspace(workspace), run_id, machine, wavs, section, progress=progress)
        if output is not None:
            loose.keep(judged, output, run_id, machine, section)
    result = judged.table
    if as_json:
        terminal.print_json(result.to_dict(orient="records"))
        return
    result["decision"] = ["anomalous" if d else "normal" for d in result["decision"]]
    result["percentile"] = [f"{p:.0f} %" for p in result["percentile"]]
    result[["score", "threshold"]] = result[["score", "threshold"]].map("{:.6g}".format)
    terminal.print_table(result[["file", "score", "threshold", "decision", "percentile"]], f"{machine}, {run_id}")


def explain(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="A test clip: its id, or its file name.")],
    run_name: Annotated[str, typer.Option("--run", help="A run's id, or a system that was run once.")],
    data: Annotated[str | None, typer.Option(help="Of a system: the run on this data set, by name.")] = None,
    profile: Annotated[str | None, typer.Option(help="Of a system: the run of this profile.")] = None,
    truth: Annotated[
        bool, typer.Option("--truth", help="Also tell label and domain, if the clip's name does.")
    ] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Why a clip got its score: what each stream adds, where in the sound the evidence is, and beside which normal clip.

    Example: explain section_00_0004.wav --run wistlab-1 --data demo --profile quick
    """
    from dataclasses import asdict, replace

    from asd_core import analysis
    from asd_core.pipeline.explain import explain as explained
    from asd_core.pipeline.explain import why_no_evidence

    place = open_workspace(workspace)
    found = analysis.runs_named(api.runs(place), run_name, data, profile)
    if len(found) > 1:
        ids = ", ".join(one.record["run_id"] for one in found)
        raise AsdError(f"{run_name} was run with several seeds; name one run: {ids}.")
    told = explained(place, found[0], clip)
    silent = {b.name: why_no_evidence(b, found[0]) for b in told.branches if b.map is None}
    known = {}
    if truth:
        rows = analysis.labelled_scores(found[0]).set_index("clip_id")
        label = rows.loc[told.clip_id] if told.clip_id in rows.index else None
        known = {"truth": None if label is None else {"label": int(label["label"]), "domain": str(label["domain"])}}
    if as_json:
        bare = [replace(branch, map=None) for branch in told.branches]
        values = asdict(replace(told, branches=tuple(bare)))
        for branch in values["branches"]:
            del branch["map"]
            branch["why_no_evidence"] = silent.get(branch["name"], "")
        terminal.print_json(values | known)
        return
    terminal.print_explanation(told, silent)
    if truth:
        said = "not known" if label is None else f"{('normal', 'anomaly')[label['label']]}, {label['domain']}"
        terminal.out.print(f"truth: {said}", highlight=False)
