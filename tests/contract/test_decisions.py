"""What every registered threshold rule must keep."""

import numpy as np
import pytest

from asd_core.decision import DECISIONS, false_alarm_rate
from asd_core.types import AsdError

TRAINING = np.random.default_rng(0).gamma(20, 0.05, 400)


@pytest.fixture(params=sorted(DECISIONS.classes))
def name(request):
    return request.param


def fitted(name, scores=TRAINING, **options):
    return fit(DECISIONS.create({"name": name, **options}), scores)


def fit(rule, scores):
    """To test scores where the rule says that it looks at them."""
    return rule.fit(np.ones(3), test=scores) if rule.transductive else rule.fit(scores)


def test_fit_returns_self_and_learns_a_finite_threshold(name):
    rule = DECISIONS.create({"name": name})
    assert fit(rule, TRAINING) is rule
    assert np.isfinite(rule.threshold_)
    assert isinstance(rule.threshold_, float)
    assert rule.notice_ == ""


def test_anomalous_is_strictly_above_the_threshold(name):
    rule = fitted(name)
    t = rule.threshold_
    verdicts = rule.decide(np.array([t - 1, np.nextafter(t, -np.inf), t, np.nextafter(t, np.inf), t + 1]))
    assert verdicts.dtype == bool
    assert verdicts.tolist() == [False, False, False, True, True]


def test_a_verdict_depends_on_other_test_clips_only_where_the_rule_says_so(name):
    rule = DECISIONS.create({"name": name}).fit(TRAINING, test=TRAINING + 7)
    assert (rule.threshold_ > 7) == rule.transductive
    scores = np.random.default_rng(1).gamma(20, 0.06, 30)
    assert rule.decide(scores).tolist() == [bool(rule.decide(s[None])[0]) for s in scores]


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_false_alarms_are_what_was_asked_for(name, q):
    rule = fitted(name, q=q)
    assert false_alarm_rate(TRAINING, rule.threshold_) == pytest.approx(1 - q, abs=0.03)


def test_a_higher_quantile_never_flags_more(name):
    thresholds = [fitted(name, q=q).threshold_ for q in (0.1, 0.5, 0.8, 0.9, 0.99)]
    assert thresholds == sorted(thresholds)


def test_order_and_unit_of_scores_do_not_matter(name):
    t = fitted(name).threshold_
    assert fitted(name, TRAINING[::-1]).threshold_ == pytest.approx(t, rel=1e-3)
    assert fitted(name, 1000 * TRAINING).threshold_ == pytest.approx(1000 * t, rel=0.02)


def test_refit_forgets_and_inputs_stay(name):
    before = TRAINING.copy()
    rule = fit(fitted(name, np.zeros(10)), TRAINING)
    assert rule.threshold_ == fitted(name).threshold_
    assert rule.notice_ == ""
    np.testing.assert_array_equal(TRAINING, before)


@pytest.mark.parametrize("training", [[0.0], [3.0], [0.0] * 9, [2.0] * 9, [-1.0, -2.0, -3.0], [1.0, 1.0, 1e9]])
def test_odd_scores_give_a_finite_threshold(name, training):
    assert np.isfinite(fitted(name, np.array(training)).threshold_)


@pytest.mark.parametrize("training", [[], [1.0, np.nan], [np.inf]])
def test_unusable_scores_are_refused(name, training):
    with pytest.raises(AsdError, match="threshold cannot be learnt"):
        fitted(name, np.array(training))
