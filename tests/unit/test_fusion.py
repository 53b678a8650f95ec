"""Fusion by hand."""

import numpy as np
import pytest

from asd_core.fusion import FUSIONS
from asd_core.fusion.weighted import Weighted
from asd_core.types import AsdError

TRAINING = np.array([[0.0, 10.0], [2.0, 30.0], [4.0, 50.0]])  # means 2, 30; deviations √(8/3), √(800/3)
SCORES = np.array([[2.0, 30.0], [6.0, 30.0], [2.0, 70.0], [-1.0, 0.0]])


def test_plain_mean():
    np.testing.assert_allclose(Weighted().fit(TRAINING).fuse(SCORES), [16, 18, 36, -0.5])


@pytest.mark.parametrize("weights", [[1, 3], [0.25, 0.75], [100, 300]])
def test_weights_are_brought_to_sum_1(weights):
    fused = Weighted(weights=weights).fit(TRAINING).fuse(SCORES)
    np.testing.assert_allclose(fused, 0.25 * SCORES[:, 0] + 0.75 * SCORES[:, 1])


def test_a_stream_of_weight_0_is_not_heard():
    np.testing.assert_allclose(Weighted(weights=[0, 2]).fit(TRAINING).fuse(SCORES), SCORES[:, 1])


def test_standardised_by_training_scores():
    """Streams of different scale count alike: two deviations in one are as far as two in the other."""
    fused = Weighted(normalise="ztrain").fit(TRAINING).fuse(SCORES)
    one, two = np.sqrt(8 / 3), np.sqrt(800 / 3)
    np.testing.assert_allclose(fused, [0, 4 / one / 2, 40 / two / 2, (-3 / one - 30 / two) / 2], atol=1e-12)
    weighted = Weighted(weights=[3, 1], normalise="ztrain").fit(TRAINING).fuse(SCORES)
    np.testing.assert_allclose(weighted, [0, 3 / one, 10 / two, (-9 / one - 30 / two) / 4], atol=1e-12)


def test_standardised_training_scores_have_mean_0_and_one_stream_deviation_1():
    training = np.random.default_rng(0).gamma(3, 7, (50, 1))
    fused = Weighted(normalise="ztrain").fit(training).fuse(training)
    assert fused.mean() == pytest.approx(0, abs=1e-12)
    assert fused.std() == pytest.approx(1)


def test_a_constant_stream_is_only_shifted():
    training = np.array([[5.0, 1.0], [5.0, 3.0]])
    fused = Weighted(normalise="ztrain").fit(training).fuse(np.array([[7.0, 2.0]]))
    np.testing.assert_allclose(fused, [(2 + 0) / 2])


@pytest.mark.parametrize("spec", [{"weights": [1, -1]}, {"weights": [0, 0]}, {"normalise": "ztest"}])
def test_wrong_options_are_refused(spec):
    with pytest.raises(AsdError):
        FUSIONS.create({"name": "weighted", **spec})


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_as_many_weights_as_streams(weights):
    with pytest.raises((AsdError, ValueError), match="weights for 2 branches"):
        Weighted(weights=weights).fit(TRAINING)


def test_constant_stream_is_not_blown_up():
    """0.1 is not exact in binary, so equal scores have a deviation of 1e-17, which must not become a divisor."""
    training = np.stack([np.full(10, 0.1), np.arange(10.0)], axis=1)
    fused = Weighted(normalise="ztrain").fit(training).fuse(np.array([[0.1001, 4.5]]))
    assert abs(fused[0]) < 1
