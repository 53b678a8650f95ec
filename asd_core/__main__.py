"""The command line: ``python -m asd_core``. Commands are thin; what they do lives in the package.

Exit codes: 0 done; 1 a problem that is explained on stderr, or a check that found one; 2 wrong usage;
130 cancelled. Slow libraries are imported inside the command that needs them, so that help is instant.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.logging import RichHandler
from rich.markup import escape

from asd_core import __version__, api, config, terminal
from asd_core.types import AsdError, Cancelled

if TYPE_CHECKING:
    from asd_core import pipeline
    from asd_core.artifacts import Workspace

app = typer.Typer(
    name="asd_core",
    help="Train, score, explain and export anomalous-sound detectors (DCASE 2026 Task 2).\n\n"
    "Start with: [b]data simulate[/b], then [b]run logmel-maha --data demo --profile quick[/b], then [b]table[/b].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Get, simulate and look at data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
weights_app = typer.Typer(help="Get, check and list published checkpoints (BEATs, EAT).", no_args_is_help=True)
app.add_typer(weights_app, name="weights")


def _complete_system(incomplete: str) -> list[str]:
    return [name for name in api.systems() if name.startswith(incomplete)]


def _complete_data(incomplete: str) -> list[str]:
    return [path.stem for path in (config.CONFIGS / "datasets").glob(f"{incomplete}*.yaml")]


def _complete_profile(incomplete: str) -> list[str]:
    return [path.stem for path in (config.CONFIGS / "profiles").glob(f"{incomplete}*.yaml")]


WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Folder that holds everything computed.")]
DataOption = Annotated[
    str, typer.Option("--data", help="A data set of configs/datasets, or a folder.", autocompletion=_complete_data)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
JobOption = Annotated[Path | None, typer.Option("--job", hidden=True, help="Report to this job folder of the app.")]
WORKSPACE = config.CONFIGS.parent / "workspace"


def _workspace(root: Path) -> Workspace:
    from asd_core.artifacts import Workspace

    return Workspace(root.resolve())


# ------------------------------------------------------------------ train and score


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu"):
        raise typer.BadParameter(f'device "{device}" is not one of auto, cpu')


@app.command()
def run(
    systems: Annotated[
        list[str] | None,
        typer.Argument(help="Systems of configs/systems, or YAML files.", autocompletion=_complete_system),
    ] = None,
    data: DataOption = "demo",
    profile: Annotated[
        str,
        typer.Option(help="full: as the reports say. quick: small, for two cores.", autocompletion=_complete_profile),
    ] = "full",
    machines: Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")] = None,
    seeds: Annotated[
        list[int] | None, typer.Option(min=0, max=config.MAX_SEED, help="Seeds; repeat the option. Default: 0.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All systems.")] = False,
    generator: Annotated[
        str | None, typer.Option(help="For systems that train on generated clips: this generator, or YAML file.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds between two checkpoints of a training.")
    ] = 30.0,
    dry_run: Annotated[bool, typer.Option(help="Show the plan and the resolved configuration; do nothing.")] = False,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """Train systems, score all test clips, decide and evaluate.

    What is finished is not computed again, and an interrupted training goes on where it stopped: repeat the
    same command. Example: run logmel-maha neu-1 --data demo --profile quick
    """
    names = config.system_names() if everything else systems or []
    if not names:
        raise typer.BadParameter("name at least one system, or --all; `systems` lists them")
    _check_device(device)
    with terminal.reporting(job) as progress:
        from asd_core import pipeline
        from asd_core.data.manifest import open_dataset
        from asd_core.engine import local

        chosen = [config.load_system(name) for name in names]
        if generator is not None:
            if not any(system.synthesis for system in chosen):
                raise AsdError("None of these systems uses generated clips; leave --generator out.")
            chosen = [config.with_generator(system, config.load_generator(generator)) for system in chosen]
        overlay = config.load_profile(profile)
        context = pipeline.Context(_workspace(workspace), open_dataset(data), device, checkpoint_seconds)
        for problem in context.data.problems:
            logging.getLogger(__name__).warning("passed over: %s", problem)
        progress(0.0, "planning")
        tasks = pipeline.plan(chosen, overlay, context, machines, seeds or [0])
        if dry_run:
            states = {True: "done", False: "to do"}
            terminal.print_json(
                {
                    "systems": [config.resolve(s, overlay).model_dump(mode="json", exclude_none=True) for s in chosen],
                    "tasks": [f"{t.kind}/{t.key} {states[t.done(context.workspace)]}: {t.title}" for t in tasks],
                }
            )
            return
        outcome = local.run(tasks, context, progress)
    if not outcome.main:  # one of several processes; another one tells
        return
    terminal.err.print(f"{outcome.computed} tasks computed, {outcome.reused} reused.")
    finished = [t.spec["run_id"] for t in tasks if t.kind == "run"]
    _show_runs(context.workspace, run_ids=finished)


@app.command()
def table(
    data: Annotated[str | None, typer.Option(help="Only runs on this data set, by name.")] = None,
    profile: Annotated[str | None, typer.Option(help="Only runs of this profile.")] = None,
    by_machine: Annotated[
        bool, typer.Option("--machines", "--published", help="Machine by machine, beside what the reports print.")
    ] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Results of all runs: official and domain-restricted scores, intervals, published numbers beside."""
    _show_runs(_workspace(workspace), data, profile, as_json=as_json, by_machine=by_machine)


