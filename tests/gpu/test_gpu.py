"""Training on an accelerator: the same loop, in bf16 too, and resumable up to the kernels' own rounding."""

import numpy as np
import pytest
import torch

from asd_core.backbones.multiresnet import MultiResNet
from asd_core.config import Train
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


def train(path, precision="fp32", stop=None):
    torch.manual_seed(0)
    net = MultiResNet(seconds=5, spectrograms=[[1024, 512]], base_channels=4, branch_dim=32)
    targets = torch.arange(48) % 4
    examples = LabelledClips(Tones(), net, targets, 4, mixup=0.5)
    learner = Classifier(net, SubclusterAdaCos(net.embed_dim, 4, 4))

    def progress(fraction, message, **values):
        if values.get("step") == stop:
            raise Cancelled

    options = Train(epochs=4, batch_size=16, lr=1e-3, precision=precision)
    losses = fit(learner, examples, options, seed=0, checkpoint_file=path, progress=progress)
    return losses, {name: value.cpu() for name, value in learner.state_dict().items()}


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_resumed_training_agrees(tmp_path, precision):
    whole, weights = train(tmp_path / "a", precision=precision)
    with pytest.raises(Cancelled):
        train(tmp_path / "b", precision=precision, stop=5)
    parts, resumed = train(tmp_path / "b", precision=precision)
    np.testing.assert_allclose(parts, whole, rtol=1e-2)
    assert set(weights) == set(resumed)


def test_bf16_learns(tmp_path):
    losses, _ = train(tmp_path / "bf16", precision="auto")
    assert losses[-3:].mean() < 0.8 * losses[:3].mean()
