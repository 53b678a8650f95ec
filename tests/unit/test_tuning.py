"""Tuned weights: as good as they claim on the clips they were tuned on, and honest about all others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from asd_core import __main__ as command_line
from asd_core import analysis, config, metrics, pipeline, terminal
from asd_core.artifacts import Run, Workspace, list_runs, write_table
from asd_core.data.manifest import scan
from asd_core.engine import local
from asd_core.fusion import FUSIONS
from asd_core.fusion.weighted import Weighted
from asd_core.pipeline import tuned
from asd_core.tuning import Labelled, triples, tune
from asd_core.types import AsdError
from tests.unit.invented_runs import dataset, write_run

MACHINES = metrics.DEVELOPMENT


def invented(
    seed: int = 0, streams: int = 20, machines: int = 7, n: int = 25, gaps: np.ndarray | float = 0.0, decimals: int = 9
) -> list[Labelled]:
    """4n test clips a machine; in stream s an anomaly scores `gaps[s]` deviations higher than a normal clip."""
    rng = np.random.default_rng(seed)
    label, domain = np.tile(np.repeat([0, 1], n), 2), np.repeat(["source", "target"], 2 * n)
    parts = []
    for machine in MACHINES[:machines]:
        scores = rng.normal(size=(4 * n, streams)) + label[:, None] * gaps
        training = rng.normal(size=(30, streams))
        parts.append(Labelled(machine, "00", np.round(training, decimals), np.round(scores, decimals), label, domain))
    return parts


def complementary(seed: int = 0) -> list[Labelled]:
    """Streams 0 and 1 share a large disturbance with opposite signs, so that only both together tell; 2–9 are noise."""
    parts = []
    for part in invented(seed, streams=10, n=50, gaps=np.array([1.0, 1.0, *[0.0] * 8])):
        shared = 2 * np.random.default_rng([seed, len(part.machine)]).normal(size=len(part.label))
        scores = part.scores.copy()
        scores[:, 0] += shared
        scores[:, 1] -= shared
        parts.append(Labelled(part.machine, "00", part.training, scores, part.label, part.domain))
    return parts


def names(parts: list[Labelled]) -> list[str]:
    return [f"s{i}" for i in range(parts[0].scores.shape[1])]


def table(part: Labelled, scores: np.ndarray) -> pd.DataFrame:
    clips = [f"c{i}" for i in range(len(scores))]
    columns = {"clip_id": clips, "score": scores, "label": part.label, "domain": part.domain}
    return pd.DataFrame({"machine": part.machine, "section": part.section, **columns})


def omega(parts: list[Labelled], weights: np.ndarray, normalise: str = "ztrain") -> float:
    """By the official evaluation of what the fusion rule gives."""
    fused = [Weighted(list(weights), normalise).fit(part.training).fuse(part.scores) for part in parts]
    tables = [table(part, scores) for part, scores in zip(parts, fused, strict=True)]
    return metrics.evaluate(pd.concat(tables), bootstrap=0)["official"]["omega"]


# ------------------------------------------------------------------------------------------------ many triples at once


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_triples_equal_the_official_evaluation_also_with_ties(data: st.DataObject) -> None:
    groups = [(d, y) for d in ("source", "target") for y in (0, 1)]
    sizes = [data.draw(st.integers(1, 12)) for _ in groups]
    domain = np.repeat([d for d, _ in groups], sizes)
    label = np.repeat([y for _, y in groups], sizes)
    values = data.draw(st.integers(1, 6))  # few distinct values, so that ties are the rule
    seed = data.draw(st.integers(0, 10**6))
    scores = np.random.default_rng(seed).integers(0, values, (len(label), 5)).astype(float)
    part = Labelled("fan", "00", scores, scores, label, domain)
    found = triples(scores, label, domain)
    for k in range(5):
        entry = metrics.evaluate(table(part, scores[:, k]), bootstrap=0)["machines"]["fan"]["00"]
        np.testing.assert_allclose(found[k], [entry[name] for name in metrics.TRIPLE], rtol=0, atol=1e-12)


def test_triples_of_continuous_scores() -> None:
    (part,) = invented(machines=1, gaps=0.7)
    found = triples(part.scores, part.label, part.domain)
    entries = [metrics.evaluate(table(part, s), bootstrap=0)["machines"]["ToyCar"]["00"] for s in part.scores.T]
    np.testing.assert_allclose(found, [[entry[name] for name in metrics.TRIPLE] for entry in entries], atol=1e-12)


def test_counts_repeat_clips() -> None:
    (part,) = invented(machines=1, streams=3, n=6, decimals=0)
    counts = np.random.default_rng(0).integers(1, 4, (3, len(part.label)))
    found = triples(part.scores, part.label, part.domain, counts)
    for k in range(3):
        rows = np.repeat(np.arange(len(part.label)), counts[k])
        once = triples(part.scores[rows, k : k + 1], part.label[rows], part.domain[rows])
        np.testing.assert_allclose(found[k], once[0], atol=1e-12)


# ----------------------------------------------------------------------------------------------------- what is claimed


@pytest.mark.parametrize("normalise", ["none", "ztrain", "ecdf", "rank_test"])
def test_figures_are_those_of_the_fusion_rule(normalise) -> None:
    parts = invented(streams=4, machines=3, gaps=np.array([0.2, 0.9, 0.0, 0.5]))
    found = tune(parts, names(parts), normalise=normalise, bootstrap=0)
    assert found.omega_tuned == pytest.approx(omega(parts, found.weights, normalise), abs=1e-12)
    assert found.omega_equal == pytest.approx(omega(parts, np.ones(4), normalise), abs=1e-12)
    alone = [stream.alone for stream in found.streams]
    assert alone == pytest.approx([omega(parts, row, normalise) for row in np.eye(4)], abs=1e-12)
    assert (found.single, found.omega_single) == ("s1", max(alone))
    for i, stream in enumerate(found.streams):
        rest = np.array(found.weights) * (np.arange(4) != i)
        without = omega(parts, rest, normalise) if stream.weight else found.omega_tuned
        assert stream.contribution == pytest.approx(found.omega_tuned - without, abs=1e-12)


def test_weight_1_on_one_stream_is_that_stream() -> None:
    parts = invented(streams=3, gaps=np.array([0.0, 1.0, 0.0]))
    for stream, row in enumerate(np.eye(3)):
        plain = [table(part, part.scores[:, stream]) for part in parts]
        alone = metrics.evaluate(pd.concat(plain), bootstrap=0)["official"]["omega"]
        for normalise in ("none", "ztrain", "ecdf", "rank_test"):
            assert omega(parts, row, normalise) == alone


@pytest.mark.parametrize("search", ["auto", "greedy", "simplex"])
def test_weights_are_shares_and_never_worse_than_equal_ones_or_one_stream(search) -> None:
    for seed in range(3):
        parts = invented(seed, streams=6, machines=3, gaps=np.linspace(0, 1, 6))
        found = tune(parts, names(parts), search=search, bootstrap=0)
        assert min(found.weights) >= 0
        assert sum(found.weights) == pytest.approx(1, abs=1e-12)
        assert found.omega_tuned >= max(found.omega_equal, found.omega_single) - 1e-3  # weights have three digits
        assert found.omega_tuned >= found.omega_equal
        assert found == tune(parts, names(parts), search=search, bootstrap=0), "nothing is left to chance"


def test_the_grid_holds_the_best_multiple_of_5_percent() -> None:
    parts = invented(streams=3, machines=2, gaps=np.array([0.6, 0.4, 0.1]))
    found = tune(parts, names(parts), search="grid", bootstrap=0)
    lattice = [np.array([i, j, 20 - i - j]) / 20 for i in range(21) for j in range(21 - i)]
    best = max(omega(parts, weights) for weights in lattice)
    assert found.omega_tuned == pytest.approx(max(best, found.omega_equal), abs=1e-9)
    assert found.candidates == len(lattice) + 2  # then against equal weights
    assert tune(parts, names(parts), bootstrap=0).search == "grid"


def test_searches_come_near_the_grid() -> None:
    parts = invented(streams=3, gaps=np.array([0.6, 0.4, 0.1]))
    best = tune(parts, names(parts), search="grid", bootstrap=0).omega_tuned
    assert tune(parts, names(parts), search="simplex", bootstrap=0).omega_tuned >= best - 0.002
    assert tune(parts, names(parts), search="greedy", bootstrap=0).omega_tuned >= best - 0.02


def test_auto_is_the_better_of_greedy_and_simplex() -> None:
    parts = complementary()
    each = {search: tune(parts, names(parts), search=search, bootstrap=0) for search in ("greedy", "simplex", "auto")}
    assert each["auto"].omega_tuned == max(each["greedy"].omega_tuned, each["simplex"].omega_tuned)


def test_a_left_out_machine_has_no_influence_on_its_own_weights() -> None:
    """Recomputed by hand: weights of the others, applied to the one."""
    parts = invented(streams=5, machines=3, gaps=np.array([0.1, 0.6, 0.3, 0.0, 0.4]))
    found = tune(parts, names(parts), bootstrap=0)
    folds, tables, singles = [], [], []
    for i, part in enumerate(parts):
        others = parts[:i] + parts[i + 1 :]
        fold = tune(others, names(parts), bootstrap=0)
        folds.append(fold.weights)
        tables.append(table(part, Weighted(fold.weights, "ztrain").fit(part.training).fuse(part.scores)))
        singles.append(table(part, part.scores[:, names(parts).index(fold.single)]))
    for value, left_out in ((found.omega_lomo, tables), (found.omega_lomo_single, singles)):
        assert value == pytest.approx(metrics.evaluate(pd.concat(left_out), bootstrap=0)["official"]["omega"])
    assert [(s.lowest, s.highest) for s in found.streams] == list(
        zip(np.min(folds, axis=0), np.max(folds, axis=0), strict=True)
    )
    assert found.over_equal.difference == pytest.approx(found.omega_lomo - found.omega_equal)
    assert found.over_single.difference == pytest.approx(found.omega_lomo - found.omega_lomo_single)


def test_sections_of_one_machine_are_left_out_together() -> None:
    parts = invented(streams=4, machines=2, gaps=0.5)
    twins = [*parts, *(Labelled(p.machine, "01", p.training, p.scores, p.label, p.domain) for p in parts)]
    once, twice = (tune(own, names(parts), bootstrap=0) for own in (parts, twins))
    assert once.omega_lomo == pytest.approx(twice.omega_lomo)
    assert twice.machines == MACHINES[:2]


# ----------------------------------------------------------------------------------------------------- must be honest


def test_tuned_noise_looks_good_and_is_found_out() -> None:
    """Twenty streams that know nothing: the more clips are looked at, the better they seem, and no more."""
    found = [tune(parts, names(parts)) for parts in map(invented, range(8))]
    claimed, real = (np.array([getattr(one, name) for one in found]) for name in ("omega_tuned", "omega_lomo"))
    assert claimed.min() > 0.53
    assert claimed.mean() > 0.54
    assert abs(real.mean() - 0.5) < 0.02
    for one in found:
        assert one.verdict in ("not real", "not shown")
        assert "is not real" in one.said or "is not shown" in one.said
        assert f"Tuned Ω {100 * one.omega_tuned:.1f} was found on the clips it is measured on." in one.said
        assert f"On machines it was not tuned on: {100 * one.omega_lomo:.1f}" in one.said
        assert f"equal weights {100 * one.omega_equal:.1f}" in one.said
        assert (one.verdict == "not real") == (one.omega_lomo <= one.omega_equal)
        if one.verdict == "not shown":
            assert one.over_equal.interval[0] <= 0


def test_a_real_gain_is_confirmed() -> None:
    for seed in range(3):
        parts = complementary(seed)
        found = tune(parts, names(parts))
        assert found.omega_lomo > found.omega_equal + 0.05
        assert found.omega_lomo > found.omega_lomo_single + 0.05
        assert found.verdict == "shown"
        assert found.over_equal.interval[0] > 0
        assert found.over_single.interval[0] > 0
        assert "is real" in found.said
        assert "not shown" not in found.said
        weights = np.array(found.weights)
        assert weights[:2].min() > 0.2
        assert weights[:2].sum() > 0.7
        assert min(stream.contribution for stream in found.streams[:2]) > 0.05


def test_one_good_stream_is_not_sold_as_a_fusion() -> None:
    """Better than equal weights, but so is that stream alone."""
    parts = invented(3, streams=8, n=50, gaps=np.array([1.5, *[0.0] * 7]))
    found = tune(parts, names(parts))
    assert found.verdict == "shown"
    assert "that this fusion is better than one stream is not shown" in found.said


def test_intervals_hold_the_difference_and_are_seeded() -> None:
    parts = complementary()
    first, again, other = (tune(parts, names(parts), bootstrap=200, seed=seed) for seed in (1, 1, 2))
    for gain in (first.over_equal, first.over_single):
        assert gain.interval[0] < gain.difference < gain.interval[1]
    assert first == again
    assert first.over_equal.interval != other.over_equal.interval
    assert (first.weights, first.omega_lomo) == (other.weights, other.omega_lomo)


# ------------------------------------------------------------------------------------------------------ too little data


def test_one_machine_says_why_there_is_no_figure_for_others() -> None:
    parts = invented(machines=1, streams=3, gaps=np.array([0.0, 0.5, 0.9]))
    found = tune(parts, names(parts))
    assert found.omega_tuned > found.omega_equal
    assert (found.omega_lomo, found.over_equal, found.streams[0].lowest) == (None, None, None)
    assert found.verdict == "unknown"
    assert "takes a second labelled machine" in found.said


def test_without_labels_all_streams_count_alike() -> None:
    found = tune([], ["a", "b", "c", "d"])
    assert found.weights == [0.25] * 4
    assert (found.omega_tuned, found.omega_lomo, found.verdict) == (None, None, "unknown")
    assert "no machine has the labels" in found.said
    assert json.loads(json.dumps(found.record()))["weights"] == dict.fromkeys("abcd", 0.25)


def test_one_stream_is_nothing_to_tune() -> None:
    parts = invented(streams=1, machines=2, gaps=1.0)
    found = tune(parts, ["only"], bootstrap=0)
    assert found.weights == [1.0]
    assert found.streams[0].contribution is None
    assert "nothing to tune" in found.said


def test_equal_streams_stay_equal() -> None:
    one = invented(streams=1, machines=3, gaps=1.0)
    parts = [Labelled(p.machine, "00", p.training[:, [0] * 4], p.scores[:, [0] * 4], p.label, p.domain) for p in one]
    found = tune(parts, names(parts), bootstrap=0)
    assert found.weights == [0.25] * 4
    assert found.search == "equal"
    assert found.said.startswith("No weights were found that are better than equal ones")


def test_a_section_without_all_kinds_of_clips_is_named_and_left_out() -> None:
    parts = invented(streams=3, machines=3, gaps=np.array([0.0, 0.5, 0.9]))
    first = parts[0]
    kept = (first.label == 1) | (first.domain == "source")
    thin = Labelled(first.machine, "00", first.training, first.scores[kept], first.label[kept], first.domain[kept])
    found = tune([thin, *parts[1:]], names(parts))
    assert found.left_out == ("ToyCar, section 00, had no part in the tuning: it has no target normal clips.",)
    assert found.machines == MACHINES[1:3]
    assert found.omega_tuned == tune(parts[1:], names(parts)).omega_tuned


def test_one_clip_of_a_kind_gives_no_interval() -> None:
    found = tune(invented(2, streams=3, machines=3, n=1, gaps=np.array([0.0, 0.5, 0.9])), ["a", "b", "c"])
    assert found.over_equal.interval is None
    assert found.verdict in ("not real", "not shown")


def test_wrong_use_is_explained() -> None:
    parts = invented(streams=4, machines=2)
    with pytest.raises(AsdError, match="grid is for up to 3 streams, here are 4"):
        tune(parts, names(parts), search="grid")
    with pytest.raises(AsdError, match=r"scores of 4 streams .* for 2 names"):
        tune(parts, ["a", "b"])
    with pytest.raises(AsdError, match="yet to be tuned, which takes test clips of labelled machines"):
        FUSIONS.create({"name": "weighted", "weights": "tuned"}).fit(np.zeros((3, 2)))
    with pytest.raises(AsdError, match='weights "tune" is not a list, each a number or one of tuned or null'):
        FUSIONS.create({"name": "weighted", "weights": "tune"})
    with pytest.raises(AsdError, match="tuned_on tells where numbers come from"):
        FUSIONS.create({"name": "weighted", "weights": "tuned", "tuned_on": "x"})
    with pytest.raises(AsdError, match='Did you mean "greedy"'):
        FUSIONS.create({"name": "weighted", "weights": "tuned", "search": "greed"})


def test_twenty_streams_and_seven_machines_take_seconds() -> None:
    """The budget of 5 s is measured by `make bench`; this catches a search without end."""
    parts = invented(n=50)
    started = time.process_time()
    found = tune(parts, names(parts))
    assert time.process_time() - started < 20
    assert found.omega_lomo is not None


# ----------------------------------------------------------------------------------------------------- through the run

MIX = {
    "name": "mix",
    "title": "mix",
    "idea": "two scorers",
    "family": "test",
    "branches": [
        {"name": "knn", "view": {"name": "logmel_statistics"}, "scorer": {"name": "knn", "standardise": True}},
        {"name": "maha", "view": {"name": "logmel_statistics"}, "scorer": {"name": "mahalanobis", "standardise": True}},
    ],
    "fusion": {"name": "weighted", "normalise": "ztrain", "weights": "tuned"},
}


def run(workspace: Path, data: Path, *systems: config.System, machines=None) -> local.Outcome:
    context = pipeline.Context(Workspace(workspace), scan(data), "cpu")
    tasks = pipeline.plan(systems, config.load_profile("full"), context, machines)
    return local.run(tasks, context)


def system(**changes) -> config.System:
    return config.validate(config.System, MIX | changes, "test")


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A workspace with a tuned run and two others."""
    workspace = tmp_path_factory.mktemp("tuned")
    run(workspace, tiny_data, system(), config.load_system("logmel-knn"), config.load_system("logmel-maha"))
    return workspace


