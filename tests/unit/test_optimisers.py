"""The optimiser's options, each by a closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from asd_core.config import Train
from asd_core.training.loop import fit

EPOCHS, LR = 5, 0.01  # two steps per epoch


class Examples:
    def __len__(self):
        return 8

    def load(self, indices, generator):
        return (torch.from_numpy(indices).float(),)


class Slope(nn.Module):
    """loss = slope · Σ w: the same gradient in every step."""

    def __init__(self, slope):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, -2.0]))
        self.slope = slope

    def forward(self, x):
        return self.slope * self.w.sum()


def train(tmp_path, slope, **options):
    learner = Slope(slope)
    options = Train(epochs=EPOCHS, batch_size=4, lr=LR, **options)
    losses = fit(learner, Examples(), options, seed=0, checkpoint_file=tmp_path / "c", device="cpu").losses
    assert len(losses) == (options.max_steps or 2 * EPOCHS)
    return learner.w.detach().numpy(), losses


@pytest.mark.parametrize(("options", "decay"), [({}, 0.01), ({"weight_decay": 0.3}, 0.3), ({"weight_decay": 0.0}, 0.0)])
def test_adamw_shrinks_weights_that_have_no_gradient(tmp_path, options, decay):
    weights, _ = train(tmp_path, 0.0, optimizer="adamw", **options)
    np.testing.assert_allclose(weights, np.array([3, -2]) * (1 - LR * decay) ** 10, rtol=1e-6)


def test_adam_does_not(tmp_path):
    weights, _ = train(tmp_path, 0.0, optimizer="adam", weight_decay=0.3)
    np.testing.assert_array_equal(weights, [3, -2])


@pytest.mark.parametrize("slope", [1.0, -40.0])
def test_adam_steps_by_the_learning_rate(tmp_path, slope):
    """With an unchanging gradient, every bias-corrected step is −lr · sign."""
    weights, _ = train(tmp_path, slope, optimizer="adam")
    np.testing.assert_allclose(weights, np.array([3, -2]) - 10 * LR * np.sign(slope), rtol=1e-5)


def test_adamw_steps_and_shrinks(tmp_path):
    weights, _ = train(tmp_path, 2.0, optimizer="adamw", weight_decay=0.5)
    expected = np.array([3.0, -2.0])
    for _ in range(10):
        expected = expected * (1 - LR * 0.5) - LR
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_average_by_hand(tmp_path):
    weights, _ = train(tmp_path, 1.0, optimizer="adam", ema=0.8)
    w = average = np.array([3.0, -2.0])
    for _ in range(10):
        w = w - LR
        average = 0.8 * average + 0.2 * w
    np.testing.assert_allclose(weights, average, rtol=1e-5)


def test_gradients_are_clipped_to_the_norm(tmp_path):
    """Adam forgets the scale of a gradient unless it drowns in ε = 1e-8: so it tells whether clipping happened."""
    weights, _ = train(tmp_path, 1.0, optimizer="adam", clip_norm=1e-8)
    each = 1e-8 / np.sqrt(2)
    np.testing.assert_allclose(weights, np.array([3, -2]) - 10 * LR * each / (each + 1e-8), rtol=1e-4)


def test_steps_can_be_limited(tmp_path):
    weights, losses = train(tmp_path, 1.0, optimizer="adam", max_steps=3)
    assert len(losses) == 3
    np.testing.assert_allclose(weights, np.array([3, -2]) - 3 * LR, rtol=1e-5)
    np.testing.assert_allclose(losses, [1, 1 - 2 * LR, 1 - 4 * LR], rtol=1e-5)
