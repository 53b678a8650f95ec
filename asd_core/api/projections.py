"""Maps of a run's clips: which there are, what is on them, and starting the job that makes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core import jobs
from asd_core.api.moment import once_a_moment
from asd_core.api.recordings import GENERATED as GENERATED_DATA
from asd_core.api.results import clip_table
from asd_core.artifacts import Run, Workspace, is_done, load_run, read_table
from asd_core.data.manifest import attribute_values, parse_attributes
from asd_core.files import digest, read_json
from asd_core.jobs import Job
from asd_core.pipeline import projection as maps
from asd_core.pipeline.tasks import GENERATED
from asd_core.types import ANOMALY, NORMAL, TEST, TRAIN, AsdError

MAP_METHODS, MAP_METRICS, MAP_SPLITS = maps.METHODS, maps.METRICS, maps.SPLITS
MOST_POINTS = 30_000  # of a map as it opens; more are a sample until all are asked for
ATTRIBUTE = "attribute "  # columns of single attributes begin with it
# on one core of a laptop-class processor, 768 numbers per clip; reading and starting included
SECONDS_TO_START, SECONDS_PER_CLIP = 12.0, 0.0025


@dataclass(frozen=True)
class ProjectionInfo:
    """A finished map and how it was made."""

    key: str
    spec: Mapping[str, Any]  # method and its options, machines, splits, output
    branches: tuple[str, ...]  # of the run, whose embeddings these are
    clips: int
    notices: tuple[str, ...]  # on clips that were left out
    explained: tuple[float, ...]  # share of the variance on each axis; PCA only
    created: float

    @property
    def title(self) -> str:
        """Such as "UMAP of fanSim: train, test · 20 neighbours, 0.15, cosine, seed 0 · local"."""
        machines, spec = self.spec["machines"], self.spec
        what = machines[0] if len(machines) == 1 else f"{len(machines)} machines"
        options = ""
        if spec["method"] == "umap":
            options = f" · {spec['neighbours']} neighbours, {spec['min_dist']:g}, {spec['metric']}, seed {spec['seed']}"
        return f"{spec['method'].upper()} of {what}: {', '.join(spec['splits'])}{options} · {', '.join(self.branches)}"


@dataclass(frozen=True)
class MapPlan:
    """What a job would make."""

    key: str
    clips: int
    seconds: float  # estimated
    is_done: bool
    problem: str  # why there can be no such map; "" if there can


@once_a_moment
def projections_stamp(workspace: Workspace) -> str:
    """Changes when a map is made or deleted."""
    metas = sorted((workspace.root / "tasks" / "projection").glob("*/meta.json"))
    return digest([[meta.parent.name, meta.stat().st_mtime_ns] for meta in metas])


def projections(workspace: Workspace, run: Run) -> list[ProjectionInfo]:
    """Finished maps of the embeddings behind a run, newest first, whichever run they were made from."""
    branches = [branch["name"] for branch in run.record["config"]["branches"]]
    own: dict[tuple[str, str, str], list[str]] = {}  # branches by machine, embeddings and output
    for machine in run.record.get("scores", {}):
        for branch in branches:
            try:
                place = machine, maps.embedded_by(workspace, run, machine, branch), maps.output_of(run, branch)
            except AsdError:  # none or gone, so no map of it can be this run's
                continue
            own.setdefault(place, []).append(branch)
    found = []
    for meta in (workspace.root / "tasks" / "projection").glob("*/meta.json"):
        if not is_done(meta.parent):
            continue
        about = read_json(meta)
        spec, keys = about["spec"], about["inputs"]
        by_machine = [
            own.get((machine, key, spec["output"]), ()) for machine, key in zip(spec["machines"], keys, strict=True)
        ]
        shared = tuple(branch for branch in branches if all(branch in names for names in by_machine))
        if shared:
            explained = tuple(about.get("explained", ()))
            facts = about["clips"], tuple(about["notices"]), explained, about["created"]
            found.append(ProjectionInfo(meta.parent.name, spec, shared, *facts))
    return sorted(found, key=lambda one: -one.created)


def projection(workspace: Workspace, key: str) -> pd.DataFrame:
    """The points of a finished map: clip_id, machine, split, domain and attributes (as far as they may be known
    without the truth about test clips), x, y. The key is looked up and never becomes part of a path.

    Raises:
        AsdError: there is no such map.
    """
    for meta in (workspace.root / "tasks" / "projection").glob("*/meta.json"):
        if meta.parent.name == key and is_done(meta.parent):
            return read_table(meta.parent / "points.parquet")
    raise AsdError(f"There is no finished map “{key}” in this workspace.")


def mapped_clips(workspace: Workspace, run: Run, key: str, against: Run | None = None) -> pd.DataFrame:
    """The points of a map with everything that is known of the clips, in the run's eyes.

    Columns: clip_id, machine, split, x, y; as text, "" where unknown: domain, label ("normal", "anomaly"; training
    clips are normal, generated ones have none), outcome ("TP", "FP", "TN", "FN" of test clips), attributes and one
    column per attribute key, its name after "attribute "; score, percentile (share of the machine's training normals
    that score at most this, in percent; NaN for generated clips and of a transductive run) and, with `against`,
    disagreement: the other run's percentile less this one's, in points.

    Raises:
        AsdError: there is no such map.
    """
    points = projection(workspace, key)
    judged = clip_table(workspace, run).set_index("clip_id").reindex(points["clip_id"])
    is_test, is_train = (points["split"] == TEST).to_numpy(), (points["split"] == TRAIN).to_numpy()
    words = {NORMAL: "normal", ANOMALY: "anomaly"}
    table = points[["clip_id", "machine", "split", "x", "y"]].copy()
    label = judged["label"].map(words).astype(object).where(judged["label"].notna(), "").to_numpy()
    table["label"] = np.where(is_train, "normal", np.where(is_test, label, ""))
    for name in ("domain", "attributes"):
        own = judged[name].astype(object).where(judged[name].notna(), "").to_numpy()
        table[name] = np.where(is_test, own, points[name].to_numpy())
    table["attributes"] = table["attributes"].where(table["attributes"].str.lower() != "noattribute", "")
    table["outcome"] = judged["outcome"].astype(object).where(judged["outcome"].notna(), "").to_numpy()
    facts = _judged(run).reindex(points["clip_id"])
    table["score"], table["percentile"] = facts["score"].to_numpy(), facts["percentile"].to_numpy()
    if against is not None:
        other = _judged(against)["percentile"].reindex(points["clip_id"]).to_numpy()
        table["disagreement"] = other - table["percentile"]
    return table.assign(**_attribute_columns(table["attributes"]))


def enriched(clips: pd.DataFrame, chosen: np.ndarray) -> pd.DataFrame:
    """What the chosen rows (N,) bool of `mapped_clips` have more or less of than all: `analysis.enrichment` over
    machine, split, domain, label, outcome and every attribute."""
    from asd_core.analysis.enrichment import enrichment

    attributes = [name for name in clips if name.startswith(ATTRIBUTE)]
    return enrichment(clips, chosen, ["machine", "split", "domain", "label", "outcome", *attributes])


def percentile_shares(clips: pd.DataFrame, chosen: np.ndarray) -> pd.DataFrame:
    """Percentiles of the chosen rows (N,) bool of `mapped_clips` and of the rest: low, high, here and rest (percent)."""
    from asd_core.analysis.enrichment import shares

    return shares(clips["percentile"].to_numpy(), chosen)


def crowding(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where points (N,) crowd, as of `analysis.enrichment.density`."""
    from asd_core.analysis.enrichment import density

    return density(x, y)


