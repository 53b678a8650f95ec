"""What every registered loss must keep; a new one is tested before anyone thinks of it. Losses that move centres or a
scale in training mode keep still in evaluation mode, where most of this is checked."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from asd_core.training.losses import LOSSES

DIM, CLASSES, BATCH = 16, 5, 12


VARIANTS = [
    *({"name": name} for name in sorted(LOSSES.classes)),
    {"name": "subcluster_adacos", "subclusters": 1},
    {"name": "subcluster_adacos", "dynamic": True},
    {"name": "adaproj", "dynamic": True},
    {"name": "arcface", "scale": 64.0, "margin": 0.2},
    {"name": "arcface_bce", "easy_margin": True},
]


@pytest.fixture(params=VARIANTS, ids=lambda spec: "-".join(map(str, spec.values())))
def loss(request):
    torch.manual_seed(0)
    return LOSSES.create(request.param, dim=DIM, classes=CLASSES).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, DIM, generator=generator, requires_grad=True)
    return x, torch.randint(CLASSES, (BATCH,), generator=generator)


def onehot(classes):
    return F.one_hot(classes, CLASSES).float()


def test_a_finite_scalar_with_gradients(loss, batch):
    x, classes = batch
    value = loss(x, onehot(classes))
    assert value.shape == ()
    assert math.isfinite(value.item())
    value.backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.any(dim=1).all()  # every clip is learnt from
    for name, p in loss.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.any(), name


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_soft_labels_give_the_mixture_of_both_losses(loss, batch, weight):
    """And no label nothing, for the losses that say so; masked attributes rely on it."""
    if not loss.linear_in_labels:
        pytest.skip("its labels enter the logits")
    x, one = batch
    assert loss(x, torch.zeros(BATCH, CLASSES)).item() == 0
    two = one.roll(1)
    mixed = loss(x, weight * onehot(one) + (1 - weight) * onehot(two))
    expected = weight * loss(x, onehot(one)) + (1 - weight) * loss(x, onehot(two))
    torch.testing.assert_close(mixed, expected)


def test_mean_over_the_batch_in_any_order(loss, batch):
    x, classes = batch
    labels = onehot(classes)
    whole = loss(x, labels)
    torch.testing.assert_close(loss(x.flip(0), labels.flip(0)), whole)
    torch.testing.assert_close(torch.stack([loss(x[i : i + 1], labels[i : i + 1]) for i in range(BATCH)]).mean(), whole)
    torch.testing.assert_close(loss(torch.cat([x, x]), torch.cat([labels, labels])), whole)


def test_descending_separates_the_classes(loss, batch):
    x, classes = batch
    x = x.detach().clone().requires_grad_()
    labels, wrong = onehot(classes), onehot((classes + 1) % CLASSES)
    optimiser = torch.optim.Adam([x, *(p for p in loss.parameters() if p.requires_grad)], lr=0.05)
    first = loss(x, labels).item()
    loss.train()
    for _ in range(100):
        optimiser.zero_grad()
        loss(x, labels).backward()
        optimiser.step()
    loss.eval()
    assert loss(x, labels).item() < 0.5 * first
    assert loss(x, labels).item() < loss(x, wrong).item()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
def test_extreme_embeddings_stay_finite(loss, batch, scale, training):
    loss.train(training)
    x, classes = batch
    x = (x.detach() * scale).requires_grad_()
    value = loss(x, onehot(classes))
    value.backward()
    assert math.isfinite(value.item())
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("classes", [2, 3, 80])
def test_any_number_of_classes(loss, classes):
    x = torch.randn(4, DIM, requires_grad=True)
    own = type(loss)(dim=DIM, classes=classes)
    value = own(x, F.one_hot(torch.arange(4) % classes, classes).float())
    value.backward()
    assert math.isfinite(value.item())
    assert x.grad.any()


def test_single_precision_under_autocast(loss, batch):
    """Embeddings come in bfloat16 there; the loss is what it is for these embeddings without autocast."""
    x, classes = batch
    rounded = x.detach().bfloat16().requires_grad_()
    expected = loss(rounded.detach().float(), onehot(classes))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(rounded, onehot(classes))
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    value.backward()
    assert torch.isfinite(rounded.grad).all()


def test_evaluation_changes_nothing_and_what_training_moved_survives_a_file(loss, batch):
    x, classes = batch
    fresh = copy.deepcopy(loss)
    loss(x, onehot(classes))
    assert all(torch.equal(a, b) for a, b in zip(loss.state_dict().values(), fresh.state_dict().values(), strict=True))
    loss.train()
    for _ in range(3):
        loss(x, onehot(classes))
    fresh.load_state_dict(loss.eval().state_dict())
    assert torch.equal(fresh(x, onehot(classes)), loss(x, onehot(classes)))
