"""What is said of why a clip got its score: figures that add up, places that are where the evidence is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from asd_core import __main__ as command_line
from asd_core import api
from asd_core.artifacts import Run, Workspace, finish, load_run, write_evidence, write_table
from asd_core.config import System, validate
from asd_core.files import write_json
from asd_core.pipeline.explain import clip_map, explain, find_clip, places
from asd_core.pipeline.verdict import decide
from asd_core.types import AsdError, Evidence

BRANCHES = (
    {"name": "local", "view": {"name": "logmel_patches"}, "scorer": {"name": "localized"}},
    {"name": "knn-a", "view": {"name": "logmel_statistics"}, "scorer": {"name": "knn"}, "stream": "near"},
    {"name": "knn-b", "view": {"name": "logmel_statistics"}, "scorer": {"name": "knn", "k": 2}, "stream": "near"},
    {"name": "maha", "view": {"name": "logmel_statistics"}, "scorer": {"name": "mahalanobis"}},
)
WEIGHTED = {"name": "weighted", "normalise": "ztrain", "weights": [2, 1, 1]}
TRAINING, TESTED = 12, 6  # clips of each machine and section
SECTIONS = {"fan": ("00", "03"), "valve": ("00",)}
CLIP = "fan/test/section_03_source_test_anomaly_0002.wav"


def ids(machine: str, section: str, split: str) -> list[str]:
    kind = "anomaly" if split == "test" else "normal"
    count = TESTED if split == "test" else TRAINING
    return [f"{machine}/{split}/section_{section}_source_{split}_{kind}_{i:04d}.wav" for i in range(count)]


def evidence(clips: int, seed: int = 0) -> Evidence:
    """Units of 0.4 s every 0.2 s, two bands; values between 0 and 1."""
    rng = np.random.default_rng(seed)
    shape = (clips, 6, 2)
    start = 0.2 * np.arange(6)
    clip, unit = rng.integers(TRAINING, size=shape), rng.integers(6, size=shape)
    values = rng.random(shape).astype(np.float32)
    return Evidence(values, clip.astype(np.int32), unit.astype(np.int32), start, start + 0.4, np.array([0, 1e3, 8e3]))


def make_run(workspace: Workspace, fusion: dict[str, Any] = WEIGHTED, kept: bool = True, **record: Any) -> Run:
    """A run with invented scores, fused by the pipeline, of which branch "local" keeps evidence."""
    about = {"name": "own", "title": "Own", "idea": "-", "family": "-", "branches": BRANCHES, "fusion": fusion}
    system = validate(System, about, "here")
    rng, tables, thresholds = np.random.default_rng(0), [], {}
    for machine, sections in SECTIONS.items():
        rows = []
        for section in sections:
            for split in ("train", "test"):
                told = {"machine": machine, "section": section, "split": split}
                told["domain"] = "source" if split == "train" else ""
                rows += [{"clip_id": clip_id, **told} for clip_id in ids(machine, section, split)]
            own = evidence(TESTED, len(section) + len(machine))
            path = workspace.task("score", f"key-{machine}") / f"evidence-{section}.npz"
            if kept:
                clips, known = (np.array(ids(machine, section, split)) for split in ("test", "train"))
                write_evidence(path, own, clips, known)
        table = pd.DataFrame(rows)
        for branch in BRANCHES:
            table[f"branch:{branch['name']}"] = rng.gamma(4, 1.0, len(table)) + 2 * (table["split"] == "test")
        table, thresholds[machine], _ = decide(system, table)
        tables.append(table)
    folder = workspace.run("own--r")
    write_table(folder / "scores.parquet", pd.concat(tables))
    facts = {
        "run_id": "own--r",
        "system": "own",
        "title": "Own",
        "data": {"name": "invented", "kind": "simulated", "fingerprint": "f"},
        "profile": "full",
        "seed": 0,
        "machines": list(SECTIONS),
        "labelled": list(SECTIONS),
        "config": system.model_dump(mode="json"),
        "tasks": [],
        "scores": {machine: {"local": f"key-{machine}"} for machine in SECTIONS},
        "thresholds": thresholds,
        "notices": [],
        "created": 0.0,
    }
    write_json(folder / "run.json", facts | record)
    finish(folder)
    return load_run(workspace, "own--r")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.mark.parametrize("normalise", ["none", "ztrain", "ecdf", "rank_test"])
def test_contributions_of_a_weighted_fusion_add_up(workspace, normalise):
    run = make_run(workspace, WEIGHTED | {"normalise": normalise})
    for clip_id in run.scores.query("split == 'test'")["clip_id"]:
        told = explain(workspace, run, clip_id)
        assert sum(s.contribution for s in told.streams) == pytest.approx(told.score - told.usual, abs=1e-12)
        assert [s.weight for s in told.streams] == [0.5, 0.25, 0.25]
        assert sum(s.weight * s.normalised for s in told.streams) == pytest.approx(told.score, abs=1e-12)
        if told.score > told.usual:
            assert sum(s.share for s in told.streams) == pytest.approx(1)
        else:
            assert [s.share for s in told.streams] == [None] * 3
        assert not any(s.decides for s in told.streams)


def test_it_agrees_with_the_table_of_clips(workspace):
    """Sections of a machine are judged apart: another section's training clips are not counted."""
    run = make_run(workspace)
    table = api.clip_table(workspace, run).set_index("clip_id")
    for clip_id, row in table.iterrows():
        told = explain(workspace, run, clip_id)
        assert (told.machine, told.section) == (row["machine"], row["section"])
        assert (told.score, told.threshold, told.percentile) == (row["score"], row["threshold"], row["percentile"])
        assert told.is_anomalous == (row["decision"] == 1)
        own = run.scores.query("split == 'train' and machine == @told.machine and section == @told.section")
        assert told.usual == pytest.approx(own["score"].mean())
        assert len(own) == TRAINING
        near = next(stream for stream in told.streams if stream.name == "near")
        assert near.branches == ("knn-a", "knn-b")
        assert near.score == pytest.approx((row["branch:knn-a"] + row["branch:knn-b"]) / 2)
        below = own[["branch:knn-a", "branch:knn-b"]].mean(axis=1) <= near.score
        assert near.percentile == pytest.approx(100 * below.mean())
    assert {row["section"] for _, row in table.iterrows()} == {"00", "03"}


