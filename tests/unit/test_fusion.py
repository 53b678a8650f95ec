"""Fusion by hand."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd_core.fusion import FUSIONS
from asd_core.fusion.minimum import Minimum
from asd_core.fusion.normalise import NORMALISATIONS, Normalise
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


@pytest.mark.parametrize("spec", [{"weights": [1, -1]}, {"weights": [0, 0]}, {"normalise": "rank"}])
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


NORMALS = np.array([[1.0], [2.0], [2.0], [5.0]])


def test_share_of_training_scores_by_hand():
    """(1, ¼), (2, ¾), (5, 1), straight between; outside it rises by 1 per range, which is 4."""
    scores = np.array([-3.0, 1.0, 1.5, 2.0, 3.5, 5.0, 9.0])
    shares = Weighted(normalise="ecdf").fit(NORMALS).fuse(scores[:, None])
    np.testing.assert_allclose(shares, [0.25 - 1, 0.25, 0.5, 0.75, 0.875, 1, 2])


@pytest.mark.parametrize("shift", [-5.0, -100.0, 0.0, 3.0])
def test_shares_do_not_depend_on_where_zero_is(shift):
    """Log-likelihoods are often negative; their largest may be 0 as well."""
    scores = np.linspace(-3, 12, 31)[:, None]
    shifted = Weighted(normalise="ecdf").fit(NORMALS + shift).fuse(scores + shift)
    np.testing.assert_allclose(shifted, Weighted(normalise="ecdf").fit(NORMALS).fuse(scores), atol=1e-12)


@given(
    training=st.lists(st.integers(-20, 20), min_size=1, max_size=12),
    scores=st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True),
    unit=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_shares_are_finite_and_strictly_increasing(training, scores, unit):
    fusion = Weighted(normalise="ecdf").fit(unit * np.array(training, dtype=float)[:, None])
    shares = fusion.fuse(unit * np.array(sorted(scores), dtype=float)[:, None])
    assert np.isfinite(shares).all()
    assert (np.diff(shares) > 0).all()


def test_shares_of_a_constant_stream_rise_by_its_own_size():
    shares = Weighted(normalise="ecdf").fit(np.full((5, 1), 4.0)).fuse(np.array([[0.0], [4.0], [8.0]]))
    np.testing.assert_allclose(shares, [0, 1, 2])


def test_training_normals_are_spread_evenly_by_their_own_shares():
    training = np.random.default_rng(0).gamma(3, 7, (50, 1))
    shares = Weighted(normalise="ecdf").fit(training).fuse(training)
    np.testing.assert_allclose(np.sort(shares), np.arange(1, 51) / 50)


def test_ranks_among_the_clips_given():
    scores = np.array([[3.0, 0.1], [1.0, 0.4], [1.0, 0.2], [2.0, 0.3]])  # ranks 3, ½, ½, 2 and 0, 3, 1, 2
    fusion = Weighted(weights=[0.45, 0.55], normalise="rank_test").fit(TRAINING)
    assert fusion.transductive
    expected = (0.45 * np.array([3, 0.5, 0.5, 2]) + 0.55 * np.array([0, 3, 1, 2])) / 3
    np.testing.assert_allclose(fusion.fuse(scores), expected)
    np.testing.assert_allclose(fusion.fuse(scores[:1]), [0.5])


@pytest.mark.parametrize("normalise", ["none", "ztrain", "ecdf", "rank_test"])
def test_only_test_ranks_are_transductive(normalise):
    for name in ("weighted", "minimum"):
        assert FUSIONS.create({"name": name, "normalise": normalise}).transductive == (normalise == "rank_test")


def test_minimum_of_streams():
    np.testing.assert_allclose(Minimum(normalise="none").fit(TRAINING).fuse(SCORES), [2, 6, 2, -1])
    shares = Minimum().fit(TRAINING).fuse(np.array([[4.0, 10.0], [2.0, 70.0], [8.0, 90.0]]))
    np.testing.assert_allclose(shares, [1 / 3, 2 / 3, 2])  # alarmed only where both streams are


def test_every_normalisation_can_be_asked_for():
    assert set(get_args(Normalise)) == set(NORMALISATIONS)