def sampled(clips: pd.DataFrame, most: int = MOST_POINTS) -> pd.DataFrame:
    """At most `most` rows of `mapped_clips`, with every machine, split, domain and label in its share."""
    from asd_core.analysis.enrichment import stratified

    return clips.iloc[stratified(clips[["machine", "split", "domain", "label"]], most)].reset_index(drop=True)


def data_of(run: Run, clip_id: str) -> str:
    """Where the recording of a clip of the run's maps lies: its data set, or its set of generated clips."""
    machine, part, *_ = [*clip_id.split("/"), ""]
    if part != GENERATED:
        return str(run.record["data"]["name"])
    keys = [t["key"] for t in run.record["tasks"] if (t["kind"], t["machine"]) == ("generate", machine)]
    return f"{GENERATED_DATA}:{keys[0]}" if keys else str(run.record["data"]["name"])


def plan_map(workspace: Workspace, run: Run, machine: str, splits: Sequence[str], **options: Any) -> MapPlan:
    """What `start_projection` would do; options as there."""
    chosen = run.record["machines"] if machine == "all" else [machine]
    scores = _splits(run)
    counted = scores[scores["machine"].isin(chosen) & scores["split"].isin(splits)]
    clips = len(counted)
    if GENERATED in splits:
        clips += sum(made["kept"] for name, made in run.record.get("generated", {}).items() if name in chosen)
    quick = options.get("method") == "pca"
    seconds = 3.0 if quick else SECONDS_TO_START + SECONDS_PER_CLIP * clips
    try:
        plan = maps.plan_projection(workspace, run, [] if machine == "all" else [machine], splits=splits, **options)
    except AsdError as error:
        return MapPlan("", clips, seconds, False, str(error))
    few = f"There are {clips} clips; a map needs {maps.FEWEST}." if clips < maps.FEWEST else ""
    return MapPlan(plan.key, clips, seconds, plan.done(workspace), few)


