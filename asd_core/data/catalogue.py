"""Known data sets as data: configs/datasets/*.yaml → what they are, where they live, where their archives are."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from pydantic import Field, model_validator

from asd_core.config import CONFIGS, Strict, load
from asd_core.registry import did_you_mean
from asd_core.types import AsdError

Part = Literal["dev", "eval_train", "eval_test"]


class Archive(Strict):
    """One zip file on a server; it unpacks to ``<machine>/{train,test}/*.wav`` below `folder`."""

    machine: str
    part: Part
    url: str = Field(pattern=r"^https?://\S+/[\w.-]+\.zip$")
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")  # None: published nowhere we could read
    folder: str = ""  # below the root of the data set

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @model_validator(mode="after")
    def _stays_inside(self) -> Self:
        folder = PurePosixPath(self.folder)
        if folder.is_absolute() or ".." in folder.parts:
            raise ValueError(f'folder "{self.folder}" must be relative to the root and stay below it')
        return self


class DatasetConfig(Strict):
    """What `manifest.open_dataset` and `download` need to know about a data set."""

    name: str
    kind: str  # stands beside every result: "simulated", "DCASE 2026", …
    root: str  # relative to the repository
    how_to_get: str  # one sentence, shown when the folder is missing
    licence: str = ""
    citation: str = ""
    archives: tuple[Archive, ...] = ()

    @model_validator(mode="after")
    def _archives_differ(self) -> Self:
        names = [archive.name for archive in self.archives]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"each archive may be listed once; twice: {', '.join(twice)}")
        return self


def dataset_names() -> list[str]:
    return sorted(path.stem for path in (CONFIGS / "datasets").glob("*.yaml"))


def load_dataset_config(name: str) -> DatasetConfig:
    """The description of a data set of configs/datasets.

    Raises:
        AsdError: unknown name, or a file that is not a valid description.
    """
    known = dataset_names()
    if name not in known:
        raise AsdError(f'There is no data set "{name}". Known: {", ".join(known)}.{did_you_mean(name, known)}')
    path = CONFIGS / "datasets" / f"{name}.yaml"
    described = _load(path, path.stat().st_mtime_ns)
    if described.name != name:
        raise AsdError(f'configs/datasets/{name}.yaml calls itself "{described.name}"; both must agree.')
    return described


@lru_cache(maxsize=32)
def _load(path: Path, stamp: int) -> DatasetConfig:
    """Read once: the app asks at every click."""
    return load(DatasetConfig, path)
