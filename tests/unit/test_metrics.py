from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from asd_core.metrics import METRICS, _histograms, auc, compare, evaluate, hmean, machine_hmean, pauc
from asd_core.types import AsdError

MACHINES = ("ToyCar", "ToyCarEmu", "bearingEmu", "fan", "gearboxEmu", "sliderEmu", "valveEmu")


def invented(machine: str = "fan", n: int = 50, gap: float = 1.0, seed: int = 0, decimals: int = 9) -> pd.DataFrame:
    """n clips of every (domain, label); anomalies score `gap` standard deviations higher."""
    rng = np.random.default_rng(seed)
    groups = [(d, y) for d in ("source", "target") for y in (0, 1) for _ in range(n)]
    score = np.round(rng.normal(size=len(groups)) + [gap * y for _, y in groups], decimals)
    return pd.DataFrame(
        {
            "machine": machine,
            "section": "00",
            "file_name": [f"{machine}_{i:04d}.wav" for i in range(len(groups))],
            "domain": [d for d, _ in groups],
            "label": [y for _, y in groups],
            "score": score,
            "decision": (score > 1).astype(int),
        }
    )


def weighted(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    members = {("source", y): np.flatnonzero(labels == y) for y in (0, 1)}
    histogram = _histograms(scores, weights, members)
    return histogram["source", 0], histogram["source", 1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_areas_equal_scikit_learn_also_with_weights(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 60))
    # few distinct values, so that ties within and across the classes are the rule
    scores = np.array(data.draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n)), dtype=float)
    labels = np.array([0, 1, *data.draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))])
    repeats = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    repeats[:2] += 1
    for weights in (np.ones(n, dtype=int), repeats):
        normal, anomaly = weighted(scores, labels, weights[None].astype(float))
        y, s = np.repeat(labels, weights), np.repeat(scores, weights)
        assert auc(normal, anomaly)[0] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
        assert pauc(normal, anomaly)[0] == pytest.approx(roc_auc_score(y, s, max_fpr=0.1), abs=1e-12)


def test_evaluate_equals_scikit_learn_by_definition() -> None:
    table = invented()
    result = evaluate(table, bootstrap=0)["machines"]["fan"]["00"]
    source, target, anomaly = (table["domain"] == "source"), (table["domain"] == "target"), (table["label"] == 1)

    def area(rows: pd.Series, **options: float) -> float:
        return roc_auc_score(table[rows]["label"], table[rows]["score"], **options)

    expected = {
        "auc_source": area(source | anomaly),
        "auc_target": area(target | anomaly),
        "pauc": area(source | target, max_fpr=0.1),
        "pauc_source": area(source, max_fpr=0.1),
        "pauc_target": area(target, max_fpr=0.1),
        "auc_source_restricted": area(source),
        "auc_target_restricted": area(target),
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    triple = [result["auc_source"], result["auc_target"], result["pauc"]]
    assert result["hmean"] == pytest.approx(3 / sum(1 / value for value in triple))
    assert result["n"] == {f"{d}_{k}": 50 for d in ("source", "target") for k in ("normal", "anomaly")}


def test_omega_is_the_mean_of_machine_means_and_of_column_means() -> None:
    result = evaluate(pd.concat([invented(m, seed=i) for i, m in enumerate(MACHINES)]), bootstrap=0)
    official = result["official"]
    by_machine = np.array([machine_hmean(sections) for sections in result["machines"].values()])
    by_column = np.array([official[name] for name in ("auc_source", "auc_target", "pauc")])
    assert official["omega"] == pytest.approx(float(hmean(by_machine)), rel=1e-12)
    assert official["omega"] == pytest.approx(float(hmean(by_column)), rel=1e-12)


def test_row_order_and_other_machines_change_nothing() -> None:
    alone = evaluate(invented("fan"), bootstrap=50)
    shuffled = invented("fan").sample(frac=1, random_state=3)
    together = evaluate(pd.concat([invented("valve", seed=9), shuffled]), bootstrap=50)
    assert together["machines"]["fan"] == alone["machines"]["fan"]


def test_machines_are_resampled_independently() -> None:
    twins = pd.concat([invented("fan"), invented("fan").assign(machine="valve")])
    entries = evaluate(twins, bootstrap=50)["machines"]
    assert entries["fan"]["00"]["auc_source"] == entries["valve"]["00"]["auc_source"]
    assert entries["fan"]["00"]["interval"] != entries["valve"]["00"]["interval"]


def test_result_is_plain_json_with_every_metric() -> None:
    result = evaluate(invented(), bootstrap=20)
    assert json.loads(json.dumps(result)) == result
    assert set(METRICS) <= result["machines"]["fan"]["00"].keys()
    assert set(result["machines"]["fan"]["00"]["interval"]) == set(METRICS)


def test_intervals_hold_the_value_and_are_seeded() -> None:
    table = invented()
    first = evaluate(table, bootstrap=300, seed=1)
    assert first == evaluate(table, bootstrap=300, seed=1)
    assert first != evaluate(table, bootstrap=300, seed=2)
    section = first["machines"]["fan"]["00"]
    for name, (low, high) in section["interval"].items():
        assert low <= section[name] <= high
        assert high > low
    low, high = first["official"]["interval"]
    assert low < first["official"]["omega"] < high


def test_interval_of_auc_has_the_width_theory_gives() -> None:
    """DeLong's standard error of an AUC, 2 × 1.96 of it wide."""
    table = invented(n=200, seed=4)
    section = evaluate(table, bootstrap=2000)["machines"]["fan"]["00"]
    normal = table[(table["domain"] == "source") & (table["label"] == 0)]["score"].to_numpy()
    anomaly = table[table["label"] == 1]["score"].to_numpy()
    above = anomaly[:, None] > normal
    error = np.sqrt(above.mean(0).var(ddof=1) / len(normal) + above.mean(1).var(ddof=1) / len(anomaly))
    low, high = section["interval"]["auc_source"]
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_resampling_is_stratified() -> None:
    """A perfect separation stays perfect in every resample, whatever the sizes of the groups."""
    table = invented(gap=100, n=5)
    section = evaluate(table, bootstrap=200)["machines"]["fan"]["00"]
    assert section["interval"]["auc_source"] == [1.0, 1.0]


def test_too_few_clips_have_no_interval() -> None:
    table = invented(n=10)
    table = table[(table["domain"] == "source") | (table.index % 10 == 0)]  # one target normal, one target anomaly
    result = evaluate(table, bootstrap=50)
    section = result["machines"]["fan"]["00"]
    assert section["auc_target"] is not None
    assert "auc_target" not in section["interval"]
    assert "auc_source" in section["interval"]
    assert result["official"]["omega"] is not None
    assert result["official"]["interval"] is None


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda t: t["label"] == 0, "there are no anomalous clips"),
        (lambda t: t["label"] == 1, "there are no source normal clips"),
        (lambda t: (t["label"] == 1) | (t["domain"] == "source"), "there are no target normal clips"),
    ],
)
def test_an_undefined_machine_makes_omega_undefined_and_says_why(keep: object, reason: str) -> None:
    table = pd.concat([invented("fan"), invented("valve")[lambda t: keep(t)]])
    result = evaluate(table, bootstrap=20)
    official = result["official"]
    assert official["omega"] is None
    assert official["interval"] is None
    assert f"valve, section 00: {reason}" in official["why"]
    alone = evaluate(invented("fan"), bootstrap=0)["official"]["omega"]
    assert official["defined"] == {"omega": pytest.approx(alone), "machines": ["fan"]}


