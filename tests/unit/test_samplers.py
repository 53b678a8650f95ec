"""Order of examples, and how often each is drawn."""

import numpy as np
import pytest

from asd_core.training.samplers import class_balance, order, target_share


def test_order_of_examples():
    batches = order(10, 4, seed=1, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(10))
    assert [len(b) for b in order(9, 4, 1, 0)] == [4, 4]
    assert [len(b) for b in order(1, 4, 1, 0)] == [1]
    assert not np.array_equal(np.concatenate(batches), np.concatenate(order(10, 4, seed=1, epoch=1)))


def drawn(weights, epochs=60):
    """Relative frequencies over many epochs."""
    count = len(weights)
    picks = np.concatenate([np.concatenate(order(count, 7, 0, epoch, weights)) for epoch in range(epochs)])
    return np.bincount(picks, minlength=count) / len(picks)


def test_weighted_draws_are_a_function_of_seed_and_epoch():
    weights = np.arange(1, 31)
    one, again, other = (np.concatenate(order(30, 8, 5, epoch, weights)) for epoch in (2, 2, 3))
    assert len(one) == 30
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len(set(one)) < 30  # with replacement


def test_weighted_draws_come_in_proportion():
    weights = np.array([0.0, 1, 1, 2, 6] * 20)
    frequencies = drawn(weights).reshape(20, 5).sum(0)
    np.testing.assert_allclose(frequencies, [0, 0.1, 0.1, 0.2, 0.6], atol=0.02)
    assert frequencies[0] == 0


@pytest.mark.parametrize(
    "weights", [np.ones(4), np.zeros(5), np.array([1, 1, 1, 1, -1]), np.array([1, 1, 1, 1, np.nan])]
)
def test_senseless_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be 5 finite numbers"):
        order(5, 2, 0, 0, weights)


LABELS = np.array(["fan"] * 64 + ["valve"] * 16 + ["pump"] * 4)


@pytest.mark.parametrize(("exponent", "shares"), [(0, [64, 16, 4]), (0.5, [8, 4, 2]), (1, [1, 1, 1])])
def test_class_balance(exponent, shares):
    frequencies = drawn(class_balance(LABELS, exponent))
    measured = [frequencies[name == LABELS].sum() for name in ("fan", "valve", "pump")]
    np.testing.assert_allclose(measured, np.array(shares) / sum(shares), atol=0.02)
    assert class_balance(LABELS, exponent).sum() == pytest.approx(1)
    np.testing.assert_allclose(class_balance(LABELS.tolist(), exponent), class_balance(LABELS, exponent))


DOMAINS = np.array((["source"] * 15 + ["target"]) * 5 + ["source"] * 4)


def test_target_share():
    """6 % of the clips are of the target domain and make up 30 % of the draws."""
    frequencies = drawn(target_share(DOMAINS, 0.3))
    assert frequencies[DOMAINS == "target"].sum() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(target_share(DOMAINS == "target", 0.3), target_share(DOMAINS, 0.3))


def test_target_share_of_balanced_classes():
    """Both hold: the share of the domain, and within each domain the proportions of the classes."""
    balanced = class_balance(LABELS, 1)
    weights = target_share(DOMAINS, 0.3, balanced)
    target = DOMAINS == "target"
    assert weights[target].sum() == pytest.approx(0.3)
    assert drawn(weights)[target].sum() == pytest.approx(0.3, abs=0.02)
    for domain in (target, ~target):
        np.testing.assert_allclose(weights[domain] / weights[domain].sum(), balanced[domain] / balanced[domain].sum())


def test_one_domain_alone_has_nothing_to_shift():
    np.testing.assert_allclose(target_share(["source"] * 4, 0.3), np.full(4, 0.25))
    np.testing.assert_allclose(target_share(["target"] * 2, 0.3, np.array([1, 3])), [0.25, 0.75])


@pytest.mark.parametrize("bad", [-0.1, 1.5])
def test_shares_and_exponents_have_bounds(bad):
    with pytest.raises(ValueError, match="exponent must lie between 0 and 1"):
        class_balance(LABELS, bad)
    with pytest.raises(ValueError, match="share must lie between 0 and 1"):
        target_share(DOMAINS, bad)