def one(workspace: Path, name: str) -> Run:
    return next(r for r in list_runs(Workspace(workspace)) if r.record["system"] == name)


def test_a_run_tunes_records_and_says_so(street: Path, tiny_data: Path) -> None:
    mixed = one(street, "mix")
    record = mixed.record["tuning"]
    assert set(record["weights"]) == {"knn", "maha"}
    assert sum(record["weights"].values()) == pytest.approx(1)
    assert record["said"] in mixed.record["notices"]
    assert record["machines"] == mixed.record["labelled"]
    assert mixed.metrics["official"]["omega"] == record["omega_tuned"]
    assert mixed.record["config"]["fusion"]["weights"] == "tuned"
    numbers = system(name="numbers", fusion=MIX["fusion"] | {"weights": list(record["weights"].values())})
    run(street, tiny_data, numbers)
    same = one(street, "numbers")
    assert same.scores["score"].equals(mixed.scores["score"])  # unlabelled machines too
    assert "tuning" not in same.record
    assert same.metrics == mixed.metrics


def test_weights_do_not_depend_on_the_machine_but_on_all_that_are_labelled(street: Path, tiny_data: Path) -> None:
    data = scan(tiny_data)
    unlabelled = [machine for machine in data.machines if not data.is_labelled(machine)]
    assert unlabelled
    run(street / "alone", tiny_data, system(), machines=unlabelled)
    alone = one(street / "alone", "mix")
    assert alone.record["tuning"]["weights"] == {"knn": 0.5, "maha": 0.5}
    assert any("no machine has the labels" in notice for notice in alone.record["notices"])
    assert alone.metrics is None


