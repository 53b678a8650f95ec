"""Losses against figures of the dcase-asd-toolkit and of the UNIS team's code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from asd_core.training.losses import LOSSES, AdaProj, ArcFace, ArcFaceBce, SubclusterAdaCos, adapted_scale, with_margin

STORED = {n: torch.from_numpy(v) for n, v in np.load(Path(__file__).parent / "encoders/losses.npz").items()}
DIM, CLASSES = 32, 5
EXACT = {"rtol": 0, "atol": 1e-5}
THEIRS = {  # the toolkit's loss → ours
    "AdaCos": (SubclusterAdaCos, {"subclusters": 1}),
    "SCAdaCos": (SubclusterAdaCos, {"subclusters": 16}),
    "AdaProj": (AdaProj, {"subspace": 8}),
}


def build(theirs, **options):
    cls, sizes = THEIRS[theirs]
    loss = cls(DIM, CLASSES, **sizes, **options)
    loss.centres.data = STORED[f"W/{theirs}"].clone()
    return loss


def batch(labels):
    return STORED["x"].clone().requires_grad_(), STORED[f"y_{labels}"]


def assert_as_stored(value, x, centres, name, loss="loss"):
    value.backward()
    torch.testing.assert_close(value.detach(), STORED[f"{name}/{loss}"], **EXACT)
    torch.testing.assert_close(x.grad, STORED[f"{name}/grad_x"], **EXACT)
    torch.testing.assert_close(centres.grad, STORED[f"{name}/grad_W"], **EXACT)


def assert_per_clip(loss, labels, name):
    x, y = batch(labels)
    each = torch.stack([loss(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(each.detach(), STORED[f"{name}/per_sample"], **EXACT)


@pytest.mark.parametrize("labels", ["onehot", "mixup"])
@pytest.mark.parametrize("theirs", sorted(THEIRS))
def test_fixed_scale(theirs, labels):
    loss = build(theirs)
    x, y = batch(labels)
    name = f"{theirs}/dynamic0/{labels}"
    assert loss.scale.item() == pytest.approx(STORED[f"{name}/s0"].item(), abs=1e-6)
    assert_as_stored(loss(x, y), x, loss.centres, name)
    assert_per_clip(loss, labels, name)


@pytest.mark.parametrize("theirs", sorted(THEIRS))
def test_class_probabilities(theirs):
    """The loss of a clip against class c is −ln p_c."""
    loss = build(theirs)
    x = STORED["x"]
    ours = [[-loss(clip[None], one[None]).item() for one in torch.eye(CLASSES)] for clip in x]
    expected = STORED[f"{theirs}/logits_calc"].log_softmax(1)
    torch.testing.assert_close(torch.tensor(ours), expected, **EXACT)


@pytest.mark.parametrize("labels", ["onehot", "mixup"])
@pytest.mark.parametrize("theirs", ["SCAdaCos", "AdaProj"])
def test_scale_that_moves(theirs, labels):
    """Every step in training mode sets the scale before it is used."""
    loss = build(theirs, dynamic=True)
    name = f"{theirs}/dynamic1/{labels}"
    x, y = batch(labels)
    assert_as_stored(loss(x, y), x, loss.centres, name)
    scales, losses = [loss.scale.item()], []
    for _ in range(2):
        losses.append(loss(x, y).item())
        scales.append(loss.scale.item())
    assert losses == pytest.approx([STORED[f"{name}/loss_step{i}"].item() for i in (1, 2)], abs=1e-5)
    assert scales == pytest.approx(STORED[f"{name}/s_after_steps"].tolist(), abs=1e-5)
    assert loss.eval()(x, y).item() == pytest.approx(STORED[f"{name}/loss_eval_after"].item(), abs=1e-5)
    assert loss.scale.item() == scales[-1]


@pytest.mark.parametrize("labels", ["onehot", "mixup"])
def test_scale_of_adacos_leaves_own_class_out(labels):
    """With one sub-cluster our moving scale is still that of the sub-cluster paper, which sums over all centres;
    AdaCos's own sum, over the other classes, gives the toolkit's figures by the same formula."""
    name = f"AdaCos/dynamic1/{labels}"
    loss = build("AdaCos")
    x, y = batch(labels)
    cosine = (F.normalize(x) @ F.normalize(loss.centres, dim=0)).detach()

    def step():
        others = (loss.scale * cosine).masked_fill(y == 1, -torch.inf)
        loss.scale.copy_(adapted_scale(others, cosine, y))
        return loss(x, y)

    assert_as_stored(step(), x, loss.centres, name)
    scales, losses = [loss.scale.item()], []
    for _ in range(2):
        losses.append(step().item())
        scales.append(loss.scale.item())
    assert losses == pytest.approx([STORED[f"{name}/loss_step{i}"].item() for i in (1, 2)], abs=1e-5)
    assert scales == pytest.approx(STORED[f"{name}/s_after_steps"].tolist(), abs=1e-5)
    assert loss.eval()(x, y).item() == pytest.approx(STORED[f"{name}/loss_eval_after"].item(), abs=1e-5)


@pytest.mark.parametrize("labels", ["onehot", "mixup"])
@pytest.mark.parametrize("easy", [False, True])
def test_arcface_bce(easy, labels):
    loss = ArcFaceBce(DIM, CLASSES, easy_margin=easy)
    loss.centres.data = STORED["W/ArcMargin"].clone()
    x, y = batch(labels)
    name = f"ArcMargin/easy{easy:d}/{labels}"
    logits = loss.logits(x, y)
    torch.testing.assert_close(logits, STORED[f"{name}/logits"], **EXACT)
    assert F.cross_entropy(logits, y).item() == pytest.approx(STORED[f"{name}/ce_loss"].item(), abs=1e-5)
    assert_as_stored(loss(x, y), x, loss.centres, name, "bce_loss")


def test_arcface_is_the_cross_entropy_of_the_same_logits():
    """For clips of one class; mixed ones differ, there the toolkits' labels enter the margin."""
    loss = ArcFace(DIM, CLASSES, scale=30.0, margin=0.5)
    loss.centres.data = STORED["W/ArcMargin"].clone()
    x, y = batch("onehot")
    assert loss(x, y).item() == pytest.approx(STORED["ArcMargin/easy0/onehot/ce_loss"].item(), abs=1e-5)
    bce = ArcFaceBce(DIM, CLASSES)
    bce.centres.data = STORED["W/ArcMargin"].clone()
    (expected,) = torch.autograd.grad(F.cross_entropy(bce.logits(x, y), y), x)
    (ours,) = torch.autograd.grad(loss(x, y), x)
    torch.testing.assert_close(ours, expected, **EXACT)


