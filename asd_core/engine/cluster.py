"""Where the Ray cluster is and what a task may take of a node: configs/cluster.yaml."""

from __future__ import annotations

import os
import re

from pydantic import Field, field_validator

from asd_core.config import CONFIGS, Strict, load, validate
from asd_core.pipeline import KINDS
from asd_core.registry import did_you_mean
from asd_core.types import AsdError

ADDRESS = re.compile(r"[\w.-]+:\d{1,5}")  # never "local" or "auto", with which Ray may start a cluster of its own


class Share(Strict):
    """What one task asks of the node that it runs on."""

    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)  # without one the task works on the CPU, whatever the node has
    memory: float = Field(default=2, gt=0)  # GB

    @property
    def resources(self) -> dict[str, float]:
        """In the words of `ray.nodes`, memory in bytes."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory * 1e9}

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs and {self.memory:g} GB"


class Cluster(Strict):
    """A cluster that runs already; ASD Studio starts none."""

    address: str | None = None  # HOST:PORT of its head
    retries: int = Field(default=3, ge=0)  # of a task that was lost with its node or its process
    store: str | None = None  # fsspec URL through which nodes without common storage exchange finished tasks
    cache: str = "~/.cache/asd-studio"  # with a store: folder of each node for what it has computed or fetched
    tasks: dict[str, Share] = {}  # by kind of task
    others: Share = Share()

    @field_validator("address")
    @classmethod
    def _is_address(cls, address: str | None) -> str | None:
        if address is not None and not ADDRESS.fullmatch(address):
            raise ValueError(
                "the address of a running Ray cluster is HOST:PORT, as `ray start --head` printed it; ray://… and auto "
                "cannot be used"
            )
        return address

    @field_validator("tasks")
    @classmethod
    def _are_kinds(cls, tasks: dict[str, Share]) -> dict[str, Share]:
        for kind in tasks:
            if kind not in KINDS:
                raise ValueError(f'no task is of kind "{kind}"; kinds: {", ".join(KINDS)}.{did_you_mean(kind, KINDS)}')
        return tasks

    def share(self, kind: str) -> Share:
        return self.tasks.get(kind, self.others)


def load_cluster(address: str | None = None) -> Cluster:
    """The cluster of configs/cluster.yaml; its address is the one given here, else that of the file, else RAY_ADDRESS,
    which Ray's own commands read, else None.

    Raises:
        AsdError: the file or the address is not valid.
    """
    written = load(Cluster, CONFIGS / "cluster.yaml")
    found = address or written.address or os.environ.get("RAY_ADDRESS") or None
    where = "--address" if address else "configs/cluster.yaml" if written.address else "RAY_ADDRESS"
    return validate(Cluster, written.model_dump() | {"address": found}, where)


def require_cluster(address: str | None = None) -> Cluster:
    """`load_cluster` where an address is needed.

    Raises:
        AsdError: also if no address is known.
    """
    cluster = load_cluster(address)
    if cluster.address is None:
        raise AsdError(
            "Which Ray cluster? Give --address HOST:PORT, write it into configs/cluster.yaml, or set RAY_ADDRESS; "
            "docs/cluster.md tells how to start one."
        )
    return cluster
