"""The loop, its checkpoints, and the objectives."""

import numpy as np
import pytest
import torch
from torch import nn

from asd_core.config import Train
from asd_core.training import OBJECTIVES, checkpoint
from asd_core.training.classification import mix
from asd_core.training.loop import fit, order
from asd_core.types import AsdError, Cancelled


class Lines:
    """y = 2x + noise, with dropout-like noise drawn per step from the generator and from the global state."""

    def __len__(self):
        return 21

    def load(self, indices, generator):
        x = torch.from_numpy(indices[:, None] / 21).float()
        return x + 0.1 * torch.rand(len(x), 1, generator=generator), 2 * x


class Learner(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)  # its weights lie in another order

    def forward(self, x, y):
        maps = self.conv(x.reshape(-1, 1, 1, 1) * torch.linspace(0, 1, 50).reshape(1, 2, 5, 5))
        return ((self.net(x) + maps.mean((1, 2, 3))[:, None] - y) ** 2).mean()


OPTIONS = [
    {"optimizer": "adam"},
    {"optimizer": "adamw", "weight_decay": 0.1, "clip_norm": 0.5},
    {"optimizer": "adamw", "ema": 0.9},
    {"optimizer": "adamw", "precision": "bf16"},
]


def train(path, options, stops=()):
    """Train, cancelled after each of the given numbers of steps and resumed."""
    for stop in (*stops, None):
        learner = Learner()

        def progress(fraction, message, stop=stop, **values):
            if values.get("step") == stop:
                raise Cancelled

        try:
            losses = fit(
                learner, Lines(), Train(epochs=4, batch_size=5, lr=0.01, **options),
                seed=3, checkpoint_file=path, device="cpu", progress=progress,
            )  # fmt: skip
        except Cancelled:
            assert stop is not None
    return learner.state_dict(), losses


@pytest.mark.parametrize("options", OPTIONS)
def test_resumed_training_equals_undisturbed(tmp_path, options):
    whole, losses = train(tmp_path / "a", options)
    parts, losses_of_parts = train(tmp_path / "b", options, stops=(1, 4, 5, 13))
    np.testing.assert_array_equal(losses, losses_of_parts)
    assert len(losses) == 16  # 21 examples in fives: the last batch of one is left out
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_training_learns_and_depends_on_the_seed(tmp_path):
    options = Train(epochs=60, batch_size=5, lr=0.02)
    losses = fit(Learner(), Lines(), options, seed=0, checkpoint_file=tmp_path / "a", device="cpu")
    assert losses[-20:].mean() < 0.5 * losses[:20].mean()
    other = fit(Learner(), Lines(), options, seed=1, checkpoint_file=tmp_path / "b", device="cpu")
    assert not np.array_equal(losses, other)


def test_average_of_weights(tmp_path):
    """With decay so small that only the last step counts, the averaged weights are the last ones."""
    plain, _ = train(tmp_path / "a", {})
    averaged, _ = train(tmp_path / "b", {"ema": 1e-9})
    slow, _ = train(tmp_path / "c", {"ema": 0.99})
    np.testing.assert_allclose(averaged["net.0.weight"], plain["net.0.weight"], rtol=1e-5)
    assert not torch.allclose(slow["net.0.weight"], plain["net.0.weight"])


def test_loss_that_is_not_finite_stops_with_advice(tmp_path):
    class Broken(Learner):
        def forward(self, x, y):
            return super().forward(x, y) * float("nan")

    with pytest.raises(AsdError, match=r"became nan at step 1 .*Lower the learning rate"):
        fit(
            Broken(),
            Lines(),
            Train(epochs=1, batch_size=5, lr=0.1),
            seed=0,
            checkpoint_file=tmp_path / "c",
            device="cpu",
        )


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"\x10" + bytes(30)])
def test_broken_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    learner = Learner()
    with pytest.raises(AsdError, match="Delete it to train from the start"):
        checkpoint.restore(tmp_path / "c", learner, torch.optim.Adam(learner.parameters()), {})


def test_weights_that_do_not_fit_are_refused(tmp_path):
    checkpoint.save_weights(tmp_path / "w", nn.Linear(2, 3))
    with pytest.raises(AsdError, match="does not fit Linear"):
        checkpoint.load_weights(tmp_path / "w", nn.Linear(3, 3))


def test_order_of_examples():
    batches = order(10, 4, seed=1, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(10))
    assert [len(b) for b in order(9, 4, 1, 0)] == [4, 4]
    assert [len(b) for b in order(1, 4, 1, 0)] == [1]
    assert not np.array_equal(np.concatenate(batches), np.concatenate(order(10, 4, seed=1, epoch=1)))


def test_mixup():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.eye(64)[:, None], torch.eye(64)
    same, same_labels = mix(x, labels, 0.0, generator)
    assert same is x
    assert same_labels is labels
    mixed, mixed_labels = mix(x, labels, 0.5, generator)
    torch.testing.assert_close(mixed[:, 0], mixed_labels)  # waveform and label get the same weights
    torch.testing.assert_close(mixed_labels.sum(1), torch.ones(64))
    changed = (mixed_labels.max(1).values < 1).float().mean()
    assert 0.3 < changed < 0.7


def test_classification_needs_known_labels():
    with pytest.raises(AsdError, match="labels must be some of machine, section, domain, attributes"):
        OBJECTIVES.create({"name": "classification", "labels": ["label"], "loss": {"name": "subcluster_adacos"}})