def test_arcface_of_mixed_clips_has_one_margin_at_a_time():
    loss = ArcFace(DIM, CLASSES)
    loss.centres.data = STORED["W/ArcMargin"].clone()
    x, y = batch("mixup")
    one = torch.eye(CLASSES)
    expected = torch.stack(
        [sum(y[i, c] * loss(x[i : i + 1], one[c][None]) for c in range(CLASSES)) for i in range(len(x))]
    )
    assert loss(x, y).item() == pytest.approx(expected.mean().item(), abs=1e-5)
    assert loss(x, y).item() != pytest.approx(STORED["ArcMargin/easy0/mixup/ce_loss"].item(), abs=1e-2)


@pytest.mark.parametrize("labels", ["onehot", "mixup"])
def test_margin_on_every_class(labels):
    """What the toolkit calls ArcFace is another loss; its figures pin our cos(θ + margin) and its gradient."""
    x, y = batch(labels)
    centres = STORED["W/ArcFace"].clone().requires_grad_()
    logits = 64 * with_margin(F.normalize(x) @ F.normalize(centres, dim=0), 0.5)
    torch.testing.assert_close(logits, STORED["ArcFace/logits"], rtol=0, atol=2e-5)  # values up to 50
    each = F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(each, STORED[f"ArcFace/{labels}/per_sample"], rtol=0, atol=2e-5)
    assert_as_stored(each.mean(), x, centres, f"ArcFace/{labels}")


@pytest.mark.parametrize(("classes", "scale"), [(12, 7.428), (80, 10.117)])
def test_scale_of_the_reports_class_counts(classes, scale):
    assert SubclusterAdaCos(8, classes, 16).scale.item() == pytest.approx(scale, abs=5e-4)


def test_frozen_centres_get_no_gradient():
    loss = LOSSES.create({"name": "subcluster_adacos", "trainable": False}, dim=4, classes=3)
    assert not [p for p in loss.parameters() if p.requires_grad]
