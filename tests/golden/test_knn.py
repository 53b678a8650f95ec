"""Nearest-neighbour scores against figures of the dcase-asd-toolkit and of the UNIS team's code."""

from pathlib import Path

import numpy as np
import pytest

from asd_core.scorers.knn import KNN, oversample
from asd_core.types import EmbeddingSet

STORED = np.load(Path(__file__).parent / "encoders/knn_ldn.npz")
METRICS = {"cosine": "chord", "euclid": "euclidean"}  # their names, ours


def embeddings(x, target=None, sections=None) -> EmbeddingSet:
    n = len(x)
    domains = np.full(n, "") if target is None else np.where(target, "target", "source")
    sections = np.full(n, "00") if sections is None else sections
    return EmbeddingSet(x, np.array([f"m/train/{i}" for i in range(n)]), sections, domains)


TRAIN = embeddings(STORED["train"], STORED["is_target"].astype(bool))
TEST = embeddings(STORED["test"])


@pytest.mark.parametrize("theirs", METRICS)
@pytest.mark.parametrize(("k", "k_target"), [(1, 1), (2, 1), (4, 2), (1, 0)])
def test_two_banks(theirs, k, k_target):
    scorer = KNN(METRICS[theirs], k, k_target, domains="min").fit(TRAIN)
    expected = STORED[f"asdkit/knn/{theirs}/so{k}_ta{k_target}"]
    np.testing.assert_allclose(scorer.score(TEST), expected, atol=1e-5)


@pytest.mark.parametrize("theirs", METRICS)
@pytest.mark.parametrize(("ratio", "k"), [(0.2, 2), (0.05, 5)])
def test_oversampled_target_bank(theirs, ratio, k):
    scorer = KNN(METRICS[theirs], domains="min", smote=ratio, smote_k=k).fit(TRAIN)
    bank = STORED[f"asdkit/knn_smote/{theirs}/r{ratio}_k{k}/target_bank"]
    assert scorer.banks_[1].x.shape == bank.shape
    np.testing.assert_allclose(scorer.banks_[1].x, bank, atol=1e-5)
    np.testing.assert_allclose(scorer.score(TEST), STORED[f"asdkit/knn_smote/{theirs}/r{ratio}_k{k}"], atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_one_bank(k):
    scores = KNN("euclidean", k).fit(TRAIN).score(TEST)
    np.testing.assert_allclose(scores, STORED[f"unis/knn_top{k}"], atol=1e-5)


def test_sections_have_their_own_banks():
    from asd_core.pipeline import score

    train = embeddings(STORED["train"], STORED["is_target"].astype(bool), STORED["section_train"].astype(str))
    test = embeddings(STORED["test"], sections=STORED["section_test"].astype(str))
    _, scores = score({"name": "knn", "metric": "chord", "domains": "min"}, train, test)
    np.testing.assert_allclose(scores, STORED["asdkit/knn/cosine/so1_ta1_sepsection"], atol=1e-5)


@pytest.mark.parametrize(("ratio", "k", "grown"), [(0.1, 2, 99), (0.25, 3, 247), (0.001, 2, 10), (0.5, 10, 10)])
def test_oversampling_counts(ratio, k, grown):
    """Rounded down like the library; nothing is added when the ratio is reached or k asks for too much."""
    target = STORED["is_target"].astype(bool)
    assert 10 + len(oversample(STORED["train"], target, ratio, k, 0)) == grown
