"""Poolings on tokens small enough to compute by hand."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from asd_core.backbones.pooling import POOLINGS, AttentiveStatistics, Cls, GeneralisedMean, Mean
from asd_core.types import AsdError

TOKENS = torch.tensor([[[1.0, -1.0], [2.0, -8.0], [3.0, 1.0]]])
FIRST_TWO = torch.tensor([[True, True, False]])


def test_mean():
    assert Mean(2)(TOKENS).tolist() == [[2.0, pytest.approx(-8 / 3)]]
    assert Mean(2)(TOKENS, FIRST_TWO).tolist() == [[1.5, -4.5]]


def test_cls():
    assert Cls(2).takes_cls
    assert Cls(2)(TOKENS).tolist() == [[1.0, -1.0]]


def test_generalised_mean_clamps():
    out = GeneralisedMean(2)(TOKENS)[0].tolist()
    assert out[0] == pytest.approx(((1 + 8 + 27) / 3) ** (1 / 3))
    assert out[1] == pytest.approx((1 / 3) ** (1 / 3), rel=1e-5)


def test_generalised_mean_of_negative_tokens_is_the_clamp():
    torch.testing.assert_close(GeneralisedMean(2)(-TOKENS.abs()), torch.full((1, 2), 1e-6), rtol=1e-5, atol=0)


def test_signed_generalised_mean():
    out = GeneralisedMean(2, signed=True)(TOKENS)[0].tolist()
    assert out[0] == pytest.approx(((1 + 8 + 27) / 3) ** (1 / 3))
    assert out[1] == pytest.approx(-((512 / 3) ** (1 / 3)))
    torch.testing.assert_close(GeneralisedMean(2, signed=True)(-TOKENS), -GeneralisedMean(2, signed=True)(TOKENS))


def test_signed_generalised_mean_through_zero():
    """Tokens that nearly cancel: monotone, and no jump where the sign turns."""
    x = torch.stack([torch.ones(2001), torch.linspace(-1.001, -0.999, 2001)])[None]  # (1, 2, 2001)
    out = GeneralisedMean(2001, signed=True)(x)[0]
    assert (out.diff() >= 0).all()
    assert out.diff().max() < 0.02
    assert out[1000].item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("signed", [False, True])
def test_generalised_mean_between_mean_and_maximum(signed):
    x = torch.rand(3, 50, 8) + 0.1
    torch.testing.assert_close(GeneralisedMean(8, p=1.0, signed=signed)(x), x.mean(1))
    values = [GeneralisedMean(8, p=float(p), signed=signed)(x) for p in (1, 2, 3, 10, 500)]
    assert all((b >= a - 1e-6).all() for a, b in pairwise(values))
    torch.testing.assert_close(values[-1], x.amax(1), rtol=0.01, atol=0)


@pytest.mark.parametrize(
    "spec", [{"name": "gem", "p": 0.5}, {"name": "asp", "reduction": 0}, {"name": "asp", "reduction": 64}]
)
def test_options_out_of_range(spec):
    with pytest.raises(AsdError, match=r"must be|between"):
        POOLINGS.create(spec, width=32)


def test_unknown_pooling():
    with pytest.raises(AsdError, match=r'no pooling "asq".*Did you mean "asp"'):
        POOLINGS.create({"name": "asq"}, width=32)


def attentive(**options):
    torch.manual_seed(0)
    return AttentiveStatistics(32, **options)


def test_attention_of_nothing_gives_plain_statistics():
    """With equal weights: mean and population deviation."""
    pooling, x = attentive(project=False), torch.randn(3, 20, 32)
    torch.nn.init.zeros_(pooling.outer.weight)
    torch.nn.init.zeros_(pooling.outer.bias)
    torch.testing.assert_close(pooling(x), torch.cat([x.mean(1), x.std(1, unbiased=False)], dim=1))


def test_attention_gives_the_weights_of_the_mean():
    pooling, x = attentive(project=False).eval(), torch.randn(3, 20, 32)
    valid = torch.arange(20) < torch.tensor([20, 5, 11])[:, None]
    share = pooling.attention(x, valid).masked_fill(~valid[:, :, None], -torch.inf).softmax(dim=1)
    torch.testing.assert_close((share * x).sum(1), pooling(x, valid)[:, :32])


def test_attention_sees_token_mean_and_deviation():
    """What the split of the first layer computes is the layer on all three together."""
    pooling, x = attentive().eval(), torch.randn(3, 20, 32)
    mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    seen = torch.cat([x, mean.expand_as(x), deviation.expand_as(x)], dim=2)
    hidden = pooling.norm(F.relu(pooling.inner(seen)).transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(pooling.attention(x), pooling.outer(hidden.tanh()))


def test_long_clips_count_by_their_tokens_in_the_attentions_norm():
    pooling, x = attentive(), torch.randn(2, 20, 32)
    valid = torch.arange(20) < torch.tensor([20, 4])[:, None]
    pooling(x, valid)
    running = pooling.norm.running_mean.clone()
    seen = []
    pooling.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    pooling(x, valid)
    assert seen[0].shape == (24, 2)
    torch.testing.assert_close(running, 0.1 * seen[0].mean(0).detach())


def test_constant_tokens_have_the_smallest_deviation():
    out = attentive(project=False)(torch.full((2, 20, 32), 0.7))
    torch.testing.assert_close(out, torch.cat([torch.full((2, 32), 0.7), torch.full((2, 32), 0.01)], dim=1))


def test_far_off_tokens_keep_their_deviation():
    """In single precision E[x²] − E[x]² would lose it."""
    x = 1e3 + torch.randn(2, 200, 32)
    exact = attentive(project=False).double().eval()(x.double())
    torch.testing.assert_close(attentive(project=False).eval()(x).double(), exact, rtol=1e-3, atol=1e-3)


def test_band_mean_keeps_bands_apart():
    """The mean over time of each band; padding at the end changes nothing."""
    torch.manual_seed(0)
    pooling = POOLINGS.create({"name": "band_mean"}, "pooling", width=3)
    grid = torch.randn(2, 5, 8, 3)
    tokens = grid.flatten(1, 2)
    assert pooling.out_dim == 24
    torch.testing.assert_close(pooling(tokens), grid.mean(1).flatten(1))
    padded = torch.cat([tokens, torch.full((2, 16, 3), 99.0)], dim=1)
    valid = torch.arange(56).expand(2, -1) < 40
    torch.testing.assert_close(pooling(padded, valid), pooling(tokens))
    louder = grid.clone()
    louder[:, :, 6] += 1.0
    moved = (pooling(louder.flatten(1, 2)) - pooling(tokens)).unflatten(1, (8, 3)).abs().amax((0, 2))
    assert moved.nonzero().flatten().tolist() == [6]
