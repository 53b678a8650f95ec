"""Losses against figures of the dcase-asd-toolkit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from asd_core.training.losses import LOSSES, SubclusterAdaCos

STORED = np.load(Path(__file__).parent / "encoders/losses.npz")


@pytest.mark.parametrize("labels", ["onehot", "mixup"])
def test_subcluster_adacos(labels):
    x = torch.from_numpy(STORED["x"]).requires_grad_()
    loss = SubclusterAdaCos(dim=32, classes=5, subclusters=16)
    loss.centres.data = torch.from_numpy(STORED["W/SCAdaCos"]).clone()
    name = f"SCAdaCos/dynamic0/{labels}"
    assert loss.scale == pytest.approx(STORED[f"{name}/s0"].item(), abs=1e-12)
    value = loss(x, torch.from_numpy(STORED[f"y_{labels}"]))
    assert value.item() == pytest.approx(STORED[f"{name}/loss"].item(), abs=1e-5)
    value.backward()
    np.testing.assert_allclose(x.grad.numpy(), STORED[f"{name}/grad_x"], atol=1e-5)
    np.testing.assert_allclose(loss.centres.grad.numpy(), STORED[f"{name}/grad_W"], atol=1e-5)


@pytest.mark.parametrize(("classes", "scale"), [(12, 7.428), (80, 10.117)])
def test_scale_of_the_reports_class_counts(classes, scale):
    assert SubclusterAdaCos(8, classes, 16).scale == pytest.approx(scale, abs=5e-4)


def test_frozen_centres_get_no_gradient():
    loss = LOSSES.create({"name": "subcluster_adacos", "trainable": False}, dim=4, classes=3)
    assert not [p for p in loss.parameters() if p.requires_grad]
