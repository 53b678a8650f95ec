"""Finished runs: figures, curves and clips."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from asd_core import jobs
from asd_core.api.inventory import current_fingerprint
from asd_core.api.moment import once_a_moment
from asd_core.api.recordings import data_set, data_sets
from asd_core.artifacts import Run, Workspace, is_done
from asd_core.data.manifest import DataSet
from asd_core.files import digest, read_json
from asd_core.types import ANOMALY, AsdError

if TYPE_CHECKING:
    from asd_core.pipeline.explain import Explanation


def runs(workspace: Workspace) -> list[Run]:
    """Finished runs, newest first; `broken_runs` names the folders that were passed over.

    A folder is read again only when one of its files changed, and the objects are shared: do not change them.
    """
    found = [(stamp, run) for stamp, run, _ in _runs(workspace) if run is not None]
    return [run for _, run in sorted(found, key=lambda one: one[0], reverse=True)]


def broken_runs(workspace: Workspace) -> list[str]:
    """One sentence per run folder that cannot be read."""
    return [why for _, run, why in _runs(workspace) if run is None and why]


@once_a_moment
def _runs(workspace: Workspace) -> list[tuple[int, Run | None, str]]:
    """(time of its record, the run, why there is none) of every run folder; neither, while it is being written."""
    folders = {path: _files(path) for path in sorted((workspace.root / "runs").glob("*"))}
    return [(dict(files).get("run.json", (0, 0))[1], *_run_of(path, files)) for path, files in folders.items()]


@once_a_moment
def _files(folder: Path) -> tuple[tuple[str, tuple[int, int]], ...]:
    """(name, (size, time)) of every file, by name; empty if the folder is none, or is just being deleted."""
    try:
        found = [(one.name, one.stat()) for one in os.scandir(folder)]
    except OSError:
        return ()
    return tuple(sorted((name, (stat.st_size, stat.st_mtime_ns)) for name, stat in found))


@lru_cache(maxsize=1024)
def _run_of(folder: Path, files: tuple[tuple[str, tuple[int, int]], ...]) -> tuple[Run | None, str]:
    """The run, or why it is broken; `files` stands for the state of the folder."""
    if "meta.json" not in dict(files):
        return None, ""
    try:
        if not is_done(folder) or "run.json" not in dict(files):
            return None, _broken(folder, "a file is missing or was changed")
        run = Run(folder, read_json(folder / "run.json"))
        missing = {"run_id", "system", "data", "machines", "thresholds", "created"} - set(run.record)
        return (None, _broken(folder, f"{', '.join(sorted(missing))} missing")) if missing else (run, "")
    except (AsdError, ValueError, OSError) as error:
        return None, _broken(folder, str(error))


def _broken(folder: Path, why: str) -> str:
    return f"{folder.name}: {why.rstrip('.')}. Delete the folder and run the system again."


def run_stamp(run: Run) -> str:
    """Changes when a run is made anew; part of the key of anything cached from it."""
    return digest([str(run.folder), *_files(run.folder)])


def leaderboard(workspace: Workspace) -> pd.DataFrame:
    """The table of `analysis.leaderboard` with ``measured``, the number of machines a row's Ω covers.

    Rows over fewer machines than others of the same data stand below them: their Ω is of an easier or harder set.
    """
    from asd_core import analysis

    finished = runs(workspace)
    board = analysis.leaderboard(finished, analysis.published())
    machines = sorted({machine for run in finished for machine in run.record["machines"]} & set(board))
    board = board.assign(measured=board[machines].notna().sum(axis=1) if machines else 0)
    return board.sort_values("measured", ascending=False, kind="stable").reset_index(drop=True)


def machine_matrix(run: Run) -> pd.DataFrame:
    from asd_core import analysis

    return analysis.machine_matrix(run)


def clip_table(workspace: Workspace, run: Run) -> pd.DataFrame:
    """The run's test clips with their truth, where the recordings are on this machine and tell it."""
    from asd_core import analysis

    about = run.record["data"]
    try:
        data = data_set(workspace, about["name"])
    except AsdError:
        data = DataSet(about["name"], about["kind"], workspace.root, ())
    return analysis.clip_table(run, data)