def test_loose_files_are_scored_with_the_weights_of_the_run(street: Path, tiny_data: Path) -> None:
    mixed = one(street, "mix")
    machine = mixed.record["labelled"][0]
    rows = mixed.scores.query("machine == @machine and split == 'test'").head(3)
    paths = [tiny_data / clip_id for clip_id in rows["clip_id"]]
    loose = pipeline.score_files(Workspace(street), mixed.record["run_id"], machine, paths, device="cpu")
    np.testing.assert_allclose(loose["score"], rows["score"], rtol=1e-6)
    np.testing.assert_allclose(loose["threshold"], rows["threshold"], rtol=1e-9)


def test_a_grid_of_too_many_streams_is_refused_before_any_work(tiny_data: Path, tmp_path: Path) -> None:
    branches = [MIX["branches"][0] | {"name": f"b{i}"} for i in range(4)]
    with pytest.raises(AsdError, match="grid is for up to 3 streams"):
        run(tmp_path, tiny_data, system(branches=branches, fusion=MIX["fusion"] | {"search": "grid"}))
    assert not list(tmp_path.glob("tasks/*/*"))


def test_the_table_shows_what_tuned_runs_are_worth_elsewhere(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [one(street, name) for name in ("mix", "logmel-knn")]
    board = analysis.leaderboard(runs, analysis.published())
    worth = board.set_index("system")["omega_lomo"]
    assert worth["mix"] == pytest.approx(100 * runs[0].record["tuning"]["omega_lomo"])
    assert worth["logmel-knn"] is None
    terminal.print_leaderboard(board, {})
    said = " ".join(capsys.readouterr().out.split())
    assert "Ω lomo: each machine scored with weights tuned on the other machines" in said
    assert f"{worth['mix']:.2f}" in said
    plain = analysis.leaderboard([write_run(Workspace(tmp_path), dataset(["fan"]))], analysis.published())
    terminal.print_leaderboard(plain, {})
    assert "lomo" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- finished runs


def test_finished_runs_are_fused_and_written_as_a_system(street: Path, tiny_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    arguments = ["tune", "logmel-knn", "logmel-maha", "mix", "--workspace", str(street), "--output", str(file)]
    result = CliRunner().invoke(command_line.app, [*arguments, "--json"])
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert set(found["weights"]) == {"logmel-knn-statistics", "logmel-maha-statistics", "knn", "maha"}
    assert f"run {file} --data {tiny_data} --profile full" in result.stderr

    written = config.load_system(str(file))
    kept = {name: weight for name, weight in found["weights"].items() if weight}
    assert [branch.name for branch in written.branches] == list(kept)
    assert written.fusion.spec["weights"] == list(kept.values())
    assert found["said"].replace(" ", "") in file.read_text().replace("\n# ", "").replace(" ", "")
    outcome = run(street, tiny_data, written)
    assert outcome.computed == 1, "all that was trained and scored is found again"
    made = one(street, "both")
    assert made.metrics["official"]["omega"] == pytest.approx(found["omega_tuned"], abs=1e-12)
    assert any(found["said"] in notice for notice in made.record["notices"])

    again = CliRunner().invoke(command_line.app, arguments)
    assert isinstance(again.exception, AsdError)
    assert "exists" in str(again.exception)


def test_tune_prints_streams_figures_and_the_verdict(street: Path) -> None:
    result = CliRunner().invoke(command_line.app, ["tune", "logmel-knn", "logmel-maha", "--workspace", str(street)])
    assert result.exit_code == 0, result.exception
    for words in ("logmel-maha-statistics", "left-out machines", "equal weights", "grid", "simulated", "Ω"):
        assert words in result.stdout
    assert "transductive" not in result.stdout
    ranked = CliRunner().invoke(
        command_line.app,
        ["tune", "logmel-knn", "logmel-maha", "--normalise", "rank_test", "--workspace", str(street)],
    )
    assert terminal.TRANSDUCTIVE[:20] in ranked.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["logmel-knn", "logmel-knn"], "comes more than once"),
        (["logmel-knn", "logmel-mahe"], 'Did you mean "logmel-maha"'),
        (["logmel-knn", "--seed", "3"], "no finished run with seed 3. There is: 0"),
        (["logmel-knn", "--search", "gird"], 'Did you mean "grid"'),
        (["logmel-knn", "--normalise", "z"], "not one of none, ztrain, ecdf, rank_test"),
    ],
)
def test_tune_explains_what_is_wrong(street: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command_line.app, ["tune", *arguments, "--workspace", str(street)])
    assert isinstance(result.exception, AsdError)
    assert message in str(result.exception)


