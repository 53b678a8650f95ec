"""Finished runs fused by their final scores: figures of the official evaluation, and a run that gives them again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from asd_core import __main__ as command_line
from asd_core import api, config, metrics, pipeline
from asd_core.analysis import labelled_scores
from asd_core.analysis.runs import tuned_on
from asd_core.artifacts import Run, Workspace, how_again, is_done, list_runs, load_run, write_table
from asd_core.data.manifest import scan
from asd_core.engine import local
from asd_core.fusion import FUSIONS
from asd_core.fusion.weighted import Weighted
from asd_core.pipeline import members
from asd_core.types import TEST, AsdError
from tests.unit.invented_runs import CONFIG, dataset, write_run

NORMALISATIONS = ("none", "ztrain", "ecdf", "rank_test")
ONE_BRANCH = CONFIG | {
    "title": "x", "idea": "x", "family": "x", "report": None, "encoders": {},
    "branches": [{"name": "knn", "view": {"name": "logmel_statistics"}, "scorer": {"name": "knn"}}],
}  # fmt: skip


@pytest.fixture
def three(tmp_path: Path) -> list[Run]:
    """Noisy runs of three systems with ties; fan and valve are labelled, drone is not."""
    workspace, clips = Workspace(tmp_path), dataset(["fan", "valve"], ["drone"], n=12)
    runs = []
    for seed, name in enumerate(("one", "two", "three"), 1):
        facts = {"system": name, "config": ONE_BRANCH | {"name": name}, "labelled": ["fan", "valve"], "scores": {}}
        run = write_run(workspace, clips, f"r{seed}", seed, **facts)
        noise = np.random.default_rng(seed).normal(size=len(run.scores)).round(1)
        table = run.scores.assign(score=run.scores["score"] + 2 * noise)
        table["branch:knn"] = table["score"]
        write_table(run.folder / "scores.parquet", table)
        meta = json.loads((run.folder / "meta.json").read_text())
        meta["files"]["scores.parquet"] = (run.folder / "scores.parquet").stat().st_size
        (run.folder / "meta.json").write_text(json.dumps(meta))
        runs.append(load_run(workspace, f"r{seed}"))
    return runs


def official(runs: list[Run], weights: list[float], normalise: str) -> dict:
    """By the fusion rule and the official evaluation, machine by machine."""
    tables = [run.scores.set_index("clip_id") for run in runs]
    known, parts = labelled_scores(runs[0]), []
    for machine, rows in known.groupby("machine"):
        own = [table[table["machine"] == machine] for table in tables]
        training = np.column_stack([table.loc[table["split"] != TEST, "score"] for table in own])
        test = np.column_stack([table.loc[rows["clip_id"], "score"] for table in own])
        rule = Weighted(weights, normalise).fit(training)  # type: ignore[arg-type]
        parts.append(rows.drop(columns="decision").assign(score=rule.fuse(test), machine=machine))
    return metrics.evaluate(pd.concat(parts), bootstrap=300)


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_figures_are_those_of_the_rule_and_the_official_evaluation(three, normalise) -> None:
    aligned = members.align(three)
    on = members.scaled(aligned, normalise)
    weights = [0.5, 0.2, 0.3]
    found = members.worth(aligned, on, weights)
    expected = official(three, weights, normalise)
    assert found.omega == pytest.approx(expected["official"]["omega"], abs=1e-12)
    assert dict(zip(found.machines, found.fused, strict=True)) == pytest.approx(
        {name: entry["00"]["hmean"] for name, entry in expected["machines"].items()}, abs=1e-12
    )
    alone = [official(three, list(row), normalise)["official"]["omega"] for row in np.eye(3)]
    assert found.alone == pytest.approx(alone, abs=1e-12)
    assert found.best == int(np.argmax(alone))
    for i in range(3):
        rest = [0.0 if i == j else weight for j, weight in enumerate(weights)]
        assert found.without[i] == pytest.approx(official(three, rest, normalise)["official"]["omega"], abs=1e-12)


def test_weights_are_proportions_and_a_lone_member_has_no_rest(three) -> None:
    aligned = members.align(three)
    on = members.scaled(aligned, "ztrain")
    assert members.worth(aligned, on, [5, 2, 3]) == members.worth(aligned, on, [0.5, 0.2, 0.3])
    lone = members.worth(aligned, on, [0, 1, 0])
    assert lone.omega == lone.alone[1]
    assert [value is None for value in lone.without] == [False, True, False]
    for odd in ([0, 0, 0], [1, -1, 1], [np.nan, 1, 1]):
        with pytest.raises(AsdError, match="not all zero"):
            members.worth(aligned, on, odd)


def test_intervals_are_those_of_the_official_bootstrap_up_to_chance(three) -> None:
    aligned = members.align(three)
    on = members.scaled(aligned, "ztrain")
    found = members.chance(aligned, on, [1, 1, 1], best=0, bootstrap=2000)
    assert found.omega == pytest.approx(official(three, [1, 1, 1], "ztrain")["official"]["interval"], abs=0.015)
    same = members.chance(aligned, on, [1, 0, 0], best=0)
    assert same.gain == (0.0, 0.0), "the same draws for both"


def test_a_group_of_one_clip_has_no_interval(tmp_path) -> None:
    clips = dataset(["fan"], n=1)
    runs = [write_run(Workspace(tmp_path), clips, f"r{i}", i, config=ONE_BRANCH, labelled=["fan"]) for i in (1, 2)]
    aligned = members.align(runs)
    assert members.chance(aligned, members.scaled(aligned, "ztrain"), [1, 1], 0) is None


def test_twelve_machines_take_milliseconds() -> None:
    """The budget is 50 ms; a busy machine gets some air, and the best of five counts."""
    rng = np.random.default_rng(0)
    label, domain = np.tile(np.repeat([0, 1], 50), 2), np.repeat(["source", "target"], 100)
    parts = tuple(
        members.Part(f"m{i}", "00", np.arange(200).astype(str), *(rng.normal(size=(n, 6)) for n in (1000, 200)),
                     np.zeros((200, 6)), label, domain)
        for i in range(12)
    )  # fmt: skip
    names = tuple("abcdef")
    aligned = members.Members(names, names, parts, {"name": "percentile"}, (), "")
    on = members.scaled(aligned, "ecdf")
    seconds = []
    for _ in range(5):
        started = time.process_time()
        members.worth(aligned, on, [1] * 6)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.05


def test_rank_correlation_by_hand(three) -> None:
    aligned = members.align(three)
    found = members.correlations(aligned)
    tables = [run.scores[run.scores["split"] == TEST].set_index("clip_id") for run in three]
    each = [
        own["score"].corr(tables[1].loc[own.index, "score"], method="spearman")
        for _, own in tables[0].groupby("machine")
    ]
    assert found[0, 1] == pytest.approx(np.mean(each))
    np.testing.assert_allclose(np.diag(found), 1)
    flat = members.Part("m", "00", np.array(["a", "b"]), np.ones((2, 2)), np.ones((2, 2)), np.zeros((2, 2)))
    lost = members.correlations(members.Members(("a", "b"), ("a", "b"), (flat,), {}, (), ""))
    assert np.isnan(lost).all()


def test_flips_are_the_clips_with_another_verdict(three) -> None:
    aligned = members.align(three)
    weights = [0.2, 0.3, 0.5]
    table = members.flips(aligned, members.scaled(aligned, "ztrain"), weights, single=1)
    system, columns = members.fused_system(three, "f", "ztrain", weights)
    decided = pd.concat([pipeline.verdict.decide(system, own)[0] for _, own in columns.groupby("machine")])
    ours = decided.set_index("clip_id")["decision"]
    theirs = three[1].scores.query("split == 'test'").set_index("clip_id")["decision"]
    turned = ours.loc[theirs.index][ours.loc[theirs.index] != theirs]
    assert dict(zip(table["clip_id"], table["decision"], strict=True)) == turned.to_dict()
    assert (table["margin"] > 0).eq(table["decision"] == 1).all()
    assert table.loc[table["machine"] == "drone", "label"].isna().all()
    assert table.loc[table["machine"] == "fan", "label"].notna().all()


def test_members_with_other_clips_are_named_and_only_common_clips_count(three, tmp_path) -> None:
    run = three[2]
    lost = run.scores.query("machine == 'fan' and split == 'test'")["clip_id"].head(3)
    write_table(run.folder / "scores.parquet", run.scores[~run.scores["clip_id"].isin(lost)])
    aligned = members.align(three)
    assert aligned.missing == ("three lacks 3 clips that others have, of fan.",)
    (fan,) = [part for part in aligned.parts if part.machine == "fan"]
    assert not set(lost) & set(fan.clips)
    assert len(fan.scores) == 45


@pytest.mark.parametrize("picked", [[0], [0, 0], [0, 1, 2, 0, 1, 2, 0]])
def test_two_to_six_different_runs(three, picked) -> None:
    with pytest.raises(AsdError, match="2 to 6 different runs"):
        members.align([three[i] for i in picked])


def test_a_saved_fusion_gives_the_figures_that_were_shown(three, tmp_path) -> None:
    workspace = Workspace(tmp_path)
    run_id = api.save_fusion(workspace, three, "all three", "ecdf", [0.5, 0.0, 0.5], "Told.")
    run, own = load_run(workspace, run_id), [three[0], three[2]]
    shown = api.fusion_figures(api.align_runs(own, "ecdf"), [0.5, 0.5])
    assert 100 * run.metrics["official"]["omega"] == pytest.approx(shown.omega, abs=1e-9)
    assert run.record["members"] == ["r1", "r3"], "a member without weight is left out"
    assert run.record["notices"] == ["Told."]
    assert list(run.scores.columns) == [*three[0].scores.columns[:8], "branch:one-knn", "branch:three-knn"]
    assert len(run.scores) == len(three[0].scores)
    assert "# Told." in api.fusion_file(workspace, "all three").read_text()
    assert config.load_system(str(api.fusion_file(workspace, "all three"))).fusion.spec["tuned_on"] == "Told."
    with pytest.raises(AsdError, match="all three already"):
        api.save_fusion(workspace, three, "all three", "ecdf", [1, 1, 1])
    with pytest.raises(AsdError, match="two members with weight"):
        api.save_fusion(workspace, three, "another", "ecdf", [1, 0, 0])
    assert len(list_runs(workspace)) == 4


def test_weights_that_were_tuned_inside_a_member_are_told_of_the_fusion(three, tmp_path) -> None:
    three[0].record["tuning"] = {"search": "grid", "said": "Tuned on its own clips.", "weights": {}}
    run_id = api.save_fusion(Workspace(tmp_path), three[:2], "equal", "ztrain", [0.5, 0.5])
    run = load_run(Workspace(tmp_path), run_id)
    assert tuned_on(run.record) == "one: Tuned on its own clips."
    assert run.record["notices"] == ["one: Tuned on its own clips."]


def test_members_that_were_tuned_or_picked_by_omega_are_told(three) -> None:
    table = api.fusion_candidates(three)
    names = {run.record["run_id"]: run for run in three}
    best = [names[run_id] for run_id in api.best_candidates(table)]
    (told,) = api.told_of_members(best, ["a", "b"], table)
    assert told.startswith("Members picked by their Ω on the labelled test clips of")
    others = [names[run_id] for run_id in table["run_id"][1:]]
    (told,) = api.told_of_members(others, ["a", "b"], table)
    assert told.startswith("Members picked in view of Ω on")
    assert api.told_of_left_out(best) == ""
    best[0].record["tuning"] = {"search": "grid", "said": "Tuned on its own clips.", "weights": {}}
    assert api.told_of_members(best, ["a", "b"], table)[1:] == ["a was tuned itself. Tuned on its own clips."]
    assert api.told_of_weights(best, ["a", "b"], [0.5, 0.5], None) == "", "of weights there is nothing to tell"
    found = {"weights": {"a": 0.75, "b": 0.25}, "machines": ["fan"], "said": "Said."}
    assert api.told_of_left_out(best).startswith("No machine is known to be new to ")
    assert api.told_of_weights(best, ["a", "b"], [0.75, 0.25], found).endswith(f"Said. {api.told_of_left_out(best)}")
    for run in best:
        run.record["labelled"] = []
    assert api.told_of_members(best[1:], ["b"], table) == []


def test_two_tabs_do_not_write_one_file(three, tmp_path) -> None:
    """The file is named by the fusion's name, the run's folder by its content."""
    workspace = Workspace(tmp_path)
    path = api.fusion_file(workspace, "ours")
    failed: list[BaseException] = []

    def save() -> None:
        try:
            api.save_fusion(workspace, three[:2], "ours", "ztrain", [0.25, 0.75])
        except AsdError as error:
            failed.append(error)

    with workspace.locked(path):  # another tab is about to write it
        thread = threading.Thread(target=save)
        thread.start()
        thread.join(2)
        assert thread.is_alive(), "it waits"
        path.write_text("of the other tab")
    thread.join(30)
    assert "exists" in str(failed[0])
    assert path.read_text() == "of the other tab"
    assert len(list_runs(workspace)) == 3


def test_weights_are_tuned_though_the_recordings_are_gone(three, tmp_path) -> None:
    arguments = ["tune", "r1", "r2", "--by-run", "--workspace", str(tmp_path), "--output", str(tmp_path / "both.yaml")]
    told = CliRunner().invoke(command_line.app, arguments)
    assert told.exit_code == 0, told.exception
    assert f"--data {three[0].record['data']['name']} " in told.output


def test_generated_clips_are_kept_where_all_have_them_and_told_where_not(three) -> None:
    synthesis = config.load_system("satlab-1").synthesis.model_dump(mode="json")
    for run in three[:2]:
        run.record["config"] = run.record["config"] | {"synthesis": synthesis}
    both, _ = members.fused_system(three[:2], "f", "ztrain", [1, 1])
    assert both.synthesis == config.load_system("satlab-1").synthesis
    assert members.told_of(three[:2], "") == ["Members: r1, r2."]
    mixed, _ = members.fused_system(three, "f", "ztrain", [1, 1, 1])
    assert mixed.synthesis is None
    assert members.told_of(three, "")[1].startswith("r1, r2 took generated clips")


def test_each_member_keeps_its_own_rule() -> None:
    rng = np.random.default_rng(0)
    training, test = rng.gamma(2, size=(30, 3)), rng.gamma(2, size=(9, 3))
    minimum = {"name": "minimum", "normalise": "ecdf"}
    rule = {"name": "members", "parts": [[1, {"name": "weighted"}], [2, minimum]], "weights": [0.25, 0.75],
            "normalise": "ztrain"}  # fmt: skip
    inner = FUSIONS.create(minimum).fit(training[:, 1:])
    by_hand = np.column_stack([training[:, 0], inner.fuse(training[:, 1:])])
    asked = np.column_stack([test[:, 0], inner.fuse(test[:, 1:])])
    expected = Weighted([0.25, 0.75], "ztrain").fit(by_hand).fuse(asked)
    np.testing.assert_allclose(FUSIONS.create(rule).fit(training).fuse(test), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[1, {"name": "weighted"}], [1, {"name": "weighted"}]], r"1 \+ 1 streams, the system has 3"),
        ([[3]], "pairs"),
        ([["three", {"name": "weighted"}]], "pairs"),
        ([[3, {"name": "nobody"}]], "nobody"),
        ([[3, {"name": "weighted", "weights": "tuned"}]], "yet to be tuned"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message) -> None:
    with pytest.raises(AsdError, match=message):
        FUSIONS.create({"name": "members", "parts": parts}).fit(np.random.default_rng(0).normal(size=(5, 3)))


def test_a_transductive_member_makes_the_fusion_transductive() -> None:
    for rule, expected in (("rank_test", True), ("ztrain", False)):
        parts = [[2, {"name": "weighted", "normalise": rule}]]
        assert FUSIONS.create({"name": "members", "parts": parts}).transductive is expected


# ------------------------------------------------------------------------------------------------- on the whole street


def test_the_recipe_of_a_saved_fusion_runs_to_the_same_scores(tmp_path: Path, tiny_data: Path) -> None:
    workspace = Workspace(tmp_path)
    context = pipeline.Context(workspace, scan(tiny_data), "cpu")
    profile = config.load_profile("full")
    local.run(
        pipeline.plan([config.load_system(name) for name in ("logmel-knn", "studio-2")], profile, context), context
    )
    runs = list_runs(workspace)
    run_id = api.save_fusion(workspace, runs, "both", "ztrain", [0.4, 0.6])
    saved = load_run(workspace, run_id)
    assert saved.record["config"]["fusion"]["name"] == "members"  # studio-2 fuses streams of its own
    written = config.load_system(str(api.fusion_file(workspace, "both")))
    outcome = local.run(pipeline.plan([written], profile, context), context)
    assert outcome.computed == 1, "all that was trained and scored is found again"
    again = next(run for run in list_runs(workspace) if run.record["system"] == "both" and run.folder != saved.folder)
    ours, theirs = (run.scores.set_index("clip_id").sort_index() for run in (saved, again))
    pd.testing.assert_frame_equal(ours, theirs, check_like=True)
    assert saved.metrics == again.metrics
    assert saved.record["scores"] == again.record["scores"]
    for run in (saved, again):
        command = shlex.split(how_again(run))
        assert config.load_system(command[command.index("run") + 1]) == written
    scored = workspace.task("score", next(iter(saved.record["scores"][ours["machine"].iloc[0]].values())))
    shutil.rmtree(scored)
    with pytest.raises(AsdError, match=re.escape(f"Run again ({how_again(saved)})")):
        api.neighbours(workspace, saved, ours.index[0])
    local.run(pipeline.plan([written], profile, context), context)
    assert is_done(scored), "what is said to help does"
    clip_id = ours.query("split == 'test'").index[0]
    loose = pipeline.score_files(workspace, run_id, ours.loc[clip_id, "machine"], [tiny_data / clip_id], device="cpu")
    assert loose["score"][0] == pytest.approx(ours.loc[clip_id, "score"], rel=1e-6)

    arguments = ["tune", *(run.record["run_id"] for run in runs), "--by-run", "--workspace", str(tmp_path), "--json"]
    told = CliRunner().invoke(command_line.app, [*arguments, "--output", str(tmp_path / "tuned.yaml")])
    assert told.exit_code == 0, told.exception
    found = json.loads(told.stdout)
    assert api.suggestion(workspace, runs, "ztrain")["weights"] == found["weights"]
    assert set(found["weights"]) == {"logmel-knn", "studio-2"}
    assert config.load_system(str(tmp_path / "tuned.yaml")).fusion.spec["tuned_on"]