def _show_runs(
    workspace: Workspace,
    data: str | None = None,
    profile: str | None = None,
    run_ids: Sequence[str] | None = None,
    as_json: bool = False,
    by_machine: bool = False,
) -> None:
    from asd_core import analysis
    from asd_core.artifacts import load_run

    reports, runs = analysis.published(), []
    finished = workspace.run_ids()
    declared = sorted(meta.parent.name for meta in (workspace.root / "runs").glob("*/meta.json"))
    damaged = {name: "a file is not as it was written" for name in declared if name not in finished}
    for run_id in finished:
        try:
            one = load_run(workspace, run_id)
            if data in (None, one.record["data"]["name"]) and profile in (None, one.record["profile"]):
                analysis.leaderboard([one], reports)  # reads all that the table will need
                runs.append(one)
        except (AsdError, OSError, LookupError, TypeError, ValueError) as error:
            damaged[run_id] = str(error) if isinstance(error, AsdError) else repr(error)
    if run_ids is not None:
        runs = [one for one in runs if one.record["run_id"] in run_ids]
    for name, why in damaged.items():
        advice = f"{name} is damaged ({why}). Delete {workspace.run(name)} and run it again."
        terminal.err.print(f"[yellow]passed over:[/] {escape(advice)}", highlight=False, soft_wrap=True)
    if not runs:
        raise AsdError(
            f"No finished run in {workspace.root} matches. `python -m asd_core run --help` tells how to make one."
        )
    if by_machine:
        results = analysis.machine_results(runs, reports)
        if as_json:
            terminal.print_json(json.loads(results.to_json(orient="records")))
        elif results.empty:
            raise AsdError("No machine of these runs is labelled, so that there is no figure to show.")
        else:
            terminal.print_machine_results(results)
        return
    board = analysis.leaderboard(runs, reports)
    if as_json:
        terminal.print_json(json.loads(board.to_json(orient="records")))
    else:
        labelled: dict[str, list[str]] = {}  # runs of one data set may cover different machines
        for one in runs:
            name = one.record["data"]["name"]
            labelled[name] = sorted({*labelled.get(name, []), *one.record["labelled"]})
        terminal.print_leaderboard(board, labelled)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="A run's id, or a system: then all seeds of it.")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="The same.")],
    data: Annotated[str | None, typer.Option(help="Of systems: runs on this data set, by name.")] = None,
    profile: Annotated[str | None, typer.Option(help="Of systems: runs of this profile.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Is one system better than another, or is it chance? Paired, on the same test clips, machine by machine.

    Example: compare neu-1 logmel-maha --data demo --profile quick
    """
    from asd_core import analysis

    finished = api.runs(_workspace(workspace))
    picked = [analysis.runs_named(finished, name, data, profile) for name in (first, second)]
    found = analysis.compare_runs(*picked)
    if as_json:
        terminal.print_json(found)
    else:
        terminal.print_comparison(found)


@app.command()
def tune(
    names: Annotated[list[str], typer.Argument(metavar="RUN", help="Ids of runs, or systems; all of their streams.")],
    data: Annotated[str | None, typer.Option(help="Of systems: runs on this data set, by name.")] = None,
    profile: Annotated[str | None, typer.Option(help="Of systems: runs of this profile.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=config.MAX_SEED, help="Of systems: the run with this seed.")] = 0,
    search: Annotated[str, typer.Option(help="auto, grid (up to 3 streams), greedy or simplex.")] = "auto",
    normalise: Annotated[str, typer.Option(help="none, ztrain, ecdf or rank_test (transductive).")] = "ztrain",
    output: Annotated[Path | None, typer.Option(help="Write the fusion as a system, into this new YAML file.")] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Fuse finished runs with weights tuned on their labelled machines, and tell what they are worth on others.

    Example: tune neu-1 logmel-maha --data demo --profile quick --output both.yaml
    """
    from asd_core import analysis, files, pipeline
    from asd_core.pipeline.tuned import trained_anew

    if output is not None and output.exists():
        raise AsdError(f"{output} exists. Give a new name, or delete it first.")
    finished, picked = api.runs(_workspace(workspace)), []
    for name in names:
        found = analysis.runs_named(finished, name, data, profile)
        own = [run for run in found if run.record["run_id"] == name or run.record["seed"] == seed]
        if not own:
            seeds = ", ".join(str(run.record["seed"]) for run in found)
            raise AsdError(f"{name} has no finished run with seed {seed}. There is: {seeds}.")
        picked += own
    system, tuning = pipeline.tune_runs(picked, output.stem if output else "tuned", normalise, search)
    if output is not None:
        files.write_text(output, pipeline.system_file(system, tuning, picked))
    if as_json:
        ids = [run.record["run_id"] for run in picked]
        terminal.print_json(tuning.record() | {"runs": ids, "data": picked[0].record["data"]})
    else:
        terminal.print_tuning(tuning, picked[0].record["data"])
    if output is not None:
        about = picked[0].record
        profiles = {run.record["profile"] for run in picked}
        place = api.data_sets(_workspace(workspace))[about["data"]["name"]].argument
        how = f"--data {place} --profile {profiles.pop() if len(profiles) == 1 else 'full'}"
        if lowest := min(run.record["seed"] for run in picked):
            how += f" --seeds {lowest}"
        if told := trained_anew(picked):
            terminal.err.print(escape(told), highlight=False, soft_wrap=True)
        terminal.err.print(f"Wrote it. Next: run {escape(str(output))} {escape(how)}", highlight=False, soft_wrap=True)


@app.command()
def systems(
    profile: Annotated[
        str | None,
        typer.Option(help="Status under this profile; default: as the reports say.", autocompletion=_complete_profile),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the systems and their variants: where they come from, what they need, whether it is here."""
    from asd_core import analysis, pipeline

    overlay = None if profile is None else config.load_profile(profile)
    valid: dict[str, config.System] = {}
    transductive = []
    for name, system in api.systems().items():
        try:
            if isinstance(system, AsdError):
                raise system
            if overlay is not None:
                config.resolve(system, overlay)
            transductive.append(pipeline.is_transductive(system))
            valid[name] = system
        except AsdError as error:
            terminal.err.print(f"[yellow]passed over:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    table = analysis.system_table(valid, overlay).assign(transductive=transductive)
    if as_json:
        terminal.print_json(table.to_dict(orient="records"))
        return
    if table.empty:
        raise AsdError(f"{config.CONFIGS / 'systems'} holds no valid system.")
    table["system"] = terminal.marked(table["system"], table["transductive"])
    shown = table[["system", "report", "published", "metric", "status", "needs", "networks", "idea"]]
    caption = (
        "published: harmonic mean in percent on DCASE 2026 development data. status: "
        + (f"under profile {profile}." if profile else "as the reports describe the systems; see --profile.")
        + " `weights list` tells how to get weights."
    )
    terminal.print_table(shown, caption=f"{caption}\n{terminal.TRANSDUCTIVE}")


# ------------------------------------------------------------------ generated clips


def _complete_generator(incomplete: str) -> list[str]:
    return [name for name in config.generator_names() if name.startswith(incomplete)]


def _resolved_generator(name: str, profile: str) -> config.Generator:
    return config.resolve_generator(config.load_generator(name), config.load_profile(profile))


GeneratorOption = Annotated[
    str,
    typer.Option("--generator", help="Of configs/generators, or a YAML file.", autocompletion=_complete_generator),
]
MachinesOption = Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")]
ProfileOption = Annotated[
    str, typer.Option("--profile", help="full, or quick: small, for two cores.", autocompletion=_complete_profile)
]


@app.command()
def generate(
    data: DataOption = "demo",
    profile: ProfileOption = "full",
    generator: GeneratorOption = "diffusion",
    machines: MachinesOption = None,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    dry_run: Annotated[bool, typer.Option(help="Show which conditions get how many clips; do nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the generator with these numbers into a new YAML file, to edit.")
    ] = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """Make clips of rare conditions: train a diffusion model, draw, screen. Repeating the command continues.

    Systems that use such clips do the same by themselves. Example: generate --data demo --profile quick --dry-run
    """
    _check_device(device)
    chosen = _resolved_generator(generator, profile)
    if dry_run or output is not None:
        from asd_core import files
        from asd_core.data.manifest import open_dataset

        targets = api.generation_targets(open_dataset(data), chosen, machines)
        if output is not None:
            if output.exists() or output.suffix not in (".yaml", ".yml"):
                raise AsdError(f"{output} exists or is no .yaml file. Give a new name that ends with .yaml.")
            counts = dict(zip(targets["condition"], targets["wanted"].tolist(), strict=True))
            files.write_text(output, config.generator_file(chosen, output.stem, counts))
            terminal.err.print(
                f"Wrote {escape(str(output))}. Edit targets.counts, then: --generator {escape(str(output))}"
            )
        if as_json:
            terminal.print_json(targets.to_dict(orient="records"))
        else:
            terminal.print_targets(targets)
        return
    _screened(chosen, data, machines, device, workspace, job, as_json)


@app.command()
def screen(
    data: DataOption = "demo",
    profile: ProfileOption = "full",
    generator: GeneratorOption = "diffusion",
    machines: MachinesOption = None,
    keep: Annotated[list[str] | None, typer.Option(help="Keep this clip whatever the rule says; repeat.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Drop this clip whatever the rule says; repeat.")] = None,
    undo: Annotated[list[str] | None, typer.Option(help="Take back the last verdict on this clip; repeat.")] = None,
    every: Annotated[bool, typer.Option("--clips", help="List every clip, and what is against it.")] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """What is kept of the generated clips and why the others are not; record verdicts of your own.

    Example: screen --data demo --profile quick --clips --machines fanSim
    """
    chosen = _resolved_generator(generator, profile)
    said = [(clip, word) for word, clips in (("keep", keep), ("drop", drop), ("undo", undo)) for clip in clips or []]
    if said:
        from asd_core import pipeline
        from asd_core.data.manifest import open_dataset

        context = pipeline.Context(_workspace(workspace), open_dataset(data))
        pipeline.record_verdicts(chosen, context, said)
    _screened(chosen, data, machines, "auto", workspace, None, as_json, every, only_known=True)


def _screened(
    chosen: config.Generator,
    data: str,
    machines: list[str] | None,
    device: str,
    workspace: Path,
    job: Path | None,
    as_json: bool,
    every: bool = False,
    only_known: bool = False,
) -> None:
    """Make and screen what is not there yet, and show what came of it."""
    import pandas as pd

    tasks, context = _make_generated(chosen, data, machines, device, workspace, job, only_known=only_known)
    folders = [task.folder(context.workspace) for task in tasks if task.kind == "screen"]
    name = "candidates" if every else "shortfall"
    table = pd.concat([pd.read_parquet(folder / f"{name}.parquet") for folder in folders], ignore_index=True)
    if as_json:
        terminal.print_json(json.loads(table.to_json(orient="records")))
    elif every:
        terminal.print_candidates(table)
    else:
        terminal.print_shortfall(table, context.data.name, context.data.kind)


@app.command()
def quality(
    data: DataOption = "demo",
    profile: ProfileOption = "full",
    generator: GeneratorOption = "diffusion",
    machines: MachinesOption = None,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
    job: JobOption = None,
) -> None:
    """How near generated clips come to recorded ones, beside yardsticks; diversity, copies. May look at test labels.

    Example: quality --data demo --profile quick
    """
    import pandas as pd

    chosen = _resolved_generator(generator, profile)
    tasks, context = _make_generated(chosen, data, machines, "auto", workspace, job, quality=True)
    folders = [task.folder(context.workspace) for task in tasks if task.kind == "quality"]
    distances, samples = (
        pd.concat([pd.read_parquet(folder / f"{name}.parquet") for folder in folders], ignore_index=True)
        for name in ("distances", "samples")
    )
    if as_json:
        tables = {"distances": distances, "samples": samples}
        terminal.print_json({name: json.loads(table.to_json(orient="records")) for name, table in tables.items()})
    else:
        terminal.print_quality(distances, samples, context.data.name, context.data.kind)


def _make_generated(
    chosen: config.Generator,
    data: str,
    machines: list[str] | None,
    device: str,
    workspace: Path,
    job: Path | None,
    quality: bool = False,
    only_known: bool = False,
) -> tuple[list[pipeline.Task], pipeline.Context]:
    with terminal.reporting(job) as progress:
        from asd_core import pipeline
        from asd_core.data.manifest import open_dataset
        from asd_core.engine import local

        context = pipeline.Context(_workspace(workspace), open_dataset(data), device)
        for problem in context.data.problems:
            logging.getLogger(__name__).warning("passed over: %s", problem)
        progress(0.0, "planning")
        tasks = pipeline.plan_generated(chosen, context, machines, quality)
        if only_known and not all(task.done(context.workspace) for task in tasks if task.kind == "generate"):
            raise AsdError("There are no generated clips with these settings yet. `generate` makes them.")
        outcome = local.run(tasks, context, progress)
    if not outcome.main:
        raise typer.Exit
    terminal.err.print(f"{outcome.computed} tasks computed, {outcome.reused} reused.")
    return tasks, context


@app.command()
def score(
    wavs: Annotated[list[Path], typer.Argument(help="Recordings to judge; any length, resampled if needed.")],
    run_id: Annotated[str, typer.Option("--run", help="A finished run; `table --json` lists their ids.")],
    machine: Annotated[str, typer.Option(help="Which machine of the run these recordings are of.")],
    section: Annotated[str, typer.Option(help="Section of the machine.")] = "00",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Score loose recordings with a trained system: anomaly score, threshold, decision, percentile among normals."""
    from asd_core import pipeline

    result = pipeline.score_files(_workspace(workspace), run_id, machine, wavs, section)
    if as_json:
        terminal.print_json(result.to_dict(orient="records"))
        return
    result["decision"] = ["anomalous" if d else "normal" for d in result["decision"]]
    result["percentile"] = [f"{p:.0f} %" for p in result["percentile"]]
    result[["score", "threshold"]] = result[["score", "threshold"]].map("{:.6g}".format)
    terminal.print_table(result[["file", "score", "threshold", "decision", "percentile"]], f"{machine}, {run_id}")


@app.command()
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

    place = _workspace(workspace)
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


# ------------------------------------------------------------------ evaluate and export


@app.command()
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


@app.command()
def export(
    spec: Annotated[Path, typer.Option(help="YAML or JSON that describes the package (authors, systems, report).")],
    output: Annotated[Path | None, typer.Option(help="Zip or folder; default: the workspace's exports.")] = None,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Build a submission package and check it against every rule."""
    from asd_core.artifacts import load_run
    from asd_core.export import submission

    place = _workspace(workspace)
    package = config.load(submission.Package, spec)
    path = submission.build(package, place, output or place.exports)
    terminal.out.print(f"Wrote {escape(str(path))}")
    runs = [load_run(place, run_id) for system in package.systems for run_id in system.runs]
    machines = package.machines or [machine for r in runs for machine in submission.unlabelled_machines(r)]
    _check(path, api.expected_clips(runs, machines))


@app.command()
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


# ------------------------------------------------------------------ data


@app.command()
def doctor(folder: Annotated[Path, typer.Argument(help="A data set's folder.")], as_json: JsonOption = False) -> None:
    """Check every recording of a data set and report what is wrong, file by file, without stopping."""
    from asd_core.data import doctor as examination

    with terminal.reporting(None) as progress:
        report = examination.examine(folder, progress)
    sys.stdout.write((examination.to_json(report) if as_json else examination.render(report)) + "\n")
    if any(finding.severity == "error" for finding in report.findings):
        raise typer.Exit(1)


@data_app.command()
def simulate(
    root: Annotated[Path, typer.Option(help="Folder to write; default data/demo.")] = config.CONFIGS.parent
    / "data"
    / "demo",
    size: Annotated[
        str, typer.Option(help="tiny (seconds), demo (a minute) or full (990+10+200 clips a machine).")
    ] = "demo",
    machines: Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds, equal bytes.")] = 0,
    job: JobOption = None,
) -> None:
    """Record simulated machines, in the layout of the challenge. Repeating the command continues."""
    with terminal.reporting(job) as progress:
        from asd_core.data.simulate import simulate as record

        record(root, size, machines, seed, progress)
    terminal.err.print(f"Simulated machines are in {escape(str(root))}")


@data_app.command()
def degrade(
    folder: Annotated[str, typer.Argument(help="A data set or a folder.", autocompletion=_complete_data)],
    output: Annotated[Path, typer.Option(help="A new or empty folder.")],
    snr: Annotated[float, typer.Option(help="dB, of each channel of each clip as it was recorded.")],
    noise: Annotated[
        str, typer.Option(help="pink, white, or far: the far microphone of other training clips.")
    ] = "pink",
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds, equal bytes.")] = 0,
    machines: Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")] = None,
    job: JobOption = None,
) -> None:
    """Copy a data set with noise added to every clip, to see how systems stand it.

    Example: data degrade demo --output data/demo-0dB --snr 0
    """
    with terminal.reporting(job) as progress:
        from asd_core.data import degrade as noisier
        from asd_core.data.manifest import open_dataset

        found = open_dataset(folder)
        for problem in found.problems:
            logging.getLogger(__name__).warning("passed over: %s", problem)
        made = noisier.degrade(found, output, snr, noise, seed, machines, progress)  # type: ignore[arg-type]  # checked
    if made.silent:
        told = f"{len(made.silent)} clips have a silent channel, which got no noise, such as {made.silent[0]}."
        terminal.err.print(escape(told), highlight=False, soft_wrap=True)
    if made.gain_db < 0:
        terminal.err.print(
            f"All clips were lowered by {-made.gain_db:.1f} dB, so that none is clipped.",
            highlight=False,
            soft_wrap=True,
        )
    told = f"{made.name}: {made.clips} clips are in {made.root}. Use it with --data {made.root}"
    terminal.err.print(escape(told), highlight=False, soft_wrap=True)


@data_app.command()
def download(
    name: Annotated[
        str, typer.Argument(help="A data set of configs/datasets.", autocompletion=_complete_data)
    ] = "dcase2026",
    root: Annotated[Path | None, typer.Option(help="Where to; default: the data set's own folder.")] = None,
    machines: Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")] = None,
    parts: Annotated[list[str] | None, typer.Option(help="dev, eval_train, eval_test; repeat the option.")] = None,
    job: JobOption = None,
) -> None:
    """Fetch a data set's archives (DCASE 2026: about 8.2 GB), check and unpack them. Repeating continues."""
    with terminal.reporting(job) as progress:
        from asd_core.data import catalogue
        from asd_core.data import download as fetching

        about = catalogue.load_dataset_config(name)
        place = root or config.CONFIGS.parent / about.root
        fetched = fetching.download(about, place, machines, parts, progress)
    terminal.err.print(f"{len(fetched)} archives fetched; the data set is in {escape(str(place))}")


@data_app.command()
def show(
    data: Annotated[str, typer.Argument(help="A data set or a folder.", autocompletion=_complete_data)] = "demo",
    as_json: JsonOption = False,
) -> None:
    """Count the clips of a data set by machine, split, domain and label."""
    from asd_core.data.manifest import open_dataset

    found = open_dataset(data)
    counts = found.counts()
    if as_json:
        terminal.print_json(counts.to_dict(orient="records"))
        return
    terminal.print_table(counts, f"{found.name} ({found.kind}), {found.root}")
    for problem in found.problems:
        terminal.err.print(f"[yellow]passed over:[/] {escape(problem)}")


# ------------------------------------------------------------------ published checkpoints


def _complete_checkpoint(incomplete: str) -> list[str]:
    from asd_core import weights

    return [name for name in weights.catalogue() if name.startswith(incomplete)]


CheckpointsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Names as in configs/weights.yaml; default: all that apply.", autocompletion=_complete_checkpoint
    ),
]


@weights_app.command("list")
def list_weights(as_json: JsonOption = False) -> None:
    """List published checkpoints: is the file here, where it belongs, its licence, which systems start from it."""
    import pandas as pd

    rows = api.checkpoints()
    if as_json:
        terminal.print_json([row.to_dict() for row in rows])
        return
    shown = [
        {
            "checkpoint": row.name,
            "state": row.state,
            "MB": None if row.bytes is None else f"{row.bytes / 1e6:.0f}",
            "licence": row.licence,
            "needed by": ", ".join(row.used_by) or "–",
            "file": row.path.name,
            "get it with": "fetch" if row.can_fetch else "a browser, then import",
        }
        for row in rows
    ]
    pages = "\n".join(dict.fromkeys(row.page for row in rows))
    terminal.print_table(pd.DataFrame(shown), f"Checkpoints in {api.weights_folder()}", f"From:\n{pages}")
    for row in rows:
        if row.problem:
            terminal.err.print(f"[yellow]{row.name}:[/] {escape(row.problem)}", highlight=False, soft_wrap=True)


@weights_app.command("fetch")
def fetch_weights(names: CheckpointsArgument = None, job: JobOption = None) -> None:
    """Download checkpoints that have a plain address, and check them. Repeating continues.

    Without names: those that a system needs. BEATs needs a browser; see `weights import`.
    """
    with terminal.reporting(job) as progress:
        from asd_core import remote, weights
        from asd_core.backbones import pretrained

        needed = weights.used_by()
        chosen = names or [one.name for one in weights.catalogue().values() if one.url and one.name in needed]
        if not chosen:
            raise AsdError("No system needs a checkpoint that can be fetched. Name one; `weights list` lists them.")
        for i, name in enumerate(chosen):
            step = remote.share(progress, i / len(chosen), 1 / len(chosen))
            path = weights.fetch(name, pretrained.read, step)
            terminal.err.print(f"{name}: {escape(str(path))}", highlight=False, soft_wrap=True)


@weights_app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="A checkpoint that you have got by other means.")],
    name: Annotated[
        str | None,
        typer.Option(
            "--as", help="Which checkpoint it is; default: told by its file name.", autocompletion=_complete_checkpoint
        ),
    ] = None,
) -> None:
    """Check a checkpoint file and copy it to where it belongs."""
    from asd_core import weights
    from asd_core.backbones import pretrained

    known = name or weights.guess(file)
    path = weights.import_file(file, known, pretrained.read)
    terminal.err.print(f"{known}: {escape(str(path))}", highlight=False, soft_wrap=True)


