"""Heads from a list of layers."""

import pytest
import torch
from torch import nn

from asd_core.backbones.head import build_head


@pytest.mark.parametrize(
    ("layers", "out_dim", "kinds"),
    [
        ([], 32, []),
        (["norm", "linear"], 32, ["BatchNorm", "Linear"]),
        (["norm", {"dropout": 0.1}, "linear"], 32, ["BatchNorm", "Dropout", "Linear"]),
        (["norm", {"linear": 8}, "norm", "relu"], 8, ["BatchNorm", "Linear", "BatchNorm", "ReLU"]),
        ([{"linear": 256.0}], 256, ["Linear"]),  # a registry hands sizes on as floats
        ([{"linear": 8}, "linear"], 8, ["Linear", "Linear"]),
    ],
)
def test_layers_in_order(layers, out_dim, kinds):
    head = build_head(32, layers)
    assert [type(layer).__name__ for layer in head] == kinds
    assert head.out_dim == out_dim
    assert head(torch.randn(4, 32)).shape == (4, out_dim)


def test_empty_head_is_the_identity():
    x = torch.randn(4, 32)
    assert torch.equal(build_head(32, [])(x), x)


def test_dropout_rate():
    assert build_head(32, [{"dropout": 0.25}])[0].p == 0.25


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("nrom", r"no layer 'nrom'. Allowed: norm, relu, .* Did you mean \"norm\"\?"),
        ({"liner": 8}, r"no layer {'liner': 8}.*Did you mean \"linear\"\?"),
        ("dropout", "no layer 'dropout'.*{dropout: probability}"),
        ({"norm": 8}, "no layer"),
        ({"linear": True}, "no layer"),
        ({"linear": "8"}, "no layer"),
        ({"linear": 8, "dropout": 0.1}, "no layer"),
        (8, "no layer 8"),
        ({"linear": 0}, "whole number above 0, got 0"),
        ({"linear": 2.5}, "whole number above 0, got 2.5"),
        ({"linear": float("nan")}, "whole number"),
        ({"linear": float("inf")}, "whole number"),
        ({"dropout": 1.0}, "below 1, got 1.0"),
        ({"dropout": -0.1}, "below 1, got -0.1"),
    ],
)
def test_mistakes_are_named(layer, message):
    with pytest.raises(ValueError, match=message):
        build_head(32, [layer])


def test_norm_is_torchs_for_two_clips_and_more():
    ours, theirs = build_head(8, ["norm"]), nn.BatchNorm1d(8)
    for n in (2, 5):
        x = torch.randn(n, 8) * 3 + 1
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_single_training_clip_is_normalised_by_the_running_statistics():
    head = build_head(8, ["norm"])
    for _ in range(20):
        head(torch.randn(16, 8) * 3 + 1)
    state = {k: v.clone() for k, v in head.state_dict().items()}
    x = torch.randn(1, 8, requires_grad=True)
    out = head(x)
    out.sum().backward()
    assert x.grad.any()
    assert head[0].weight.grad.any()
    assert all(torch.equal(v, state[k]) for k, v in head.state_dict().items())
    torch.testing.assert_close(out, head.eval()(x))


def test_single_precision_under_autocast():
    head, x = build_head(8, ["norm", "linear"]).eval(), torch.randn(4, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = head(x)
    assert torch.equal(out, head(x.float()))
