"""Finished runs with invented scores, written as the pipeline writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asd_core.artifacts import Run, Workspace, finish, load_run, write_table
from asd_core.data.manifest import DataSet, parse_name
from asd_core.files import write_json
from asd_core.metrics import evaluate
from asd_core.types import TEST, TRAIN

CONFIG = {
    "name": "demo",
    "report": {"team": "WISTLAB", "system": 4, "metric": "official", "hmean": 67.20, "title": ""},
    "encoders": {
        "b": {
            "view": {"name": "fbank"},
            "backbone": {"name": "beats", "checkpoint": "beats_iter3"},
            "objective": {"name": "arcface", "labels": ["machine", "attributes"], "mixup": 0.5},
        }
    },
    "branches": [
        {"name": "knn", "encoder": "b", "view": None, "scorer": {"name": "knn", "k": 1}},
        {"name": "maha", "encoder": "b", "view": None, "scorer": {"name": "mahalanobis"}},
    ],
    "fusion": {"name": "weighted"},
    "decision": {"name": "percentile", "q": 0.9},
}


def dataset(labelled: Sequence[str], unlabelled: Sequence[str] = (), n: int = 10) -> DataSet:
    """20 training clips and 4n labelled (or 2n unlabelled) test clips per machine; no file exists."""
    clips, truth = [], {}
    for machine in (*labelled, *unlabelled):
        names = [
            (TRAIN, f"section_00_{d}_train_normal_{i:04d}_spd_1.wav") for d in ("source", "target") for i in range(10)
        ]
        if machine in labelled:
            groups = [(d, label) for d in ("source", "target") for label in ("normal", "anomaly")]
            names += [(TEST, f"section_00_{d}_test_{label}_{i:04d}_spd_2.wav") for d, label in groups for i in range(n)]
        else:
            names += [(TEST, f"section_00_{i:04d}.wav") for i in range(2 * n)]
        for split, name in names:
            clip, known = parse_name(machine, Path("data") / machine / split / name)
            clips.append(clip)
            if known:
                truth[clip.clip_id] = known
    return DataSet("invented", "DCASE 2026", Path("data"), tuple(sorted(clips, key=lambda c: c.clip_id)), truth)


def write_run(workspace: Workspace, clips: DataSet, run_id: str = "r1", seed: int = 0, **record: Any) -> Run:
    """Score every clip of `clips`: normal clips around 0, anomalies around 2; the threshold is 1."""
    rng = np.random.default_rng(seed)
    rows = []
    for clip in clips.clips:
        known = clips.truth.get(clip.clip_id)
        score = rng.normal() + 2 * (known.label if known else rng.integers(2))
        if known or clip.split == TRAIN:
            score = round(score, 1)  # ties, also with the threshold
        verdict = -1 if clip.split == TRAIN else int(score > 1)
        rows.append((clip.clip_id, clip.machine, clip.section, clip.split, clip.domain, score, verdict, 1.0, score / 2))
    columns = ["clip_id", "machine", "section", "split", "domain", "score", "decision", "threshold", "branch:knn"]
    scores = pd.DataFrame(rows, columns=columns)
    folder = workspace.run(run_id)
    write_table(folder / "scores.parquet", scores)
    labelled = [machine for machine in clips.machines if clips.is_labelled(machine)]
    if labelled:
        known = scores[scores["machine"].isin(labelled) & (scores["split"] == TEST)].copy()
        known["domain"] = [clips.truth[clip_id].domain for clip_id in known["clip_id"]]
        known["label"] = [clips.truth[clip_id].label for clip_id in known["clip_id"]]
        write_json(folder / "metrics.json", evaluate(known, bootstrap=50))
    facts = {
        "run_id": run_id,
        "system": "wistlab-4",
        "title": "Invented",
        "data": {"name": clips.name, "kind": clips.kind, "fingerprint": "f"},
        "profile": "full",
        "seed": seed,
        "machines": clips.machines,
        "config": CONFIG,
        "tasks": [],
        "thresholds": {machine: {"00": 1.0} for machine in clips.machines},
        "notices": [],
        "seconds": 1.0,
        "created": float(seed),
        "git": None,
    }
    write_json(folder / "run.json", facts | record)
    finish(folder)
    return load_run(workspace, run_id)
