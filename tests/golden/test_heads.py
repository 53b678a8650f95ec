"""Attentive pooling, the UNIS head and squeeze-excite against figures of the dcase-asd-toolkit and the UNIS team's
code. (FeatEx, stored beside them, is used by none of our systems.)"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from asd_core.backbones.head import build_head
from asd_core.backbones.multiresnet import SqueezeExcite
from asd_core.backbones.pooling import AttentiveStatistics

HERE = Path(__file__).parent / "encoders"
STORED = {n: torch.from_numpy(v) for n, v in np.load(HERE / "heads.npz").items()}
EXACT = {"rtol": 0, "atol": 1e-5}
TOLERANCE = {
    "eval": 1e-5,
    "train": 2e-5,
}  # a batch norm over three clips: the stored figures are off by 8e-6 themselves


@pytest.fixture
def pooling():
    own = AttentiveStatistics(32)
    layers = {"inner": "attention.0", "norm": "attention.2", "outer": "attention.4"}
    layers |= {f"projection.{i}": f"last_layer.{i}" for i in range(3)}
    stored = {name: STORED[f"attnstatpool/sd/{_theirs(name, layers)}"] for name in own.state_dict()}
    shapes = {name: value.shape for name, value in own.state_dict().items()}
    own.load_state_dict({name: value.reshape(shapes[name]) for name, value in stored.items()})
    return own


def _theirs(name, layers):
    layer, _, kind = name.rpartition(".")
    return f"{layers[layer]}.{kind}"


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attentive_statistics(pooling, mode):
    ours = pooling.train(mode == "train")(STORED["attnstatpool/x"]).detach()
    torch.testing.assert_close(ours, STORED[f"attnstatpool/{mode}"], rtol=0, atol=TOLERANCE[mode])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attentive_statistics_among_padding(pooling, mode):
    """The same clips followed by tokens of padding, which in training the batch norms do not see either."""
    x = STORED["attnstatpool/x"]
    padded = torch.cat([x, torch.full((3, 7, 32), 1e3)], dim=1)
    valid = torch.arange(27).expand(3, 27) < 20
    ours = pooling.train(mode == "train")(padded, valid).detach()
    torch.testing.assert_close(ours, STORED[f"attnstatpool/{mode}"], rtol=0, atol=TOLERANCE[mode])


@pytest.fixture
def unis():
    head = build_head(32, ["norm", "linear"])
    theirs = {name: STORED[f"unis/{name.replace('0.', 'bn/norm.').replace('1.', 'fc/')}"] for name in head.state_dict()}
    head.load_state_dict(theirs)
    return head


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_unis_head(unis, mode):
    x = torch.from_numpy(np.load(HERE / "losses.npz")["x"])
    torch.testing.assert_close(unis.train(mode == "train")(x).detach(), STORED[f"unis/emb_{mode}"], **EXACT)


def test_single_clip_in_training(unis):
    """Their code skips the batch norm then; ours uses the running statistics. With fresh ones, as stored, both agree
    up to the norm's epsilon."""
    x = torch.from_numpy(np.load(HERE / "losses.npz")["x"])[:1]
    theirs = STORED["unis/emb_train_b1"]
    torch.testing.assert_close(F.linear(x, unis[1].weight, unis[1].bias).detach(), theirs, **EXACT)
    torch.testing.assert_close(unis.train()(x).detach(), theirs, rtol=0, atol=5e-5)


def test_squeeze_excite():
    gate = SqueezeExcite(32)
    gate.down.data, gate.up.data = STORED["se/sd/layer1.0.weight"].clone(), STORED["se/sd/layer2.0.weight"].clone()
    torch.testing.assert_close(gate(STORED["se/x"]).detach(), STORED["se/y"], **EXACT)
