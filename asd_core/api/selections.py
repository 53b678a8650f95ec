"""Selections: lists of clips that someone picked, under an id that can be linked.

``selections/<id>.json`` in the workspace; the id is the digest of the data set and the clips in their order, so the
same list saved twice is one file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from asd_core.artifacts import Workspace
from asd_core.files import digest, read_json, write_json
from asd_core.types import AsdError


@dataclass(frozen=True)
class Selection:
    id: str
    data: str  # data set
    ids: tuple[str, ...]  # clips, in the order they are to be listened to
    where_from: Mapping[str, str]  # the page and its choices, such as run and projection
    created: float

    @property
    def splits(self) -> Mapping[str, int]:
        """How many clips are of each split; generated ones are of a split of their own."""
        return Counter(clip_id.partition("/")[2].partition("/")[0] for clip_id in self.ids)

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(sorted({clip_id.partition("/")[0] for clip_id in self.ids}))


def save_selection(workspace: Workspace, ids: Sequence[str], where_from: Mapping[str, str]) -> str:
    """Keep a list of clips and return its id.

    Args:
        ids: clip ids in order
        where_from: what was shown when it was picked; "data", the name of the data set, is needed

    Raises:
        AsdError: nothing was picked, or "data" is missing.
    """
    if not ids:
        raise AsdError("No clip is selected, so there is nothing to save. Draw round some points first.")
    if not where_from.get("data"):
        raise AsdError('A selection needs to know its data set: where_from["data"] is missing.')
    name = digest([where_from["data"], list(ids)])
    path = workspace.root / "selections" / f"{name}.json"
    if not path.is_file():
        facts = {"id": name, "data": where_from["data"], "ids": list(ids), "created": time.time()}
        write_json(path, facts | {"where_from": dict(where_from)})
    return name


def selection(workspace: Workspace, selection_id: str) -> Selection:
    """A saved selection. The id is compared with the known ones and never becomes part of a path.

    Raises:
        AsdError: there is none of this id, or its file is broken.
    """
    for path in (workspace.root / "selections").glob("*.json"):
        if path.stem == selection_id:
            return _read(path, path.stat().st_mtime_ns)
    raise AsdError(f"There is no saved selection “{selection_id}” in this workspace.")


def selections(workspace: Workspace, data: str) -> list[Selection]:
    """Saved selections of a data set, newest first; files that cannot be read are passed over."""
    found = []
    for path in (workspace.root / "selections").glob("*.json"):
        with suppress(AsdError, OSError):
            found.append(_read(path, path.stat().st_mtime_ns))
    return sorted((one for one in found if one.data == data), key=lambda one: -one.created)


@lru_cache(maxsize=256)
def _read(path: Path, stamp: int) -> Selection:
    try:
        stored = read_json(path)
        ids, created = tuple(map(str, stored["ids"])), float(stored["created"])
        return Selection(path.stem, stored["data"], ids, stored["where_from"], created)
    except (KeyError, TypeError, ValueError) as error:
        raise AsdError(f"{path} is not a selection. Delete it and save the selection again.") from error
