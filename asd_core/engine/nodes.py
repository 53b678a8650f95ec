"""Whether the nodes of a Ray cluster are fit for the work: same versions, recordings and a workspace that they share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from asd_core import __version__
from asd_core.artifacts import RECORDED_PACKAGES, Workspace
from asd_core.engine.cluster import Cluster
from asd_core.files import digest, file_digest, write_text
from asd_core.pipeline import Context
from asd_core.types import AsdError, Progress

# what Ray raises for a task whose node or process is gone
LOST = (
    *(WorkerCrashedError, NodeDiedError, LocalRayletDiedError, OutOfMemoryError, ObjectLostError),
    TaskUnschedulableError,
)


def own_folder(cache: str) -> Path:
    """`Cluster.cache` as this node understands it."""
    return Path(os.path.expandvars(cache)).expanduser().resolve()


@lru_cache
def installed() -> dict[str, str]:
    """What must be the same on all nodes, lest a result depend on where it was made: versions, by name."""
    package = Path(__file__).parents[1]
    code = {str(path.relative_to(package)): file_digest(path) for path in package.rglob("*.py")}
    # 2.13.0+cpu and 2.13.0+cu130 are one version for two kinds of node
    packages = {name: version(name).partition("+")[0] for name in RECORDED_PACKAGES}
    return packages | {"ASD Studio": f"{__version__}, code {digest(code)}"}


def differences(expected: dict[str, str]) -> list[str]:
    """In what this node differs from what the driver has installed."""
    found = {name: installed().get(name, "not there") for name in expected}
    return [f"{name} is {found[name]}, not {wanted}" for name, wanted in expected.items() if found[name] != wanted]


def check_nodes(context: Context, cluster: Cluster, progress: Progress) -> None:
    """Ask every node whether it could do any task.

    Raises:
        AsdError: one could not.
    """
    clips = {(clip.machine, clip.split): clip.path for clip in context.data.clips}
    readable = [context.data.root, *clips.values()]
    marker = context.workspace.cache / f"cluster-{secrets.token_hex(8)}"
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    try:
        write_text(marker, "Whoever can read this shares the workspace.\n")
        with context.workspace.locked(marker):
            answers = []
            for node in nodes:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                probe = ray.remote(_probe()).options(num_cpus=0, scheduling_strategy=there)
                answers.append(probe.remote(installed(), readable, marker, cluster.cache if cluster.store else None))
            for node, answer in zip(nodes, answers, strict=True):
                progress(0.0, f"looking at node {node['NodeManagerHostname']}")
                while not ray.wait([answer], timeout=1)[0]:
                    progress(0.0, f"waiting for node {node['NodeManagerHostname']} to answer")
                with suppress(*LOST):  # a node that is gone by now
                    if problems := ray.get(answer):
                        raise AsdError(
                            f"Node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}) of the cluster cannot "
                            f"take part: {'; '.join(problems)}. Put it right, or take it away (`ray stop` there)."
                        )
    finally:
        for path in (marker, marker.with_name(f".{marker.name}.lock")):
            path.unlink(missing_ok=True)


def _probe() -> Callable[..., list[str]]:
    """A function inside a function travels with its code: the node may lack the package."""

    def probe(*arguments: Any) -> list[str]:
        try:
            from asd_core.engine.nodes import unfit
        except ImportError as error:
            return [f"ASD Studio, or what it needs, is missing or too old there ({error})"]
        return unfit(*arguments)

    return probe


def unfit(expected: dict[str, str], readable: list[Path], marker: Path, cache: str | None) -> list[str]:
    """Why this node could not do a task; nothing if it could.

    Args:
        marker: a file in the cache of the driver's workspace, which the driver has locked
        cache: with a store, the folder of this node that takes the place of the workspace
    """
    problems = differences(expected)
    if missing := [path for path in readable if not path.exists()]:
        problems.append(f"{missing[0]} is missing there; recordings must be at the same path on every node")
    workspace = Workspace(marker.parents[1])
    if cache is not None:
        folder = own_folder(cache)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problems.append(f"its cache {folder} cannot be made ({error.strerror})")
    elif not marker.is_file():
        problems.append(f"it does not share {workspace.root}; put the workspace on common storage, or use a store")
    else:
        with suppress(AsdError), workspace.unused([marker]):  # refused, as it should be: the driver holds it
            problems.append(f"locks of {workspace.root} do not reach it; mount it with locks (flock), or use a store")
    return problems
