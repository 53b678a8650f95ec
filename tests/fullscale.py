"""A workspace as large as the challenge, without any training: ``python -m tests.fullscale FOLDER``.

Twelve machines of 1,000 training and 200 test clips, and five systems with invented scores, embeddings of 768 numbers
and maps of local scores. A machine's clips are copies of the few seconds that it has; only their names differ.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from asd_core import config, metrics
from asd_core.artifacts import Workspace, finish, write_embeddings, write_evidence, write_table
from asd_core.data import audio
from asd_core.data.manifest import DataSet, fingerprint, scan
from asd_core.files import digest, write_json
from asd_core.pipeline.tasks import VIEW_ITSELF, embeddings_file, evidence_file
from asd_core.pipeline.verdict import decide, with_truth
from asd_core.types import SAMPLE_RATE, TEST, TRAIN, EmbeddingSet, Evidence

MACHINES = tuple(f"machine{number:02d}" for number in range(1, 13))
SOURCE, TARGET, PER_GROUP = 990, 10, 50
SYSTEMS = {"logmel-knn": 0.8, "logmel-maha": 1.1, "studio-1": 1.6, "studio-2": 1.9, "logmel-maha+generated": 1.0}
SECONDS, DIMENSIONS, STRETCHES, BANDS = 10.0, 768, 31, 8


def build(
    folder: Path,
    seconds: float = SECONDS,
    machines: Sequence[str] = MACHINES,
    source: int = SOURCE,
    per_group: int = PER_GROUP,
) -> Workspace:
    """Recordings in `folder`/sounds, the workspace in `folder`/workspace. A machine has `source` + 10 training clips, and
    `per_group` test clips of each domain and label."""
    rng = np.random.default_rng(11)
    sounds, workspace = folder / "sounds", Workspace(folder / "workspace")
    for number, machine in enumerate(machines):
        _record(sounds / machine, 60.0 + 25 * number, seconds, source, per_group, rng)
    data = scan(sounds, "fullscale", "simulated")
    about = {"name": data.name, "kind": data.kind, "root": str(data.root)}
    write_json(workspace.dataset(data.name) / "dataset.json", about)
    prints = [
        fingerprint(data.of(machine, split), workspace.fingerprints)
        for machine in data.machines
        for split in (TRAIN, TEST)
    ]
    for name, strength in SYSTEMS.items():
        _run(workspace, data, name, strength, digest(prints), rng)
    return workspace


def _record(place: Path, hertz: float, seconds: float, source: int, per_group: int, rng: np.random.Generator) -> None:
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * hertz * k * t + rng.uniform(0, 6)) / k for k in range(1, 9))
    near = 0.05 * hum + 0.01 * rng.standard_normal(len(t))
    names = [f"train/section_00_source_train_normal_{i:04d}_speed_{i % 3 + 1}.wav" for i in range(source)]
    names += [f"train/section_00_target_train_normal_{i:04d}_speed_9.wav" for i in range(TARGET)]
    names += [
        f"test/section_00_{domain}_test_{label}_{i:04d}_speed_{speed}.wav"
        for domain, speed in (("source", 1), ("target", 9))
        for label in ("normal", "anomaly")
        for i in range(per_group)
    ]
    audio.write(place / names[0], np.stack([near, 0.4 * near + 0.02 * rng.standard_normal(len(t))]))
    (place / TEST).mkdir()
    for name in names[1:]:
        os.link(place / names[0], place / name)


def _run(
    workspace: Workspace, data: DataSet, name: str, strength: float, prints: str, rng: np.random.Generator
) -> None:
    system = config.resolve(config.load_system(name), config.load_profile("quick"))
    tables, thresholds, keys = [], {}, {}
    for machine in data.machines:
        rows = [clip for split in (TRAIN, TEST) for clip in data.of(machine, split)]
        truth = [data.truth.get(clip.clip_id) for clip in rows]
        table = pd.DataFrame(
            {
                "clip_id": [clip.clip_id for clip in rows],
                "machine": machine,
                "section": "00",
                "split": [clip.split for clip in rows],
                "domain": [clip.domain if clip.split == TRAIN else "" for clip in rows],
            }
        )
        shift = np.array([strength * one.label + 0.4 * (one.domain == "target") if one else 0.0 for one in truth])
        keys[machine] = {}
        for place, branch in enumerate(system.branches):
            table[f"branch:{branch.name}"] = 4 + shift + rng.gamma(4, 0.25, len(table))
            keys[machine][branch.name] = _branch(workspace, data, name, machine, branch, place == 0, rng)
        decided, thresholds[machine], _ = decide(system, table)
        tables.append(decided)
    scores = pd.concat(tables, ignore_index=True)
    run_id = f"{name}--{data.name}--quick--seed0"
    folder = workspace.run(run_id)
    write_table(folder / "scores.parquet", scores)
    write_json(folder / "metrics.json", metrics.evaluate(with_truth(scores, data, data.machines), bootstrap=200))
    record = {
        "run_id": run_id,
        "system": name,
        "title": system.title,
        "data": {"name": data.name, "kind": data.kind, "fingerprint": prints},
        "profile": "quick",
        "seed": 0,
        "machines": data.machines,
        "labelled": data.machines,
        "config": system.model_dump(mode="json"),
        "transductive": False,
        "tasks": [],
        "scores": keys,
        "thresholds": thresholds,
        "notices": [],
        "seconds": 600.0,
        "created": time.time(),
        "git": None,
    }
    write_json(folder / "run.json", record)
    finish(folder, key=run_id)


def _branch(
    workspace: Workspace,
    data: DataSet,
    system: str,
    machine: str,
    branch: config.Branch,
    has_map: bool,
    rng: np.random.Generator,
) -> str:
    """Embeddings and, for one branch, maps; returns the key of the score task."""
    embedded = workspace.task("embed", digest([system, machine, branch.name, "embed"]))
    scored = workspace.task("score", digest([system, machine, branch.name, "score"]))
    ids = {}
    for split in (TRAIN, TEST):
        clips = data.of(machine, split)
        ids[split] = np.array([clip.clip_id for clip in clips])
        domains = np.array([clip.domain if split == TRAIN else "" for clip in clips])
        x = rng.standard_normal((len(clips), DIMENSIONS)).astype(np.float32) + (domains == "target")[:, None]
        write_embeddings(
            embeddings_file(embedded, split, VIEW_ITSELF),
            EmbeddingSet(x, ids[split], np.full(len(clips), "00"), domains),
        )
    spec = {"machine": machine, "outputs": [], "view": branch.view.spec}
    finish(embedded, key=embedded.name, kind="embed", inputs=[], spec=spec, bf16=False)
    if has_map:
        shape = len(ids[TEST]), STRETCHES, BANDS
        start = np.arange(STRETCHES) * SECONDS / STRETCHES
        evidence = Evidence(
            rng.gamma(4, 0.25, shape).astype(np.float32),
            rng.integers(len(ids[TRAIN]), size=shape).astype(np.int32),
            rng.integers(STRETCHES, size=shape).astype(np.int32),
            start,
            start + SECONDS / STRETCHES,
            np.linspace(0, SAMPLE_RATE / 2, BANDS + 1),
        )
        write_evidence(evidence_file(scored, "00"), evidence, ids[TEST], ids[TRAIN])
    scored.mkdir(parents=True, exist_ok=True)
    spec = {"machine": machine, "output": VIEW_ITSELF, "scorer": branch.scorer.spec}
    finish(scored, key=scored.name, kind="score", inputs=[embedded.name], spec=spec)
    return scored.name


if __name__ == "__main__":
    print(build(Path(sys.argv[1])).root)
