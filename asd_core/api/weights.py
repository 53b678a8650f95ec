"""Published checkpoints: which there are, whether they are here, and the jobs that get and check them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asd_core import jobs, weights
from asd_core.artifacts import Workspace
from asd_core.files import digest
from asd_core.types import AsdError


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint of configs/weights.yaml and its file as it is now."""

    name: str
    title: str
    family: str  # "beats" or "eat"
    state: str  # "absent", "present", "unverified" or "damaged"
    problem: str  # of a file that is there but not known to be right
    path: Path  # where it is, or is expected
    bytes: int | None  # of the file, or as published; None: not known
    sha256: str | None  # published, or recorded when it was checked
    licence: str
    trained_on: str
    dcase2026: str  # whether the challenge allows it, as far as known
    page: str
    link: str | None
    note: str  # about getting it
    can_fetch: bool  # a job can get it; otherwise a browser must
    used_by: tuple[str, ...]  # systems that start from it

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def weights_folder() -> Path:
    return weights.folder()


def checkpoints() -> list[CheckpointInfo]:
    """All checkpoints of the catalogue; only sizes and times of their files are looked at.

    Raises:
        AsdError: configs/weights.yaml is not valid.
    """
    users = weights.used_by()
    return [_info(found, users.get(found.checkpoint.name, [])) for found in weights.statuses()]


def _info(found: weights.Status, users: list[str]) -> CheckpointInfo:
    one = found.checkpoint
    about = {key: getattr(one, key) for key in ("name", "title", "family", "licence", "trained_on", "dcase2026")}
    return CheckpointInfo(
        **about,
        state=found.state,
        problem=found.problem,
        path=found.path,
        bytes=found.bytes or one.bytes,
        sha256=one.sha256 or found.sha256,
        page=one.page,
        link=one.link,
        note=one.note,
        can_fetch=one.url is not None,
        used_by=tuple(users),
    )


def import_arguments(name: str) -> list[str]:
    """The command line that checks a downloaded file and puts it in its place; FILE stands for its path."""
    return ["weights", "import", "FILE", "--as", weights.find(name).name]


def start_fetch(workspace: Workspace, name: str) -> str:
    """Start, or find, the job that downloads a checkpoint and return the job's id.

    Raises:
        AsdError: unknown name, or a checkpoint that only a browser gets.
    """
    one = weights.find(name)
    if one.url is None:
        raise AsdError(f'"{one.title}" has no address that answers a plain download. {one.get}')
    return _start(workspace, ["weights", "fetch", name], f"Fetch {one.title}")


def start_verify(workspace: Workspace, name: str) -> str:
    """Start, or find, the job that reads a checkpoint's file in full and compares its digest."""
    return _start(workspace, ["weights", "verify", name], f"Check {weights.find(name).title}")


def _start(workspace: Workspace, arguments: list[str], title: str) -> str:
    return jobs.start(workspace.jobs, arguments, title, digest(arguments))
