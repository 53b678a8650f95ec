"""Finished runs: figures, curves and clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from asd_core.api.recordings import data_set
from asd_core.artifacts import Run, Workspace, load_run
from asd_core.data.manifest import DataSet
from asd_core.files import digest
from asd_core.types import ANOMALY, AsdError

if TYPE_CHECKING:
    from asd_core.pipeline.explain import Explanation


def runs(workspace: Workspace) -> list[Run]:
    """Finished runs, newest first; `broken_runs` names the folders that were passed over."""
    return [run for run, _ in _runs(workspace) if run is not None]


def broken_runs(workspace: Workspace) -> list[str]:
    """One sentence per run folder that cannot be read."""
    return [why for run, why in _runs(workspace) if run is None]


def _runs(workspace: Workspace) -> list[tuple[Run | None, str]]:
    found: list[tuple[Run | None, str]] = []
    whole = workspace.run_ids()
    for run_id in whole:
        try:
            run = load_run(workspace, run_id)
            missing = {"run_id", "system", "data", "machines", "thresholds", "created"} - set(run.record)
            found.append((None, _broken(run_id, f"{', '.join(sorted(missing))} missing")) if missing else (run, ""))
        except (AsdError, ValueError, OSError) as error:
            found.append((None, _broken(run_id, str(error))))
    declared = sorted(path.parent.name for path in (workspace.root / "runs").glob("*/meta.json"))
    found += [(None, _broken(name, "a file is missing or was changed")) for name in declared if name not in whole]
    return found


def _broken(run_id: str, why: str) -> str:
    return f"{run_id}: {why.rstrip('.')}. Delete the folder and run the system again."


def run_stamp(run: Run) -> str:
    """Changes when a run is made anew; part of the key of anything cached from it."""
    return digest([str(run.folder), (run.folder / "meta.json").stat().st_mtime_ns])


def leaderboard(workspace: Workspace) -> pd.DataFrame:
    """The table of `analysis.leaderboard` with ``measured``, the number of machines a row's Ω covers.

    Rows over fewer machines than others of the same data stand below them: their Ω is of an easier or harder set.
    """
    from asd_core import analysis

    finished = runs(workspace)
    board = analysis.leaderboard(finished, analysis.published())
    machines = sorted({machine for run in finished for machine in run.record["machines"]} & set(board))
    board["measured"] = board[machines].notna().sum(axis=1) if machines else 0
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
    from asd_core import analysis

    return analysis.histogram(clips, bins)


def roc_curves(clips: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """ROC curves behind the official figures of one machine's clip table, as far as they are defined.

    "source" and "target" set the normals of that domain against all anomalies (auc_source, auc_target), "all" sets
    all normals against all anomalies (pauc).
    """
    from asd_core import analysis

    known = clips[clips["label"].notna()]
    curves = {}
    for name in ("source", "target", "all"):
        own = known[(known["domain"] == name) | (known["label"] == ANOMALY)] if name != "all" else known
        if own["label"].nunique() == 2:
            curves[name] = analysis.roc(own["score"].to_numpy(), own["label"].to_numpy(dtype=int))
    return curves


PRESETS = {
    "Worst false alarms": "normal clips above the threshold, highest first",
    "Missed anomalies": "anomalous clips below the threshold, lowest first",
    "Closest to threshold": "the clips that could tip over first",
    "Highest scores": "all clips, most anomalous first",
    "By name": "all clips in order of their names",
}
LABEL_FREE_PRESETS = ("Closest to threshold", "Highest scores", "By name")


def select_clips(
    clips: pd.DataFrame,
    preset: str = "By name",
    domains: Sequence[str] = (),
    outcomes: Sequence[str] = (),
    text: str = "",
) -> pd.DataFrame:
    """Rows of a clip table that a preset of `PRESETS` and the filters keep, in the preset's order.

    Args:
        domains: "source", "target"; empty for both
        outcomes: "TP", "FP", "TN", "FN"; empty for all
        text: must occur in the clip's id or attributes, in any case
    """
    kept = clips
    if domains:
        kept = kept[kept["domain"].isin(domains)]
    if outcomes:
        kept = kept[kept["outcome"].isin(outcomes)]
    if text.strip():
        words = kept["clip_id"].str.lower() + " " + kept["attributes"].str.lower()
        kept = kept[words.str.contains(text.strip().lower(), regex=False)]
    if preset == "Worst false alarms":
        return kept[kept["outcome"] == "FP"].sort_values(["margin", "clip_id"], ascending=[False, True])
    if preset == "Missed anomalies":
        return kept[kept["outcome"] == "FN"].sort_values(["margin", "clip_id"])
    if preset == "Closest to threshold":
        return kept.iloc[kept["margin"].abs().argsort(kind="stable")]
    if preset == "Highest scores":
        return kept.sort_values(["score", "clip_id"], ascending=[False, True])
    return kept.sort_values("clip_id")
