from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm
from sklearn.metrics import roc_auc_score

from asd_core.metrics import METRICS, _histograms, auc, compare, delong, evaluate, hmean, holm, machine_hmean, pauc
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
    assert official["defined"]["omega"] == pytest.approx(alone)
    assert official["defined"]["machines"] == ["fan"]
    low, high = official["defined"]["interval"]
    assert low < alone < high


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


def test_every_mean_has_its_interval() -> None:
    tables = [
        invented(m, seed=i).assign(section=section) for i, m in enumerate(MACHINES[:3]) for section in ("00", "01")
    ]
    result = evaluate(pd.concat(tables), bootstrap=200)
    for key in ("official", "domain_restricted"):
        for name in ("auc_source", "auc_target", "pauc"):
            low, high = result[key]["intervals"][name]
            assert low < result[key][name] < high
    for machine, sections in result["machines"].items():
        mean = result["means"][machine]
        for name in ("hmean", "hmean_restricted"):
            assert mean[name] == pytest.approx(machine_hmean(sections, name), rel=1e-12)
            low, high = mean["interval"][name]
            assert low < mean[name] < high


def test_one_section_is_its_own_mean() -> None:
    result = evaluate(invented(), bootstrap=50)
    section, mean = result["machines"]["fan"]["00"], result["means"]["fan"]
    assert mean["hmean"] == pytest.approx(section["hmean"], rel=1e-12)
    assert mean["interval"]["hmean"] == pytest.approx(section["interval"]["hmean"], rel=1e-12)


# ------------------------------------------------------------------------------------------------- two areas


