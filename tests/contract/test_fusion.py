"""What every registered fusion rule must keep."""

import numpy as np
import pytest

from asd_core.fusion import FUSIONS

VARIANTS = [
    *({"name": name} for name in sorted(FUSIONS.classes)),
    *({"name": "weighted", "normalise": rule} for rule in ("ztrain", "ecdf", "rank_test")),
    *({"name": "minimum", "normalise": rule} for rule in ("none", "ztrain", "rank_test")),
]
STREAMS = 3


@pytest.fixture(params=VARIANTS, ids=lambda spec: "-".join(map(str, spec.values())))
def rule(request):
    return lambda: FUSIONS.create(request.param)


@pytest.fixture
def training():
    return np.random.default_rng(0).gamma(2, [1, 10, 0.01], (50, STREAMS))


@pytest.fixture
def scores():
    return np.random.default_rng(1).gamma(3, [1, 10, 0.01], (20, STREAMS))


def test_fit_returns_self_and_one_finite_score_per_clip(rule, training, scores):
    fusion = rule()
    assert fusion.fit(training) is fusion
    fused = fusion.fuse(scores)
    assert fused.shape == (20,)
    assert fused.dtype == np.float64
    assert np.isfinite(fused).all()


def test_one_stream_is_itself_up_to_normalisation(rule, training, scores):
    fused = rule().fit(training[:, :1]).fuse(scores[:, :1])
    np.testing.assert_array_equal(np.argsort(fused), np.argsort(scores[:, 0]))


@pytest.mark.parametrize("stream", range(STREAMS))
def test_more_anomalous_in_one_stream_is_never_less_anomalous(rule, training, scores, stream):
    fusion = rule().fit(training)
    before = fusion.fuse(scores)
    for clip, more in enumerate(np.linspace(0.001, 5, len(scores))):
        higher = scores.copy()
        higher[clip, stream] += more
        assert fusion.fuse(higher)[clip] >= before[clip]


def test_more_anomalous_in_all_streams_is_more_anomalous(rule, training, scores):
    fusion = rule().fit(training)
    both = np.concatenate([scores, scores + 3 * training.std(axis=0)])  # of one call: its clips may see each other
    fused = fusion.fuse(both)
    assert (fused[len(scores) :] > fused[: len(scores)]).all()


def test_only_clips_of_transductive_rules_see_each_other(rule, training, scores):
    fusion = rule().fit(training)
    fused = fusion.fuse(scores)
    np.testing.assert_allclose(fusion.fuse(scores[::-1])[::-1], fused, rtol=1e-12)
    if fusion.transductive:
        assert not np.allclose(fusion.fuse(scores[:5]), fused[:5])
        return
    np.testing.assert_allclose([fusion.fuse(row[None])[0] for row in scores], fused, rtol=1e-12)


def test_order_of_training_clips_does_not_matter(rule, training, scores):
    np.testing.assert_allclose(rule().fit(training[::-1]).fuse(scores), rule().fit(training).fuse(scores), rtol=1e-9)


def test_refit_forgets_and_inputs_stay(rule, training, scores):
    copies = training.copy(), scores.copy()
    again = rule().fit(training[:, :2] * 7).fit(training).fuse(scores)
    np.testing.assert_array_equal(again, rule().fit(training).fuse(scores))
    np.testing.assert_array_equal(training, copies[0])
    np.testing.assert_array_equal(scores, copies[1])


@pytest.mark.parametrize("clips", [0, 1])
def test_few_or_no_clips(rule, training, scores, clips):
    fused = rule().fit(training).fuse(scores[:clips])
    assert fused.shape == (clips,)
    assert np.isfinite(fused).all()


@pytest.mark.parametrize("clips", [1, 2, 20])
def test_constant_streams_stay_finite(rule, clips, scores):
    fusion = rule().fit(np.full((clips, STREAMS), 3.0))
    assert np.isfinite(fusion.fuse(scores)).all()
    assert np.isfinite(fusion.fuse(np.full((4, STREAMS), 3.0))).all()
