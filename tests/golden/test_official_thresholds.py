"""Gamma thresholds against those of the official code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from asd_core.decision import DECISIONS
from asd_core.types import AsdError

CASES = json.loads((Path(__file__).parent / "protocol" / "threshold.json").read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_threshold_equals_the_official_code(name: str) -> None:
    case = CASES[name]
    scores = np.array(case["scores"], dtype=float)
    rule = DECISIONS.create({"name": "gamma"})
    if "raises" not in case:
        for q in (0.5, 0.9, 0.95, 0.99):
            rule = DECISIONS.create({"name": "gamma", "q": q}).fit(scores)
            assert rule.threshold_ == pytest.approx(case[f"threshold_q{q}"], rel=1e-9)
            if q == 0.9:
                assert rule.decide(scores).sum() == case["n_scores_above_threshold"]
        assert rule.parameters_ == pytest.approx(case["gamma_shape_loc_scale"], rel=1e-9, abs=1e-30)
        assert ("collapsed" in rule.notice_) == (rule.parameters_[0] < 1)
    elif case["raises"].startswith("FitError"):
        rule.fit(scores)
        assert rule.threshold_ == np.quantile(scores, 0.9)
        assert "No gamma distribution fits" in rule.notice_
    else:
        with pytest.raises(AsdError, match=r"no training scores|NaN or infinite"):
            rule.fit(scores)


@pytest.mark.parametrize("name", [name for name in CASES if "empirical_q0.9" in CASES[name]])
def test_percentile_is_the_empirical_quantile(name: str) -> None:
    rule = DECISIONS.create({"name": "percentile"}).fit(np.array(CASES[name]["scores"], dtype=float))
    assert rule.threshold_ == pytest.approx(CASES[name]["empirical_q0.9"], rel=1e-12)