def explanation(workspace: Workspace, run: Run, clip_id: str) -> Explanation:
    """Why a test clip got its score, with the map of local scores of every branch that keeps evidence: values (U, F)
    with start and stop in seconds, band edges in Hz, and the normal clip each was compared with. Knows no truth.

    Raises:
        AsdError: the run has no such test clip, or must be made again.
    """
    from asd_core.pipeline.explain import explain

    return explain(workspace, run, clip_id)


def histogram(clips: pd.DataFrame, bins: int = 40) -> pd.DataFrame:
    """`analysis.histogram` of the finite scores."""
    from asd_core import analysis

    return analysis.histogram(clips[np.isfinite(clips["score"])], bins)


def not_finite(clips: pd.DataFrame) -> list[str]:
    """Ids of the clips whose score is no number: they are in no histogram and on no curve."""
    return list(clips.loc[~np.isfinite(clips["score"]), "clip_id"])


def roc_curves(clips: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """ROC curves behind the official figures of one machine's clip table, as far as they are defined.

    "source" and "target" set the normals of that domain against all anomalies (auc_source, auc_target), "all" sets
    all normals against all anomalies (pauc).
    """
    from asd_core import analysis

    known = clips[clips["label"].notna() & np.isfinite(clips["score"])]
    curves = {}
    for name in ("source", "target", "all"):
        own = known[(known["domain"] == name) | (known["label"] == ANOMALY)] if name != "all" else known
        if own["label"].nunique() == 2:
            curves[name] = analysis.roc(own["score"].to_numpy(), own["label"].to_numpy(dtype=int))
    return curves


def rates_at(curve: pd.DataFrame, threshold: float) -> tuple[float, float]:
    """(false-alarm rate, share of found anomalies) on a curve of `roc_curves` with any threshold."""
    row = curve.iloc[min(int((curve["threshold"] > threshold).sum()), len(curve) - 1)]
    return float(row["fpr"]), float(row["tpr"])


def at_threshold(clips: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The clip table as it would be with another threshold; nothing is stored."""
    from asd_core.analysis.clips import outcome

    flagged = (clips["score"] > threshold).astype(int)
    labels = [None if pd.isna(label) else int(label) for label in clips["label"]]
    return clips.assign(
        threshold=threshold,
        margin=clips["score"] - threshold,
        decision=flagged,
        outcome=[outcome(label, decision) for label, decision in zip(labels, flagged, strict=True)],
    )


def outcome_counts(clips: pd.DataFrame) -> dict[str, int]:
    """How many clips are TP, FP, TN and FN."""
    return {name: int((clips["outcome"] == name).sum()) for name in ("TP", "FP", "TN", "FN")}


def compare_runs(run: Run, other: Run) -> dict[str, Any]:
    """`analysis.compare_runs` of these two runs alone: `run` is system a, `other` system b.

    Raises:
        AsdError: they were not made on the same recordings, or none of these is labelled.
    """
    from asd_core import analysis

    return analysis.compare_runs([run], [other])


def machine_differences(found: dict[str, Any]) -> pd.DataFrame:
    """Machine by machine of what `compare_runs` found: machine, section, then auc_source, auc_target, pauc and hmean of the
    first minus the second in points, ``low`` and ``high`` of the 95 % interval of hmean, and ``p`` (Holm)."""
    rows = []
    for machine, sections in found["machines"].items():
        for section, entry in sections.items():
            mean = entry["hmean"]
            low, high = mean["interval"] or (None, None)
            row = {"machine": machine, "section": section, "low": low, "high": high}
            row |= {name: entry[name]["difference"] for name in FIGURES}
            rows.append(row | {"p": mean["p_holm"]})
    table = pd.DataFrame(rows, columns=["machine", "section", *FIGURES, "low", "high", "p"])
    points = [*FIGURES, "low", "high"]
    table[[*points, "p"]] = table[[*points, "p"]].apply(pd.to_numeric)
    table[points] *= 100
    return table


def too_few(matrix: pd.DataFrame, least: int = 5) -> pd.DataFrame:
    """Figure by figure of `machine_matrix`, whether it rests on fewer than `least` normal or anomalous clips."""
    counts = {name: pd.to_numeric(matrix[name]).fillna(0) for name in matrix if name.startswith("n_")}
    anomalies = counts["n_source_anomaly"] + counts["n_target_anomaly"]
    normals = {"auc_source": counts["n_source_normal"], "auc_target": counts["n_target_normal"]}
    normals["pauc"] = normals["auc_source"] + normals["auc_target"]
    few = pd.DataFrame({name: (own < least) | (anomalies < least) for name, own in normals.items()})
    return few.assign(hmean=few.any(axis=1))


def beside(clips: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The clip table with ``percentile_other``, the other run's percentile of the same clip, and ``disagreement``, this
    percentile minus that one; NaN where the other run has no such clip."""
    theirs = clips["clip_id"].map(other.set_index("clip_id")["percentile"])
    return clips.assign(percentile_other=theirs, disagreement=clips["percentile"] - theirs)


def check_recordings(workspace: Workspace, run: Run) -> tuple[str, str]:
    """Whether the recordings on disk are those that a run was made on: ("same", "changed", "unknown" or "gone", and a
    sentence that says so; "" for "same")."""
    name, made_on = run.record["data"]["name"], run.record["data"].get("fingerprint", "")
    if name not in data_sets(workspace):
        return "gone", f"The recordings of {name} are not on this machine; figures and scores are all here."
    try:
        now = current_fingerprint(workspace, name, run.record["machines"])
    except AsdError as error:
        return "gone", f"The recordings of this run cannot be found: {error}"
    if not now:
        return "unknown", f"Files of {name} are new or changed since they were last read for a run ({made_on})."
    if now != made_on:
        return "changed", (
            f"This run was made on other recordings of {name}: their fingerprint was {made_on}, now it is {now}. Sounds, "
            "pictures and labels are those on disk now. Run the system again to bring both together."
        )
    return "same", ""


FIGURES = ("auc_source", "auc_target", "pauc", "hmean")
PRESETS = {
    "Worst false alarms": "normal clips above the threshold, highest first",
    "Missed anomalies": "anomalous clips below the threshold, lowest first",
    "Closest to threshold": "the clips that could tip over first",
    "Systems disagree": "largest difference between the percentiles of the two systems first",
    "Highest scores": "all clips, most anomalous first",
    "By name": "all clips in order of their names",
}
LABEL_FREE_PRESETS = ("Closest to threshold", "Systems disagree", "Highest scores", "By name")
AS_SAVED = "As saved"


def select_clips(
    clips: pd.DataFrame,
    preset: str = "By name",
    domains: Sequence[str] = (),
    outcomes: Sequence[str] = (),
    text: str = "",
    band: tuple[float, float] | None = None,
    ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Rows of a clip table that a preset of `PRESETS` and the filters keep, in the preset's order.

    Args:
        domains: "source", "target"; empty for both
        outcomes: "TP", "FP", "TN", "FN"; empty for all
        text: must occur in the clip's id or attributes, in any case
        band: lowest and highest score
        ids: only these; in their order with the preset `AS_SAVED`
    """
    kept = clips
    if ids is not None:
        kept = kept[kept["clip_id"].isin(list(ids))]
    if domains:
        kept = kept[kept["domain"].isin(domains)]
    if outcomes:
        kept = kept[kept["outcome"].isin(outcomes)]
    if band:
        kept = kept[kept["score"].between(*band)]
    if text.strip():
        words = kept["clip_id"].str.lower() + " " + kept["attributes"].str.lower()
        kept = kept[words.str.contains(text.strip().lower(), regex=False)]
    if preset == "Worst false alarms":
        return kept[kept["outcome"] == "FP"].sort_values(["margin", "clip_id"], ascending=[False, True])
    if preset == "Missed anomalies":
        return kept[kept["outcome"] == "FN"].sort_values(["margin", "clip_id"])
    if preset == "Closest to threshold":
        return kept.iloc[kept["margin"].abs().argsort(kind="stable")]
    if preset == "Systems disagree":
        return kept.iloc[(-kept["disagreement"].abs()).argsort(kind="stable")]
    if preset == "Highest scores":
        return kept.sort_values(["score", "clip_id"], ascending=[False, True])
    if preset == AS_SAVED and ids is not None:
        place = {clip_id: number for number, clip_id in enumerate(ids)}
        return kept.iloc[kept["clip_id"].map(place).argsort(kind="stable")]
    return kept.sort_values("clip_id")


# ------------------------------------------------------------------ deleting

MADE_FOR_SCREENING = ("generator", "judge", "generate", "screen", "quality")  # they have a page of their own


@dataclass(frozen=True)
class Belongings:
    """What deleting a run would take away."""

    folders: tuple[Path, ...]  # the run's own first
    bytes: int
    kinds: Mapping[str, int]  # tasks by kind
    reports: int = 0  # files
    scored: int = 0  # results of scoring dropped recordings


def belongings(workspace: Workspace, run: Run) -> Belongings:
    """The run's folder and the finished tasks that nothing else on disk was made from or refers to. Maps of nothing but
    these go with them: no other run can show them. So do the run's reports, what it said of dropped recordings, and
    weights that were tuned for it among others.

    Generated clips stay, and what they were made with: they are screened by hand, on a page of their own.
    """
    tasks = workspace.root / "tasks"
    own = {(one["kind"], one["key"]) for one in run.record.get("tasks", ())}
    own -= {key for key in own if key[0] in MADE_FOR_SCREENING}
    others = (other for other in runs(workspace) if other.folder != run.folder)
    own -= {(one["kind"], one["key"]) for other in others for one in other.record.get("tasks", ())}
    inputs = {(meta.parent.parent.name, meta.parent.name): _inputs(meta) for meta in tasks.glob("*/*/meta.json")}
    known = {key for _, key in own}
    own |= {one for one, made_of in inputs.items() if one[0] == "projection" and made_of and made_of <= known}
    while kept := {key for outer in inputs.keys() - own for key in inputs[outer]} & {key for _, key in own}:
        own = {one for one in own if one[1] not in kept}
    run_id = run.record["run_id"]
    folders = [workspace.task(*one) for one in sorted(own) if one in inputs]
    folders += _told(tasks / "tune", lambda record: run_id in record.get("runs", ()))
    scored = _told(workspace.root / "scored", lambda record: record.get("run_id") == run_id)
    reports = [one for one in [workspace.root / "reports" / run_id] if one.is_dir()]
    every = (run.folder, *folders, *reports, *scored)
    size = sum(file.stat().st_size for folder in every for file in folder.rglob("*") if file.is_file())
    kinds = Counter(folder.parent.name for folder in folders)
    return Belongings(every, size, kinds, sum(len(list(one.glob("*.*"))) for one in reports), len(scored))


def _told(place: Path, is_meant: Callable[[dict[str, Any]], bool]) -> list[Path]:
    """Folders of a place whose record says so; one that cannot be read is passed over."""
    found = []
    for meta in sorted(place.glob("*/meta.json")):
        with suppress(AsdError, OSError, TypeError, AttributeError):
            if is_meant(read_json(meta)):
                found.append(meta.parent)
    return found


def _inputs(meta: Path) -> set[str]:
    """Keys of the tasks that one was made from."""
    try:
        return set(read_json(meta).get("inputs") or ())
    except (AsdError, OSError, TypeError):
        return set()


def delete_run(workspace: Workspace, run_id: str) -> Belongings:
    """Delete a finished run and what `belongings` tells; returns what is gone. The id is looked up among the runs.

    Raises:
        AsdError: there is no such run, a job is active or another process works on its parts, or some of them are
            elsewhere.
    """
    from asd_core.api import inspection

    run = next((one for one in runs(workspace) if one.record["run_id"] == run_id), None)
    if run is None:
        raise AsdError(f'There is no finished run "{run_id}"; it may have been deleted.')
    with jobs.idle(workspace.jobs):
        found = belongings(workspace, run)
        if linked := [folder for folder in found.folders if folder.is_symlink()]:
            raise AsdError(f"{linked[0]} is a link, and what it leads to may be used elsewhere. Delete it by hand.")
        # what is being made in a terminal may be made from these parts
        with workspace.unused([*found.folders, *workspace.unfinished()]):
            for folder in found.folders:
                (folder / "meta.json").unlink(missing_ok=True)  # unfinished from now on, whatever happens below
                shutil.rmtree(folder)
    inspection.forget()  # a file that is still mapped keeps its place on the disk
    return found
