"""Neighbours found in the cells of an inverted file, beside those of the exact search."""

import dataclasses

import faiss
import numpy as np
import pytest

from asd_core.pipeline import score
from asd_core.scorers.banks import Cells, InvertedFile, nearest
from asd_core.scorers.knn import KNN
from asd_core.types import EmbeddingSet
from tests.contract.test_scorers import unknown


def clustered(n: int, seed: int = 0, clusters: int = 40, dim: int = 16) -> np.ndarray:
    """(N, D) around centres that are the same for all seeds."""
    centres = 3 * np.random.default_rng(99).normal(size=(clusters, dim))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(clusters, size=n)] + rng.normal(size=(n, dim))).astype(np.float32)


def training(n: int, target: int = 0) -> EmbeddingSet:
    domains = np.where(np.arange(n) < n - target, "source", "target")
    return dataclasses.replace(unknown(clustered(n)), domains=domains)


def found(scorer: KNN, train: EmbeddingSet, test: EmbeddingSet) -> list[np.ndarray]:
    scores, evidence = scorer.fit(train).judge(test)
    return [scores, evidence.clip, scorer.training_scores()]


@pytest.mark.parametrize("options", [{}, {"k": 3}, {"metric": "euclidean", "domains": "zscore"}, {"smote": 0.1}])
def test_all_cells_are_the_exact_search(options):
    train, test = training(1200, 40), unknown(clustered(50, 1))
    exact = found(KNN(**options), train, test)
    inverted = KNN(**options, index="ivf", cells=20, probes=99)
    for ours, expected in zip(found(inverted, train, test), exact, strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert inverted.notices_[0].startswith("IVF (20 of 20 cells searched")


@pytest.mark.parametrize("k", [1, 5])
def test_most_neighbours_are_found_in_a_few_cells(k):
    """The recall that is told is that of the neighbours found, and holds for new clips of the same kind."""
    x, queries = clustered(3000), clustered(400, 1)
    inverted = InvertedFile(x, Cells(count=40, probes=4))
    told, asked = inverted.recall(k, len(x))
    exact, ours = nearest(queries, x, k), inverted.nearest(queries, k)
    true = np.mean([len(set(a) & set(b)) / k for a, b in zip(ours, exact, strict=True)])
    assert asked == 200
    assert 0.9 < true <= 1
    assert abs(told - true) < 0.05
    poor, _ = InvertedFile(x, Cells(count=40, probes=1)).recall(k, len(x))
    assert poor < told


def test_recall_counts_no_clip_as_its_own_neighbour():
    """Pairs that two cells part: in one cell none of them finds its partner, though all find themselves."""
    rng = np.random.default_rng(0)
    left = np.column_stack([np.full(200, -1.0), 100 * np.arange(200)])
    x = np.concatenate([left, left * [-1, 1]]) + 1e-3 * rng.normal(size=(400, 2))
    inverted = InvertedFile(x.astype(np.float32), Cells(count=2, probes=1))
    inverted.index.reset()
    centres = faiss.IndexFlatL2(2)
    centres.add(np.array([[-1, 0], [1, 0]], dtype=np.float32) * 1e6)
    inverted.index.quantizer = centres
    inverted.index.add(inverted.x)
    assert inverted.recall(1, 400)[0] < 0.1


def test_scores_from_cells_are_never_smaller():
    """Of one cloud, whose cells part many neighbours."""
    train = dataclasses.replace(training(2000), x=clustered(2000, clusters=1))
    test = unknown(clustered(100, 1, clusters=1))
    exact = KNN().fit(train).score(test)
    ours = KNN(index="ivf", cells=30, probes=1).fit(train).score(test)
    assert (ours >= exact).all()
    assert (ours > exact).any()


def test_cells_do_not_depend_on_threads():
    x, before = clustered(2000), faiss.omp_get_max_threads()
    try:
        ids = []
        for threads in (1, 2, 4):
            faiss.omp_set_num_threads(threads)
            ids.append(InvertedFile(x, Cells(count=30, probes=2)).nearest(clustered(300, 1), 3))
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    np.testing.assert_array_equal(ids[0], ids[1])
    np.testing.assert_array_equal(ids[0], ids[2])


def test_where_cells_hold_too_few_all_are_searched():
    x = np.concatenate([clustered(300), clustered(3, 1) + 1000])
    inverted = InvertedFile(x, Cells(count=4, probes=1))
    np.testing.assert_array_equal(np.sort(inverted.nearest(x[-3:], 10)), np.sort(nearest(x[-3:], x, 10)))


def test_small_banks_are_searched_exactly_and_it_is_told():
    train, test = training(1600, 10), unknown(clustered(30, 1))
    exact = KNN(domains="min").fit(train)
    assert exact.notices_ == []
    scored = score({"name": "knn", "domains": "min", "index": "ivf", "probes": 40}, train, dataclasses.replace(test))
    np.testing.assert_array_equal(scored.test, exact.score(test))
    source, target = scored.notices
    assert source == "IVF (40 of 40 cells searched, 1590 clips): recall@1 1.000 on 200 training clips."
    assert "A bank of 10 clips is too small for IVF with 3 cells, which takes 117" in target


@pytest.mark.parametrize("wrong", [{"probes": 0}, {"cells": 0}])
def test_impossible_options(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        KNN(index="ivf", **wrong)


def test_a_density_needs_all_distances():
    with pytest.raises(ValueError, match="exclude each other"):
        KNN(index="ivf", density="matched")