def member(workspace: Path, run_id: str, system: str, branches: dict[str, float], seed: int = 0, **record) -> Run:
    """A finished run of invented scores, its branches on one encoder: each scores `gain` times the truth, and noise."""
    encoder = {
        "view": {"name": "waveform"},
        "backbone": {"name": "multiresnet"},
        "scope": "dataset",
        "objective": {"name": "classification"},
        "train": {"epochs": record.pop("epochs", 1), "batch_size": 8, "lr": 0.1},
    }
    parts = [{"name": name, "encoder": "net", "scorer": {"name": "knn"}} for name in branches]
    values = MIX | {"name": system, "branches": parts, "encoders": {"net": encoder}, "fusion": {"name": "weighted"}}
    facts = {"config": values | record.pop("values", {}), "labelled": ["fan", "valve"]} | record
    made = write_run(Workspace(workspace), dataset(["fan", "valve"], n=20), run_id, seed, system=system, **facts)
    scores = made.scores.sample(frac=1, random_state=seed)  # in an order of its own
    rng = np.random.default_rng(seed)
    for name, gain in branches.items():
        anomalous = scores["clip_id"].str.contains("_anomaly_")
        scores[f"branch:{name}"] = gain * anomalous + rng.normal(size=len(scores))
    write_table(made.folder / "scores.parquet", scores)
    return made


