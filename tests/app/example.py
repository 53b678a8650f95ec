"""A small, consistent workspace without any training: invented recordings and three invented systems.

Scores are drawn, metrics come from `metrics.evaluate`. ``python tests/app/example.py DIR`` builds one to look at.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from asd_core import config, metrics
from asd_core.artifacts import Workspace, finish, write_table
from asd_core.data import audio
from asd_core.data.manifest import DataSet, fingerprint, scan
from asd_core.files import digest, write_json
from asd_core.tuning import Tuning
from asd_core.types import SAMPLE_RATE, TEST, TRAIN

LABELLED = ("bearing", "fan", "valve")
UNLABELLED = "drone"
SYSTEMS = {"logmel-maha": 2.2, "logmel-knn": 1.4, "official-mse": 0.7}


def build(folder: Path, clips: int = 4, seconds: float = 0.5, unlabelled: bool = True) -> Workspace:
    """`clips` per group (domain × label); the workspace is `folder`/workspace, its recordings `folder`/sounds."""
    rng = np.random.default_rng(7)
    sounds = folder / "sounds"
    machines = (*LABELLED, UNLABELLED) if unlabelled else LABELLED
    for number, machine in enumerate(machines):
        for name, is_anomaly in _names(machine, clips):
            audio.write(sounds / machine / name, _wave(rng, 90 * (number + 1), is_anomaly, seconds))
    data = scan(sounds, "workshop", "simulated")
    workspace = Workspace(folder / "workspace")
    about = {"name": data.name, "kind": data.kind, "root": str(data.root)}
    write_json(workspace.dataset(data.name) / "dataset.json", about)
    for system, strength in SYSTEMS.items():
        add_run(workspace, data, system, strength)
    return workspace


def add_run(
    workspace: Workspace,
    data: DataSet,
    system: str,
    strength: float,
    seed: int = 0,
    transductive: bool = False,
    tuned: Tuning | None = None,
) -> str:
    rng = np.random.default_rng(len(system) + 100 * seed)
    cache = workspace.cache / "fingerprints.json"
    prints = [fingerprint(data.of(machine, split), cache) for machine in data.machines for split in (TRAIN, TEST)]
    rows = []
    for clip in data.clips:
        truth = data.truth.get(clip.clip_id)
        shift = strength * truth.label if truth else strength * rng.integers(2) * (clip.split == TEST)
        shift += 0.5 * (truth is not None and truth.domain == "target")
        rows.append((clip.clip_id, clip.machine, clip.section, clip.split, clip.domain, 4 + shift + rng.gamma(4, 0.25)))
    scores = pd.DataFrame(rows, columns=["clip_id", "machine", "section", "split", "domain", "score"])
    thresholds = {}
    for machine, own in scores.groupby("machine"):
        limit = float(own.loc[own["split"] == TRAIN, "score"].quantile(0.9))
        thresholds[machine] = {"00": limit}
        scores.loc[own.index, "threshold"] = limit
    scores["decision"] = np.where(scores["split"] == TRAIN, -1, scores["score"] > scores["threshold"])
    scores["branch:first"] = scores["score"] / 2
    run_id = f"{system}--{data.name}--quick--seed{seed}"
    folder = workspace.run(run_id)
    (folder / "meta.json").unlink(missing_ok=True)  # of the run that it replaces
    write_table(folder / "scores.parquet", scores)
    known = scores[scores["clip_id"].isin(list(data.truth))]
    truth = [data.truth[clip_id] for clip_id in known["clip_id"]]
    if truth:
        known = known.assign(label=[t.label for t in truth], domain=[t.domain for t in truth])
        write_json(folder / "metrics.json", metrics.evaluate(known, bootstrap=200))
    record = {
        "run_id": run_id,
        "system": system,
        "title": {
            "logmel-maha": "Log-mel statistics, Mahalanobis",
            "logmel-knn": "Log-mel statistics, nearest neighbour",
        }.get(system, config.load_system(system).title),
        "data": {"name": data.name, "kind": data.kind, "fingerprint": digest(prints)},
        "profile": "quick",
        "seed": seed,
        "machines": data.machines,
        "labelled": [machine for machine in data.machines if data.is_labelled(machine)],
        "config": config.resolve(config.load_system(system), config.load_profile("quick")).model_dump(mode="json"),
        "transductive": transductive,
        "tasks": [],
        "thresholds": thresholds,
        "notices": [tuned.said] if tuned else [],
        "seconds": 41.0,
        "created": time.time(),
        "git": None,
    }
    write_json(folder / "run.json", record | ({"tuning": tuned.record()} if tuned else {}))
    finish(folder, key=run_id)
    return run_id


def _names(machine: str, clips: int) -> list[tuple[str, bool]]:
    names = [(f"train/section_00_source_train_normal_{i:04d}_speed_{i % 3 + 1}.wav", False) for i in range(3 * clips)]
    names += [(f"train/section_00_target_train_normal_{i:04d}_speed_9.wav", False) for i in range(3)]
    if machine == UNLABELLED:
        return names + [(f"test/section_00_{i:04d}.wav", i % 2 == 1) for i in range(2 * clips)]
    for domain, speed in (("source", 1), ("target", 9)):
        for label in ("normal", "anomaly"):
            for i in range(clips):
                name = f"test/section_00_{domain}_test_{label}_{i:04d}_speed_{speed}.wav"
                names.append((name, label == "anomaly"))
    return names


def _wave(rng: np.random.Generator, hertz: float, is_anomaly: bool, seconds: float) -> np.ndarray:
    """(2, T): a hum with harmonics in noise; an anomaly also clicks. The far channel is fainter and noisier."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * hertz * k * t + rng.uniform(0, 6)) / k**1.3 for k in range(1, 14))
    near = 0.08 * hum * (1 + 0.2 * np.sin(2 * np.pi * 3 * t)) + 0.01 * rng.standard_normal(len(t))
    if is_anomaly:
        near += 0.25 * np.exp(-((t * 6) % 1) * 40) * rng.standard_normal(len(t))
    far = 0.3 * near + 0.02 * np.cumsum(rng.standard_normal(len(t))) / 40 + 0.012 * rng.standard_normal(len(t))
    return np.stack([near, far])


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), clips=30, seconds=6.0).root)
