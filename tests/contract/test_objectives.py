"""What every registered objective must keep, with each system that uses it, shrunk."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from asd_core import config
from asd_core.backbones import BACKBONES
from asd_core.data.manifest import scan
from asd_core.training import OBJECTIVES
from asd_core.views import VIEWS
from tests.conftest import SYSTEMS

TINY = [config.load_system(str(path)) for path in sorted(SYSTEMS.glob("*.yaml"))]
ENCODERS = {encoder.objective.name: encoder for system in TINY for encoder in system.encoders.values()}


@pytest.fixture(params=sorted(name for name, cls in OBJECTIVES.classes.items() if cls.steps))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def clips(tiny_data):
    """Twelve training clips of two machines and both domains."""
    data = scan(tiny_data)
    chosen = []
    for machine in data.machines[:2]:
        for domain in ("source", "target"):
            chosen += [clip for clip in data.of(machine, "train") if clip.domain == domain][:3]
    return chosen


def build(name, clips, seed=0):
    assert name in ENCODERS, f"give objective {name} a small system in tests/systems"
    encoder = ENCODERS[name]
    torch.manual_seed(seed)
    backbone = BACKBONES.create(BACKBONES[encoder.backbone.name].resolve(encoder.backbone.spec, 2.0))
    objective = OBJECTIVES.create(encoder.objective.spec)
    return objective, backbone, objective.problem(backbone, clips, VIEWS.create(encoder.view.spec), seed)


def load(problem, seed=0, count=8):
    return problem.examples.load(np.arange(count), torch.Generator().manual_seed(seed))


def test_problem(name, clips):
    _, backbone, problem = build(name, clips)
    assert isinstance(problem.learner, nn.Module)
    assert any(module is backbone for module in problem.learner.modules())
    assert len(problem.examples) >= 8
    batch = load(problem)
    assert isinstance(batch, tuple)
    assert {len(tensor) for tensor in batch} == {8}
    assert all(torch.isfinite(tensor).all() for tensor in batch)
    assert all(isinstance(notice, str) for notice in problem.notices)


def test_loss_is_a_scalar_that_every_trainable_parameter_feels(name, clips):
    _, _, problem = build(name, clips)
    loss = problem.learner.train()(*load(problem))
    assert loss.shape == ()
    assert math.isfinite(loss.item())
    loss.backward()
    missing = [key for key, p in problem.learner.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in problem.learner.parameters() if p.grad is not None)


def test_batches_repeat_with_their_generator(name, clips):
    _, _, problem = build(name, clips)
    for one, again in zip(load(problem, 1), load(problem, 1), strict=True):
        assert torch.equal(one, again)
    before = torch.get_rng_state()
    load(problem, 2)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn from anywhere else


def test_a_few_steps_lower_the_loss(name, clips):
    _, _, problem = build(name, clips)
    learner, batch = problem.learner.train(), load(problem)
    optimiser = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=0.003)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = learner(*batch)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_finish_gives_finite_arrays_and_keeps_weights(name, clips):
    objective, backbone, problem = build(name, clips)
    weights = {key: p.detach().clone() for key, p in backbone.named_parameters()}
    extra = objective.finish(problem, np.linspace(5, 1, 400), 16, 0)
    for key, values in extra.items():
        assert isinstance(values, np.ndarray), key
        assert np.isfinite(values).all(), key
    assert all(torch.equal(p, weights[key]) for key, p in backbone.named_parameters())
    assert all(torch.isfinite(value).all() for value in backbone.state_dict().values())
    assert set(getattr(type(backbone), "batch_outputs", ())) <= {key.removeprefix("batch_") for key in extra}
