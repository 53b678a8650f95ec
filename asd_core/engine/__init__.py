"""Engines: where a plan's tasks run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asd_core.engine import local
from asd_core.engine.local import Outcome
from asd_core.pipeline import Context, Task
from asd_core.types import AsdError, Progress, no_progress

if TYPE_CHECKING:
    from asd_core.engine.cluster import Cluster


def run(
    tasks: Sequence[Task], context: Context, progress: Progress = no_progress, cluster: Cluster | None = None
) -> Outcome:
    """Execute a plan, on this computer or on a Ray cluster. Repeating a call continues.

    Raises:
        AsdError: a task's own, or the cluster cannot be used.
    """
    if cluster is None:
        return local.run(tasks, context, progress)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise AsdError(
            "`accelerate launch` trains with the GPUs of this computer, a cluster spreads whole tasks over nodes; both "
            "at once is not possible. Leave one of them out."
        )
    try:
        from asd_core.engine import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise AsdError(
            "Ray is not installed. Install it here and on every node (`pip install -r requirements-cluster.txt`), or "
            "leave --engine ray out."
        ) from error
    return ray.run(tasks, context, cluster, progress)
