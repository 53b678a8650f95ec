"""What every registered scorer must keep; a new one is tested before anyone thinks of it."""

import functools

import numpy as np
import pytest

from asd_core.scorers import SCORERS
from asd_core.types import AsdError, EmbeddingSet

VARIANTS = [
    *({"name": name} for name in sorted(SCORERS.classes)),
    {"name": "knn", "metric": "euclidean", "k": 3, "domains": "min"},
    {"name": "knn", "metric": "chord", "domains": "zscore"},
    {"name": "knn", "metric": "euclidean", "standardise": True},
    {"name": "knn", "domains": "min", "smote": 0.5, "smote_k": 2},
    {"name": "knn", "metric": "euclidean", "domains": "zscore", "deviation": "target", "clip_zscore": True},
    {"name": "knn", "density": "matched"},
    {"name": "knn", "metric": "euclidean", "k": 2, "density": "ratio", "density_k": 50},
    {
        "name": "knn",
        "metric": "euclidean",
        "domains": "min",
        "density": "ratio",
        "density_k": 16,
        "density_k_target": 9,
        "density_scale": "sum",
    },
    {"name": "knn", "metric": "chord", "domains": "zscore", "density": "matched"},
    {"name": "knn", "index": "ivf", "cells": 1, "smote": 0.5},
    {"name": "gmm", "normalise": False},
    {"name": "kmeans", "metric": "euclidean", "target_clips": True},
    {"name": "mahalanobis", "standardise": True},
    {"name": "subband", "views": ["mean", "max", "attention"], "density": "matched"},
    {"name": "subband", "views": ["max", "mean"], "combine": "max", "level": "clip", "domains": "min"},
    {"name": "subband", "match": "joint", "metric": "chord", "density": "ratio"},
    {"name": "subband", "views": ["max", "mean"], "combine": "mean", "metric": "euclidean"},
    {"name": "localized", "aggregate": "broad", "memory": 50, "domains": "min"},
    {"name": "localized", "window": 1, "stride": 1, "density": "ratio", "density_scale": "sum", "choice": "greedy"},
    {"name": "localized", "window": 30, "memory": None, "density": None},
]


SHAPES = {"vector": (), "bands": (3, 4), "patches": (9, 2)}  # of embeddings, before their last dimension


def make(n_source: int, n_target: int, seed: int = 0, dim: int = 6, shape: tuple[int, ...] = ()) -> EmbeddingSet:
    rng = np.random.default_rng(seed)
    n = n_source + n_target
    x = rng.normal(size=(n, *shape, dim)).astype(np.float32) + np.linspace(1, 5, dim, dtype=np.float32)
    domains = np.array(["source"] * n_source + ["target"] * n_target)
    ids = np.array([f"fan/train/{i}" for i in range(n)])
    return EmbeddingSet(x, ids, np.full(n, "00"), domains, np.full(n, "noAttribute"))


def unknown(x) -> EmbeddingSet:
    n = len(x)
    return EmbeddingSet(x, np.array([f"fan/test/{i}" for i in range(n)]), np.full(n, "00"), np.full(n, ""))


@pytest.fixture(params=VARIANTS, ids=lambda spec: "-".join(map(str, spec.values())))
def spec(request):
    return request.param


@pytest.fixture
def clips(spec):
    """`make` for embeddings that the scorer takes."""
    return functools.partial(make, shape=SHAPES[SCORERS[spec["name"]].takes])


def test_scores_are_finite_float64_and_fit_returns_self(spec, clips):
    scorer = SCORERS.create(spec)
    assert scorer.fit(clips(40, 6)) is scorer
    for scores, n in ((scorer.score(unknown(clips(9, 0, 1).x)), 9), (scorer.training_scores(), 46)):
        assert scores.shape == (n,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()


def test_far_points_score_higher(spec, clips):
    scorer = SCORERS.create(spec).fit(clips(40, 6))
    near = clips(1, 0, 2).x
    far = near + 30 if spec["name"] == "reconstruction" else -near - 30  # in distance, in angle and in pattern
    low, high = scorer.score(unknown(np.concatenate([near, far])))
    assert high > low


def test_subset_and_order_do_not_matter(spec, clips):
    scorer = SCORERS.create(spec).fit(clips(40, 6))
    x = clips(12, 0, 3).x
    scores = scorer.score(unknown(x))
    order = np.random.default_rng(0).permutation(12)[:5]
    np.testing.assert_allclose(scorer.score(unknown(x[order])), scores[order], rtol=1e-6, atol=1e-9)


def test_refit_forgets_and_inputs_stay(spec, clips):
    first, second = clips(40, 6), clips(30, 4, seed=9)
    before = second.x.copy()
    test = unknown(clips(7, 0, 5).x)
    again = SCORERS.create(spec).fit(first).fit(second).score(test)
    np.testing.assert_array_equal(again, SCORERS.create(spec).fit(second).score(test))
    np.testing.assert_array_equal(second.x, before)


@pytest.mark.parametrize(("source", "target"), [(40, 1), (40, 0), (0, 4), (1, 0), (2, 1), (3, 3)])
def test_small_and_missing_domains(spec, clips, source, target):
    scorer = SCORERS.create(spec).fit(clips(source, target))
    assert np.isfinite(scorer.training_scores()).all()
    assert np.isfinite(scorer.score(unknown(clips(4, 0, 1).x))).all()


def test_constant_embeddings_stay_finite(spec, clips):
    train = clips(20, 3)
    train.x[:] = 1.0
    scorer = SCORERS.create(spec).fit(train)
    assert np.isfinite(scorer.score(unknown(train.x[:4]))).all()
    assert np.isfinite(scorer.training_scores()).all()


def test_what_is_not_finite_is_named(spec, clips):
    train = clips(10, 2)
    train.x[3, 0] = np.nan
    with pytest.raises(AsdError, match="fan/train/3"):
        SCORERS.create(spec).fit(train)


def test_unfitted_scorer_says_so(spec, clips):
    with pytest.raises(RuntimeError, match="fit before score"):
        SCORERS.create(spec).score(clips(2, 0))


def test_no_training_clip_is_refused(spec, clips):
    with pytest.raises(AsdError, match="at least one normal clip"):
        SCORERS.create(spec).fit(clips(0, 0))


def test_a_scorer_gives_evidence_if_it_says_so(spec, clips):
    scorer = SCORERS.create(spec).fit(clips(40, 6))
    assert (scorer.judge(unknown(clips(3, 0, 1).x))[1] is not None) == scorer.gives_evidence
