"""What is measured after the last step of an autoencoder, against a trace and figures of the official code.

The trace: two training batches of vectors with their reconstructions, the covariances that the official code made of
them, and clips scored with these covariances.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from asd_core.backbones.autoencoder import Autoencoder
from asd_core.decision import Gamma
from asd_core.training.loop import order
from asd_core.training.objective import Problem
from asd_core.training.reconstruction import COVARIANCE_PASS, FrameVectors, Reconstruction, Reconstructor

HERE = Path(__file__).parent
TRACE = np.load(HERE / "protocol/mahala.npz")
BAND, FRAMES, BATCH, SEED = 4, 5, 12, 3
CLIPS = ["clip0", "clip1", "clip2", "clip3"]


class Replay(Autoencoder):
    """Knows some vectors and answers each with its stored reconstruction."""

    def __init__(self, x, reconstruction):
        super().__init__(n_mels=BAND, frames=FRAMES, width=4, bottleneck=2)
        self.known, self.answers = torch.from_numpy(x), torch.from_numpy(reconstruction)

    def forward(self, vectors):
        distance, index = (vectors[:, None] - self.known[None]).abs().amax(dim=2).min(dim=1)
        assert distance.max() == 0
        return self.answers[index]


def as_clips(vectors):
    """Each vector as a clip of just so many frames, (bands, frames)."""
    return [vector.reshape(FRAMES, BAND).T for vector in vectors]


def trace(clip="clip0", target=None):
    """The stored batches as a finished training's examples, with one stored clip held out."""
    x, answers = TRACE["small/train_x"].reshape(-1, 20), TRACE["small/train_recon"].reshape(-1, 20)
    is_target = np.tile(TRACE["small/is_target"], 2) if target is None else target
    place = np.concatenate(order(len(x), BATCH, SEED, COVARIANCE_PASS))  # so that the pass meets the stored batches
    shuffled, shuffled_target = np.empty_like(x), np.empty_like(is_target)
    shuffled[place], shuffled_target[place] = x, is_target
    known = TRACE[f"small/{clip}/x"]
    net = Replay(np.concatenate([x, known]), np.concatenate([answers, TRACE[f"small/{clip}/recon"]]))
    training = FrameVectors.of(as_clips(shuffled), shuffled_target, FRAMES)
    held_out = FrameVectors.of(as_clips(known), np.zeros(len(known), dtype=bool), FRAMES)
    return net, Problem(Reconstructor(net), training, held_out)


