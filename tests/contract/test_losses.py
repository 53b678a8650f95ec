"""What every registered loss must keep."""

import math

import pytest
import torch
from torch.nn import functional as F

from asd_core.training.losses import LOSSES

DIM, CLASSES, BATCH = 16, 5, 12


@pytest.fixture(params=sorted(LOSSES.classes))
def loss(request):
    torch.manual_seed(0)
    return LOSSES.create({"name": request.param}, dim=DIM, classes=CLASSES)


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
    """For the same embeddings, cross-entropy is linear in the labels."""
    x, one = batch
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
    for _ in range(100):
        optimiser.zero_grad()
        loss(x, labels).backward()
        optimiser.step()
    assert loss(x, labels).item() < 0.5 * first
    assert loss(x, labels).item() < loss(x, wrong).item()


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
def test_extreme_embeddings_stay_finite(loss, batch, scale):
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
