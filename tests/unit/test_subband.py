"""Band by band matching, against brute force and its own inequalities."""

import numpy as np
import pytest

from asd_core.scorers.knn import KNN
from asd_core.scorers.subband import Subband, dynamic
from asd_core.types import AsdError, EmbeddingSet, Grid
from tests.contract.test_scorers import make, unknown

V, F, D = 3, 4, 6


def bands(n_source, n_target, seed=0, views=V) -> EmbeddingSet:
    clips = make(n_source, n_target, seed, D, (views, F))
    clips.x[:] -= np.linspace(1, 5, D, dtype=np.float32)
    return clips


TRAIN, TEST = bands(30, 6), unknown(bands(8, 0, 1).x)


def column(clips: EmbeddingSet, view: int, band: int) -> EmbeddingSet:
    """One band of one view as plain vectors."""
    return EmbeddingSet(clips.x[:, view, band], clips.clip_ids, clips.sections, clips.domains)


@pytest.mark.parametrize("options", [{}, {"density": "matched"}, {"density": "ratio", "density_k": 9}])
@pytest.mark.parametrize("domains", ["pooled", "min"])
def test_a_stream_is_the_mean_of_one_nearest_neighbour_per_band(options, domains):
    scorer = Subband(["max"], domains=domains, **options).fit(TRAIN)
    own = [KNN("cosine", domains=domains, **options).fit(column(TRAIN, 1, f)) for f in range(F)]
    each = [knn.score(column(TEST, 1, f)) for f, knn in enumerate(own)]
    scores, evidence = scorer.judge(TEST)
    np.testing.assert_allclose(scores, np.mean(each, axis=0), rtol=1e-6)
    np.testing.assert_allclose(evidence.values[:, 0].T, each, rtol=1e-5)
    np.testing.assert_allclose(scorer.training_scores(), np.mean([k.training_scores() for k in own], axis=0), rtol=1e-6)


def test_evidence_names_the_nearest_clip_of_each_band():
    test = unknown(TRAIN.x[:F].copy())
    test.x[0, 0, 2] = TRAIN.x[11, 0, 2]
    _, evidence = Subband().fit(TRAIN).judge(test)
    assert list(evidence.clip[0, 0]) == [0, 0, 11, 0]
    _, joint = Subband(match="joint").fit(TRAIN).judge(unknown(TRAIN.x[:3]))
    assert list(joint.clip[:, 0, 0]) == [0, 1, 2]


def test_bands_lie_where_the_grid_says():
    edges = (20.0, 100.0, 800.0, 3000.0, 8000.0)
    test = EmbeddingSet(TEST.x, TEST.clip_ids, TEST.sections, TEST.domains, grid=Grid(0.16, edges))
    assert tuple(Subband().fit(TRAIN).judge(test)[1].edges) == edges
    assert Subband(match="joint").fit(TRAIN).judge(test)[1].values.shape == (8, 1, 1)


def test_free_bands_are_never_farther_than_coupled_ones():
    free, coupled = (Subband(match=match).fit(TRAIN) for match in ("independent", "joint"))
    assert (free.score(TEST) <= coupled.score(TEST) + 1e-9).all()
    assert (free.training_scores() <= coupled.training_scores() + 1e-9).all()
    flat = TRAIN.x[:, 0] / np.linalg.norm(TRAIN.x[:, 0], axis=2, keepdims=True)
    asked = TEST.x[:, 0] / np.linalg.norm(TEST.x[:, 0], axis=2, keepdims=True)
    by_hand = ((1 - np.einsum("nfd,mfd->nmf", asked, flat)) / 2).mean(axis=2).min(axis=1)
    np.testing.assert_allclose(coupled.score(TEST), by_hand, rtol=1e-5)


@pytest.mark.parametrize("level", ["band", "clip"])
def test_views_are_joined_by_the_rule(level):
    """Against the formulas: q is a distance in units of the training clips' median, joined by Σq²/Σq."""
    distance, own = (
        np.array([[getattr(KNN().fit(column(TRAIN, v, f)), what)(*args(v, f)) for f in range(F)] for v in range(2)])
        for what, args in (("score", lambda v, f: [column(TEST, v, f)]), ("training_scores", lambda v, f: []))
    )
    if level == "clip":
        distance, own = (part.mean(axis=1, keepdims=True) for part in (distance, own))
    q = distance / np.median(own, axis=2, keepdims=True)
    for combine, rule in (
        ("dynamic", (q**2).sum(axis=0) / q.sum(axis=0)),
        ("mean", q.mean(axis=0)),
        ("max", q.max(axis=0)),
    ):
        scorer = Subband(["mean", "max"], combine=combine, level=level).fit(TRAIN)
        scores, evidence = scorer.judge(TEST)
        np.testing.assert_allclose(scores, rule.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(evidence.values[:, 0].mean(axis=1), scores, rtol=1e-5)


def test_dynamic_mean_lies_between_mean_and_maximum():
    q = np.random.default_rng(0).exponential(size=(3, 4, 500))
    joined = (dynamic(q) * q).sum(axis=0)
    assert (joined >= q.mean(axis=0) - 1e-12).all()
    assert (joined <= q.max(axis=0) + 1e-12).all()
    np.testing.assert_allclose(joined, (q**2).sum(axis=0) / q.sum(axis=0))
    np.testing.assert_array_equal((dynamic(np.zeros((2, 3))) * 0).sum(axis=0), 0)


@pytest.mark.parametrize("options", [{}, {"views": ["mean", "max"], "density": "matched"}, {"match": "joint"}])
def test_order_of_the_training_clips_changes_nothing(options):
    order = np.random.default_rng(0).permutation(len(TRAIN))
    scorer = Subband(**options)
    scores, own = scorer.fit(TRAIN).score(TEST), scorer.training_scores()
    np.testing.assert_allclose(scorer.fit(TRAIN[order]).score(TEST), scores, rtol=1e-9)
    np.testing.assert_allclose(scorer.training_scores(), own[order], rtol=1e-9)


def test_a_second_copy_of_every_clip_leaves_the_distances():
    twice = EmbeddingSet(
        *(np.concatenate([part, part]) for part in (TRAIN.x, TRAIN.clip_ids, TRAIN.sections, TRAIN.domains))
    )
    scorer = Subband(["mean"])
    np.testing.assert_allclose(scorer.fit(twice).score(TEST), scorer.fit(TRAIN).score(TEST), rtol=1e-12)


@pytest.mark.parametrize("density", ["matched", "ratio"])
def test_unit_of_distances_cancels(density):
    larger, asked = (EmbeddingSet(part.x * 1024, part.clip_ids, part.sections, part.domains) for part in (TRAIN, TEST))
    scorer = Subband(["max"], metric="euclidean", density=density)
    np.testing.assert_allclose(scorer.fit(larger).score(asked), scorer.fit(TRAIN).score(TEST), rtol=1e-9)


def test_a_view_that_the_network_does_not_give():
    with pytest.raises(AsdError, match='pooling "asp"'):
        Subband(["attention"]).fit(bands(5, 2, views=2))
    with pytest.raises(AsdError, match='pooling "asp"'):
        Subband(["attention"]).expect((2, 8, 16))


@pytest.mark.parametrize("wrong", [{"views": []}, {"views": ["max", "max"]}, {"density_k": 0}])
def test_impossible_options(wrong):
    with pytest.raises(ValueError, match="must"):
        Subband(**wrong)