def test_of_a_minimum_one_stream_decides(workspace):
    run = make_run(workspace, {"name": "minimum", "normalise": "ztrain"})
    deciding = set()
    for clip_id in run.scores.query("split == 'test'")["clip_id"]:
        told = explain(workspace, run, clip_id)
        (decides,) = [s for s in told.streams if s.decides]
        assert decides.normalised == min(s.normalised for s in told.streams) == pytest.approx(told.score)
        assert decides.contribution is decides.weight is decides.share is None
        deciding.add(decides.name)
    assert len(deciding) > 1


def test_tuned_weights_are_those_of_the_run(workspace):
    run = make_run(workspace)
    config = run.record["config"] | {"fusion": {"name": "weighted", "normalise": "ztrain", "weights": "tuned"}}
    tuning = {"weights": {"local": 0.5, "near": 0.25, "maha": 0.25}}
    told = explain(workspace, Run(run.folder, run.record | {"config": config, "tuning": tuning}), CLIP)
    assert [s.weight for s in told.streams] == [0.5, 0.25, 0.25]


def test_scores_that_were_fused_otherwise_are_not_explained(workspace):
    run = make_run(workspace)
    write_table(run.folder / "scores.parquet", run.scores.assign(score=run.scores["score"] * 1.01))
    with pytest.raises(AsdError, match=r"earlier version: run again \(python -m asd_core run own --data invented "):
        explain(workspace, run, CLIP)


def test_ranks_have_no_percentile(workspace):
    told = explain(workspace, make_run(workspace, WEIGHTED | {"normalise": "rank_test"}), CLIP)
    assert told.percentile is None
    assert told.streams[0].percentile is not None  # raw scores can be compared


def test_places_are_the_highest_cells_of_the_stored_map(workspace):
    run = make_run(workspace)
    row = ids("fan", "03", "test").index(CLIP)
    stored = evidence(TESTED, len("03") + len("fan"))
    told = explain(workspace, run, CLIP)
    local = told.branches[0]
    np.testing.assert_array_equal(local.map.values, stored.values[row])
    top = local.places[0]
    unit, band = np.unravel_index(stored.values[row].argmax(), (6, 2))
    assert (top.start, top.low, top.high) == (pytest.approx(0.2 * unit), [0, 1000][band], [1000, 8000][band])
    assert top.score == stored.values[row].max()
    assert top.match == ids("fan", "03", "train")[stored.clip[row, unit, band]]
    assert top.match_start == pytest.approx(0.2 * stored.unit[row, unit, band])
    assert top.match_stop == pytest.approx(0.2 * stored.unit[row, unit, band] + 0.4)
    scores = [place.score for place in local.places]
    assert scores == sorted(scores, reverse=True)
    for i, one in enumerate(local.places):
        for other in local.places[:i]:
            assert one.low != other.low or abs(one.start - other.start) > 0.4 - 1e-9
    assert [branch.map for branch in told.branches[1:]] == [None] * 3


def maps(values: np.ndarray, **parts: Any) -> Evidence:
    """Evidence of one clip: values (U, F), each compared with the same stretch of training clip 0."""
    units, bands = values.shape
    shape = (1, units, bands)
    unit = np.broadcast_to(np.arange(units)[:, None], shape).astype(np.int32)
    start = 0.5 * np.arange(units)
    edges = np.linspace(0, 8000, bands + 1)
    own = Evidence(values[None], np.zeros(shape, dtype=np.int32), unit, start, start + 0.5, edges)
    return dataclasses.replace(own, **parts)


def test_stretches_past_the_end_of_a_clip_are_left_out():
    values = np.array([[1.0, 2], [4, 3], [np.nan, np.nan]])
    own = clip_map(maps(values), 0, np.array(["a"]))
    np.testing.assert_array_equal(own.values, values[:2])
    assert len(own.start) == len(own.stop) == len(own.match) == 2
    assert [place.score for place in places(own)] == [4, 3, 2, 1]


