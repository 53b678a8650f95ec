"""What the street is made of: tasks named by content, and what all tasks of one invocation share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from asd_core.artifacts import (
    Workspace,
    is_done,
)
from asd_core.data import audio
from asd_core.data.manifest import DataSet, fingerprint
from asd_core.files import file_digest, read_json
from asd_core.types import TRAIN

# What is in no plug-in's own version: raise these when results change, so that nothing stale is reused.
READING_VERSION = 1  # data.audio
EMBEDDING_VERSION = 2  # attributes, steps and layout beside the numbers
TRAINING_VERSION = 2  # the loop and the losses
SCORING_VERSION = 2  # evidence
VERDICT_VERSION = 1  # fusion, decision, metrics
VIEW_ITSELF = "view"  # what is scored where there is no network
GENERATED = "generated"  # beside train and test among embeddings


@dataclass(frozen=True)
class Context:
    """What all tasks of one invocation have in common."""

    workspace: Workspace
    data: DataSet
    device: str = "auto"
    checkpoint_seconds: float = 30.0  # between two checkpoints of a training

    @cached_property
    def _facts(self) -> dict[tuple[str, ...], Any]:
        return {}

    def elsewhere(self, workspace: Workspace, device: str) -> Context:
        """The same for another node; what was read of the recordings goes along."""
        other = replace(self, workspace=workspace, device=device)
        other._facts.update(self._facts)
        return other

    def fingerprint(self, machine: str, split: str) -> str:
        """Digest of the ids and contents of a machine's clips; read once."""
        place = ("fingerprint", machine, split)
        if place not in self._facts:
            self._facts[place] = fingerprint(self.data.of(machine, split), self.workspace.fingerprints)
        return self._facts[place]

    def digest(self, path: Path) -> str:
        """Digest of a file's content; read once."""
        place = ("digest", str(path))
        if place not in self._facts:
            self._facts[place] = file_digest(path)
        return self._facts[place]

    def longest(self, machine: str) -> float:
        """Seconds of a machine's longest training clip; headers are read once."""
        place = ("longest", machine)
        if place not in self._facts:
            self._facts[place] = max(audio.info(clip.path).seconds for clip in self.data.of(machine, TRAIN))
        return self._facts[place]


@dataclass(frozen=True)
class Task:
    """One piece of work. `key` names its resolved options and inputs; equal keys, equal results."""

    kind: str  # of work._WORK
    key: str
    title: str
    spec: dict[str, Any] = field(repr=False, compare=False)
    inputs: tuple[Task, ...] = field(default=(), repr=False, compare=False)
    weight: float = field(default=1.0, compare=False)  # rough share of the time

    def folder(self, workspace: Workspace) -> Path:
        if self.kind == "run":
            return workspace.run(self.spec["run_id"])
        return workspace.task(self.kind, self.key)

    def done(self, workspace: Workspace) -> bool:
        folder = self.folder(workspace)
        return is_done(folder) and (self.kind != "run" or read_json(folder / "meta.json").get("key") == self.key)


def all_inputs(task: Task) -> list[Task]:
    """All that a task is made from, inputs before what needs them, each once."""
    found: dict[tuple[str, str], Task] = {}

    def visit(one: Task) -> None:
        for needed in one.inputs:
            if (needed.kind, needed.key) not in found:  # a training on all machines is an input of each
                visit(needed)
                found[needed.kind, needed.key] = needed

    visit(task)
    return list(found.values())


def machine_of(task: Task) -> str | None:
    """The one machine a task is about; None for a training on several."""
    machines = task.spec.get("machines", [task.spec.get("machine")])
    return machines[0] if len(machines) == 1 else None


def inputs_of_kind(task: Task, kind: str) -> list[Task]:
    return [t for t in all_inputs(task) if t.kind == kind]


def input_of_kind(task: Task, kind: str) -> Task | None:
    """The task of that kind that this one takes from, if there is one; not what that one took from."""
    return next((needed for needed in task.inputs if needed.kind == kind), None)


def embeddings_file(folder: Path, split: str, output: str) -> Path:
    return folder / f"{split}-{output}.npz"


def evidence_file(folder: Path, section: str) -> Path:
    """In the folder of a score task; not there if the scorer cannot tell where its scores come from."""
    return folder / f"evidence-{section}.npz"