@weights_app.command("verify")
def verify_weights(names: CheckpointsArgument = None, job: JobOption = None) -> None:
    """Read checkpoints in full and compare them with what is published, or was recorded when they came."""
    with terminal.reporting(job) as progress:
        from asd_core import weights
        from asd_core.backbones import pretrained

        chosen = names or [found.checkpoint.name for found in weights.statuses() if found.state != weights.ABSENT]
        outcomes = []
        for i, name in enumerate(chosen):
            progress(i / len(chosen), f"checking {name}")
            outcomes.append(weights.verify(name, pretrained.read))
        for found in outcomes:
            if found.state == weights.PRESENT:
                terminal.out.print(f"{found.checkpoint.name}: sound, SHA-256 {found.sha256}", soft_wrap=True)
        if not outcomes:
            terminal.out.print(f"There is no checkpoint in {escape(str(weights.folder()))}.", soft_wrap=True)
        if bad := [found for found in outcomes if found.state != weights.PRESENT]:
            told = [f"{f.checkpoint.name}: {f.problem or f'there is no file {f.path}.'}" for f in bad]
            raise AsdError("\n".join(told))


@app.command()
def clean(workspace: WorkspaceOption = WORKSPACE) -> None:
    """Delete caches and the remains of unfinished work. Runs, trained networks and exports stay."""
    terminal.out.print(f"Removed the cache and {_workspace(workspace).clean()} unfinished tasks.")


def _version(wanted: bool) -> None:
    if wanted:
        terminal.out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell more.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    handler = RichHandler(console=terminal.err, show_path=False, show_time=False)
    logging.basicConfig(level="INFO" if verbose else "WARNING", format="%(message)s", handlers=[handler])


def main() -> None:
    """Run the command line; a problem becomes one message and an exit code, never a traceback."""
    try:
        app()
    except AsdError as error:
        terminal.err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:  # no permission, no room, a file where a folder should be
        place = f": {error.filename}" if error.filename else ""
        terminal.err.print(
            f"[bold red]error:[/] {escape(f'{error.strerror or error}{place}')}. Nothing finished was lost.",
            soft_wrap=True,
        )
        sys.exit(1)
    except (Cancelled, KeyboardInterrupt):
        terminal.err.print("Cancelled. What was finished is kept; the same command continues.")
        sys.exit(130)


if __name__ == "__main__":
    main()