def test_a_normal_clip_may_be_longer_than_the_clip():
    unit = np.full((1, 2, 1), 7, dtype=np.int32)
    (one, _) = places(clip_map(maps(np.array([[2.0], [1]]), unit=unit), 0, np.array(["a"])))
    assert (one.match_start, one.match_stop) == (3.5, 4.0)
    alone = maps(np.array([[2.0]]), unit=unit[:, :1])  # nothing tells the pace
    (one,) = places(clip_map(alone, 0, np.array(["a"])))
    assert (one.match, one.match_start) == ("a", None)


def test_evidence_of_whole_clips_and_made_up_rows():
    whole = maps(np.array([[1.0, 2]]), stop=np.array([np.inf]), clip=np.array([[[-1, 0]]], dtype=np.int32))
    first, second = places(clip_map(whole, 0, np.array(["a"])))
    assert (first.start, first.stop, first.match, first.match_start, first.match_stop) == (0, None, "a", 0, None)
    assert (second.match, second.match_start) == (None, None)


def test_overlapping_units_stand_for_one_place():
    values = np.array([[3.0], [4], [2], [1]])
    start = 0.25 * np.arange(4)
    own = clip_map(maps(values, start=start, stop=start + 0.5), 0, np.array(["a"]))
    assert [place.score for place in places(own)] == [4, 1]
    assert [place.score for place in places(own, 1)] == [4]


def test_clips_are_found_by_id_and_by_a_name_that_only_one_has(workspace):
    run = make_run(workspace)
    assert find_clip(run, CLIP) == CLIP
    assert find_clip(run, CLIP.rpartition("/")[2]) == CLIP
    with pytest.raises(AsdError, match=r"2 clips .* give an id: fan/test/.*, valve/test/"):
        find_clip(run, "section_00_source_test_anomaly_0001.wav")
    with pytest.raises(AsdError, match=f'no test clip "fan/test/section_03_.*Near it: .*{CLIP}'):
        find_clip(run, CLIP.replace("anomaly", "anomly"))
    with pytest.raises(AsdError, match=r"Near it: section_03_source_test_anomaly_0002\.wav\."):
        find_clip(run, "03_source_test_anomaly_0002")
    with pytest.raises(AsdError, match="Give an id such as fan/test/"):
        find_clip(run, "?")
    for name in (ids("fan", "00", "train")[0], "section_00_source_train_normal_0003.wav"):
        with pytest.raises(AsdError, match="is a training clip"):
            find_clip(run, name)


def invoke(workspace: Workspace, *arguments: str):
    return CliRunner().invoke(command_line.app, ["explain", *arguments, "--workspace", str(workspace.root)])


def test_the_command_says_it_in_words(workspace, monkeypatch):
    make_run(workspace)
    monkeypatch.setattr("asd_core.terminal.out.width", 300)
    said = invoke(workspace, CLIP, "--run", "own")
    assert said.exit_code == 0, said.output
    told = explain(workspace, load_run(workspace, "own--r"), CLIP)
    assert f"score {told.score:.6g}, threshold {told.threshold:.6g}" in said.output
    top = told.branches[0].places[0]
    assert f"{top.start:.2f}–{top.stop:.2f}" in said.output
    assert top.match in said.output
    assert "maha: scorer mahalanobis judges a clip as a whole" in said.output
    assert "knn-a: no evidence is kept" in said.output
    assert "truth" not in said.output
    assert "truth: anomaly, source" in invoke(workspace, CLIP, "--run", "own--r", "--truth").output


def test_runs_without_evidence_say_how_to_get_it(workspace):
    make_run(workspace, kept=False)
    said = " ".join(invoke(workspace, CLIP, "--run", "own").output.split())
    assert "local: no evidence is kept" in said
    assert "run own --data invented --profile full" in said
    assert "nothing is trained" in said


def test_json_is_strict_and_has_no_truth_unless_asked(workspace):
    make_run(workspace)
    refuse = lambda word: pytest.fail(f"{word} is not JSON")  # noqa: E731
    told = json.loads(invoke(workspace, CLIP, "--run", "own", "--json").stdout, parse_constant=refuse)
    assert "truth" not in told
    assert len(told["branches"][0]["places"]) == 5
    assert "Run again" in told["branches"][1]["why_no_evidence"]
    asked = json.loads(invoke(workspace, CLIP, "--run", "own", "--json", "--truth").stdout)
    assert asked["truth"] == {"label": 1, "domain": "source"}


def test_the_reader_loads_no_learning_library(workspace):
    make_run(workspace)
    code = (
        "import sys; from pathlib import Path; from asd_core.artifacts import Workspace, load_run\n"
        "from asd_core.api.results import explanation\n"
        "place = Workspace(Path(sys.argv[1])); told = explanation(place, load_run(place, 'own--r'), sys.argv[2])\n"
        "assert told.branches[0].map.match.shape == told.branches[0].map.values.shape == (6, 2)\n"
        "loaded = {'torch', 'sklearn', 'librosa', 'faiss'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code, str(workspace.root), CLIP], check=True, cwd=Path(__file__).parents[2])
