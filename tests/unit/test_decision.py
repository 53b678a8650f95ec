from __future__ import annotations

import numpy as np
import pytest

from asd_core.decision import DECISIONS, Gamma, Percentile, false_alarm_rate
from asd_core.types import AsdError

RNG = np.random.default_rng(0)
NORMALS = RNG.gamma(30, 0.01, 500)


def test_all_rules_are_found() -> None:
    assert sorted(DECISIONS.classes) == ["gamma", "percentile", "test_percentile"]
    assert [name for name, rule in DECISIONS.classes.items() if rule.transductive] == ["test_percentile"]


def test_a_transductive_rule_flags_its_share_of_the_test_set() -> None:
    rule = DECISIONS.create({"name": "test_percentile", "q": 0.9}).fit(NORMALS, test=NORMALS + 10)
    assert rule.decide(NORMALS + 10).mean() == pytest.approx(0.1)


@pytest.mark.parametrize("test", [None, [], [np.nan]])
def test_a_transductive_rule_without_test_scores_is_refused(test: list[float] | None) -> None:
    with pytest.raises(AsdError, match=r"test scores|percentile"):
        DECISIONS.create({"name": "test_percentile"}).fit(NORMALS, test=None if test is None else np.array(test))


def test_gamma_takes_fused_scores_between_0_and_1() -> None:
    """As the smaller of two training shares is (`minimum` with "ecdf")."""
    shares = RNG.random((1000, 2)).min(axis=1)
    assert false_alarm_rate(shares, Gamma().fit(shares).threshold_) == pytest.approx(0.1, abs=0.03)


def test_a_clip_on_the_threshold_is_normal() -> None:
    rule = Percentile(0.5).fit(np.array([1.0, 2.0, 3.0]))
    assert rule.decide(np.array([2.0, np.nextafter(2.0, 3)])).tolist() == [False, True]


def test_false_alarms_on_training_normals_match_the_quantile() -> None:
    assert false_alarm_rate(NORMALS, Percentile(0.9).fit(NORMALS).threshold_) == pytest.approx(0.1)
    assert false_alarm_rate(NORMALS, Gamma(0.9).fit(NORMALS).threshold_) == pytest.approx(0.1, abs=0.02)


def test_official_batch_fits_the_batches_and_flags_most_normals() -> None:
    batches = NORMALS.mean() * 0.8 + RNG.normal(0, 0.001, 100)
    rule = Gamma(fit="official_batch").fit(NORMALS, batches)
    assert rule.threshold_ == pytest.approx(Gamma().fit(batches).threshold_)
    assert false_alarm_rate(NORMALS, rule.threshold_) > 0.8


def test_official_batch_without_batches_says_what_to_use() -> None:
    with pytest.raises(AsdError, match="percentile"):
        Gamma(fit="official_batch").fit(NORMALS)


def test_failed_batch_fit_falls_back_to_the_training_scores() -> None:
    rule = Gamma(fit="official_batch").fit(NORMALS, np.zeros(10))
    assert rule.threshold_ == np.quantile(NORMALS, 0.9)
    assert rule.notice_


def test_a_second_fit_forgets_the_first() -> None:
    rule = Gamma().fit(np.zeros(10))
    assert rule.notice_
    assert rule.fit(NORMALS).notice_ == ""
    assert rule.threshold_ == Gamma().fit(NORMALS).threshold_


@pytest.mark.parametrize("name", ["percentile", "gamma"])
@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.inf, 1.0]])
def test_unusable_training_scores(name: str, scores: list[float]) -> None:
    with pytest.raises(AsdError, match="threshold cannot be learnt"):
        DECISIONS.create({"name": name}).fit(np.array(scores))


@pytest.mark.parametrize(
    "spec",
    [{"name": "percentile", "q": 1.0}, {"name": "gamma", "q": 90}, {"name": "gamma", "fit": "batch"}],
)
def test_wrong_options_are_refused(spec: dict) -> None:
    with pytest.raises(AsdError):
        DECISIONS.create(spec)
