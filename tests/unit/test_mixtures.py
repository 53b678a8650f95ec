"""Gaussian mixture and k-means scorers by hand."""

import numpy as np
import pytest

from asd_core.scorers.gmm import GMM
from asd_core.scorers.kmeans import KMeans
from tests.contract.test_scorers import make, unknown


def test_one_gaussian_by_hand():
    train, test = make(50, 6), make(8, 0, 1)
    scores = GMM(1, normalise=False, reg=0.25).fit(train).score(unknown(test.x))
    x = train.x.astype(np.float64)
    variance = x.var(axis=0) + 0.25
    expected = 0.5 * ((test.x - x.mean(axis=0)) ** 2 / variance + np.log(2 * np.pi * variance)).sum(axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_two_operating_conditions_want_two_gaussians():
    train = make(60, 6)
    train.x[::2] += 20
    between = unknown((train.x[:1] + train.x[1:2]) / 2)
    one, two = (GMM(count, normalise=False).fit(train) for count in (1, 2))
    assert one.score(between)[0] < one.training_scores().min()
    assert two.score(between)[0] > two.training_scores().max()


@pytest.mark.parametrize(("clips", "components"), [(1, 1), (19, 1), (59, 2), (200, 4)])
def test_few_clips_carry_few_components(clips, components):
    assert GMM(4).fit(make(clips, 0)).mixture_.n_components == components
    assert len(KMeans(4).fit(make(clips, 0)).centres_) == components


def test_length_of_embeddings_does_not_matter_where_they_are_normalised():
    train, test = make(50, 6), make(8, 0, 1)
    for scorer in (GMM(), KMeans(normalise=True)):
        scores = scorer.fit(train).score(unknown(test.x))
        np.testing.assert_allclose(scorer.score(unknown(test.x * 4)), scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scorer", [GMM(), KMeans()])
def test_held_out_clips_score_higher_than_fitted_ones(scorer):
    train = make(90, 10, dim=32)
    scorer.fit(train)
    assert scorer.training_scores().mean() > scorer.score(train).mean()


def test_nearest_of_three_centres():
    train = make(60, 0)
    groups = np.arange(60) % 3
    train.x[:] = np.eye(6, dtype=np.float32)[groups] * 5 + np.random.default_rng(0).normal(size=(60, 6)) * 0.01
    corners = np.eye(6, dtype=np.float32)[:4] * 7
    np.testing.assert_allclose(KMeans(3, "euclidean").fit(train).score(unknown(corners))[:3], 2, atol=0.02)
    np.testing.assert_allclose(KMeans(3).fit(train).score(unknown(corners)), [0, 0, 0, 1], atol=0.01)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_target_clips_as_centres(metric):
    train = make(60, 5)
    scorer = KMeans(3, metric, target_clips=True).fit(train)
    assert len(scorer.centres_) == 3 + 5
    np.testing.assert_allclose(scorer.score(train)[60:], 0, atol=1e-6)
    assert (scorer.training_scores()[60:] > 0.01).all()  # held out, none is its own centre


@pytest.mark.parametrize("make_scorer", [lambda: GMM(0), lambda: GMM(reg=0.0), lambda: KMeans(0)])
def test_numbers_out_of_range_are_refused(make_scorer):
    with pytest.raises(ValueError, match="at least 1"):
        make_scorer()
