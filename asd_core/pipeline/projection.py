"""Maps of a run's clips: the embeddings behind a branch, brought down to two coordinates.

UMAP keeps who is whose neighbour (McInnes, Healy, Melville 2018, arXiv:1802.03426); how far apart two clusters lie
means little. PCA keeps the two directions of largest variance, and distances along them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core.analysis.evidence import pooled
from asd_core.artifacts import (
    Run,
    Workspace,
    begin,
    finish,
    how_again,
    is_done,
    read_embeddings,
    read_table,
    write_table,
)
from asd_core.files import digest, read_json
from asd_core.pipeline.tasks import GENERATED, VIEW_ITSELF, embeddings_file
from asd_core.registry import did_you_mean
from asd_core.types import TEST, TRAIN, AsdError, Progress, no_progress

PROJECTION_VERSION = 1
SPLITS = (TRAIN, TEST, GENERATED)
METHODS = ("umap", "pca")
METRICS = ("cosine", "euclidean", "correlation", "manhattan")
FEWEST = 10  # clips; of fewer a map says nothing that the list does not
NAMED = 5  # clips that are named where many are meant


@dataclass(frozen=True)
class Projection:
    """A map that could be made. `key` names its options and the embeddings it is made of."""

    key: str
    title: str
    spec: dict[str, Any]  # method and its options, machines, splits, output
    embedded: tuple[str, ...]  # keys of the embed tasks, machine by machine

    def folder(self, workspace: Workspace) -> Path:
        return workspace.task("projection", self.key)

    def done(self, workspace: Workspace) -> bool:
        return is_done(self.folder(workspace))


def embedded_by(workspace: Workspace, run: Run, machine: str, branch: str) -> str:
    """Key of the embed task behind the scores of a branch of a run.

    Raises:
        AsdError: it has none, or that is gone.
    """
    task = run.record.get("scores", {}).get(machine, {}).get(branch)
    if task is None:
        raise AsdError(f'{run.record["run_id"]} names no scores of branch "{branch}" for {machine}. {_again(run)}')
    scored = workspace.task("score", task) / "meta.json"
    if not scored.is_file():
        raise AsdError(f"{scored} is gone. {_again(run)}")
    return str(read_json(scored)["inputs"][0])


def output_of(run: Run, branch: str) -> str:
    """What the embeddings behind a branch of a run are called in their files.

    Raises:
        AsdError: the run has no such branch.
    """
    branches = {one["name"]: one for one in run.record["config"]["branches"]}
    if branch not in branches:
        raise AsdError(f'{run.record["run_id"]} has no branch "{branch}".{did_you_mean(branch, branches)}')
    return str(branches[branch]["output"]) if branches[branch]["encoder"] else VIEW_ITSELF


def plan_projection(
    workspace: Workspace,
    run: Run,
    machines: Sequence[str] = (),
    branch: str = "",
    splits: Sequence[str] = (TRAIN, TEST),
    method: str = "umap",
    neighbours: int = 20,
    min_dist: float = 0.15,
    metric: str = "cosine",
    seed: int = 0,
) -> Projection:
    """What `project` would make; nothing is computed.

    Args:
        machines: none for all of the run
        branch: whose embeddings; "" for the first
        splits: of `SPLITS`
        neighbours, min_dist, metric, seed: of UMAP; PCA has no options

    Raises:
        AsdError: an option that does not exist, embeddings that are gone, or machines whose embeddings come from
            different networks and have no distances between them.
    """
    known = run.record["machines"]
    if strange := [machine for machine in machines if machine not in known]:
        raise AsdError(f'{run.record["run_id"]} has no machine "{strange[0]}".{did_you_mean(strange[0], known)}')
    chosen = [machine for machine in known if machine in machines] or list(known)
    parts = [split for split in SPLITS if split in splits]
    if len(parts) != len(set(splits)) or not parts:
        raise AsdError(f"A map is made of {', '.join(SPLITS)}; got {', '.join(splits) or 'none of them'}.")
    _check_options(method, neighbours, min_dist, metric, seed)
    branch = branch or run.record["config"]["branches"][0]["name"]
    output = output_of(run, branch)
    keys = tuple(embedded_by(workspace, run, machine, branch) for machine in chosen)
    _check_one_space(workspace, run, branch, chosen, keys)
    _check_width(workspace.task("embed", keys[0]), output)
    spec: dict[str, Any] = {"method": method}
    if method == "umap":
        spec |= {"neighbours": neighbours, "min_dist": min_dist, "metric": metric, "seed": seed}
    spec |= {"machines": chosen, "splits": parts, "output": output}
    key = digest(["projection", PROJECTION_VERSION, spec, keys])
    what = chosen[0] if len(chosen) == 1 else f"{len(chosen)} machines"
    return Projection(key, f"Map of {what} · {run.record['system']} · {method.upper()}", spec, keys)


def project(
    workspace: Workspace, projection: Projection, progress: Progress = no_progress
) -> tuple[pd.DataFrame, list[str]]:
    """Make a map, unless it is there. The same key gives the same map on the same machine.

    Writes points.parquet: clip_id, machine, split, domain ("" for test clips), attributes (of training and generated
    clips, as in file names), x, y.

    Returns:
        that table, and sentences on clips that were left out

    Raises:
        AsdError: fewer than `FEWEST` clips, embeddings of one number or all alike, or a file that is gone.
    """
    folder = projection.folder(workspace)
    with workspace.locked(folder, lambda: progress(0.0, "waiting for another process")):
        if not projection.done(workspace):
            begin(folder)
            _make(workspace, projection, folder, progress)
    return read_table(folder / "points.parquet"), read_json(folder / "meta.json")["notices"]


def _make(workspace: Workspace, projection: Projection, folder: Path, progress: Progress) -> None:
    started, spec = time.time(), projection.spec
    table, x = _gather(workspace, projection, progress)
    whole = np.isfinite(x).all(axis=1)
    notices = []
    if not whole.all():
        lost = list(table["clip_id"][~whole])
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        notices.append(f"Left out, as their embeddings are not numbers: {', '.join(lost[:NAMED])}{more}.")
        table, x = table[whole].reset_index(drop=True), x[whole]
    _check_embeddings(x)
    progress(0.2, f"{spec['method'].upper()} of {len(x)} clips × {x.shape[1]} numbers")
    facts: dict[str, Any] = {}
    if spec["method"] == "pca":
        places, facts["explained"] = pca(x)
    else:
        places = _umap(x, spec)
        facts["umap"] = version("umap-learn")
    write_table(folder / "points.parquet", table.assign(x=places[:, 0], y=places[:, 1]))
    facts |= {"clips": len(table), "notices": notices, "seconds": time.time() - started}
    finish(folder, key=projection.key, kind="projection", spec=spec, inputs=list(projection.embedded), **facts)


def pca(x: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """(N, 2) coordinates along the directions of largest variance of (N, D), and the share of the variance each holds.

    The largest entry of a direction is positive, so that the same numbers give the same map.
    """
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    if len(x) > x.shape[1]:  # of 14,400 clips × 768 numbers 20 times as fast
        squared, columns = np.linalg.eigh(centred.T @ centred)
        squared, directions = np.maximum(squared[::-1], 0), columns.T[::-1]
    else:
        _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
        squared = lengths**2
    two = directions[:2]
    two = two * np.sign(two[np.arange(len(two)), np.abs(two).argmax(axis=1)])[:, None]
    shares = squared / squared.sum()
    return centred @ two.T, [float(share) for share in shares[:2]]


def _umap(x: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    import umap

    reducer = umap.UMAP(
        n_neighbors=min(spec["neighbours"], len(x) - 1),
        min_dist=spec["min_dist"],
        metric=spec["metric"],
        random_state=spec["seed"],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_jobs value")  # one core is the price of getting the same map again
        return np.asarray(reducer.fit_transform(x), dtype=np.float64)


def _gather(workspace: Workspace, projection: Projection, progress: Progress) -> tuple[pd.DataFrame, np.ndarray]:
    """Clips and their vectors (N, D), machine by machine and split by split."""
    tables, vectors = [], []
    spec = projection.spec
    for place, (machine, key) in enumerate(zip(spec["machines"], projection.embedded, strict=True)):
        progress(0.2 * place / len(projection.embedded), f"reading embeddings of {machine}")
        folder = workspace.task("embed", key)
        if not is_done(folder):
            raise AsdError(f"The embeddings in {folder} are gone or damaged. Run the system again: only they are made.")
        for split in spec["splits"]:
            path = embeddings_file(folder, split, spec["output"])
            if split == GENERATED and not path.is_file():  # this machine needed none
                continue
            found = read_embeddings(path)
            attributes = np.full(len(found), "") if found.attributes is None else found.attributes
            facts = {"clip_id": found.clip_ids, "machine": machine, "split": split, "domain": found.domains}
            tables.append(pd.DataFrame(facts | {"attributes": attributes}))
            vectors.append(pooled(found.x, found.steps))
    widths = {part.shape[1] for part in vectors}
    if len(widths) > 1:
        sizes = ", ".join(map(str, sorted(widths)))
        raise AsdError(f"The embeddings of these machines have different lengths ({sizes}). Map one machine at a time.")
    return pd.concat(tables, ignore_index=True), np.concatenate(vectors)


def _check_options(method: str, neighbours: int, min_dist: float, metric: str, seed: int) -> None:
    if method not in METHODS:
        raise AsdError(f'There is no method "{method}". There is: {", ".join(METHODS)}.')
    if metric not in METRICS:
        raise AsdError(f'There is no metric "{metric}". There is: {", ".join(METRICS)}.')
    if not 2 <= neighbours <= 200:
        raise AsdError(f"Neighbours are a whole number from 2 to 200; got {neighbours}.")
    if not 0 <= min_dist <= 1:
        raise AsdError(f"The least distance is a number from 0 to 1; got {min_dist}.")
    if not 0 <= seed < 10_000:
        raise AsdError(f"Seeds are whole numbers from 0 to 9999; got {seed}.")


def _check_one_space(
    workspace: Workspace, run: Run, branch: str, machines: Sequence[str], embedded: Sequence[str]
) -> None:
    """Embeddings of networks that were trained apart have no distances between them."""
    metas = [workspace.task("embed", key) / "meta.json" for key in embedded]
    if gone := [meta for meta in metas if not meta.is_file()]:
        raise AsdError(f"{gone[0].parent} is gone. {_again(run)}")
    encoder = next(one["encoder"] for one in run.record["config"]["branches"] if one["name"] == branch)
    if encoder and len({read_json(meta)["inputs"][0] for meta in metas}) > 1:
        raise AsdError(
            f'"{branch}" has a network of its own for each of the {len(machines)} machines, and between their '
            f"embeddings there are no distances. Map one machine at a time."
        )


def _check_width(embedded: Path, output: str) -> None:
    path = embeddings_file(embedded, TRAIN, output)
    if path.is_file() and _width(path, path.stat().st_mtime_ns) < 2:
        raise AsdError(f'"{output}" is one number per clip, of which no map can be made. Take another branch.')


@lru_cache(maxsize=64)
def _width(path: Path, stamp: int) -> int:
    """Numbers per clip; `stamp` is the file's time. Read once: the app plans a map at every click."""
    return int(read_embeddings(path).x.shape[-1])


def _check_embeddings(x: np.ndarray) -> None:
    if len(x) < FEWEST:
        raise AsdError(f"There are {len(x)} clips with embeddings; a map needs {FEWEST}. Take more splits or machines.")
    if not np.ptp(x, axis=0).any():
        raise AsdError(f"All {len(x)} embeddings are the same, so there is nothing to map.")


def _again(run: Run) -> str:
    return f"Run again ({how_again(run)}): only what is missing is computed."