def start_projection(
    workspace: Workspace,
    run_id: str,
    machine: str = "all",
    splits: Sequence[str] = (TRAIN, TEST),
    branch: str = "",
    method: str = "umap",
    neighbours: int = 20,
    min_dist: float = 0.15,
    metric: str = "cosine",
    seed: int = 0,
) -> str:
    """Start, or find, the job that makes a map, and return the map's key, which is the job's key too.

    Args:
        machine: one of the run's, or "all"
        splits: of `MAP_SPLITS`
        neighbours, min_dist, metric, seed: of UMAP

    Raises:
        AsdError: there can be no such map, checked here because a browser may send anything.
    """
    run = load_run(workspace, run_id)
    machines = [] if machine == "all" else [machine]
    plan = maps.plan_projection(
        workspace, run, machines, branch, splits, method, neighbours, min_dist, metric, int(seed)
    )
    arguments = ["project", "--run", run_id, "--machine", machine, "--split", ",".join(splits), "--method", method]
    if branch:
        arguments += ["--branch", branch]
    if method == "umap":
        arguments += ["--neighbours", str(neighbours), "--min-dist", str(min_dist)]
        arguments += ["--metric", metric, "--seed", str(seed)]
    jobs.start(workspace.jobs, [*arguments, "--workspace", str(workspace.root)], plan.title, plan.key)
    return plan.key


def projection_job(workspace: Workspace, key: str) -> Job | None:
    """The newest job that makes, or made, a map."""
    own = (job for job in jobs.list_jobs(workspace.jobs) if job.arguments[:1] == ("project",) and job.key == key)
    return next(own, None)


def _splits(run: Run) -> pd.DataFrame:
    """Machine and split of every recorded clip of a run."""
    path = run.folder / "scores.parquet"
    return _read_splits(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_splits(path: Path, stamp: int) -> pd.DataFrame:
    return pd.read_parquet(path, columns=["machine", "split"]).astype("category")


def _judged(run: Run) -> pd.DataFrame:
    """Score and percentile of all recorded clips of a run, by clip_id; percentiles as of `analysis.percentiles`."""
    from asd_core import analysis

    columns = ["clip_id", "machine", "section", "split", "score"]
    scores = pd.read_parquet(run.folder / "scores.parquet", columns=columns)
    below = analysis.percentiles(scores, bool(run.record.get("transductive")))
    return scores.assign(percentile=below).set_index("clip_id")[["score", "percentile"]]


def _attribute_columns(texts: pd.Series) -> dict[str, pd.Series]:
    """One column per attribute key, in order of appearance; "" where a clip lacks it."""
    known = {text: attribute_values(parse_attributes(text)) for text in texts.unique()}
    keys = dict.fromkeys(key.lower() for text in known for key, _ in parse_attributes(text))
    return {
        f"{ATTRIBUTE}{key}": texts.map({text: values.get(key, "") for text, values in known.items()}) for key in keys
    }
