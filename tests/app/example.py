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
from asd_core.artifacts import Workspace, finish, write_embeddings, write_evidence, write_table
from asd_core.data import audio
from asd_core.data.manifest import DataSet, attribute_text, fingerprint, scan
from asd_core.files import digest, read_json, write_json
from asd_core.pipeline.tasks import VIEW_ITSELF, embeddings_file, evidence_file
from asd_core.synthesis.verdicts import Rule, apply_rule
from asd_core.tuning import Tuning
from asd_core.types import SAMPLE_RATE, TEST, TRAIN, EmbeddingSet, Evidence

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
    prints = [
        fingerprint(data.of(machine, split), workspace.fingerprints)
        for machine in data.machines
        for split in (TRAIN, TEST)
    ]
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
    resolved = config.resolve(config.load_system(system), config.load_profile("quick"))
    scores = scores.assign(**{f"branch:{branch.name}": scores["score"] for branch in resolved.branches})
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


def add_artefacts(workspace: Workspace, data: DataSet, run_id: str) -> None:
    """What a run of one branch would have left beside its scores: embeddings (8 numbers per clip, target clips apart
    from source clips), and local scores of 6 stretches × 2 bands."""
    rng = np.random.default_rng(3)
    folder = workspace.run(run_id)
    record = read_json(folder / "run.json")
    (branch,) = record["config"]["branches"]
    branch["scorer"] = {"name": "localized", "metric": "cosine"}
    record["scores"] = {}
    for machine in data.machines:
        embedded, scored = (workspace.task(kind, f"{run_id}-{machine}") for kind in ("embed", "score"))
        record["scores"][machine] = {branch["name"]: scored.name}
        ids = {split: np.array([clip.clip_id for clip in data.of(machine, split)]) for split in (TRAIN, TEST)}
        for split, own in ids.items():
            clips = data.of(machine, split)
            target = np.array([["target" in one.clip_id] for one in clips])
            x = (rng.standard_normal((len(own), 8)) + 6 * target * np.eye(8)[0]).astype(np.float32)
            domains = np.array([one.domain for one in clips])
            texts = np.array([attribute_text(one.attributes) for one in clips])
            kept = EmbeddingSet(x, own, np.full(len(own), "00"), domains, texts)
            write_embeddings(embeddings_file(embedded, split, VIEW_ITSELF), kept)
        shape = (len(ids[TEST]), 6, 2)
        start = 0.08 * np.arange(6)
        evidence = Evidence(
            rng.gamma(2, size=shape).astype(np.float32),
            rng.integers(len(ids[TRAIN]), size=shape).astype(np.int32),
            rng.integers(6, size=shape).astype(np.int32),
            start,
            start + 0.16,
            np.array([0.0, 1000.0, 8000.0]),
        )
        write_evidence(evidence_file(scored, "00"), evidence, ids[TEST], ids[TRAIN])
        finish(embedded, spec={"view": {"name": "logmel_statistics", "channel": "near"}}, inputs=[])
        finish(scored, spec={"scorer": branch["scorer"]}, inputs=[embedded.name])
    (folder / "meta.json").unlink()
    write_json(folder / "run.json", record)
    finish(folder, key=run_id)


CONFIDENCES = (0.30, 0.52, 0.70, 0.90, 0.97, 0.80)  # of the invented candidates of a machine, near


def add_generated(workspace: Workspace, data: DataSet, profile: str = "quick", measured: bool = True) -> str:
    """An invented set of generated clips: six of ``target|speed_9`` for the first two machines, three wanted of each;
    the first is too doubtful, the fifth too certain, and the sixth is a copy. Returns the key of the first machine's
    task."""
    rng = np.random.default_rng(5)
    options = config.resolve_generator(config.load_generator("diffusion"), config.load_profile(profile))
    generator = options.model_dump(mode="json")
    judge = workspace.task("judge", digest(["judge", profile]))
    write_json(judge / "judge.json", {})
    finish(judge, confidences=sorted(rng.uniform(0.4, 0.96, 40).tolist()))
    keys = []
    for number, machine in enumerate(data.machines[:2], 1):
        text = f"{machine}|00|target|speed_9"
        recorded = [clip.clip_id for clip in data.of(machine, TRAIN)]
        key = digest(["generate", profile, machine])
        folder = workspace.task("generate", key)
        rows = []
        for i, sure in enumerate(CONFIDENCES):
            name = f"section_00_target_train_normal_{i:04d}_speed_9.wav"
            audio.write(folder / name, _wave(rng, 90 * number, False, 0.5))
            row = {"clip": f"{machine}/generated/{name}", "condition": text}
            for one, confidence in (("near", sure), ("far", 0.75)):
                figures = {
                    "predicted": f"{text}|{one}", "agrees": True, "confidence": confidence, "finite": True,
                    "level": -20.0, "quietest": -22.0, "loudest": -18.0, "silence": 0.0, "most_silence": 0.0,
                    "clipping": 0.0, "most_clipping": 0.0, "copy_distance": 0.1 if i == 5 else 0.9,
                    "copy_of": recorded[0], "copy_share": 0.0 if i == 5 else 0.5, "copy_least": 0.6,
                }  # fmt: skip
                row |= {f"{one}_{name}": value for name, value in figures.items()}
            rows.append(row)
        table = apply_rule(pd.DataFrame(rows), Rule()).assign(number=range(len(rows)))
        write_table(folder / "candidates.parquet", table)
        log = digest(["verdicts", profile, machine])
        spec = {"generator": generator, "machine": machine, "counts": {text: 3}, "log": log}
        finish(folder, spec=spec, inputs=["generator", judge.name], drawn=len(table), data=data.name)
        keys.append(key)
        if measured:
            _measure(workspace, machine, text, key, spec)
    return keys[0]


def _measure(workspace: Workspace, machine: str, text: str, key: str, spec: dict[str, object]) -> None:
    """What a quality task would have left."""
    screened = workspace.task("screen", f"screen-{key}")
    write_json(screened / "shortfall.json", {})
    finish(screened, spec=spec | {"verdicts": {}}, inputs=[key])
    folder = workspace.task("quality", f"quality-{key}")
    about = {"machine": machine, "condition": text, "microphone": "near"}
    distances = {"space": "log-mel", "measure": "Fréchet", "reference": "held-out", "generated": 300.0, "real": 250.0}
    distances |= {"other": 900.0, "nearest": "", "noise": 400.0, "rows": 30, "said": "closer than shaped noise"}
    samples = {"recorded": 3, "wanted": 3, "drawn": 6, "kept": 3, "taken for it": 1.0, "confidence": 0.75}
    samples |= {"diversity": 0.7, "copy distance": 0.9, "copies": 0.0}
    write_table(folder / "distances.parquet", pd.DataFrame([about | distances]))
    write_table(folder / "samples.parquet", pd.DataFrame([about | samples]))
    finish(folder, spec=spec, inputs=[screened.name])


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