def test_combined_runs_keep_their_names_where_they_can_and_share_equal_encoders(tmp_path: Path) -> None:
    runs = [
        member(tmp_path, "r--a1", "one", {"x": 1.0, "y": 0.0}),
        member(tmp_path, "r--a2", "one", {"x": 1.0, "y": 0.0}, seed=7),
        member(tmp_path, "r--a3", "two", {"x": 2.0, "z": 0.0}, epochs=2),
        member(tmp_path, "r--a4", "three", {"w": 0.0}),
    ]
    made, scores = tuned.combine(runs, "all", {"name": "weighted", "weights": "tuned"})
    found = {branch.name: (branch.encoder, branch.seed) for branch in made.branches}
    assert found == {
        "one-seed0-x": ("net", 0),
        "one-seed0-y": ("net", 0),
        "one-seed7-x": ("net", 7),
        "one-seed7-y": ("net", 7),
        "two-x": ("two-net", 0),
        "z": ("two-net", 0),
        "w": ("net", 0),
    }
    assert [made.encoders[name].train.epochs for name in ("net", "two-net")] == [1, 2]
    assert made.decision.spec == {"name": "percentile"}
    for run, old, new in ((runs[1], "x", "one-seed7-x"), (runs[3], "w", "w")):
        theirs = run.scores.set_index("clip_id")[f"branch:{old}"]
        ours = scores.set_index("clip_id")[f"branch:{new}"]
        pd.testing.assert_series_equal(ours.sort_index(), theirs.sort_index(), check_names=False)

    _, found = tuned.tune_runs(runs, "all")
    assert found.streams[4].name == "two-x"
    assert found.streams[4].weight > 0.3


