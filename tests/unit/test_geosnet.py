"""Stereo cues against planted signals, the frozen BEATs inside the network, and clips on their way into it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from asd_core.backbones import BACKBONES, pretrained, stereo
from asd_core.backbones.geosnet import ConformerBlock, MultiScale, SimilarityFusion
from asd_core.backbones.transformer import mask_bank
from asd_core.types import AsdError
from tests.conftest import REPOSITORY

SIZES = {"layers": 3, "width": 32, "heads": 2, "ffn": 48, "patch_width": 16}
SMALL = {
    "architecture": SIZES,
    "layers": [1, 3],
    "widths": [16, 16],
    "width": 16,
    "blocks": 1,
    "heads": 2,
    "ffn": 32,
    "kernel": 5,
    "embed_dim": 12,
    "mels": 32,
}
N_FFT, HOP, MELS = 1024, 512, 128
# where the parts of the summary lie
ILD_MEAN, ILD_STD, STEADY = slice(0, 16), slice(16, 32), slice(32, 40)
LAG, PEAK, WANDER, BALANCE, BALANCE_STD, LEVEL, CORRELATION, COHERENCE = range(40, 48)


def network(seed=0, **options):
    torch.manual_seed(seed)
    return BACKBONES.create({"name": "geosnet", **SMALL, **options})


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.1)


def heard(near, far):
    """Maps (7, mels, T) and summary (48,) of one clip."""
    wave = torch.stack([near, far])[None]
    x = stereo.spectra(wave, N_FFT, HOP)
    maps = stereo.maps(x, MELS)
    return maps[0], stereo.summary(wave, x, maps, HOP)[0]


def delayed(wave, samples):
    return torch.roll(wave, samples)


# ------------------------------------------------------------------ stereo cues


def test_frames():
    x = stereo.spectra(noise(2, 2, 160_000), N_FFT, HOP)
    assert x.shape == (2, 2, 513, 313)
    assert stereo.maps(x, MELS).shape == (2, 7, MELS, 313)


@pytest.mark.parametrize("lag", [-90, -7, 0, 1, 33, 200])
def test_a_later_far_microphone_gives_a_positive_lag(lag):
    near = noise(48_000)
    _, summary = heard(near, delayed(near, lag))
    assert summary[LAG] == lag
    assert summary[PEAK] > 0.5
    assert summary[WANDER] == 0


def test_a_lag_that_changes_wanders():
    near = noise(64_000)
    far = torch.cat([delayed(near, 10)[:32_000], delayed(near, 30)[32_000:]])
    _, summary = heard(near, far)
    assert summary[WANDER] == pytest.approx(10, abs=1)


@pytest.mark.parametrize("lag", [-3, 2])
def test_phase_difference_of_a_delayed_tone(lag):
    t = torch.arange(32_000) / 16_000
    hz = 1000.0  # bin 64 exactly
    tone, later = (0.1 * torch.sin(2 * torch.pi * hz * (t - delay / 16_000)) for delay in (0, lag))
    x = stereo.spectra(torch.stack([tone, later])[None], N_FFT, HOP)
    phase = (x[0, 0, 64, 5:-5] * x[0, 1, 64, 5:-5].conj()).angle()
    expected = 2 * torch.pi * hz * lag / 16_000
    torch.testing.assert_close(phase, torch.full_like(phase, expected), atol=1e-3, rtol=0)
    maps, _ = heard(tone, later)
    band = maps[0].mean(1).argmax()
    for index, value in ((3, np.cos(expected)), (4, np.sin(expected))):
        assert maps[index, band, 5:-5].mean() == pytest.approx(value, abs=0.02), stereo.MAPS[index]


@pytest.mark.parametrize("gain", [-12.0, 0.0, 6.0, 20.0])
def test_gain_gives_the_level_difference(gain):
    far = noise(32_000)
    maps, summary = heard(far * 10 ** (gain / 20), far)
    torch.testing.assert_close(maps[2], torch.full_like(maps[2], gain), atol=0.1, rtol=0)
    torch.testing.assert_close(maps[0] - maps[1], torch.full_like(maps[2], gain), atol=0.01, rtol=0)
    torch.testing.assert_close(summary[ILD_MEAN], torch.full((16,), gain), atol=0.02, rtol=0)
    assert summary[ILD_STD].max() < 0.02
    assert summary[LEVEL] == pytest.approx(gain, abs=0.01)
    assert summary[CORRELATION] == pytest.approx(1, abs=1e-5)


def test_equal_channels():
    near = noise(32_000)
    maps, summary = heard(near, near)
    assert (maps[6] == -100).all()  # side: silent
    torch.testing.assert_close(maps[5], maps[0])  # mid
    torch.testing.assert_close(maps[3], torch.ones_like(maps[3]), atol=1e-4, rtol=0)
    assert maps[[2, 4]].abs().max() < 1e-4
    torch.testing.assert_close(summary[STEADY], torch.ones(8), atol=1e-4, rtol=0)
    assert summary[COHERENCE] == pytest.approx(1, abs=1e-4)
    assert summary[BALANCE] > 60


def test_strangers_are_neither_coherent_nor_correlated():
    maps, summary = heard(noise(160_000), noise(160_000, seed=1))
    assert summary[COHERENCE] < 0.02
    assert abs(summary[CORRELATION]) < 0.02
    assert summary[STEADY].max() < 0.05
    assert abs(summary[BALANCE]) < 0.5
    assert maps[6].mean() == pytest.approx(float(maps[5].mean()), abs=0.5)


def test_mid_and_side_of_opposite_channels_change_places():
    near, far = noise(32_000), noise(32_000, seed=1)
    (maps, one), (turned, other) = heard(near, far), heard(near, -far)
    torch.testing.assert_close(turned[[6, 5]], maps[[5, 6]])
    torch.testing.assert_close(turned[3:5], -maps[3:5])
    assert other[BALANCE] == pytest.approx(-float(one[BALANCE]), abs=1e-3)
    assert other[CORRELATION] == pytest.approx(-float(one[CORRELATION]), abs=1e-5)
    assert one[BALANCE_STD] > 0


def test_channels_that_change_places_change_signs():
    near = noise(48_000)
    far = 0.5 * delayed(near, 12) + 0.1 * noise(48_000, seed=1)
    (maps, one), (turned, other) = heard(near, far), heard(far, near)
    torch.testing.assert_close(turned[2], -maps[2], atol=1e-4, rtol=0)
    torch.testing.assert_close(turned[4], -maps[4], atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[[1, 0, 3, 5, 6]], maps[[0, 1, 3, 5, 6]], atol=1e-4, rtol=0)
    signs = torch.ones(48)
    signs[ILD_MEAN] = signs[LAG] = signs[LEVEL] = -1
    torch.testing.assert_close(other, signs * one, atol=1e-3, rtol=1e-4)
    assert one[LAG] == 12
    assert one[LEVEL] > 5


def test_silence_tells_nothing():
    maps, summary = heard(torch.zeros(16_000), torch.zeros(16_000))
    assert (maps[[0, 1, 5, 6]] == -100).all()
    assert (maps[[2, 3, 4]] == 0).all()
    assert (summary == 0).all()


def test_a_clip_shorter_than_a_stretch_has_one_lag():
    near = noise(8000)
    _, summary = heard(near, delayed(near, 5))
    assert summary[LAG] == 5
    assert summary[WANDER] == 0


def test_log_mel_maps_are_the_log_mel_view():
    from asd_core.views import VIEWS

    wave = noise(2, 20_000)
    x = stereo.spectra(wave[None], N_FFT, HOP)
    maps = stereo.maps(x, MELS)[0]
    for row, channel in ((0, "near"), (1, "far")):
        expected = VIEWS.create({"name": "logmel", "channel": channel})(wave.numpy())
        np.testing.assert_allclose(maps[row].numpy(), expected, atol=1e-3)


def test_cues_of_a_clip_do_not_depend_on_its_batch():
    wave = noise(3, 2, 40_000)
    x = stereo.spectra(wave, N_FFT, HOP)
    maps = stereo.maps(x, MELS)
    together = stereo.summary(wave, x, maps, HOP)
    for i in range(3):
        own_maps, own = heard(*wave[i])
        torch.testing.assert_close(own_maps, maps[i])
        torch.testing.assert_close(own, together[i])


# ------------------------------------------------------------------ parts of the network


@pytest.mark.parametrize("shape", [(2, 3, 16, 20), (1, 3, 9, 7)])
def test_one_convolution_does_what_three_and_a_join_do(shape):
    torch.manual_seed(0)
    part = MultiScale(3, 16)
    maps = torch.randn(shape, requires_grad=True)
    small, large, sparse = part.kernels
    sizes = [
        F.conv2d(maps, small, padding=1),
        F.conv2d(maps, large, padding=2),
        F.conv2d(maps, sparse, padding=2, dilation=2),
    ]
    expected = F.conv2d(torch.cat(sizes, dim=1), part.join[:, :, None, None])
    joined = F.conv2d(maps, part.kernel(), padding=2)
    torch.testing.assert_close(joined, expected, atol=1e-5, rtol=1e-4)
    parameters = [*part.kernels, part.join]
    for one, other in zip(
        torch.autograd.grad(expected.square().sum(), parameters),
        torch.autograd.grad(joined.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    assert part(maps).shape == (shape[0], 16, shape[2] // 2, shape[3] // 2)


def test_fusion_is_its_formula():
    torch.manual_seed(0)
    part = SimilarityFusion(8, 6)
    a, tokens = torch.randn(2, 8, 5), torch.randn(2, 5, 6)
    b = part.project(tokens).transpose(1, 2)
    c = (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1, keepdim=True)
    gate = torch.sigmoid(part.gate(torch.cat([c, a, b], dim=1)))
    expected = gate * a + (1 - gate) * b + c * part.product(a * b)
    torch.testing.assert_close(part(a, tokens), expected)
    assert part(a, torch.randn(2, 11, 6)).shape == a.shape


def test_conformer_hears_order_and_all_times():
    torch.manual_seed(0)
    block = ConformerBlock(8, 2, 16, 3, 0.0).eval()
    x = torch.randn(1, 12, 8)
    out = block(x)
    assert out.shape == x.shape
    changed = x.clone()
    changed[0, 11] = torch.randn(8)
    assert (block(changed)[0, 0] - out[0, 0]).abs().max() > 1e-6  # through the attention
    assert (block(x.flip(1)).flip(1) - out).abs().max() > 1e-3  # through the convolution


# ------------------------------------------------------------------ the network


def test_embeddings_have_length_one():
    x = network().frozen().embed(noise(3, 2, 32_000))
    assert x.shape == (3, 12)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(3))


def test_all_inputs_count():
    net = network().frozen()
    wave = noise(1, 2, 32_000)
    first = net.embed(wave)
    for channel in (0, 1):
        changed = wave.clone()
        changed[:, channel] = noise(32_000, seed=5)
        assert (net.embed(changed) - first).abs().max() > 1e-3
    assert (net.embed(wave.flip(1)) - first).abs().max() > 1e-3


def test_default_size():
    with torch.device("meta"):
        net = BACKBONES.create({"name": "geosnet"})
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 9_131_635
    assert sum(p.numel() for p in net.beats.parameters()) == 90_311_792
    assert not any(p.requires_grad for p in net.beats.parameters())


def test_beats_stays_as_it_is_while_the_rest_learns():
    net = network().train()
    assert net.training
    assert net.stages.training
    assert not any(module.training for module in net.beats.trunk.modules())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    (net.embed(noise(4, 2, 32_000)) * torch.randn(4, 12)).sum().backward()
    optimiser.step()
    after = net.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert not any(key.startswith("beats.") for key in moved)
    assert {"share", "stages.0.join", "norm.running_mean", "film.0.running_mean", "head.0.weight"} <= moved
    assert any(key.startswith("beats.trunk.encoder.layers.2.") for key in before)  # kept with the network


def test_begins_with_an_earlier_beats_and_with_nothing_else():
    earlier = BACKBONES.create({"name": "beats", "architecture": SIZES, "pooling": {"name": "asp"}})
    net = network(seed=1)
    net.begin(earlier)
    for key, value in earlier.trunk.state_dict().items():
        assert torch.equal(net.beats.trunk.state_dict()[key], value), key
    assert not any(p.requires_grad for p in net.beats.parameters())
    assert net.depths() == {}  # nothing that is trained was trained before
    other = BACKBONES.create({"name": "beats", "architecture": SIZES | {"width": 64}, "pooling": {"name": "mean"}})
    with pytest.raises(AsdError, match="do not fit this architecture"):
        net.begin(other)
    with pytest.raises(AsdError, match='cannot start from a trained "geosnet"'):
        net.begin(network())


def test_published_weights_are_named_where_they_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("ASD_WEIGHTS", str(tmp_path))
    options = {"name": "geosnet", "checkpoint": "beats_iter3_plus_as2m"}
    assert BACKBONES["geosnet"].resolve(options, 0.0) == options
    with pytest.raises(AsdError, match="belongs at"):
        BACKBONES["geosnet"].files(options)
    assert BACKBONES["geosnet"].files({"name": "geosnet"}) == []


def test_begins_with_published_weights():
    """A checkpoint in the official format, tiny, whose sizes the network takes over."""
    checkpoint = REPOSITORY / "tests/golden/encoders/beats_tiny.pt"
    given = {"name": "geosnet", **SMALL, "architecture": None, "layers": [1, 2], "checkpoint": str(checkpoint)}
    assert BACKBONES["geosnet"].files(given) == [checkpoint]
    net = BACKBONES.create(BACKBONES["geosnet"].resolve(given, 0.0))
    net.begin(None)
    published = pretrained.read(checkpoint).tensors
    own = net.beats.trunk.state_dict()
    assert len(published.keys() & own.keys()) >= 30
    assert all(torch.equal(own[key], published[key]) for key in published.keys() & own.keys())
    assert net.frozen().embed(noise(1, 2, 32_000)).shape == (1, 12)


def test_masked_stretches_are_those_of_all_maps(monkeypatch):
    """At the mean of each map, in training only."""
    net = network(time_mask=10, mel_mask=8, mask_probability=1.0)
    seen = []
    net.stages[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net.train().embed(noise(4, 2, 32_000))
    zero = seen[0] == 0
    assert zero.any()
    assert torch.equal(zero, zero[:, :1].expand_as(zero))
    assert zero.flatten(1).float().mean(1).max() < 0.6
    net.eval().embed(noise(4, 2, 32_000))
    assert not (seen[1] == 0).any()


def test_masks_are_drawn_as_those_of_the_filter_bank():
    torch.manual_seed(3)
    kept = mask_bank(torch.ones(500, 60, 40), 10, 8, 0.5)
    times, bands = (1 - kept.amax(2)).sum(1), (1 - kept.amax(1)).sum(1)
    assert times.max() == 10
    assert bands.max() == 8
    assert (times == 0).float().mean() == pytest.approx(0.5 + 0.5 / 11, abs=0.06)


@pytest.mark.parametrize("masks", [0, 8])
def test_training_repeats_with_its_seed(masks):
    net = network(time_mask=masks, dropout=0.2).train()
    x = noise(3, 2, 32_000)
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(net.embed(x))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_half_precision_changes_little():
    net = network().frozen()
    x = noise(2, 2, 32_000)
    with torch.autocast("cpu", torch.bfloat16):
        half = net.embed(x)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, net.embed(x), atol=0.03, rtol=0)


# ------------------------------------------------------------------ clips


def wave(samples, channels=2):
    return np.arange(channels * samples, dtype=np.float32).reshape(channels, samples)


@pytest.mark.parametrize(
    ("samples", "start", "length", "first"),
    [
        (20_000, None, 16_000, 0),  # embedding: the beginning
        (12_000, None, 12_000, 0),  # a shorter clip as it is
        (20_000, 0.5, 8000, 6000),  # training: an excerpt
        (6000, 0.5, 8000, 0),  # repeated
    ],
)
def test_lengths(samples, start, length, first):
    net = network(seconds=1.0, train_seconds=0.5)
    x = wave(samples)
    out = net.prepare(x, start)
    assert out.shape == (2, length)
    assert net.valid_samples(out) == length
    np.testing.assert_array_equal(out, np.take(x, (first + np.arange(length)) % samples, axis=1))


def test_without_train_seconds_training_hears_what_embedding_hears():
    net = network(seconds=1.0, train_seconds=None)
    assert net.prepare(wave(20_000), 0.9).shape == (2, 16_000)
    assert net.prepare(wave(20_000), 0.9)[0, 0] > 0
    assert net.prepare(wave(12_000), 0.9).shape == (2, 12_000)
    assert network(seconds=None, train_seconds=None).prepare(wave(200_000)).shape == (2, 200_000)


def test_one_microphone_is_refused():
    with pytest.raises(AsdError, match="has one channel; geosnet compares two microphones"):
        network().prepare(wave(16_000, channels=1))


def test_more_than_two_channels_are_near_far_and_others():
    np.testing.assert_array_equal(network().prepare(wave(9000, channels=4)), wave(9000, channels=4)[:2])


@pytest.mark.parametrize("stages", [2, 4])
def test_the_shortest_clip(stages):
    net = network(layers=[1] * stages, widths=[16] * stages).frozen()
    shortest = {2: 2800, 4: 7680}[stages]
    assert torch.isfinite(net.embed(torch.from_numpy(net.prepare(wave(shortest) / 1e5))[None])).all()
    with pytest.raises(AsdError, match=f"needs {shortest}"):
        net.prepare(wave(shortest - 1))


def test_a_padded_batch_is_refused_rather_than_heard_wrong():
    net = network().frozen()
    x = noise(2, 2, 16_000)
    torch.testing.assert_close(net.embed(x, lengths=torch.tensor([16_000, 16_000])), net.embed(x))
    with pytest.raises(AsdError, match=r"clips of one length.* clips of 0.75, 1 s. Give train_seconds"):
        net.embed(x, lengths=torch.tensor([16_000, 12_000]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [1]}, "every stage needs a layer"),
        ({"layers": [1, 4]}, "0 to 3; got layers"),
        ({"layers": [], "widths": []}, "every stage needs a layer"),
        ({"mels": 40}, "mels must be a multiple of 16"),
        ({"widths": [16] * 5, "layers": [1] * 5, "mels": 16}, "be halved 5×"),
        ({"kernel": 4}, "kernel odd"),
        ({"heads": 3}, "multiple of heads"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(AsdError, match=message):
        network(**options)


def test_a_batch_of_one_clip_can_be_trained_on():
    """Its summary is normalised by what was learnt before."""
    net = network().train()
    net.embed(noise(4, 2, 32_000))
    out = net.embed(noise(1, 2, 32_000, seed=3))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
