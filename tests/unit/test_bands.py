"""Outputs that tell frequency bands apart: what is in them, and where in the spectrum they lie."""

import numpy as np
import pytest
import torch

from asd_core.backbones import BACKBONES
from asd_core.backbones.fbank import LOWEST_HZ, band_edges, kaldi_fbank
from asd_core.types import SAMPLE_RATE

TINY = {"layers": 2, "width": 32, "heads": 2, "ffn": 48}
BANDS = 8


def build(name="beats", pooling="asp"):
    """Random weights, none of which is at a value that hides it."""
    torch.manual_seed(0)
    architecture = TINY | ({"patch_width": 16} if name == "beats" else {})
    net = BACKBONES.create({"name": name, "pooling": {"name": pooling}, "architecture": architecture}).frozen()
    for parameter in net.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    return net


def noise(count, seconds):
    samples = round(seconds * SAMPLE_RATE)
    return 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layer", ["", "1"])
@pytest.mark.parametrize(("name", "pooling"), [("beats", "asp"), ("beats", "gem"), ("eat", "cls"), ("eat", "asp")])
def test_mean_and_maximum_over_time(name, pooling, layer):
    found = build(name, pooling).embed_all(noise(3, 2.0), [f"patches{layer}", f"bands{layer}"])
    patches, bands = (part.numpy() for part in found.values())
    assert bands.shape == (3, 3 if pooling == "asp" else 2, *patches.shape[2:])
    np.testing.assert_allclose(bands[:, 0], patches.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(bands[:, 1], patches.max(axis=1))


@pytest.mark.parametrize("name", ["beats", "eat"])
def test_attention_is_renormalised_inside_each_band(name):
    net, steps, width = build(name), 13, TINY["width"]
    net.pooling.outer.weight *= 5  # an attention that tells times apart
    grid = torch.randn(2, steps, BANDS, width, generator=torch.Generator().manual_seed(2))
    mean, _, attentive = net.bands(grid, None).numpy().swapaxes(0, 1)
    logits = net.pooling.attention(grid.reshape(2, steps * BANDS, width)).numpy().astype(np.float64)
    for band in range(BANDS):
        own = logits.reshape(2, steps, BANDS, width)[:, :, band]
        share = np.exp(own) / np.exp(own).sum(axis=1, keepdims=True)
        by_hand = (share * grid[:, :, band].numpy()).sum(axis=1)
        np.testing.assert_allclose(attentive[:, band], by_hand, rtol=1e-4, atol=1e-5)
    assert np.abs(attentive - mean).max() > 0.1
    found = net.embed_all(noise(2, 2.0), ["patches", "bands"])
    torch.testing.assert_close(found["bands"], net.bands(found["patches"], None))


@pytest.mark.parametrize("pooling", ["asp", "mean"])
@pytest.mark.parametrize("name", ["beats", "eat"])
def test_padding_makes_no_difference(name, pooling):
    """Rubbish behind the shorter clip is neither averaged nor attended to, nor is it the maximum."""
    net = build(name, pooling)
    wave, lengths = noise(2, 2.0), torch.tensor([32_000, 20_000])
    wave[1, 20_000:] *= 50
    together = net.embed(wave, "bands", lengths)
    for clip, length in enumerate(lengths):
        alone = net.embed(wave[clip : clip + 1, :length], "bands")[0]
        torch.testing.assert_close(together[clip], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bands", [1, 8, 128])
def test_edges_increase_over_all_the_filter_bank_hears(bands):
    edges = band_edges(bands)
    assert len(edges) == bands + 1
    assert edges[0] == pytest.approx(LOWEST_HZ)
    assert edges[-1] == pytest.approx(SAMPLE_RATE / 2)
    assert (np.diff(edges) > 0).all()


@pytest.mark.parametrize("window", ["povey", "hann"])
@pytest.mark.parametrize("band", range(BANDS))
def test_a_tone_is_heard_in_the_band_that_it_lies_in(band, window):
    edges = band_edges(BANDS)
    t = torch.arange(SAMPLE_RATE, dtype=torch.float64) / SAMPLE_RATE
    tone = 0.1 * torch.sin(np.pi * (edges[band] + edges[band + 1]) * t)  # the middle, in Hz
    energies = kaldi_fbank(tone[None], window)[0].exp().mean(dim=0)  # (128,)
    assert int(energies.unflatten(0, (BANDS, -1)).sum(dim=1).argmax()) == band
    assert int(energies.argmax()) // (128 // BANDS) == band


@pytest.mark.parametrize("name", ["beats", "eat"])
def test_the_layout_of_a_network_is_that_of_its_patches(name):
    """A click moves the patches of its own time most; a step of the grid is 160 ms."""
    net = build(name)
    assert net.layout.edges == band_edges(BANDS)
    fbank, frames = net.trunk.fbank(noise(1, 4.0))
    assert net.embed(noise(1, 4.0), "patches").shape[1] == int(net.trunk.patches(frames)[0])
    assert net.layout.step == pytest.approx(16 * 160 / SAMPLE_RATE)
    clicked = noise(1, 4.0)
    first = round(12.5 * net.layout.step * SAMPLE_RATE)  # in the middle of step 12
    clicked[0, first : first + 100] += 3.0
    change = (net.trunk.fbank(clicked)[0] - fbank).abs().sum(dim=2)[0]  # (frames,)
    assert int(change.argmax()) // 16 == 12
