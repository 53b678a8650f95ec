"""Training on an accelerator: the same loop, in bf16 too, and resumable up to the kernels' own rounding."""

import numpy as np
import pytest
import torch
from torch import nn

from asd_core.backbones.multiresnet import MultiResNet
from asd_core.config import Train
from asd_core.training.augment import mix_uniform
from asd_core.training.classification import Classifier, LabelledClips
from asd_core.training.loop import fit
from asd_core.training.losses import SubclusterAdaCos
from asd_core.types import Cancelled

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


class Tones:
    """Five seconds of a tone whose pitch tells its class, in noise, by index."""

    def batch(self, indices):
        return [self.tone(index) for index in indices]

    def tone(self, index):
        rng = np.random.default_rng(index)
        t = np.arange(80_000) / 16_000
        return (np.sin(2 * np.pi * (400 + 300 * (index % 4)) * t) + rng.normal(size=len(t))).astype(np.float32)


def train(path, stop=None, held_out=None, report_seconds=0.0, **options):
    torch.manual_seed(0)
    net = MultiResNet(seconds=5, spectrograms=[[1024, 512]], base_channels=4, branch_dim=32)
    rows, targets = [(i, "near") for i in range(48)], torch.arange(48) % 4
    none = torch.zeros(48, 0, dtype=torch.long)
    mix = lambda x, labels, generator: mix_uniform(x, labels, 0.5, generator)  # noqa: E731
    examples = LabelledClips(net, Tones(), rows, targets, 4, none, mix=mix)
    learner = Classifier(net, nn.ModuleList([SubclusterAdaCos(net.embed_dim, 4, 4)]), [1.0])

    def progress(fraction, message, **values):
        if values.get("step") == stop:
            raise Cancelled

    history = fit(
        learner, examples, Train(**{"epochs": 4, "batch_size": 16, "lr": 1e-3} | options), seed=0,
        checkpoint_file=path, progress=progress, report_seconds=report_seconds,
        held_out=examples.part(np.arange(9)).plain() if held_out else None,
    )  # fmt: skip
    return history, {name: value.cpu() for name, value in learner.state_dict().items()}


@pytest.mark.parametrize(
    "options", [{}, {"precision": "auto"}, {"held_out": True, "patience": 2, "ema": 0.9, "accumulate": 2}]
)
def test_resumed_training_agrees(tmp_path, options):
    whole, weights = train(tmp_path / "a", **options)
    with pytest.raises(Cancelled):
        train(tmp_path / "b", stop=5, **options)
    parts, resumed = train(tmp_path / "b", **options)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-2)
    np.testing.assert_allclose(parts.held_out, whole.held_out, rtol=1e-2)
    assert set(weights) == set(resumed)


def test_it_does_not_matter_when_losses_are_fetched(tmp_path):
    often, _ = train(tmp_path / "a")
    seldom, _ = train(tmp_path / "b", report_seconds=1e9)
    np.testing.assert_allclose(seldom.losses, often.losses, rtol=1e-2)


def test_bf16_learns(tmp_path):
    history, _ = train(tmp_path / "bf16", precision="auto")
    assert history.losses[-3:].mean() < 0.8 * history.losses[:3].mean()