def test_without_decisions_only_the_verdicts_are_undefined() -> None:
    result = evaluate(invented().drop(columns="decision"), bootstrap=0)
    section = result["machines"]["fan"]["00"]
    assert result["official"]["omega"] is not None
    assert section["f1_source"] is None
    assert section["why"]["f1_source"] == "the table holds no decisions"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": np.nan}, "Scores must be finite.*fan_0007.wav"),
        ({"score": -np.inf}, "Scores must be finite.*fan_0007.wav"),
        ({"label": 2}, "Labels must be 0.*fan_0007.wav"),
        ({"domain": "?"}, "Domains must be.*fan_0007.wav"),
        ({"decision": 3}, "Decisions must be.*fan_0007.wav"),
        ({"file_name": "fan_0006.wav"}, "more than once.*fan_0006.wav"),
    ],
)
def test_wrong_rows_are_named(change: dict, message: str) -> None:
    table = invented()
    for column, value in change.items():
        table.loc[7, column] = value
    with pytest.raises(AsdError, match=message):
        evaluate(table)


def test_missing_columns_are_named() -> None:
    with pytest.raises(AsdError, match="lacks domain"):
        evaluate(invented().drop(columns="domain"))


def test_comparison_is_paired() -> None:
    """Two nearly equal systems: their difference is known far better than either of them."""
    worse = invented(n=50)
    better = worse.assign(score=worse["score"] + 0.05 * worse["label"])
    paired = compare(better, worse, bootstrap=300)["official"]
    a, b = (evaluate(t, bootstrap=300)["official"] for t in (better, worse))
    assert paired["difference"] == pytest.approx(a["omega"] - b["omega"])
    assert 0 < paired["interval"][0] < paired["interval"][1]
    assert a["interval"][0] < b["interval"][1]  # the separate intervals overlap
    assert compare(worse, worse, bootstrap=10)["official"] == {"difference": 0.0, "interval": [0.0, 0.0]}


def test_only_equal_clips_are_compared() -> None:
    with pytest.raises(AsdError, match="same clips"):
        compare(invented(), invented()[1:])


def test_a_full_development_set_is_quick() -> None:
    table = pd.concat([invented(m, seed=i) for i, m in enumerate(MACHINES)])
    start = time.perf_counter()
    evaluate(table, bootstrap=1000)
    assert time.perf_counter() - start < 5  # 0.3 s on two idle cores; five because tests share theirs
