"""Mixing of training clips: laws, pairs, and repeatability."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from asd_core.training.augment import Mixing, draw_beta, draw_uniform, mix_beta, mix_uniform


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch():
    x = torch.randn(6, 100, generator=seeded(1))
    return x, F.one_hot(torch.tensor([0, 1, 2, 3, 0, 1]), 4).float()


@pytest.mark.parametrize(("mix", "amount"), [(mix_uniform, 0.5), (mix_uniform, 1.0), (mix_beta, 0.4)])
def test_clips_and_labels_are_mixed_alike(mix, amount, batch):
    x, labels = batch
    mixed_x, mixed_labels, mixing = mix(x, labels, amount, seeded())
    for i, (j, w) in enumerate(zip(mixing.partner.tolist(), mixing.weight.tolist(), strict=True)):
        torch.testing.assert_close(mixed_x[i], w * x[i] + (1 - w) * x[j])
        torch.testing.assert_close(mixed_labels[i], w * labels[i] + (1 - w) * labels[j])
    torch.testing.assert_close(mixed_labels.sum(1), torch.ones(6))
    assert mixed_x.dtype == torch.float32


@pytest.mark.parametrize(("mix", "amount"), [(mix_uniform, 0.5), (mix_beta, 0.4)])
def test_same_generator_same_mixture_whatever_the_global_state(mix, amount, batch):
    before = [t.clone() for t in batch]
    first = mix(*batch, amount, seeded(3))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002  the legacy global state is what must not matter
    again = mix(*batch, amount, seeded(3))
    other = mix(*batch, amount, seeded(4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))


def test_global_generators_are_left_alone(batch):
    state = torch.get_rng_state()
    mix_beta(*batch, 0.4, seeded())
    mix_uniform(*batch, 0.5, seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_mixed_with_probability_zero(batch):
    x, labels, mixing = mix_uniform(*batch, 0.0, seeded())
    assert torch.equal(x, batch[0])
    assert torch.equal(labels, batch[1])
    assert (mixing.weight == 1).all()


@pytest.mark.parametrize("probability", [0.25, 0.5, 1.0])
def test_uniform_law(probability):
    mixing = draw_uniform(20_000, probability, seeded())
    mixed = mixing.weight[mixing.weight < 1]
    assert len(mixed) / 20_000 == pytest.approx(probability, abs=0.02)
    assert mixed.mean().item() == pytest.approx(0.5, abs=0.015)
    assert mixed.var().item() == pytest.approx(1 / 12, abs=0.003)
    assert mixing.partner.sort().values.tolist() == list(range(20_000))


@pytest.mark.parametrize("alpha", [0.35, 0.4, 2.0])
def test_beta_law(alpha):
    generator = seeded()
    weights = []
    for _ in range(4000):
        mixing = draw_beta(3, alpha, generator)
        assert mixing.weight.unique().numel() == 1
        assert sorted(mixing.partner.tolist()) == [0, 1, 2]
        weights.append(mixing.weight[0].item())
    assert np.mean(weights) == pytest.approx(0.5, abs=0.03)
    assert np.var(weights) == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01)
    assert 0 <= min(weights) <= max(weights) <= 1


def test_lengths_of_mixed_clips():
    """A clip that was left as it is keeps its length."""
    mixing = Mixing(torch.tensor([1, 2, 0]), torch.tensor([0.3, 1.0, 0.6]))
    assert mixing.lengths(torch.tensor([10, 20, 30])).tolist() == [20, 20, 30]


def test_any_label_can_be_mixed():
    """Attribute values of which a clip may have none: a row of zeros, so that a mixed clip has a share of one."""
    mixing = Mixing(torch.tensor([1, 0]), torch.tensor([0.25, 1.0]))
    assert mixing(torch.tensor([[0.0, 0.0], [0.0, 1.0]])).tolist() == [[0.0, 0.75], [0.0, 1.0]]
