"""Our figures against those the official baseline and evaluator wrote for the same score tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from asd_core.metrics import evaluate

GOLDEN = Path(__file__).parent / "protocol"
OFFICIAL = json.loads((GOLDEN / "metrics.json").read_text())
OURS = {"AUC": "auc", "pAUC": "pauc", "precision": "precision", "recall": "recall", "F1 score": "f1"}


def table(name: str, machine: str, threshold: float) -> pd.DataFrame:
    scores = pd.read_csv(GOLDEN / name)
    return scores.assign(machine=machine, section="00", decision=(scores["score"] > threshold).astype(int))


def our_name(official: str) -> str:
    """ "AUC (source)" → auc_source; the single-domain table says "AUC" and means the source domain."""
    name, _, domain = official.partition(" (")
    plain = OURS[name]
    return f"{plain}_{domain.rstrip(')')}" if domain else plain if plain == "pauc" else f"{plain}_source"


@pytest.mark.parametrize("name", OFFICIAL["cases"])
def test_section_equals_the_official_code(name: str) -> None:
    case = OFFICIAL["cases"][name]
    scores = table(case["table"], case["machine"], case["decision_threshold"])
    for (domain, label), count in scores.groupby(["domain", "label"])["decision"].sum().items():
        if "flagged" in case:
            assert count == case["flagged"][f"{domain}_{'anomaly' if label else 'normal'}"]

    section = evaluate(scores, bootstrap=0)["machines"][case["machine"]]["00"]

    for official, value in case.get("section_00", {}).items():
        assert section[our_name(official)] == pytest.approx(value, abs=1e-12), official


def test_one_domain_only_is_told_not_dropped() -> None:
    case = OFFICIAL["cases"]["source_only"]
    result = evaluate(table(case["table"], "m", case["decision_threshold"]), bootstrap=10)
    section = result["machines"]["m"]["00"]
    assert section["auc_target"] is None
    assert section["why"]["auc_target"] == "there are no target normal clips"
    assert result["official"]["omega"] is None
    assert "m, section 00: there are no target normal clips" in result["official"]["why"]


def test_without_target_anomalies_the_official_triple_is_still_defined() -> None:
    """The official code stops here because of a figure that is only informational."""
    case = OFFICIAL["cases"]["no_target_anomaly"]
    assert "ValueError" in case["raises"]
    section = evaluate(table(case["table"], "m", case["decision_threshold"]), bootstrap=10)["machines"]["m"]["00"]
    assert None not in (section["auc_source"], section["auc_target"], section["pauc"], section["hmean"])
    for name in ("pauc_target", "recall_target", "auc_target_restricted", "hmean_restricted"):
        assert section[name] is None
        assert "no target anomalous clips" in section["why"][name]


@pytest.mark.parametrize("name", OFFICIAL["systems"])
def test_omega_equals_the_official_summaries(name: str) -> None:
    system = OFFICIAL["systems"][name]
    scores = pd.concat([table(file, machine, 0.5) for machine, file in system["tables"].items()])

    official = evaluate(scores, bootstrap=0)["official"]

    assert official["omega"] == pytest.approx(system["omega"], rel=1e-12)
    assert official["omega"] == pytest.approx(system["evaluator_2024"]["official_score"], rel=1e-12)
    columns = {"auc_source": "AUC (source)", "auc_target": "AUC (target)", "pauc": "pAUC (source, target)"}
    for ours, theirs in columns.items():
        assert official[ours] == pytest.approx(system["baseline_summary"][theirs]["h_mean"], rel=1e-12)
