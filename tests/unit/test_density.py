"""Distances in units of the local density, against brute force."""

import numpy as np
import pytest

from asd_core.scorers import density
from asd_core.scorers.knn import KNN
from asd_core.types import AsdError, EmbeddingSet
from tests.contract.test_scorers import SCORERS, make, unknown
from tests.unit.test_scorers import distances

BANKS = [
    {"density": mode, "domains": domains, "density_k": k, "density_k_target": k_target, "density_scale": scale}
    for mode in ("matched", "ratio")
    for domains in ("pooled", "min")
    for k, k_target, scale in [(4, 4, "mean"), (16, 9, "sum"), (50, 50, "mean"), (50, 50, "sum")]
]


def ratios(x, bank, metric, k, mode, density_k, scale):
    """Scores of `x` from one bank, as the formulas say it."""
    own = distances(bank, bank, metric)
    np.fill_diagonal(own, np.inf)
    others = min(density_k, len(bank) - 1)
    rho = getattr(np.sort(own, axis=1)[:, :others], scale)(axis=1)
    raw = distances(x, bank, metric)
    order = np.argsort(raw if mode == "matched" else raw / rho, axis=1)[:, :k]
    return np.take_along_axis(raw / rho, order, axis=1).mean(axis=1)


def without(train: EmbeddingSet, i: int) -> EmbeddingSet:
    return train[np.arange(len(train)) != i]


@pytest.mark.parametrize("options", BANKS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "chord"])
@pytest.mark.parametrize("k", [1, 3])
def test_equals_brute_force(options, metric, k):
    train, test = make(40, 12), make(15, 0, 1)
    scores = KNN(metric, k, **options).fit(train).score(unknown(test.x))
    target = train.domains == "target"
    groups = [(slice(None), "density_k")]
    if options["domains"] == "min":
        groups = [(~target, "density_k"), (target, "density_k_target")]
    expected = np.min(
        [
            ratios(test.x, train.x[rows], metric, k, options["density"], options[K], options["density_scale"])
            for rows, K in groups
        ],
        axis=0,
    )
    np.testing.assert_allclose(scores, expected, rtol=2e-6)


@pytest.mark.parametrize("options", BANKS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("k", [1, 3])
def test_a_left_out_clip_is_scored_as_if_it_had_never_been_there(options, k):
    """Neither as a match nor in the density of its match: every clip against a scorer fitted without it."""
    train = make(25, 5)
    scorer = KNN("euclidean", k, **options)
    refitted = [scorer.fit(without(train, i)).score(train[[i]])[0] for i in range(len(train))]
    np.testing.assert_allclose(scorer.fit(train).training_scores(), refitted, rtol=1e-9)


def test_the_match_may_differ_from_the_nearest_row():
    """Left: two rows close together; right: a sparse pair. The clip is nearer to the left, less so in its unit."""
    train = make(4, 0, dim=1)
    train.x[:, 0] = [0, 1, 10, 16]
    test = unknown(np.array([[5.0]], dtype=np.float32))
    assert KNN("euclidean", density="matched", density_k=1).fit(train).score(test) == pytest.approx(4 / 1)
    assert KNN("euclidean", density="ratio", density_k=1).fit(train).score(test) == pytest.approx(5 / 6)


@pytest.mark.parametrize("mode", ["matched", "ratio"])
def test_unit_of_embeddings_cancels(mode):
    train, test = make(40, 8), make(9, 0, 1)
    larger = EmbeddingSet(train.x * 1024, train.clip_ids, train.sections, train.domains)
    scorer = KNN("euclidean", density=mode)
    scores, own = scorer.fit(train).score(unknown(test.x)), scorer.training_scores()
    np.testing.assert_allclose(scorer.fit(larger).score(unknown(test.x * 1024)), scores, rtol=1e-12)
    np.testing.assert_allclose(scorer.training_scores(), own, rtol=1e-12)


def test_domains_of_different_density_become_comparable():
    rng = np.random.default_rng(0)
    train, test = make(200, 20), make(100, 100, 1)
    for x, tight in ((train.x, 200), (test.x, 100)):
        x[:tight] = rng.normal(size=(tight, 6)) * 0.1
        x[tight:] = rng.normal(size=(len(x) - tight, 6)) + 20
    factors = []
    for options in ({}, {"density": "matched"}, {"density": "ratio"}):
        scores = KNN("euclidean", **options).fit(train).score(unknown(test.x))
        factors.append(np.median(scores[100:]) / np.median(scores[:100]))
    assert factors[0] > 10
    assert all(0.5 < factor < 2 for factor in factors[1:])


@pytest.mark.parametrize("mode", ["matched", "ratio"])
@pytest.mark.parametrize("copies", [2, 5, 9])
def test_duplicates_do_not_blow_scores_up(mode, copies):
    """Five copies have ρ = 0 with K = 4; its floor bounds what their neighbours score."""
    train = make(40, 6)
    train.x[:copies] = train.x[0]
    scorer = KNN("euclidean", density=mode).fit(train)
    near = unknown(train.x[:1] + np.float32(0.01))
    assert 0 < scorer.score(near)[0] < 20
    own = scorer.training_scores()
    np.testing.assert_array_equal(own[:copies], 0)
    assert (own[copies:] > 0).all()
    assert own.max() < 5 / density.FLOOR


def test_only_duplicates_give_plain_distances():
    train = make(12, 3)
    train.x[:] = train.x[0]
    scorer = KNN("euclidean", density="ratio").fit(train)
    far = unknown(train.x[:1] + np.float32(2))
    assert scorer.score(far)[0] == pytest.approx(2 * np.sqrt(6), rel=1e-6)
    np.testing.assert_array_equal(scorer.training_scores(), 0)


@pytest.mark.parametrize("source", [1, 30])
def test_a_lone_clip_of_a_domain_joins_the_other_bank(source):
    train = make(source, 31 - source)
    test = unknown(make(9, 0, 1).x)
    apart, pooled = (KNN("euclidean", domains=domains, density="ratio").fit(train) for domains in ("min", "pooled"))
    np.testing.assert_array_equal(apart.score(test), pooled.score(test))


def test_of_two_target_clips_a_left_out_one_is_judged_by_the_source():
    train = make(30, 2)
    scorer = KNN("euclidean", domains="min", density="ratio").fit(train)
    only_source = KNN("euclidean", density="ratio").fit(train[:30])
    np.testing.assert_allclose(scorer.training_scores()[30:], only_source.score(train[30:]), rtol=1e-12)


def test_banks_larger_than_a_block_of_distances(monkeypatch):
    train, test = make(40, 8), unknown(make(9, 0, 1).x)
    whole = KNN("euclidean", density="ratio").fit(train)
    scores, own = whole.score(test), whole.training_scores()
    monkeypatch.setattr(density, "BLOCK", 100)  # two rows of 48
    pieces = KNN("euclidean", density="ratio").fit(train)
    np.testing.assert_allclose(pieces.score(test), scores, rtol=1e-12)
    np.testing.assert_allclose(pieces.training_scores(), own, rtol=1e-12)


@pytest.mark.parametrize(
    "options", [{"density_k": 0}, {"density_k_target": 0}, {"density": "ratio", "smote": 0.1}, {"density": "sum"}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(AsdError, match="density"):
        SCORERS.create({"name": "knn", **options})
