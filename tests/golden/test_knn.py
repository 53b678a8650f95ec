"""Nearest-neighbour and k-means scores against figures of the dcase-asd-toolkit, the UNIS team's code and GenRep."""

from pathlib import Path

import numpy as np
import pytest
from imblearn.over_sampling import SMOTE

from asd_core.scorers.base import on_sphere
from asd_core.scorers.kmeans import KMeans
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
    scores = score({"name": "knn", "metric": "chord", "domains": "min"}, train, test).test
    np.testing.assert_allclose(scores, STORED["asdkit/knn/cosine/so1_ta1_sepsection"], atol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "k", "rounding", "grown"),
    [
        (0.1, 2, "down", 99),
        (0.25, 3, "down", 247),
        (0.25, 3, "nearest", 248),
        (0.001, 2, "down", 10),
        (0.5, 10, "down", 10),
    ],
)
def test_oversampling_counts(ratio, k, rounding, grown):
    """Rounded down like the library, or to the nearest (and of two to the even) number as in the UNIS team's code;
    nothing is added when the ratio is reached or k asks for too much."""
    target = STORED["is_target"].astype(bool)
    assert 10 + len(oversample(STORED["train"], target, ratio, k, 42, rounding)) == grown


def test_asking_for_a_ratio_is_asking_for_its_count():
    """The library's own ratio gives the rows that its count gives: ours may count."""
    target = STORED["is_target"].astype(int)
    theirs, _ = SMOTE(sampling_strategy=0.25, k_neighbors=3, random_state=42).fit_resample(STORED["train"], target)
    assert len(theirs) == 1000 + 237
    np.testing.assert_array_equal(oversample(STORED["train"], target == 1, 0.25, 3, 42), theirs[1000:])


# ---------------------------------------------------------------- local density, domain z-scores

UNIS_METRICS = {  # their distance and normalisation, our metric, tolerance: theirs are float64 throughout
    ("l2", 0): ("euclidean", 1e-8),
    ("l2", 1): ("chord", 1e-5),
    ("cosine", 0): ("cosine", 1e-5),
    ("cosine", 1): ("cosine", 1e-5),
}


@pytest.mark.parametrize("theirs", METRICS)
@pytest.mark.parametrize(("n", "k"), [(1, 4), (2, 4), (1, 16)])
def test_rescaled_distances(theirs, n, k):
    scorer = KNN(METRICS[theirs], n, density="ratio", density_k=k).fit(TRAIN)
    np.testing.assert_allclose(scorer.score(TEST), STORED[f"asdkit/rescale/{theirs}/n{n}_k{k}"], atol=1e-6)
    constants = scorer.banks_[0].scale_ * (2 if theirs == "cosine" else 1)  # a chord is half of theirs
    np.testing.assert_allclose(constants, STORED[f"asdkit/rescale/{theirs}/k{k}/ref_norm_const"], atol=1e-6)


@pytest.mark.parametrize(("distance", "norm"), UNIS_METRICS)
@pytest.mark.parametrize("scale", ["sum", "mean"])
def test_density_of_each_domain_or_of_both(distance, norm, scale):
    metric, atol = UNIS_METRICS[distance, norm]
    options = {"density": "ratio", "density_k": 16, "density_scale": scale}
    for name, more in (("domain_local_density", {"domains": "min", "density_k_target": 9}), ("local_density", {})):
        scores = KNN(metric, **options, **more).fit(TRAIN).score(TEST)
        np.testing.assert_allclose(scores, STORED[f"unis/{name}/{distance}_norm{norm}_{scale}"], atol=atol)


@pytest.mark.parametrize("k_target", [9, 16])
def test_sums_of_the_submission(k_target):
    """K of the target bank is capped at its nine other clips."""
    options = {"density_k": 16, "density_k_target": k_target, "density_scale": "sum"}
    scorer = KNN("euclidean", domains="min", density="ratio", **options).fit(TRAIN)
    source, target = scorer.banks_
    np.testing.assert_allclose(source.scale_, STORED["unis/source_scales_l2_sum_k16"], rtol=1e-12)
    np.testing.assert_allclose(target.scale_, STORED["unis/target_scales_l2_sum_k9"], rtol=1e-12)
    expected = STORED["unis/domain_local_density/target_k_larger_than_bank"]
    np.testing.assert_allclose(scorer.score(TEST), expected, atol=1e-8)


def test_dividing_the_match_is_not_the_smallest_ratio():
    """The formula of one report and the code of the others differ, on figures that the others' code gave."""
    matched, ratio = (KNN("chord", density=mode).fit(TRAIN).score(TEST) for mode in ("matched", "ratio"))
    assert (matched >= ratio - 1e-12).all()
    assert (matched > ratio + 1e-3).any()


@pytest.mark.parametrize(("distance", "norm"), UNIS_METRICS)
@pytest.mark.parametrize("k", [1, 3])
def test_both_domains_over_the_target_deviation(distance, norm, k):
    metric, atol = UNIS_METRICS[distance, norm]
    scores = KNN(metric, k, domains="zscore", deviation="target").fit(TRAIN).score(TEST)
    np.testing.assert_allclose(scores, STORED[f"unis/domain_zscore/{distance}_norm{norm}_top{k}"], atol=atol)


@pytest.mark.parametrize("k", [1, 3])
def test_distances_to_each_domain(k):
    """Of GenRep, before it standardises them over the test set."""
    banks = KNN("euclidean", k, domains="min").fit(TRAIN).banks_
    for name, bank in zip(("source", "target"), banks, strict=True):
        expected = STORED[f"genrep/mixNone_alpha0.9_top{k}/value_{name}"]
        np.testing.assert_allclose(bank.distances(TEST.x), expected, atol=1e-5)


# ---------------------------------------------------------------- k-means, of the pinned scikit-learn


@pytest.mark.parametrize(("theirs", "ours"), [("cosine", "cosine"), ("euclid", "euclidean")])
def test_source_clusters_and_target_clips(theirs, ours):
    scorer = KMeans(16, ours, normalise=theirs == "cosine", target_clips=True).fit(TRAIN)
    np.testing.assert_allclose(scorer.score(TEST), STORED[f"asdkit/kmeans16/{theirs}"], atol=1e-5)
    centres = on_sphere(scorer.centres_) if theirs == "cosine" else scorer.centres_
    np.testing.assert_allclose(centres, STORED[f"asdkit/kmeans16/{theirs}/centers"], atol=1e-5)


def test_clusters_of_both_domains():
    scores = KMeans(10, seed=42).fit(TRAIN).score(TEST)
    np.testing.assert_allclose(scores, STORED["unis/kmeans_cosine10"], atol=1e-5)
