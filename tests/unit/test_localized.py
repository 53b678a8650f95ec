"""Units, their memories and densities, against brute force."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from asd_core.scorers import banks, localized
from asd_core.scorers.localized import Localized, spread
from asd_core.types import AsdError, EmbeddingSet, Grid
from tests.contract.test_scorers import make, unknown
from tests.unit.test_scorers import distances

T, F, D = 11, 2, 5
OPTIONS = [
    {"density": mode, "domains": domains, "density_k": k, "density_k_target": k_target, "density_scale": scale}
    for mode in (None, "matched", "ratio")
    for domains in ("pooled", "min")
    for k, k_target, scale in [(4, 4, "mean"), (7, 3, "sum"), (500, 500, "mean")]
]


def patches(n_source, n_target, seed=0, steps=T) -> EmbeddingSet:
    clips = make(n_source, n_target, seed, D, (steps, F))
    clips.x[:] -= np.linspace(1, 5, D, dtype=np.float32)  # in all directions: no cosine is near 1
    return clips


def named(options):
    return "-".join(map(str, options.values()))


def unit_vectors(x, window, stride, metric="cosine"):
    """(N, U, F, D) units, as the definition says it."""
    n, steps = x.shape[:2]
    count = 1 + max(0, -(-(steps - window) // stride))
    found = np.empty((n, count, *x.shape[2:]))
    for u in range(count):
        found[:, u] = x[:, u * stride : u * stride + window].astype(np.float64).mean(axis=1)  # perhaps cut short
    return found if metric == "euclidean" else found / np.linalg.norm(found, axis=-1, keepdims=True)


def brute_force(test, train, window=4, stride=2, density="matched", density_k=4, scale="mean", metric="cosine"):
    """(N, U, F) unit scores with all distances in one matrix; train is one memory."""
    x, bank = unit_vectors(test, window, stride, metric), unit_vectors(train, window, stride, metric)
    values = np.empty(x.shape[:3])
    owner = np.repeat(np.arange(len(train)), bank.shape[1])
    for f in range(x.shape[2]):
        q, y = x[:, :, f].reshape(-1, x.shape[-1]), bank[:, :, f].reshape(-1, x.shape[-1])
        raw = distances(q, y, metric)
        if density is None:
            values[:, :, f] = raw.min(axis=1).reshape(x.shape[:2])
            continue
        own = distances(y, y, metric)
        rho = np.empty(len(y))
        for i in range(len(y)):
            others = np.sort(own[i][owner != owner[i]])[:density_k]
            rho[i] = getattr(others, scale)()
        match = (raw if density == "matched" else raw / rho).argmin(axis=1)
        values[:, :, f] = (raw / rho)[np.arange(len(q)), match].reshape(x.shape[:2])
    return values


@pytest.mark.parametrize("options", OPTIONS, ids=named)
@pytest.mark.parametrize(
    ("window", "stride", "metric"),
    [(4, 2, "cosine"), (1, 1, "chord"), (3, 2, "euclidean"), (20, 5, "cosine"), (4, 3, "euclidean")],
)
def test_equals_brute_force(options, window, stride, metric):
    train, test = patches(12, 5), unknown(patches(6, 0, 1).x)
    scorer = Localized(window, stride, metric, **options).fit(train)
    scores, evidence = scorer.judge(test)
    target = train.domains == "target"
    groups = [(slice(None), "density_k")]
    if options["domains"] == "min":
        groups = [(~target, "density_k"), (target, "density_k_target")]
    given = (options["density"], options["density_scale"])
    maps = [brute_force(test.x, train.x[r], window, stride, given[0], options[k], given[1], metric) for r, k in groups]
    expected = np.min(maps, axis=0)
    np.testing.assert_allclose(evidence.values, expected, rtol=1e-6)
    flat = -np.sort(-expected.reshape(6, -1), axis=1)
    np.testing.assert_allclose(scores, flat[:, : int(np.ceil(0.1 * flat.shape[1]))].mean(axis=1), rtol=1e-6)
    broad = Localized(window, stride, metric, "broad", **options).fit(train).score(test)
    np.testing.assert_allclose(broad, flat.mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_a_left_out_clip_is_scored_as_if_it_had_never_been_there(options):
    """Neither matched nor part of a density: every clip against a scorer fitted without it."""
    train = patches(9, 4)
    scorer = Localized(**options)
    everyone = np.arange(len(train))
    refitted = [scorer.fit(train[everyone != i]).score(train[[i]])[0] for i in everyone]
    np.testing.assert_allclose(scorer.fit(train).training_scores(), refitted, rtol=1e-6)


def test_memory_keeps_all_target_units_and_some_source_units():
    scorer = Localized(memory=30).fit(patches(40, 3))
    for ((_, owner, _),) in scorer.banks_:
        assert (owner >= 40).sum() == 3 * 5
        assert (owner < 40).sum() == 30


@pytest.mark.parametrize("choice", ["random", "greedy"])
def test_order_of_the_training_clips_changes_nothing(choice):
    train, test = patches(40, 4), unknown(patches(5, 0, 1).x)
    order = np.random.default_rng(0).permutation(44)
    scorer = Localized(memory=60, choice=choice)
    scores, own = scorer.fit(train).score(test), scorer.training_scores()
    np.testing.assert_allclose(scorer.fit(train[order]).score(test), scores, rtol=1e-9)
    np.testing.assert_allclose(scorer.training_scores(), own[order], rtol=1e-9)


def test_a_second_copy_of_every_clip_leaves_the_distances():
    train, test = patches(12, 3), unknown(patches(5, 0, 1).x)
    twice = EmbeddingSet(
        *(np.concatenate([part, part]) for part in (train.x, train.clip_ids, train.sections, train.domains))
    )
    scorer = Localized(density=None)
    np.testing.assert_allclose(scorer.fit(twice).score(test), scorer.fit(train).score(test), rtol=1e-12)
    np.testing.assert_allclose(scorer.fit(twice).training_scores(), 0, atol=1e-7)


@pytest.mark.parametrize("mode", ["matched", "ratio"])
def test_copies_of_clips_do_not_blow_scores_up(mode):
    train = patches(20, 3)
    train.x[:8] = train.x[0]
    scorer = Localized(density=mode).fit(train)
    near = unknown(train.x[:1] + np.float32(0.01))
    assert 0 <= scorer.score(near)[0] < 50
    assert np.isfinite(scorer.training_scores()).all()


def test_scale_of_all_distances_cancels():
    """Around one common direction, far from it: cosine distances grow with the square of the scatter."""
    rng = np.random.default_rng(0)
    train, test = patches(15, 4), patches(5, 0, 1)
    scores = []
    for spread_by in (1e-2, 2e-2):
        parts = []
        for part, seed in ((train, 2), (test, 3)):
            rng = np.random.default_rng(seed)
            x = rng.normal(size=part.x.shape).astype(np.float32) * spread_by
            x[..., 0] = 1.0
            parts.append(EmbeddingSet(x, part.clip_ids, part.sections, part.domains))
        scores.append(Localized(1, 1).fit(parts[0]).score(unknown(parts[1].x)))
    np.testing.assert_allclose(scores[0], scores[1], rtol=5e-3)


def test_clips_of_different_length_are_what_they_are_alone():
    train, test = patches(12, 4), patches(3, 0, 1)
    steps = np.array([11, 7, 3])
    for row, length in zip(test.x, steps, strict=True):
        row[length:] = 0
    given = unknown(test.x)
    mixed = EmbeddingSet(given.x, given.clip_ids, given.sections, given.domains, steps=steps)
    scorer = Localized(density=None).fit(train)
    scores, evidence = scorer.judge(mixed)
    for i, length in enumerate(steps):
        alone, own = scorer.judge(unknown(test.x[i : i + 1, :length]))
        assert scores[i] == pytest.approx(alone[0], rel=1e-9)
        np.testing.assert_array_equal(evidence.values[i, : own.values.shape[1]], own.values[0])
        assert np.isnan(evidence.values[i, own.values.shape[1] :]).all()
        assert (evidence.clip[i, own.values.shape[1] :] == -1).all()


def test_evidence_says_when_in_which_band_and_beside_which_clip():
    """One unit of a test clip is taken from training clip 7, another is like nothing."""
    grid = Grid(0.16, (20.0, 500.0, 8000.0))
    train, test = patches(20, 4), patches(1, 0, 1)
    train.x[..., 1, 0] += 8
    test.x[0] = train.x[7]
    test.x[0, 6:10, 1, 0] = -8
    given = EmbeddingSet(test.x, np.array(["fan/test/0"]), np.array(["00"]), np.array([""]), grid=grid)
    _, evidence = Localized(stride=1, density=None).fit(train).judge(given)
    assert np.unravel_index(np.nanargmax(evidence.values[0]), evidence.values[0].shape) == (6, 1)
    assert evidence.start[6] == pytest.approx(0.96)
    assert evidence.stop[6] == pytest.approx(1.6)
    assert tuple(evidence.edges) == grid.edges
    assert evidence.values[0, 0, 0] == pytest.approx(0, abs=1e-6)
    assert (evidence.clip[0, :, 0] == 7).all()
    np.testing.assert_array_equal(evidence.unit[0, :, 0], np.arange(8))


def test_half_precision_patches():
    train, test = patches(12, 4), unknown(patches(6, 0, 1).x)
    half = [EmbeddingSet(p.x.astype(np.float16), p.clip_ids, p.sections, p.domains) for p in (train, test)]
    scores = Localized().fit(train).score(test)
    np.testing.assert_allclose(Localized().fit(half[0]).score(half[1]), scores, rtol=5e-3)


@pytest.mark.parametrize("mode", [None, "matched", "ratio"])
@pytest.mark.parametrize("choice", ["random", "greedy"])
def test_blocks_do_not_matter(monkeypatch, mode, choice):
    train, test = patches(12, 4), unknown(patches(6, 0, 1).x)
    train = dataclasses.replace(train, steps=np.arange(16) % 7 + 5)

    def found() -> list[np.ndarray]:
        scorer = Localized(density=mode, domains="min", memory=20, choice=choice).fit(train)
        scores, evidence = scorer.judge(test)
        return [scores, evidence.values, evidence.clip, evidence.unit, scorer.training_scores()]

    whole = found()
    monkeypatch.setattr(banks, "BLOCK", 3)
    monkeypatch.setattr(localized, "BLOCK", 7)  # units: one clip at a time, or two short ones
    for ours, expected in zip(found(), whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_no_more_than_a_block_of_units_is_in_memory(monkeypatch):
    """Of eight times as many clips, only what is remembered and the scores take more."""
    monkeypatch.setattr(localized, "BLOCK", 64)
    peaks = []
    for count in (40, 320):
        train = make(count, 0, 0, 96, (32, F))
        scorer = Localized(memory=100)
        tracemalloc.start()
        try:
            scorer.fit(train).training_scores()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert train.x.nbytes > 4 * peaks[1]
    assert peaks[1] < 2 * peaks[0]


def test_greedy_choice_is_farthest_first():
    x = np.array([[0.0], [0.1], [1.0], [5.0], [-4.0]], dtype=np.float32)
    assert list(spread(x, 4)) == [1, 3, 4, 2]
    assert sorted(spread(np.random.default_rng(0).normal(size=(30, 70)).astype("f4"), 30)) == list(range(30))


def test_another_shape_is_refused():
    scorer = Localized().fit(patches(5, 2))
    with pytest.raises(AsdError, match="cannot be compared"):
        scorer.score(unknown(make(2, 0, 0, 7, (T, F)).x))


@pytest.mark.parametrize("wrong", [{"stride": 5}, {"share": 0.0}, {"memory": 0}, {"density_k": 0}, {"stride": 0}])
def test_impossible_options(wrong):
    with pytest.raises(ValueError, match="must"):
        Localized(**wrong)
