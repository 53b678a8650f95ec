"""What the command line lists and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from asd_core import __main__ as command_line
from asd_core import analysis, config, terminal
from asd_core.artifacts import Workspace
from asd_core.commands import runs
from asd_core.commands.options import complete_system
from tests.unit.invented_runs import dataset, write_run


def board(tmp_path: Path, **second: object) -> pd.DataFrame:
    workspace, data = Workspace(tmp_path), dataset(["fan"])
    runs = [write_run(workspace, data, "one", system="plain"), write_run(workspace, data, "two", system="x", **second)]
    return analysis.leaderboard(runs, analysis.published())


def test_transductive_systems_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_leaderboard(board(tmp_path, transductive=True), {"invented": ["fan"]})
    said = capsys.readouterr().out
    assert said.count("x ᵗ") == 2  # in the table of the machines too
    assert "plain ᵗ" not in said
    assert "ᵗ transductive:" in said


def test_nothing_is_marked_where_nothing_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_leaderboard(board(tmp_path), {"invented": ["fan"]})
    assert "ᵗ" not in capsys.readouterr().out


def test_variants_are_listed_under_their_system(capsys: pytest.CaptureFixture[str]) -> None:
    runs.systems(as_json=True)
    rows = {row["system"]: row for row in json.loads(capsys.readouterr().out)}
    names = list(rows)
    assert names[names.index("unis-3") + 1] == "unis-3+submitted"
    assert [rows[name]["transductive"] for name in ("unis-3", "unis-3+submitted")] == [False, True]
    assert {name.partition("+")[0] for name in names} == set(config.system_names())
    runs.systems()
    said = capsys.readouterr().out
    assert "unis-3+submitted ᵗ" in said
    assert "ᵗ transductive:" in said


def test_variants_are_completed() -> None:
    assert "unis-3+submitted" in complete_system("unis-3")
    assert complete_system("unis-3+") == ["unis-3+submitted"]


def test_an_invalid_system_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "systems").mkdir()
    text = (config.CONFIGS / "systems" / "logmel-knn.yaml").read_text()
    (tmp_path / "systems" / "logmel-knn.yaml").write_text(text + "variants: {typo: {decison: {q: 0.5}}}\n")
    (tmp_path / "systems" / "odd.yaml").write_text(text.replace("name: logmel-knn", "name: odd\nfusion: {name: huh}"))
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    result = CliRunner().invoke(command_line.app, ["systems", "--json"])
    assert result.exit_code == 0, result.exception
    assert [row["system"] for row in json.loads(result.stdout)] == ["logmel-knn"]
    assert 'Did you mean "decision"' in result.stderr.replace("\n", " ")
    assert 'no fusion "huh"' in result.stderr.replace("\n", " ")
