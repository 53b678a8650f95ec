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
