"""What a selection has more of than the whole; where points crowd; samples of every kind."""

from math import comb

import numpy as np
import pandas as pd
import pytest

from asd_core.analysis.enrichment import density, enrichment, shares, stratified


def clips(**columns: str) -> pd.DataFrame:
    return pd.DataFrame({name: list(values) for name, values in columns.items()}).replace("-", "")


def tail(total: int, special: int, drawn: int, at_least: int) -> float:
    """P(at least so many of the `special` among `drawn` of `total`), counted out."""
    ways = (comb(special, k) * comb(total - special, drawn - k) for k in range(at_least, min(special, drawn) + 1))
    return sum(ways) / comb(total, drawn)


def test_p_is_counted_out_and_corrected_by_holm():
    table = clips(speed="a" * 10 + "b" * 30 + "c" * 10)
    chosen = np.zeros(50, dtype=bool)
    chosen[[*range(8), 12, 45]] = True  # 8 of a, 1 of b, 1 of c
    found = enrichment(table, chosen, ["speed"]).set_index("value")
    assert list(found.loc["a", ["here", "everywhere", "share_here", "share"]]) == [8, 10, 80, 20]
    raw = {
        "a": 2 * tail(50, 10, 10, 8),
        "b": 2 * (1 - tail(50, 30, 10, 2)),
        "c": 2 * (1 - tail(50, 10, 10, 2)),
    }
    assert raw["c"] > 2 * raw["b"] > raw["a"]
    assert found.loc["a", "p"] == pytest.approx(3 * raw["a"], rel=1e-6)
    assert found.loc["b", "p"] == pytest.approx(2 * raw["b"], rel=1e-6)
    assert found.loc["c", "p"] == pytest.approx(min(raw["c"], 1), rel=1e-6)
    assert list(found.index) == ["a", "b", "c"]


def test_unknown_values_do_not_count_and_single_values_tell_nothing():
    table = clips(label="nnaa----", split="tttttttt")
    chosen = np.array([1, 0, 1, 0, 1, 1, 1, 1], dtype=bool)
    found = enrichment(table, chosen, ["label", "split"])
    assert set(found["column"]) == {"label"}
    assert list(found["share_here"]) == [50, 50]
    assert list(found["p"]) == [1, 1]
    assert enrichment(table, chosen, ["split"]).empty
    unknown = enrichment(table, np.array([0, 0, 0, 0, 1, 1, 1, 1], dtype=bool), ["label"])
    assert unknown.empty
    assert list(unknown) == list(found)


def test_random_selections_are_seldom_surprising():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"kind": rng.choice(list("abcdef"), 400)})
    smallest = []
    for _ in range(200):
        chosen = np.zeros(400, dtype=bool)
        chosen[rng.choice(400, 60, replace=False)] = True
        smallest.append(enrichment(table, chosen, ["kind"])["p"].min())
    assert np.mean(np.array(smallest) < 0.05) < 0.08


def test_shares_are_percent_of_each_part():
    values = np.array([5.0, 7, 100, 50, 50, np.nan])
    found = shares(values, np.array([1, 1, 1, 0, 0, 0], dtype=bool), bins=10)
    assert found["here"].tolist() == pytest.approx([200 / 3, *[0] * 8, 100 / 3])
    assert found["rest"].sum() == found.loc[5, "rest"] == 100
    assert shares(values, np.zeros(6, dtype=bool))["here"].sum() == 0


def test_density_is_highest_where_points_crowd():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(0, 1, 300), rng.normal(40, 1, 30)])
    y = np.concatenate([rng.normal(10, 1, 300), rng.normal(-10, 1, 30)])
    across, up, crowd = density(x, y)
    row, column = np.unravel_index(crowd.argmax(), crowd.shape)
    assert (across[column], up[row]) == (pytest.approx(0, abs=1.5), pytest.approx(10, abs=1.5))
    assert crowd.max() == 1
    assert crowd[np.abs(up + 10).argmin(), np.abs(across - 40).argmin()] > 0.03
    alike = density(np.ones(5), np.ones(5))[2]
    assert np.isfinite(alike).all()


def test_a_sample_has_every_stratum_in_its_share():
    strata = pd.DataFrame({"machine": ["fan"] * 900 + ["valve"] * 95 + ["drone"] * 5, "label": "n"})
    rows = stratified(strata, 100)
    assert len(rows) == len(set(rows)) == 100
    assert (np.diff(rows) > 0).all()
    counts = strata["machine"].iloc[rows].value_counts()
    assert abs(counts["fan"] - 90) <= 2
    assert counts["drone"] >= 1
    assert (stratified(strata, 100) == rows).all()
    assert len(stratified(strata, 5000)) == 1000
