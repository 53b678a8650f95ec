"""Two systems against each other, and what `systems` and `table` tell, from finished runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from asd_core import __main__ as command_line
from asd_core import analysis, config, weights
from asd_core.artifacts import Run, Workspace, begin, finish, load_run, write_table
from asd_core.metrics import DEVELOPMENT, evaluate, machine_hmean
from asd_core.types import AsdError
from pages.components import tables
from tests.unit.invented_runs import CONFIG, dataset, write_run

REPORTS = analysis.published()


def rescored(workspace: Workspace, run: Run, gain: float, machines: tuple[str, ...] = ("fan", "valve")) -> Run:
    """The run with anomalies of `machines` scored higher by `gain`."""
    scores = run.scores
    helped = scores["clip_id"].str.contains("_anomaly_") & scores["machine"].isin(machines)
    begin(run.folder)
    write_table(run.folder / "scores.parquet", scores.assign(score=scores["score"] + gain * helped))
    finish(run.folder)
    return load_run(workspace, run.record["run_id"])


def pair(tmp_path: Path, gain: float = 0.0, **record: Any) -> tuple[Workspace, list[Run]]:
    """System "one", and "two" with the same scores but for a gain."""
    workspace, data = Workspace(tmp_path), dataset(["fan", "valve"])
    first, second = (write_run(workspace, data, name, system=name, **record) for name in ("one", "two"))
    return workspace, [first, rescored(workspace, second, gain)]


def command(*words: object) -> Any:
    return CliRunner().invoke(command_line.app, [*map(str, words)], env={"COLUMNS": "300"})


# ------------------------------------------------------------------------------------------------ comparing


def test_truth_comes_from_the_names(tmp_path: Path) -> None:
    run = write_run(Workspace(tmp_path), dataset(["fan"], ["Sander"]))
    table = analysis.labelled_scores(run)
    assert set(table["machine"]) == {"fan"}
    assert evaluate(table, bootstrap=50) == run.metrics


def test_a_better_system_is_called_better(tmp_path: Path) -> None:
    _, (one, two) = pair(tmp_path, gain=-2.0)
    found = analysis.compare_runs([one], [two])
    omega = found["official"]
    assert omega["interval"][0] > 0
    assert omega["p"] <= 0.05
    assert found["said"][0].startswith(f"one is better than two by {100 * omega['difference']:.1f} points of Ω (95 %: ")
    assert "one is better on fan, valve." in found["said"]
    turned = analysis.compare_runs([two], [one])
    assert turned["official"]["difference"] == pytest.approx(-omega["difference"])
    assert turned["said"][0] == found["said"][0]
    assert found["data"] == {"name": "invented", "kind": "DCASE 2026"}
    assert found["clips"] == 80


def test_chance_is_called_chance(tmp_path: Path) -> None:
    workspace, data = Workspace(tmp_path), dataset(["fan", "valve"])
    runs = [write_run(workspace, data, name, seed, system=name) for seed, name in enumerate(("one", "two"))]
    said = analysis.compare_runs(*([run] for run in runs))["said"]
    assert said[0].startswith("The difference is within chance: Ω of one is ")
    assert "On no machine by itself does the harmonic mean differ by more than chance." in said
    assert said[-1] == "Each was trained once: what another seed would change is not in these figures."


def test_weights_from_known_labels_are_told(tmp_path: Path) -> None:
    workspace, data, machines = Workspace(tmp_path), dataset(["fan", "valve"]), ["fan", "valve"]
    by_run = {"search": "grid", "said": "Tuned here.", "weights": {"knn": 1.0}, "omega_lomo": 0.5}
    numbers = {"name": "weighted", "weights": [0.7, 0.3], "tuned_on": "Tuned there."}
    one = write_run(workspace, data, "one", 0, system="one", tuning=by_run, labelled=machines)
    two = write_run(workspace, data, "two", 1, system="two", config=CONFIG | {"fusion": numbers}, labelled=machines)
    alike = write_run(
        workspace, data, "three", 2, system="three", tuning=by_run | {"search": "equal"}, labelled=machines
    )
    said = analysis.compare_runs([one], [two])["said"]
    told = "has weights from known labels, so these figures may flatter it."
    assert said[-2:] == [f"The fusion of one {told} Tuned here.", f"The fusion of two {told} Tuned there."]
    assert not any("labels" in sentence for sentence in analysis.compare_runs([alike], [alike])["said"])
    board = analysis.leaderboard([one, two, alike], analysis.published()).set_index("system")
    assert dict(board["tuned_on"]) == {"one": "Tuned here.", "two": "Tuned there.", "three": ""}
    note = tables.sets_note(board.assign(measured=2, title=board.index))
    assert note.endswith("Weights tuned on known labels, which flatters Ω: one, two.")
    for option in ([], ["--machines"]):
        printed = command("table", "--workspace", tmp_path, *option).output
        for name, sentence in (("one", "Tuned here."), ("two", "Tuned there.")):
            assert printed.count(f"– {name}, weights from known labels: {sentence}") == 1


def test_rows_over_other_machines_are_told_apart(tmp_path: Path) -> None:
    """Also where the run that is read last covers one machine only."""
    workspace = Workspace(tmp_path)
    write_run(workspace, dataset(["fan", "valve"]), "a", system="whole", labelled=["fan", "valve"])
    write_run(workspace, dataset(["fan"]), "b", 1, system="part", labelled=["fan"])
    printed = command("table", "--workspace", tmp_path).output.replace("┃", "│")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    heads = [row for row in rows if row[0] == "system"]
    assert heads[0][3] == "machines"
    assert heads[1][2:] == ["fan", "valve"]
    assert [row[3] for name in ("whole", "part") for row in rows if row[0] == name][::2] == ["2", "1"]


def test_a_run_against_itself(tmp_path: Path) -> None:
    _, (one, _) = pair(tmp_path)
    found = analysis.compare_runs([one], [one], bootstrap=50)
    assert found["said"][0] == "Ω of the first and of the second is the same, whichever clips are drawn."
    assert found["machines"]["fan"]["00"]["auc_source"]["p"] == 1.0


def test_systems_that_learn_nothing_have_no_seed_to_speak_of(tmp_path: Path) -> None:
    _, (one, two) = pair(tmp_path, config=CONFIG | {"encoders": {}})
    assert not any("trained" in sentence for sentence in analysis.compare_runs([one], [two], bootstrap=50)["said"])


def test_seeds_of_both_are_paired(tmp_path: Path) -> None:
    workspace, data = Workspace(tmp_path), dataset(["fan", "valve"])
    groups = [
        [write_run(workspace, data, f"{name}{seed}", seed, system=name) for seed in range(3)] for name in ("one", "two")
    ]
    groups[1] = [rescored(workspace, run, 0.5) for run in groups[1]]
    found = analysis.compare_runs(*groups, bootstrap=100)
    assert found["seeds"] == {"a": [0, 1, 2], "b": [0, 1, 2], "paired": True}
    omegas = [run.metrics["official"]["omega"] for run in groups[0]]
    over = found["official"]["over_seeds"]["a"]
    assert (over["mean"], over["std"]) == (pytest.approx(np.mean(omegas)), pytest.approx(np.std(omegas, ddof=1)))
    spread = f"one {100 * np.mean(omegas):.1f} ± {100 * np.std(omegas, ddof=1):.1f}"
    assert found["said"][-1].startswith(f"Ω over seeds: {spread}, two ")
    again = write_run(workspace, data, "one0-again", 0, system="one", created=99.0)
    newest = analysis.compare_runs([*groups[0], again], groups[1], bootstrap=10)
    assert newest["seeds"]["a"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("record", "machines", "message"),
    [
        (
            {"data": {"name": "bench", "kind": "local", "fingerprint": "f"}},
            ["fan"],
            r"invented \(DCASE 2026\).*bench \(local\)",
        ),
        ({}, ["fan", "valve"], "made on fan, other on fan, valve"),
        ({"data": {"name": "invented", "kind": "DCASE 2026", "fingerprint": "g"}}, ["fan"], "changed in between"),
    ],
)
def test_other_clips_are_refused(tmp_path: Path, record: dict, machines: list[str], message: str) -> None:
    workspace = Workspace(tmp_path)
    run = write_run(workspace, dataset(["fan"]), "run")
    other = write_run(workspace, dataset(machines), "other", **record)
    with pytest.raises(AsdError, match=message):
        analysis.compare_runs([run], [other])


def test_unlabelled_runs_cannot_be_compared(tmp_path: Path) -> None:
    run = write_run(Workspace(tmp_path), dataset([], ["Sander"]))
    with pytest.raises(AsdError, match="labelled"):
        analysis.compare_runs([run], [run])


def test_runs_are_found_by_id_and_by_system(tmp_path: Path) -> None:
    workspace, data = Workspace(tmp_path), dataset(["fan"])
    runs = [write_run(workspace, data, f"r{seed}", seed, system="one") for seed in (0, 1)]
    assert analysis.runs_named(runs, "r1") == [runs[1]]
    assert analysis.runs_named(runs, "one") == runs
    runs.append(write_run(workspace, data, "q", 5, system="one", profile="quick"))
    with pytest.raises(AsdError, match="say which: --data invented --profile full; --data invented --profile quick"):
        analysis.runs_named(runs, "one")
    assert analysis.runs_named(runs, "one", profile="quick") == [runs[2]]
    with pytest.raises(AsdError, match=r"no finished run with --data demo\. There is: --data invented --profile full"):
        analysis.runs_named(runs, "one", data="demo")
    with pytest.raises(AsdError, match='Did you mean "one"'):
        analysis.runs_named(runs, "onne")
    other = write_run(workspace, data, "c", 9, system="one", config=CONFIG | {"fusion": {"name": "minimum"}})
    assert analysis.runs_named([*runs[:2], other], "one") == [other], "other settings are no seed of the newest"


def test_compare_prints_and_answers_in_json(tmp_path: Path) -> None:
    pair(tmp_path, gain=-2.0, transductive=True)
    result = command("compare", "one", "two", "--workspace", tmp_path)
    assert result.exit_code == 0, result.exception
    said = " ".join(result.stdout.split())
    assert "invented (DCASE 2026), 80 labelled clips" in said
    assert "a: one ᵗ, full, seed 0" in said
    assert "one is better than two by" in said
    assert "ᵗ transductive:" in said
    rows = [line for line in result.stdout.splitlines() if line.startswith(("│ fan", "│ valve"))]
    assert len(rows) == 2
    assert all("*" in row for row in rows)
    found = json.loads(command("compare", "one", "two", "--workspace", tmp_path, "--json").stdout)
    assert found["systems"]["b"]["run_ids"] == ["two"]
    assert found["machines"]["valve"]["00"]["auc_target"]["method"] == "DeLong"
    missing = command("compare", "one", "three", "--workspace", tmp_path)
    assert isinstance(missing.exception, AsdError)


# ------------------------------------------------------------------------------------------------ table


def test_spread_over_seeds_by_machine(tmp_path: Path) -> None:
    workspace, data = Workspace(tmp_path), dataset(["fan", "valve"])
    runs = [write_run(workspace, data, f"r{seed}", seed) for seed in range(3)]
    row = analysis.leaderboard(runs, REPORTS).iloc[0]
    for machine in ("fan", "valve"):
        values = [100 * machine_hmean(run.metrics["machines"][machine]) for run in runs]
        assert row[f"{machine} mean"] == pytest.approx(np.mean(values))
        assert row[f"{machine} std"] == pytest.approx(np.std(values, ddof=1))
    assert analysis.leaderboard(runs[:1], REPORTS).iloc[0]["fan std"] is None


def test_machines_beside_the_report(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    restricted = CONFIG | {"report": {"team": "NEU", "system": 1, "metric": "domain_restricted", "hmean": 65.96}}
    runs = [
        write_run(workspace, dataset(DEVELOPMENT), "same"),
        write_run(workspace, dataset(DEVELOPMENT), "neu", config=restricted, system="neu-1"),
    ]
    table = analysis.machine_results(runs, REPORTS).set_index(["system", "machine"])
    assert len(table) == 14
    for system, run, name in (("wistlab-4", runs[0], "hmean"), ("neu-1", runs[1], "hmean_restricted")):
        printed = REPORTS[(REPORTS["system"] == system) & (REPORTS["metric"] == "hmean")].set_index("machine")[
            "percent"
        ]
        for machine in DEVELOPMENT:
            row = table.loc[(system, machine)]
            section = run.metrics["machines"][machine]["00"]
            assert row["ours"] == pytest.approx(100 * section[name])
            assert (row["low"], row["high"]) == pytest.approx([100 * end for end in section["interval"][name]])
            assert row["published"] == printed[machine]
            assert row["difference"] == pytest.approx(row["ours"] - printed[machine])
            assert row["why"] == ""


def test_a_mean_that_is_not_printed_follows_from_the_triple(tmp_path: Path) -> None:
    run = write_run(Workspace(tmp_path), dataset(["fan"]), system="official-mahala")
    row = analysis.machine_results([run], REPORTS).iloc[0]
    assert row["published"] == pytest.approx(51.75, abs=0.005)  # as another report states it


@pytest.mark.parametrize(
    ("machines", "record", "why"),
    [
        (
            ["fan"],
            {"data": {"name": "demo", "kind": "simulated"}},
            "demo is simulated, not the recordings of the reports",
        ),
        (["fan"], {"profile": "quick"}, "profile quick is not what the reports describe"),
        (["fan"], {"system": "ours"}, "no report prints figures by machine of ours"),
        (["lathe"], {}, "the report of wistlab-4 prints no figure of lathe"),
        (["fan"], {"config": CONFIG | {"encoders": {"b": {"scope": "dataset"}}}}, "not all seven were there"),
    ],
)
def test_no_difference_without_equal_terms(tmp_path: Path, machines: list[str], record: dict, why: str) -> None:
    row = analysis.machine_results([write_run(Workspace(tmp_path), dataset(machines), **record)], REPORTS).iloc[0]
    assert why in row["why"]
    assert row["difference"] is None
    assert row["ours"] is not None


@pytest.mark.parametrize("option", ["--machines", "--published"])
def test_the_table_by_machine(tmp_path: Path, option: str) -> None:
    write_run(Workspace(tmp_path), dataset(["fan"]), profile="quick")
    result = command("table", option, "--workspace", tmp_path)
    assert result.exit_code == 0, result.exception
    assert "profile quick is not what the reports describe" in result.stdout
    rows = json.loads(command("table", option, "--workspace", tmp_path, "--json").stdout)
    assert [(row["machine"], row["difference"]) for row in rows] == [("fan", None)]


# ------------------------------------------------------------------------------------------------ systems


def test_systems_tell_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASD_WEIGHTS", str(tmp_path))
    rows = {row["system"]: row for row in json.loads(command("systems", "--json").stdout)}
    assert (rows["logmel-knn"]["status"], rows["logmel-knn"]["origin"]) == ("ready", "ours")
    assert (rows["official-mse"]["report"], rows["official-mse"]["published"]) == ("DCASE organisers 1", 56.66)
    assert (rows["neu-2"]["metric"], rows["neu-2"]["status"]) == ("domain-restricted", "needs weights beats_iter3")
    assert (rows["neu-1"]["status"], rows["neu-1"]["two_microphones"]) == ("ready", False)  # one will do
    assert rows["tsz-proto"]["two_microphones"]
    assert rows["tsz-proto"]["status"].endswith("; needs two microphones")
    checkpoints = rows["unis-3"]["weights"]
    assert len(checkpoints) == 2
    assert rows["unis-3"]["status"] == f"needs weights {', '.join(checkpoints)}"
    quick = {row["system"]: row for row in json.loads(command("systems", "--profile", "quick", "--json").stdout)}
    assert quick["neu-2"]["status"] == "ready"
    assert quick["neu-2"]["weights"] == ["studio_mini"]


def test_weights_that_are_here_are_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASD_WEIGHTS", str(tmp_path))
    name = "beats_iter3"
    one = weights.find(name)
    with (tmp_path / one.file).open("wb") as file:
        file.truncate(one.bytes or 1)
    row = analysis.system_table({"neu-2": config.load_system("neu-2")}).iloc[0]
    assert (row["status"], row["needs"]) == ("ready", name)


def test_the_list_of_systems_loads_no_learning_library() -> None:
    code = (
        "import sys, runpy; sys.argv = ['asd_core', 'systems', '--json']\n"
        "try: runpy.run_module('asd_core', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.stderr.write(' '.join({'torch', 'librosa', 'sklearn', 'faiss'} & set(sys.modules)) + '|')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "|"
