"""Margins, moving centres and scales, and heads that some clips have no label for."""

import math

import pytest
import torch
from torch.nn import functional as F

from asd_core.training.losses import (
    LOSSES,
    AdaProj,
    ArcFace,
    ArcFaceBce,
    AttributeHeads,
    Center,
    SubclusterAdaCos,
    adapted_scale,
    with_margin,
)
from asd_core.types import AsdError

COSINE = torch.linspace(-1, 1, 2001, dtype=torch.float64)


MOVING = [{"name": "center"}, {"name": "subcluster_adacos", "dynamic": True}, {"name": "adaproj", "dynamic": True}]


def onehot(classes, size):
    return F.one_hot(torch.tensor(classes), size).float()


# ------------------------------------------------------------------ margin


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0])
def test_margin_turns_the_angle(margin):
    within = COSINE.acos() < math.pi - margin
    torch.testing.assert_close(with_margin(COSINE, margin)[within], (COSINE.acos() + margin).cos()[within])


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0])
def test_margin_falls_all_the_way_and_never_below_the_fallback(margin):
    turned = with_margin(COSINE, margin)
    assert (turned.diff() > 0).all()
    beyond = COSINE.acos() > math.pi - margin + 1e-9
    torch.testing.assert_close(turned[beyond], COSINE[beyond] - margin * math.sin(math.pi - margin))


def test_easy_margin_spares_the_far_half():
    turned = with_margin(COSINE, 0.5, easy=True)
    assert torch.equal(turned[COSINE <= 0], COSINE[COSINE <= 0])
    torch.testing.assert_close(turned[COSINE > 0], with_margin(COSINE, 0.5)[COSINE > 0])


def test_without_margin_nothing_turns():
    torch.testing.assert_close(with_margin(COSINE, 0.0), COSINE)


@pytest.mark.parametrize("cosine", [-1.0, 1.0, 1 + 2e-7, -1 - 2e-7])  # rounding leaves the interval
@pytest.mark.parametrize("easy", [False, True])
def test_margin_has_a_bounded_slope_everywhere(cosine, easy):
    value = torch.tensor(cosine, requires_grad=True)
    with_margin(value, 0.5, easy).backward()
    assert abs(value.grad.item()) < 2000


def test_margin_gradient():
    inner = COSINE[50:-50:37].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c: with_margin(c, 0.5), inner)


@pytest.mark.parametrize("name", ["arcface", "arcface_bce"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_stay_small_at_a_centre_and_opposite_to_it(name, sign):
    """cos θ = ±1, where the slope of the angle is infinite."""
    loss = LOSSES.create({"name": name}, dim=16, classes=5)
    x = (sign * loss.centres).detach().clone().requires_grad_()
    loss(x, torch.eye(5)).backward()
    for gradient in (x.grad, loss.centres.grad):
        assert torch.isfinite(gradient).all()
        assert gradient.norm() < 100


def test_arcface_without_margin_is_the_softmax_of_scaled_cosines():
    loss = ArcFace(8, 4, scale=20.0, margin=0.0)
    x, y = torch.randn(6, 8), torch.rand(6, 4).softmax(1)
    cosine = F.normalize(x) @ F.normalize(loss.centres).T
    torch.testing.assert_close(loss(x, y), F.cross_entropy(20 * cosine, y))


def test_arcface_bce_without_margin_is_that_of_scaled_cosines():
    loss = ArcFaceBce(8, 4, scale=20.0, margin=0.0)
    x, y = torch.randn(6, 8), torch.rand(6, 4)
    cosine = F.normalize(x) @ F.normalize(loss.centres).T
    torch.testing.assert_close(loss(x, y), F.binary_cross_entropy_with_logits(20 * cosine, y))


def test_larger_margin_costs_more():
    torch.manual_seed(0)
    x, y = torch.randn(6, 8), onehot([0, 1, 2, 3, 0, 1], 4)
    values = []
    for margin in (0.0, 0.2, 0.5):
        torch.manual_seed(1)
        values.append(ArcFace(8, 4, margin=margin)(x, y).item())
    assert values == sorted(values)
    assert values[0] < values[2]


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"margin": 2.0}, {"scale": 0.0}])
@pytest.mark.parametrize("name", ["arcface", "arcface_bce"])
def test_margin_and_scale_out_of_range(name, options):
    with pytest.raises(AsdError, match="margin in"):
        LOSSES.create({"name": name, **options}, dim=4, classes=3)


# ------------------------------------------------------------------ what moves in training


def test_centres_move_like_gradient_descent_on_the_loss():
    torch.manual_seed(0)
    loss = Center(8, 3, lr=0.5)
    centres = torch.zeros(3, 8, requires_grad=True)
    optimiser = torch.optim.SGD([centres], lr=0.5)
    for step in range(5):
        x = torch.randn(12, 8)
        y = torch.rand(12, 3).softmax(1) if step % 2 else onehot([0, 1] * 6, 3)
        expected = 0.5 * (y * torch.cdist(x, centres).square()).sum(1).mean()
        torch.testing.assert_close(loss(x, y), expected)
        optimiser.zero_grad()
        expected.backward()
        optimiser.step()
        torch.testing.assert_close(loss.centres, centres.detach())