def test_a_combined_system_is_run_with_the_lowest_seed_and_says_what_is_trained_anew(tmp_path: Path) -> None:
    """A training that starts from an earlier one starts from that of the run's seed, not of the branch's."""
    one = member(tmp_path, "r--a1", "one", {"x": 1.0}, seed=3)
    two = member(tmp_path, "r--a2", "two", {"y": 1.0}, seed=5)
    assert [branch.seed for branch in tuned.combine([one, two], "all", {"name": "weighted"})[0].branches] == [0, 2]
    assert tuned.trained_anew([one, two]) == ""
    encoder = two.record["config"]["encoders"]["net"]
    encoder["start"] = dict(encoder)
    assert tuned.trained_anew([two]) == ""
    assert tuned.trained_anew([one, two]).startswith(
        "The networks of r--a2 start from trainings of another seed than 3."
    )
    system, found = tuned.tune_runs([one, two], "all")
    assert "# The networks of r--a2 start from" in tuned.system_file(system, found, [one, two])


def test_streams_of_several_branches_stay_together(tmp_path: Path) -> None:
    branch = {"encoder": "net", "scorer": {"name": "knn"}, "stream": "mean"}
    joined = {"branches": [{"name": "x", **branch}, {"name": "y", **branch}]}
    runs = [
        member(tmp_path, "r--a1", "one", {"x": 1.0, "y": 0.0}, values=joined),
        member(tmp_path, "r--a2", "two", {"x": 0.0, "mean": 0.0}),
    ]
    made, _table = tuned.combine(runs, "all", {"name": "weighted", "weights": "tuned"})
    assert made.streams == [("one-mean", ["one-x", "y"]), ("two-x", ["two-x"]), ("two-mean", ["two-mean"])]
    _, found = tuned.tune_runs(runs, "all")
    text = tuned.system_file(made, found, runs)
    kept = [stream.name for stream in found.streams if stream.weight]
    assert [name for name, _ in config.validate(config.System, yaml.safe_load(text), "x").streams] == kept
    assert "one-mean" in kept


