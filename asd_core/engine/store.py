"""Finished tasks at an fsspec URL, under the paths that they have in a workspace.

For nodes that share no storage but an object store. A folder is there once its meta.json is, which is sent last; what
was received is whole once `artifacts.is_done` says so. Tasks are named by content, so equal paths hold equal files.
"""

from __future__ import annotations

import json

import fsspec

from asd_core.artifacts import Workspace, is_done
from asd_core.files import read_json, replacing
from asd_core.pipeline import Task, all_inputs
from asd_core.types import AsdError


class Store:
    """What one workspace exchanges with others."""

    def __init__(self, url: str, workspace: Workspace) -> None:
        self.url, self.workspace = url, workspace
        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise AsdError(
                f"The store {url} cannot be used: {error}. Install what it asks for, here and on every node."
            ) from error

    def has(self, task: Task) -> bool:
        self.files.invalidate_cache()
        try:
            return bool(json.loads(self.files.cat_file(f"{self._place(task)}/meta.json"))["key"] == task.key)
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def push(self, task: Task) -> None:
        """Send a finished task, unless it is there."""
        if self.has(task):
            return
        folder, place = task.folder(self.workspace), self._place(task)
        self.files.makedirs(place, exist_ok=True)
        for name in [*read_json(folder / "meta.json")["files"], "meta.json"]:
            self.files.put_file(str(folder / name), f"{place}/{name}")

    def pull(self, task: Task, only_record: bool = False) -> None:
        """Receive a finished task, unless it is here, or only its meta.json.

        Raises:
            AsdError: what is there is not whole.
        """
        folder, place = task.folder(self.workspace), self._place(task)
        with self.workspace.locked(folder):
            if is_done(folder) or (only_record and (folder / "meta.json").is_file()):
                return
            try:
                record = json.loads(self.files.cat_file(f"{place}/meta.json"))
                for name in [*([] if only_record else record["files"]), "meta.json"]:
                    with replacing(folder / name) as temporary:
                        self.files.get_file(f"{place}/{name}", str(temporary))
                whole = only_record or is_done(folder)
            except (FileNotFoundError, ValueError, KeyError):
                whole = False
        if not whole:
            raise AsdError(f"What {self.url} holds of “{task.title}” is not whole. Delete {place} there and repeat.")

    def pull_inputs(self, task: Task) -> None:
        """All that a task may read. Embeddings are large and read by those tasks alone that take them as an input."""
        for needed in all_inputs(task):
            self.pull(needed, only_record=needed.kind == "embed" and needed not in task.inputs)

    def _place(self, task: Task) -> str:
        path = task.folder(self.workspace).relative_to(self.workspace.root)
        return f"{self.root}/{path.as_posix()}"
