"""How clips are brought to the length a network takes, and which excerpt a training sees."""

import numpy as np
import pytest
import soundfile
import torch

from asd_core.backbones import BACKBONES
from asd_core.backbones.base import fit_length
from asd_core.backbones.multiresnet import MultiResNet
from asd_core.training import OBJECTIVES
from asd_core.types import Clip
from asd_core.views import VIEWS

SMALL = {"spectrograms": [[1024, 512]], "base_channels": 2, "branch_dim": 16}


def test_a_shorter_wave_is_tiled():
    wave = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    for start in (0.0, 0.7):
        np.testing.assert_array_equal(fit_length(wave, 8, start), [1, 2, 3, 1, 2, 3, 1, 2])
    np.testing.assert_array_equal(fit_length(wave, 6, 0.0), [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(fit_length(wave, 4, 0.0), [1, 2, 3, 1])


def test_a_fitting_wave_stays():
    wave = np.arange(5, dtype=np.float32)
    for start in (0.0, 0.999):
        np.testing.assert_array_equal(fit_length(wave, 5, start), wave)


def test_a_longer_wave_is_cut_at_every_possible_place():
    """Ten samples, excerpts of seven: four places, each a quarter of the starts in [0, 1)."""
    wave = np.arange(10, dtype=np.float32)
    for start, first in [(0.0, 0), (0.2, 0), (0.25, 1), (0.49, 1), (0.5, 2), (0.75, 3), (np.nextafter(1, 0), 3)]:
        np.testing.assert_array_equal(fit_length(wave, 7, start), np.arange(first, first + 7))


def test_prepare_takes_the_network_s_length():
    net = MultiResNet(seconds=5, **SMALL)
    long, short = np.arange(90_000, dtype=np.float32), np.arange(30_000, dtype=np.float32)
    np.testing.assert_array_equal(net.prepare(long), long[:80_000])  # embedding: the beginning
    np.testing.assert_array_equal(net.prepare(long, 0.5), long[5_000:85_000])
    np.testing.assert_array_equal(net.prepare(short), np.concatenate([short, short, short[:20_000]]))


@pytest.mark.parametrize(
    ("longest", "seconds"), [(0.0, 5.0), (3.0, 5.0), (5.0, 5.0), (6.0, 6.0), (12.0, 12.0), (16, 16), (600.0, 20.0)]
)
def test_length_follows_the_longest_clip(longest, seconds):
    options = {"name": "multiresnet", "base_channels": 8}
    for left_open in (options, options | {"seconds": None}):
        assert MultiResNet.resolve(left_open, longest) == options | {"seconds": seconds}
    assert options == {"name": "multiresnet", "base_channels": 8}


def test_a_given_length_is_kept():
    assert MultiResNet.resolve({"name": "multiresnet", "seconds": 7.0}, 12.0)["seconds"] == 7.0
    net = BACKBONES.create(MultiResNet.resolve({"name": "multiresnet", **SMALL}, 6.5))
    assert net.samples == 104_000


# ---------------------------------------------------------------- what training sees


@pytest.fixture
def ramps(tmp_path):
    """Two classes of clips, 6 s long, whose samples tell where they are."""
    ramp = np.linspace(-1, 1, 96_000, dtype=np.float32)
    clips = []
    for i in range(8):
        machine = ("fan", "pump")[i % 2]
        path = tmp_path / f"{machine}_{i}.wav"
        soundfile.write(path, np.stack([ramp, ramp], axis=1), 16_000, subtype="FLOAT")
        clips.append(Clip(f"{machine}/train/{path.name}", path, machine, "train", "00", "source"))
    return clips


def batches(clips, seeds, **options):
    objective = {"name": "classification", "labels": ["machine"], "loss": {"name": "subcluster_adacos"}, **options}
    backbone = BACKBONES.create({"name": "multiresnet", "seconds": 5.0, **SMALL})
    view = VIEWS.create({"name": "waveform"})
    examples = OBJECTIVES.create(objective).problem(backbone, clips, view, 0).examples
    return [examples.load(np.arange(len(clips)), torch.Generator().manual_seed(seed)) for seed in seeds]


def test_training_crops_anywhere(ramps):
    loaded = batches(ramps, range(40))
    ramp = np.linspace(-1, 1, 96_000, dtype=np.float32)
    firsts = []
    for x, _, labels, _ in loaded:
        assert x.shape == (8, 80_000)
        for excerpt in x.numpy():
            first = int(np.searchsorted(ramp, excerpt[0]))
            np.testing.assert_array_equal(excerpt, ramp[first : first + 80_000])
            firsts.append(first)
        np.testing.assert_array_equal(labels.numpy(), np.tile([[1, 0], [0, 1]], (4, 1)))
    quarters, _ = np.histogram(firsts, bins=4, range=(0, 16_001))
    assert len(set(firsts)) > 300  # of 320: clips of one batch are cut at different places, and so in every step
    assert quarters.min() > 50  # even: 80 expected


def test_training_crops_repeat_with_the_generator(ramps):
    one, again, other = (batch[0] for batch in batches(ramps, [1, 1, 2]))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
