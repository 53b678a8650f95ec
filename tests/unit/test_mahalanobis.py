"""Mahalanobis scores against an independent computation, and its held-out training scores against loops."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from asd_core.scorers import SCORERS
from asd_core.scorers.base import folds
from asd_core.types import EmbeddingSet


def make(n_source, n_target, seed=0, dim=5):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_source + n_target, dim)) * np.linspace(0.5, 3, dim)
    x[n_source:] += 4
    domains = np.array(["source"] * n_source + ["target"] * n_target)
    shuffled = rng.permutation(len(x))  # domains interleaved, as no data set promises an order
    ids = np.array([f"fan/train/{i:03d}" for i in range(len(x))])
    return EmbeddingSet(x[shuffled].astype(np.float32), ids, np.full(len(x), "00"), domains[shuffled])


def reference(train_x, domains, test_x, standardise):
    train_x, test_x = train_x.astype(np.float64), test_x.astype(np.float64)
    means = {d: train_x[domains == d].mean(axis=0) for d in set(domains)}
    centred = train_x - [means[d] for d in domains]
    scale = centred.std(axis=0) if standardise else np.ones(train_x.shape[1])
    inverse = np.linalg.inv(ledoit_wolf(centred / scale, assume_centered=True)[0])
    distances = []
    for mean in means.values():
        difference = (test_x - mean) / scale
        distances.append(np.sqrt([row @ inverse @ row for row in difference]))
    return np.min(distances, axis=0)


@pytest.mark.parametrize("standardise", [False, True])
def test_scores_equal_an_independent_computation(standardise):
    train, test = make(40, 7), make(9, 3, seed=1)
    scorer = SCORERS.create({"name": "mahalanobis", "standardise": standardise}).fit(train)
    np.testing.assert_allclose(scorer.score(test), reference(train.x, train.domains, test.x, standardise), rtol=1e-4)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(("n_source", "n_target"), [(40, 7), (23, 10), (12, 3)])
def test_training_scores_come_from_the_other_four_folds(n_source, n_target, standardise):
    train = make(n_source, n_target)
    # dealt out inside each domain: the n-th source clip and the n-th target clip go to fold n mod 5
    seen = {"source": 0, "target": 0}
    fold = np.zeros(len(train), dtype=int)
    for i, domain in enumerate(train.domains):
        fold[i] = seen[domain] % 5
        seen[domain] += 1
    expected = np.zeros(len(train))
    for i in range(len(train)):
        rest = fold != fold[i]
        expected[i] = reference(train.x[rest], train.domains[rest], train.x[i : i + 1], standardise)[0]
    scorer = SCORERS.create({"name": "mahalanobis", "standardise": standardise}).fit(train)
    np.testing.assert_allclose(scorer.training_scores(), expected, rtol=1e-4)


def test_training_scores_are_those_of_new_clips():
    """In many dimensions a clip is close to a centre and a covariance that know it: held-out scores are larger."""
    train, fresh = make(60, 10, dim=30), make(60, 10, seed=7, dim=30)
    scorer = SCORERS.create({"name": "mahalanobis"}).fit(train)
    held_out, known, new = scorer.training_scores(), scorer.score(train), scorer.score(fresh)
    assert (held_out > known).mean() > 0.95
    assert held_out.mean() == pytest.approx(new.mean(), rel=0.1)
    assert known.mean() < 0.9 * new.mean()


def test_asking_for_training_scores_leaves_the_scorer_as_it_is():
    train, test = make(20, 5), make(6, 2, seed=2)
    scorer = SCORERS.create({"name": "mahalanobis"}).fit(train)
    before = scorer.score(test)
    first = scorer.training_scores()
    np.testing.assert_array_equal(scorer.score(test), before)
    np.testing.assert_array_equal(scorer.training_scores(), first)


def test_folds_by_hand():
    domains = np.array(["source"] * 3 + ["target"] * 7 + ["source"] * 4)
    clips = EmbeddingSet(np.zeros((14, 2)), np.arange(14).astype(str), np.full(14, "00"), domains)
    assert folds(clips).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 3, 4, 0, 1]
    assert folds(clips, 2).tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