def shares(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair by pair: the share of normals below each anomaly, and of anomalies above each normal."""
    normals, anomalies = scores[labels == 0], scores[labels == 1]
    wins = np.zeros((len(anomalies), len(normals)))
    for i, high in enumerate(anomalies):
        for j, low in enumerate(normals):
            wins[i, j] = 1.0 if high > low else 0.5 if high == low else 0.0
    return wins.mean(1), wins.mean(0)


def correlated(rng: np.random.Generator, n: int = 60, gap_a: float = 1.0, gap_b: float = 1.0) -> tuple:
    """Scores of two systems that hear half the same, and labels; n clips of each kind."""
    labels = np.repeat([0, 1], n)
    common = rng.normal(size=2 * n)
    a, b = ((common + rng.normal(size=2 * n)) / np.sqrt(2) + gap * labels for gap in (gap_a, gap_b))
    return a, b, labels


@pytest.mark.parametrize("decimals", [0, 1, 9])  # 0: ties everywhere
def test_delong_equals_the_double_loop_over_pairs(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    a, b, labels = correlated(rng, 25, 1.0, 0.5)
    a, b = np.round(a, decimals), np.round(b, decimals)
    order = rng.permutation(len(labels))
    (by_anomaly_a, by_normal_a), (by_anomaly_b, by_normal_b) = shares(a, labels), shares(b, labels)
    covariance = np.cov([by_anomaly_a, by_anomaly_b]) / 25 + np.cov([by_normal_a, by_normal_b]) / 25
    found = delong(a[order], b[order], labels[order])
    assert found["a"] == pytest.approx(roc_auc_score(labels, a), abs=1e-12)
    assert found["b"] == pytest.approx(roc_auc_score(labels, b), abs=1e-12)
    assert found["difference"] == pytest.approx(found["a"] - found["b"], abs=1e-12)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found["error"] == pytest.approx(error, rel=1e-9)
    assert found["p"] == pytest.approx(2 * norm.sf(abs(found["difference"] / error)), rel=1e-9)
    assert found["interval"] == pytest.approx(found["difference"] + np.array([-1, 1]) * norm.ppf(0.975) * error)


def test_delong_agrees_with_a_paired_bootstrap() -> None:
    rng = np.random.default_rng(5)
    a, b, labels = correlated(rng, 80, 1.2, 0.8)
    normals, anomalies = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    differences = []
    for _ in range(1500):
        drawn = np.concatenate([rng.choice(normals, 80), rng.choice(anomalies, 80)])
        differences.append(roc_auc_score(labels[drawn], a[drawn]) - roc_auc_score(labels[drawn], b[drawn]))
    found = delong(a, b, labels)
    assert found["error"] == pytest.approx(np.std(differences), rel=0.08)
    assert found["interval"] == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.2 * found["error"])


def test_equal_systems_do_not_differ() -> None:
    a, _, labels = correlated(np.random.default_rng(0))
    for b in (a, np.exp(a)):  # another scale, the same order
        found = delong(a, b, labels)
        assert (found["difference"], found["error"], found["p"], found["interval"]) == (0.0, 0.0, 1.0, [0.0, 0.0])


def test_chance_is_called_a_difference_as_often_as_promised() -> None:
    rng = np.random.default_rng(1)
    p_values = np.array([delong(*correlated(rng))["p"] for _ in range(1000)])
    assert 0.03 <= (p_values <= 0.05).mean() <= 0.08
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(2)
    found = [delong(*correlated(rng, gap_a=1.5, gap_b=0.5)) for _ in range(50)]
    assert np.mean([one["p"] <= 0.05 for one in found]) > 0.8
    assert all(one["interval"][0] <= one["difference"] <= one["interval"][1] for one in found)


def test_an_error_of_nothing_is_no_certainty() -> None:
    labels = np.repeat([0, 1], 5)
    perfect, undecided = labels.astype(float), np.zeros(10)
    found = delong(perfect, undecided, labels)
    assert found["difference"] == 0.5
    assert [found[name] for name in ("error", "z", "p", "interval")] == [None] * 4
    one_anomaly = delong(np.arange(6.0), -np.arange(6.0), np.array([0, 0, 0, 0, 0, 1]))
    assert (one_anomaly["difference"], one_anomaly["p"]) == (1.0, None)


def test_seeds_are_averaged_clip_by_clip() -> None:
    rng = np.random.default_rng(3)
    a, b, labels = correlated(rng)
    other, _, _ = correlated(rng)
    found = delong(np.stack([a, other]), b, labels)
    areas = [roc_auc_score(labels, one) for one in (a, other)]
    assert found["a"] == pytest.approx(np.mean(areas), abs=1e-12)
    assert delong(np.stack([a, a, a]), a, labels)["p"] == 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [0, 0], "here are 2 and 0 of 2"),
        ([1.0, 2.0, 3.0], [0, 1, 2], "here are 1 and 1 of 3"),
        ([1.0, np.nan], [0, 1], "one finite score per clip"),
        ([1.0, 2.0, 3.0], [0, 1], "one finite score per clip"),
    ],
)
def test_areas_that_cannot_be_compared(scores: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(AsdError, match=message):
        delong(np.array(scores), np.array(scores), np.array(labels))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


# ------------------------------------------------------------------------------------------------ two systems


def test_comparison_is_paired() -> None:
    """Two nearly equal systems: their difference is known far better than either of them."""
    worse = invented(n=50)
    better = worse.assign(score=worse["score"] + 0.05 * worse["label"])
    paired = compare(better, worse, bootstrap=300)["official"]
    a, b = (evaluate(t, bootstrap=300)["official"] for t in (better, worse))
    assert paired["difference"] == pytest.approx(a["omega"] - b["omega"])
    assert 0 < paired["interval"][0] < paired["interval"][1]
    assert a["interval"][0] < b["interval"][1]  # the separate intervals overlap
    same = compare(worse, worse, bootstrap=10)["official"]
    assert (same["difference"], same["interval"], same["p"]) == (0.0, [0.0, 0.0], 1.0)


def test_machines_are_compared_one_by_one() -> None:
    worse = pd.concat([invented(m, seed=i) for i, m in enumerate(MACHINES[:3])], ignore_index=True)
    helped = (worse["machine"] == "ToyCar") & (worse["label"] == 1)
    found = compare(worse.assign(score=worse["score"] + 1.5 * helped), worse, bootstrap=300)
    for machine in MACHINES[:3]:
        alone = evaluate(worse[worse["machine"] == machine], bootstrap=0)["machines"][machine]["00"]
        entry = found["machines"][machine]["00"]
        assert set(entry) == {"auc_source", "auc_target", "pauc", "hmean"}
        for name, one in entry.items():
            assert one["b"] == pytest.approx(alone[name], abs=1e-12)
            assert one["p_holm"] >= one["p"]
            if machine == "ToyCar":
                assert one["p_holm"] <= 0.05
                assert 0 < one["interval"][0] < one["difference"] < one["interval"][1]
            else:
                assert (one["difference"], one["p"]) == (0.0, 1.0)


def test_seeds_are_paired_where_both_have_them() -> None:
    base = invented(seed=0)  # every seed's table is of the same clips
    noise = {seed: np.random.default_rng(seed).normal(size=len(base)) for seed in range(5)}
    a = {seed: base.assign(score=base["score"] + 0.5 * noise[seed]) for seed in (0, 1, 2)}
    b = {seed: base.assign(score=base["score"] + 0.7 * noise[seed]) for seed in (1, 2, 4)}
    found = compare(a, b, bootstrap=50)
    assert found["seeds"] == {"a": [1, 2], "b": [1, 2], "paired": True}
    omega = {
        side: np.array([evaluate(own[seed], bootstrap=0)["official"]["omega"] for seed in (1, 2)])
        for side, own in (("a", a), ("b", b))
    }
    over = found["official"]["over_seeds"]
    for side, values in (*omega.items(), ("difference", omega["a"] - omega["b"])):
        assert over[side]["mean"] == pytest.approx(values.mean())
        assert over[side]["std"] == pytest.approx(values.std(ddof=1))
    assert found["official"]["a"] == pytest.approx(omega["a"].mean())
    apart = compare({0: a[0], 1: a[1]}, {4: b[4]}, bootstrap=50)
    assert apart["seeds"] == {"a": [0, 1], "b": [4], "paired": False}
    assert apart["official"]["over_seeds"]["difference"] is None
    assert apart["official"]["over_seeds"]["b"]["std"] is None


def test_an_undefined_figure_is_compared_as_none() -> None:
    table = pd.concat([invented("fan"), invented("valve")[lambda t: (t["label"] == 1) | (t["domain"] == "source")]])
    found = compare(table, table, bootstrap=20)
    assert (found["official"]["difference"], found["official"]["interval"]) == (None, None)
    valve = found["machines"]["valve"]["00"]
    assert (valve["auc_target"]["p"], valve["hmean"]["p"], valve["auc_source"]["p"]) == (None, None, 1.0)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda t: t[1:], "same clips.*1 clips are in one table only, such as fan fan_0000.wav in the first"),
        (lambda t: t.assign(machine="valve"), "the first has fan and only the second has valve"),
        (lambda t: t.assign(label=1 - t["label"]), "disagree on the truth of 200 clips, such as fan fan_0000.wav"),
    ],
)
def test_only_equal_clips_are_compared(other: object, message: str) -> None:
    with pytest.raises(AsdError, match=message):
        compare(invented(), other(invented()))


def test_a_full_development_set_is_quick() -> None:
    table = pd.concat([invented(m, seed=i) for i, m in enumerate(MACHINES)])
    start = time.perf_counter()
    evaluate(table, bootstrap=1000)
    assert time.perf_counter() - start < 5  # 0.3 s on two idle cores; five because tests share theirs