def test_centres_reach_the_class_means():
    x, y = torch.randn(12, 8), onehot([0, 1, 2] * 4, 3)
    loss = Center(8, 3)
    for _ in range(200):
        loss(x, y)
    torch.testing.assert_close(loss.centres, y.T @ x / 4, atol=1e-4, rtol=0)


@pytest.mark.parametrize("spec", MOVING, ids=lambda spec: spec["name"])
def test_what_moves_stays_one_tensor_and_keeps_earlier_losses_differentiable(spec):
    """One tensor, because distributed training broadcasts those it found at the start."""
    loss, x = LOSSES.create(spec, dim=4, classes=2), torch.randn(6, 4, requires_grad=True)
    y = onehot([0, 1] * 3, 2)
    buffers = {name: id(value) for name, value in loss.named_buffers()}
    first = loss(x, y)
    (alone,) = torch.autograd.grad(first, x, retain_graph=True)
    loss(2 * x.detach(), y)
    (later,) = torch.autograd.grad(first, x)
    assert torch.equal(alone, later)
    assert {name: id(value) for name, value in loss.named_buffers()} == buffers


@pytest.mark.parametrize("cls", [SubclusterAdaCos, AdaProj])
def test_moving_scale_is_part_of_the_state_and_a_fixed_one_is_not(cls):
    assert "scale" not in cls(4, 3).state_dict()
    assert "scale" in cls(4, 3, dynamic=True).state_dict()


def test_angle_of_a_mixed_clip_is_between_those_of_its_classes():
    """The median lies below π/4 here, so that it decides the scale: three clips at 0, 0.4 and (0.2 + 0.6) / 2 rad."""
    logits, labels = torch.zeros(3, 7), torch.tensor([[1, 0], [0, 1], [0.5, 0.5]])
    cosine = torch.tensor([[0.0, 1.0], [1.2, 0.4], [0.2, 0.6]]).cos()
    assert adapted_scale(logits, cosine, labels).item() == pytest.approx(math.log(7) / math.cos(0.4), rel=1e-5)


def test_moving_scale_stays_positive():
    """Two classes whose embeddings all point away from the other class."""
    logits = torch.full((4, 1), -8.0)
    assert adapted_scale(logits, torch.ones(4, 2), onehot([0, 1] * 2, 2)).item() == 1.0


def test_nearest_centre_decides_the_angle_of_a_class():
    loss = SubclusterAdaCos(2, 2, subclusters=2, dynamic=True)
    loss.centres.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]).T.contiguous()
    x, y = torch.tensor([[0.0, 3.0]] * 2), onehot([0, 0], 2)
    before = loss.scale.item()
    loss(x, y)
    total = math.log(math.exp(before) + 2 + math.exp(-before))
    assert loss.scale.item() == pytest.approx(total, rel=1e-5)  # θ = 0: divided by 1, not by cos π/4


def test_projection_onto_a_subspace():
    loss = AdaProj(3, 2, subspace=2)
    loss.centres.data = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 1]]])
    x = torch.tensor([[3.0, 4.0, 0.0]])  # inside the first, orthogonal to the second
    probability = math.exp(-loss(x, onehot([0], 2)).item())
    assert probability == pytest.approx(1 / (1 + math.exp(-loss.scale.item())), rel=1e-5)


# ------------------------------------------------------------------ attributes that some clips lack

SIZES = {"spd": 3, "car": 5}


@pytest.fixture(params=["cross_entropy", "arcface"])
def heads(request):
    torch.manual_seed(0)
    return AttributeHeads(8, SIZES, request.param)


def test_each_attribute_is_the_mean_over_the_clips_that_have_it(heads):
    x = torch.randn(4, 8)
    targets = torch.tensor([[0, -1], [-1, -1], [2, 4], [1, -1]])
    spd = heads.heads[0](x[[0, 2, 3]], onehot([0, 2, 1], 3))
    car = heads.heads[1](x[[2]], onehot([4], 5))
    torch.testing.assert_close(heads(x, targets), spd + car)


def test_clips_without_an_attribute_get_no_gradient(heads):
    x = torch.randn(3, 8, requires_grad=True)
    heads(x, torch.tensor([[0, -1], [-1, -1], [-1, 2]])).backward()
    assert x.grad.any(dim=1).tolist() == [True, False, True]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_without_any_attribute_gives_zero(heads, batch):
    x = torch.randn(batch, 8, requires_grad=True)
    value = heads(x, torch.full((batch, 2), -1))
    value.backward()
    assert value.item() == 0
    assert not x.grad.any()
    assert all(p.grad is None or not p.grad.any() for p in heads.parameters())


def test_no_attributes_at_all():
    x = torch.randn(3, 8, requires_grad=True)
    value = AttributeHeads(8, {})(x, torch.zeros(3, 0, dtype=torch.long))
    value.backward()
    assert value.item() == 0


def test_single_precision_under_autocast(heads):
    x, targets = torch.randn(4, 8).bfloat16(), torch.tensor([[0, 1], [1, -1], [2, 4], [-1, 0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = heads(x, targets)
    torch.testing.assert_close(value, heads(x.float(), targets))


def test_heads_refuse_a_loss_that_counts_absent_classes():
    with pytest.raises(ValueError, match=r"arcface_bce would take .* use one of .*arcface.*cross_entropy"):
        AttributeHeads(8, SIZES, "arcface_bce")
