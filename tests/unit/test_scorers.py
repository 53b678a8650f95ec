"""Scorers against brute force."""

import numpy as np
import pytest

from asd_core.scorers.knn import KNN
from asd_core.scorers.mahalanobis import Mahalanobis
from tests.contract.test_scorers import make, unknown


def distances(x, y, metric):
    x, y = x.astype(np.float64), y.astype(np.float64)
    if metric != "euclidean":
        x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    d = np.linalg.norm(x[:, None] - y[None], axis=2)
    return {"euclidean": d, "chord": d / 2, "cosine": d**2 / 4}[metric]


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "chord"])
@pytest.mark.parametrize("k", [1, 3])
def test_knn_equals_brute_force(metric, k):
    train, test = make(50, 5), make(8, 0, 1)
    scorer = KNN(metric, k).fit(train)
    expected = np.sort(distances(test.x, train.x, metric))[:, :k].mean(axis=1)
    np.testing.assert_allclose(scorer.score(unknown(test.x)), expected, rtol=1e-6)
    own = distances(train.x, train.x, metric)
    np.fill_diagonal(own, np.inf)
    np.testing.assert_allclose(scorer.training_scores(), np.sort(own)[:, :k].mean(axis=1), rtol=1e-5)


def test_leave_one_out_sees_a_duplicate():
    """A clip that is there twice has a neighbour at distance 0, found although both copies tie."""
    train = make(20, 0)
    train.x[7] = train.x[3]
    scores = KNN("euclidean").fit(train).training_scores()
    assert scores[3] == scores[7] == 0
    assert (np.delete(scores, [3, 7]) > 0).all()


def test_minimum_over_domains_equals_pooled_for_one_neighbour_but_not_standardised():
    train, test = make(50, 8), unknown(make(20, 0, 1).x)
    pooled = KNN(domains="pooled").fit(train).score(test)
    np.testing.assert_allclose(KNN(domains="min").fit(train).score(test), pooled)
    assert not np.allclose(KNN(domains="zscore").fit(train).score(test), pooled)


def test_standardised_domains_by_hand():
    train, test = make(30, 6), make(5, 0, 1)
    scores = KNN("euclidean", domains="zscore").fit(train).score(unknown(test.x))
    target = train.domains == "target"
    z, deviations = [], []
    for rows in (~target, target):
        own = distances(train.x[rows], train.x[rows], "euclidean")
        np.fill_diagonal(own, np.inf)
        loo = own.min(axis=1)
        deviations.append(loo.std())
        spread = max(loo.std(), deviations[0] / 2)
        z.append((distances(test.x, train.x[rows], "euclidean").min(axis=1) - loo.mean()) / spread)
    np.testing.assert_allclose(scores, np.min(z, axis=0), rtol=1e-5)


def test_standardised_by_the_target_deviation():
    """(d − μ_d)/σ_target for both domains, as the UNIS team's code has it."""
    train, test = make(30, 6), make(5, 0, 1)
    scores = KNN("euclidean", domains="zscore", deviation="target").fit(train).score(unknown(test.x))
    target = train.domains == "target"
    own = [distances(train.x[rows], train.x[rows], "euclidean") for rows in (~target, target)]
    loo = [np.sort(d, axis=1)[:, 1] for d in own]
    near = [distances(test.x, train.x[rows], "euclidean").min(axis=1) for rows in (~target, target)]
    z = [(d - held_out.mean()) / loo[1].std() for d, held_out in zip(near, loo, strict=True)]
    np.testing.assert_allclose(scores, np.min(z, axis=0), rtol=1e-5)


def test_clip_zscore_forgets_gain_and_offset():
    train, test = make(40, 6, dim=16), make(8, 0, 1, dim=16)
    scorer = KNN("euclidean", clip_zscore=True).fit(train)
    scores = scorer.score(unknown(test.x))
    np.testing.assert_allclose(scorer.score(unknown(3 * test.x + 5)), scores, rtol=1e-4)
    z = [(x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True) for x in (train.x, test.x)]
    np.testing.assert_allclose(scores, distances(z[1], z[0], "euclidean").min(axis=1), rtol=1e-4)


def test_mahalanobis_is_affine_invariant_without_shrinkage():
    """With many clips shrinkage fades, and stretching a dimension must not change the distances."""
    train, test = make(4000, 400, dim=3), make(10, 0, 1, dim=3)
    plain = Mahalanobis().fit(train).score(unknown(test.x))
    stretch = np.array([1, 1.5, 0.7], dtype=np.float32)
    stretched = Mahalanobis().fit(type(train)(train.x * stretch, train.clip_ids, train.sections, train.domains))
    np.testing.assert_allclose(stretched.score(unknown(test.x * stretch)), plain, rtol=0.02)


def test_mahalanobis_takes_the_nearer_domain():
    train = make(40, 10)
    train.x[40:] += 50
    scores = Mahalanobis().fit(train).score(unknown(np.stack([train.x[:40].mean(0), train.x[40:].mean(0)])))
    np.testing.assert_allclose(scores, 0, atol=1e-3)


def test_oversampling_grows_the_target_bank_only():
    train = make(100, 10)
    source, target = KNN(domains="min", smote=0.5).fit(train).banks_
    assert (len(source.x), len(target.x)) == (100, 50)
    (only_source,) = KNN(domains="min", k_target=0, smote=0.5).fit(train).banks_
    assert len(only_source.x) == 100
    (pooled,) = KNN(domains="pooled", smote=0.5).fit(train).banks_
    assert len(pooled.x) == 150


def test_domain_moments_know_real_clips_only():
    train = make(100, 10)
    plain, grown = (KNN("euclidean", domains="zscore", smote=smote).fit(train) for smote in (None, 0.5))
    assert plain.moments_ == grown.moments_


def test_held_out_target_clips_do_not_meet_their_own_synthetic_rows():
    """Rows interpolated from a clip lie next to it; counting them would make target clips look too normal."""
    train = make(990, 10, dim=64)
    plain = KNN(domains="min").fit(train).training_scores()[990:]
    grown = KNN(domains="min", smote=0.1).fit(train).training_scores()[990:]
    assert grown.mean() > 0.5 * plain.mean()
    assert (grown <= plain + 1e-9).all()  # more neighbours, never farther


def test_a_lone_target_clip_is_held_out_against_the_source():
    train = make(30, 1)
    scores = KNN("euclidean", domains="min").fit(train).training_scores()
    expected = distances(train.x[30:], train.x[:30], "euclidean").min()
    assert scores[30] == pytest.approx(expected, rel=1e-5)


def test_a_bank_smaller_than_k_keeps_its_neighbours_for_others():
    train = make(30, 2)
    bank = KNN("euclidean", k=3, domains="min").fit(train).banks_[1]
    expected = distances(train.x[:30], train.x[30:], "euclidean").mean(axis=1)
    np.testing.assert_allclose(bank.leave_one_out()[:30], expected, rtol=1e-5)


def test_a_source_that_is_missing_and_a_target_that_is_not_wanted():
    train = make(0, 5)
    assert np.isfinite(KNN(domains="min", k_target=0).fit(train).score(unknown(train.x))).all()


@pytest.mark.parametrize("options", [{"k": 0}, {"smote": 1.5}, {"smote": 0.1, "smote_k": 0}, {"k_target": -1}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"at least|fraction"):
        KNN(**options)
