"""Learning rates in closed form, and what the options refuse."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from asd_core.config import Cosine, Train, validate
from asd_core.training.loop import fit
from asd_core.training.schedules import rate
from asd_core.types import AsdError


def options(**values):
    return validate(Train, {"epochs": 6, "batch_size": 4, "lr": 0.1} | values, "t.yaml")


def rates(steps=12, per_epoch=2, base=0.1, **values):
    return [rate(options(**values), base, step, per_epoch, steps) for step in range(steps)]


def test_constant():
    assert rates() == [0.1] * 12
    assert rates(schedule="constant") == rates(schedule={"name": "constant"}) == [0.1] * 12


def test_step():
    """As torch's StepLR(2, 0.5), stepped after each epoch."""
    expected = np.repeat([0.1, 0.1, 0.05, 0.05, 0.025, 0.025], 2)
    np.testing.assert_allclose(rates(schedule={"name": "step", "epochs": 2, "factor": 0.5}), expected, rtol=1e-12)


def test_cosine():
    """As torch's CosineAnnealingLR(12, 1e-3), stepped after each step."""
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 12, 1e-3)
    expected = []
    for _ in range(12):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    np.testing.assert_allclose(rates(schedule={"name": "cosine", "lowest": 1e-3}), expected, rtol=1e-9)
    assert rates(schedule="cosine")[6] == pytest.approx(0.05)


def test_lowest_rate_does_not_lift_a_smaller_one():
    assert rates(base=1e-4, schedule={"name": "cosine", "lowest": 1e-3}) == [1e-4] * 12


def test_warm_up_comes_before_the_schedule():
    np.testing.assert_allclose(rates(warmup_steps=4), [0, 0.025, 0.05, 0.075] + [0.1] * 8)
    assert rates(warmup_epochs=2) == rates(warmup_steps=4)
    np.testing.assert_allclose(rates(warmup_steps=4, schedule="cosine")[4:], rates(steps=8, schedule="cosine"))
    stepped = rates(warmup_steps=4, schedule={"name": "step", "epochs": 1, "factor": 0.1})
    np.testing.assert_allclose(stepped[4:8], [0.1, 0.1, 0.01, 0.01])


def test_warm_up_longer_than_the_training():
    np.testing.assert_allclose(rates(warmup_steps=5000, schedule="cosine")[-1], 0.1 * 11 / 5000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "cosin"}, r"schedule: a schedule is a name, .* of constant, step, cosine\. .*cosine"),
        ({"schedule": {"epochs": 4}}, "schedule: a schedule is a name"),
        ({"schedule": 3}, "schedule"),
        ({"schedule": {"name": "cosine", "lowst": 1}}, r'unknown key "lowst"\. Allowed: name, lowest\. .*lowest'),
        ({"schedule": "step"}, r"schedule\.step\.epochs: Field required"),
        ({"schedule": {"name": "step", "epochs": 4, "factor": 2}}, "less than or equal to 1"),
        ({"schedule": {"name": "cosine", "lowest": 0.2}}, "lowest 0.2 is above the learning rate 0.1"),
        ({"warmup_steps": 3, "warmup_epochs": 1}, "not both"),
        ({"warmup": 3}, r'unknown key "warmup"'),
        ({"accumulate": 5}, "accumulate 5 would cut a batch of 4"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"patience": 0}, "patience"),
        ({"lr_encoder": 0}, "lr_encoder"),
    ],
)
def test_mistakes_are_explained(values, message):
    with pytest.raises(AsdError, match=message):
        options(**values)


def test_options_survive_storage():
    given = options(schedule={"name": "cosine", "lowest": 1e-6}, warmup_epochs=1)
    assert given.schedule == Cosine(name="cosine", lowest=1e-6)
    assert validate(Train, given.model_dump(mode="json"), "t") == given
    assert validate(Train, given.model_dump(), "t") == given


class Examples:
    def __len__(self):
        return 8

    def load(self, indices, generator):
        return (torch.ones(len(indices)),)


class Layers(nn.Module):
    """The same gradient for every parameter, in every step: Adam steps by the learning rate."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(3)])
        self.head = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)

    def forward(self, x):
        return sum(p.sum() for p in self.parameters())


def trained(tmp_path, depths, **values):
    learner = Layers()
    train = options(optimizer="adam", **values)
    fit(learner, Examples(), train, seed=0, checkpoint_file=tmp_path / "c", device="cpu", depths=depths)
    return {name: -value[0].item() for name, value in learner.state_dict().items()}


def test_pretrained_layers_have_their_own_rates(tmp_path):
    """lr_encoder · layer_decay^depth; the head keeps lr."""
    depths = {"blocks.2": 0, "blocks.1": 1, "blocks.0": 2, "frozen": 3}
    moved = trained(tmp_path, depths, lr_encoder=0.02, layer_decay=0.5)
    expected = {"head": 0.1, "blocks.2": 0.02, "blocks.1": 0.01, "blocks.0": 0.005, "frozen": 0.0}
    for name, lr in expected.items():
        assert moved[name] == pytest.approx(12 * lr, rel=1e-4), name
    moved = trained(tmp_path, {"blocks.0": 2}, layer_decay=0.5)
    assert moved["blocks.0"] == pytest.approx(12 * 0.025, rel=1e-4)
    assert moved["blocks.1"] == pytest.approx(12 * 0.1, rel=1e-4)


def test_all_rates_follow_the_schedule(tmp_path):
    moved = trained(tmp_path, {"blocks.0": 0}, lr_encoder=0.01, schedule="cosine", warmup_epochs=1)
    share = sum([0, 0.5] + [(1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)])
    assert moved["head"] == pytest.approx(0.1 * share, rel=1e-4)
    assert moved["blocks.0"] == pytest.approx(0.01 * share, rel=1e-4)


def test_depths_must_name_parameters(tmp_path):
    with pytest.raises(ValueError, match=r"blocks\.7, which the learner does not have"):
        trained(tmp_path, {"blocks.7": 0})
