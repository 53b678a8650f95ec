"""Our BEATs against every stage of the official code's, on its own weights (random ones of a tiny size)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asd_core.backbones.beats import Beats, distance_buckets, tag_probabilities

FOLDER = Path(__file__).parent / "encoders"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def stored():
    return {name: dict(np.load(FOLDER / f"beats_tiny_{name}.npz")) for name in ("io", "ft_io", "grads")}


def load(name: str, **options) -> tuple[Beats, dict[str, torch.Tensor]]:
    file = torch.load(FOLDER / f"{name}.pt", weights_only=True)
    model = Beats(**Beats.architecture(file["cfg"]) | options)
    model.adopt(file["model"])
    return model.eval(), file["model"]


@pytest.fixture(scope="module")
def tiny() -> Beats:
    return load("beats_tiny")[0].requires_grad_(False)


def waves(stored) -> dict[str, torch.Tensor]:
    io = stored["io"]
    return {
        "masked": torch.from_numpy(io["wave_i16"] / np.float32(32768)),
        "clip10": torch.from_numpy(io["wave10_i16"] / np.float32(32768))[None],
    }


def close(ours: torch.Tensor, theirs: np.ndarray, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, atol=tolerance, rtol=0)


def official_padding(samples: torch.Tensor, frames: int, tokens: int) -> torch.Tensor:
    """(B, T) padding of samples → (B, tokens) padding of tokens, as the official code derives it.

    Twice, the remainder is cut off and a group of equal size is padding if all of it is. That is approximate: the
    groups are neither frames of 25 ms nor whole time steps. Our model masks by valid frames instead.
    """
    for groups in (frames, tokens):
        samples = samples[:, : samples.shape[1] // groups * groups].unflatten(1, (groups, -1)).all(-1)
    return samples


def padding_of(stored) -> torch.Tensor:
    return official_padding(torch.from_numpy(stored["io"]["padding_mask"]), 198, 96)


@pytest.mark.parametrize("case", ["masked", "clip10"])
def test_fbank(tiny, stored, case):
    fbank, frames = tiny.fbank(waves(stored)[case])
    close(fbank, stored["io"][f"{case}_fbank"])
    assert frames.tolist() == [fbank.shape[1]] * len(fbank)


def test_fbank_in_double_precision(tiny, stored):
    fbank, _ = tiny.fbank(waves(stored)["masked"].double())
    close(fbank, stored["io"]["masked_fbank_f64"])


def test_padding(stored):
    close(padding_of(stored), stored["io"]["masked_out_padding_mask"])


def test_stages(tiny, stored):
    """Every stage from the official code's own filter bank, with its padding mask."""
    io, found = stored["io"], {}
    encoder = tiny.encoder
    modules = {
        "patch_conv": tiny.patch_embedding,
        "patch_ln": tiny.layer_norm,
        "patch_proj": tiny.post_extract_proj,
        "pos_conv": encoder.pos_conv,
        "enc_in": encoder.layer_norm,
        "attn0": encoder.layers[0].self_attn,
        "layer0": encoder.layers[0],
        "attn1": encoder.layers[1].self_attn,
        "layer1": encoder.layers[1],
    }
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: found.update({name: output}))
        for name, module in modules.items()
    ]
    fbank = torch.from_numpy(io["masked_fbank"])
    states = tiny.hidden(fbank, padding_of(stored), {0, 1, 2})
    for hook in hooks:
        hook.remove()
    for name, ours in found.items():
        close(ours, io[f"masked_{name}"])
    close(tiny.encoder.position_bias(96)[0], io["masked_position_bias"])
    close(states[0], io["masked_enc_in"])
    close(states[1], io["masked_layer0"])
    close(states[2], io["masked_out"])


@pytest.mark.parametrize("case", ["nomask", "clip10"])
def test_output_without_padding(tiny, stored, case):
    wave = waves(stored)["masked" if case == "nomask" else case]
    close(tiny(tiny.fbank(wave)[0])[2], stored["io"][f"{case}_out"])


def test_pooled_layers(tiny, stored):
    states = tiny(tiny.fbank(waves(stored)["clip10"])[0], layers=[0, 1, 2])
    for layer, tokens in states.items():
        grid = tokens.unflatten(1, (62, 8))
        close(tokens.mean(1), stored["io"][f"clip10_layerresult{layer}_mean"])
        close(grid.mean(1).flatten(1), stored["io"][f"clip10_layerresult{layer}_temporalpool"])
        close(grid.mean(2).flatten(1), stored["io"][f"clip10_layerresult{layer}_spectralpool"])


def test_buckets(stored):
    assert (distance_buckets(1201, 320, 800).numpy() == stored["io"]["relpos_bucket"]).all()


def test_fine_tuned(stored):
    model, tensors = load("beats_tiny_ft")
    classifier = (tensors["predictor.weight"], tensors["predictor.bias"])
    fbank = model.fbank(waves(stored)["masked"])[0]
    padding = padding_of(stored)
    tokens = model.hidden(fbank, padding, {2})[2]
    close(tokens, stored["ft_io"]["masked_layer1"])
    close(padding, stored["ft_io"]["masked_out_padding_mask"])
    close(tag_probabilities(tokens, *classifier, padding), stored["ft_io"]["masked_lprobs"])
    close(tag_probabilities(model(fbank)[2], *classifier), stored["ft_io"]["nomask_lprobs"])
    clip = model(model.fbank(waves(stored)["clip10"])[0])[2]
    close(tag_probabilities(clip, *classifier), stored["ft_io"]["clip10_lprobs"])
    close(tag_probabilities(clip, *classifier), stored["ft_io"]["clip10_allfalse_mask_lprobs"])


@pytest.mark.parametrize("decay", [0.6, 1.0])
def test_gradients(stored, decay):
    """Those of the sum of valid output tokens times fixed random numbers."""
    model, _ = load("beats_tiny", gradient_decay=decay)
    padding, grads = padding_of(stored), stored["grads"]
    tokens = model.hidden(torch.from_numpy(stored["io"]["masked_fbank"]), padding, {2})[2]
    loss = (tokens * torch.from_numpy(grads["R"]))[~padding].sum()
    loss.backward()
    np.testing.assert_allclose(loss.item(), grads[f"loss_{decay}"], rtol=1e-5)
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert ours.keys() == {name.split("/")[1] for name in grads if name.startswith(f"grad_{decay}")}
    for name, gradient in ours.items():
        theirs = grads[f"grad_{decay}/{name}"]
        np.testing.assert_allclose(gradient, theirs, rtol=0, atol=TOLERANCE * max(1.0, np.abs(theirs).max()))


def test_options_of_a_published_configuration():
    config = torch.load(FOLDER / "beats_tiny.pt", weights_only=True)["cfg"]
    options = Beats.architecture(config)
    assert (options["layer_drop"], options["gradient_decay"], options["max_distance"]) == (0.05, 0.6, 800)


@pytest.mark.filterwarnings("ignore:.*meta parameter.*")
@pytest.mark.parametrize("table", ["beats_pretrained", "beats_finetuned_AS2M"])
def test_full_size_takes_the_published_tensors(table):
    shapes = json.loads((FOLDER / "keys.json").read_text())[table]
    with torch.device("meta"):
        model = Beats()
    model.adopt({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()})
    assert len(shapes) == {"beats_pretrained": 250, "beats_finetuned_AS2M": 252}[table]
    assert sum(p.numel() for p in model.parameters()) == 90_311_792