def test_covariances_of_the_official_code():
    """Centred batch by batch and divided by the number of vectors less one, though each vector has five rows."""
    net, problem = trace()
    Reconstruction().finish(problem, np.zeros(2), BATCH, SEED)
    np.testing.assert_allclose(net.cov_source.numpy(), TRACE["small/cov_source"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(net.cov_target.numpy(), TRACE["small/cov_target"], rtol=2e-5, atol=1e-6)
    assert problem.notices == []


@pytest.mark.parametrize("clip", CLIPS)
def test_from_training_batches_to_clip_scores(clip):
    net, problem = trace(clip)
    extra = Reconstruction().finish(problem, np.zeros(2), BATCH, SEED)
    assert extra["batch_mahala"].shape == (3,)  # two batches of training vectors, one of held-out ones
    assert extra["batch_mahala"][-1] == pytest.approx(TRACE[f"small/{clip}/score_min"].item(), rel=1e-4)
    assert extra["batch_mse"][-1] == pytest.approx(TRACE[f"small/{clip}/score_mse"].item(), rel=1e-5)
    residual = torch.from_numpy(TRACE[f"small/{clip}/x"] - TRACE[f"small/{clip}/recon"])
    scores = net.mahala(residual).numpy()
    stored = [TRACE[f"small/{clip}/score_{domain}"] for domain in ("source", "target")]
    np.testing.assert_allclose(scores, stored, rtol=1e-4)


@pytest.mark.parametrize("batch", [0, 1])
def test_training_loss_of_the_official_code(batch):
    _, problem = trace()
    loss = problem.learner(torch.from_numpy(TRACE["small/train_x"][batch]))
    assert loss.item() == pytest.approx(TRACE[f"small/train_score2d_mean_{batch}"].item(), rel=1e-6)


def test_covariance_is_five_times_a_true_one():
    """In a single batch it is numpy's, but for the divisor: of 100 vectors, 500 rows."""
    x = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
    net = Replay(x, np.zeros_like(x))
    vectors = FrameVectors.of(as_clips(x), np.arange(200) % 2 == 0, FRAMES)
    problem = Problem(Reconstructor(net), vectors, vectors)
    Reconstruction().finish(problem, np.zeros(1), 200, SEED)
    for covariance, rows in ((net.cov_target, x[::2]), (net.cov_source, x[1::2])):
        rows = rows.reshape(-1, BAND)
        np.testing.assert_allclose(covariance.numpy(), np.cov(rows.T) * (len(rows) - 1) / 99, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("present", ["source", "target"])
def test_a_missing_domain_borrows_the_other_covariance(present):
    net, problem = trace(target=np.full(24, present == "target"))
    Reconstruction().finish(problem, np.zeros(2), BATCH, SEED)
    torch.testing.assert_close(net.cov_source, net.cov_target)
    assert torch.isfinite(net.cov_source).all()
    assert len(problem.notices) == 1


def test_batch_values_take_the_last_epoch():
    """One value per mini-batch: the training losses of the last epoch, then the validation batches."""
    _, problem = trace()
    losses = np.arange(10.0)  # five epochs of two batches
    extra = Reconstruction().finish(problem, losses, BATCH, SEED)
    np.testing.assert_array_equal(extra["batch_mse"][:-1], [8.0, 9.0])
    assert (extra["batch_mahala"] >= 0).all()


def test_batch_mahala_equals_brute_force():
    """The smaller of both domains' δ̄ᵀ Σ⁻¹ δ̄, δ̄ the mean residual row of a whole batch."""
    net, problem = trace()
    extra = Reconstruction().finish(problem, np.zeros(1), 24, SEED)  # one batch: its order does not matter
    rows = (TRACE["small/train_x"] - TRACE["small/train_recon"]).reshape(-1, BAND).astype(np.float64)
    mean = rows.mean(axis=0)
    forms = [mean @ np.linalg.inv(c.numpy().astype(np.float64)) @ mean for c in (net.cov_source, net.cov_target)]
    assert extra["batch_mahala"][0] == pytest.approx(min(forms), rel=1e-4)


# ---------------------------------------------------------------- vectors of frames


def test_no_vector_reaches_over_the_end_of_its_clip():
    """Against loops, with clips of different lengths, one of them exactly one vector long."""
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(BAND, frames)).astype(np.float32) for frames in (7, FRAMES, 9, 6)]
    is_target = np.array([False, True, False, True])
    expected, domains = [], []
    for clip, target in zip(clips, is_target, strict=True):
        for first in range(clip.shape[1] - FRAMES + 1):
            expected.append(np.concatenate([clip[:, first + t] for t in range(FRAMES)]))
            domains.append(target)
    vectors = FrameVectors.of(clips, is_target, FRAMES)
    everything = np.arange(len(vectors))
    assert len(vectors) == len(expected) == 3 + 1 + 5 + 2
    np.testing.assert_array_equal(vectors.load(everything)[0].numpy(), expected)
    np.testing.assert_array_equal(vectors.is_target(everything).numpy(), domains)
    some = vectors.part(np.array([8, 0, 3]))
    assert len(some) == 3
    np.testing.assert_array_equal(some.load(np.array([2, 0]))[0].numpy(), [expected[3], expected[8]])
    np.testing.assert_array_equal(some.is_target(np.array([2, 0])).numpy(), [domains[3], domains[8]])


@pytest.mark.parametrize(("seconds", "count"), [(1, 28), (2, 59), (6, 184), (10, 309), (11, 340), (12, 372), (16, 497)])
def test_number_of_vectors_per_clip(seconds, count):
    """The official table of clip lengths, for two clips."""
    frames = 1 + seconds * 16_000 // 512
    clips = [np.zeros((BAND, frames), dtype=np.float32)] * 2
    assert len(FrameVectors.of(clips, np.zeros(2, dtype=bool), FRAMES)) == 2 * count


# ---------------------------------------------------------------- the official run


def test_official_run_has_as_many_values_and_the_same_threshold():
    """24 clips of 1 s, batches of 256: three training batches and one of validation; then the gamma fit."""
    stored = np.load(HERE / "protocol/ae_e2e.npz")
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(128, 32)).astype(np.float32) for _ in range(24)]
    vectors = FrameVectors.of(clips, np.arange(24) % 4 == 0, FRAMES)
    assert len(vectors) == 672
    net = Autoencoder()
    net.load_state_dict(
        {n.removeprefix("state/"): torch.from_numpy(stored[n]) for n in stored.files if n.startswith("state/")}
    )
    rows = rng.permutation(672)
    problem = Problem(Reconstructor(net), vectors.part(rows[68:]), vectors.part(rows[:68]))
    losses = np.concatenate([rng.normal(size=33), stored["fit_values_mse"][:3]])  # 36 steps, as stored
    extra = Reconstruction().finish(problem, losses, 256, 13711)
    for output in ("mse", "mahala"):
        official = stored[f"fit_values_{output}"]
        assert extra[f"batch_{output}"].shape == official.shape == (4,)
        rule = Gamma(fit="official_batch").fit(stored[f"scores_{output}"], official)
        assert rule.threshold_ == pytest.approx(stored[f"threshold_{output}"].item(), rel=1e-9)
        assert rule.parameters_ == pytest.approx(stored[f"gamma_params_{output}"], rel=1e-6)
        decisions = rule.decide(stored[f"scores_{output}"])
        np.testing.assert_array_equal(decisions, stored[f"decisions_{output}"])
    np.testing.assert_array_equal(extra["batch_mse"][:3], stored["fit_values_mse"][:3])


def test_the_pass_over_vectors_shares_no_order_with_an_epoch():
    epochs = {tuple(np.concatenate(order(50, 8, SEED, epoch))) for epoch in (0, 1, 99, COVARIANCE_PASS)}
    assert len(epochs) == 4