def test_rules_that_differ_or_fit_one_branch_only_are_not_passed_on(tmp_path: Path) -> None:
    runs = [
        member(tmp_path, "r--a1", "one", {"x": 1.0}, values={"decision": {"name": "gamma", "q": 0.9}}),
        member(tmp_path, "r--a2", "two", {"z": 0.0}),
        member(tmp_path, "r--a3", "three", {"w": 0.0}, values={"decision": {"name": "gamma", "fit": "official_batch"}}),
    ]
    fusion = {"name": "weighted"}
    assert tuned.combine(runs[:2], "all", fusion)[0].decision.spec == {"name": "percentile", "q": 0.9}
    assert tuned.combine(runs[:1], "all", fusion)[0].decision.spec == {"name": "gamma", "q": 0.9}
    assert tuned.combine(runs[2:], "all", fusion)[0].decision.spec == {"name": "percentile", "q": 0.9}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"data": {"name": "other", "kind": "DCASE 2026", "fingerprint": "f"}}, "data set differ: invented in r--a1"),
        ({"data": {"name": "invented", "kind": "DCASE 2026", "fingerprint": "g"}}, "recordings of the data set differ"),
        ({"machines": ["fan"]}, "machines differ: fan, valve in r--a1, fan in r--a2"),
    ],
)
def test_runs_on_other_clips_are_refused(tmp_path: Path, record: dict, message: str) -> None:
    runs = [member(tmp_path, "r--a1", "one", {"x": 1.0}), member(tmp_path, "r--a2", "two", {"z": 0.0}, **record)]
    with pytest.raises(AsdError, match=message):
        tuned.tune_runs(runs, "all")


def test_runs_without_labels_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(AsdError, match="nothing to tune weights on"):
        tuned.tune_runs([member(tmp_path, "r--a1", "one", {"x": 1.0, "y": 0.0}, labelled=[])], "all")
