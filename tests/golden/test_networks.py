"""Our networks, losses and scorers against figures computed by the official and peer code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from asd_core.backbones.autoencoder import Autoencoder
from asd_core.backbones.multiresnet import MultiResNet, SpectrogramBranch
from asd_core.views.logmel import LogMel

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def multiresnet():
    return np.load(HERE / "encoders/multiresnet.npz")


@pytest.mark.parametrize("n_fft", [256, 1024, 4096])
def test_spectrogram(multiresnet, n_fft):
    wave = torch.from_numpy(multiresnet["stft_wave_i16"] / np.float32(32768))
    branch = SpectrogramBranch(96_000, n_fft, n_fft // 2, 2, 4)
    np.testing.assert_allclose(branch.spectrogram(wave).numpy(), multiresnet[f"stft/{n_fft}"], atol=1e-5)


def load_in_order(module: torch.nn.Module, stored: list[np.ndarray]) -> None:
    """Copy arrays into a module's weights and running statistics, both in definition order."""
    own = {n: v for n, v in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    # batch-norm statistics and weights come in the same order as the layers on both sides
    assert [tuple(v.shape) for v in own.values()] == [a.shape for a in stored]
    module.load_state_dict({n: torch.from_numpy(a) for n, a in zip(own, stored, strict=True)}, strict=False)


@pytest.fixture
def tiny(multiresnet):
    """The shrunken network of the stored figures: 6 s, one spectrogram 256/128, base 2, branches of 16."""
    net = MultiResNet(seconds=6, spectrograms=[[256, 128]], base_channels=2, branch_dim=16)
    prefix = "tiny/sd/"
    names = [n for n in multiresnet.files if n.startswith(prefix) and not n.endswith("window")]
    spectrum = [multiresnet[n] for n in names if "fft_layer.layer." in n and "stft_layer_list" not in n]
    spectrogram = [n for n in names if "stft_layer_list" in n]
    load_in_order(net.branches[0], spectrum)
    # their blocks list the skip before the body; ours after it
    blocks: dict[str, list[str]] = {}
    for n in spectrogram:
        tail = n.split(".layer.", 1)[1]
        key = ".".join(tail.split(".")[:3]) if tail.startswith("layers.") else tail.split(".")[0]
        blocks.setdefault(key, []).append(n)
    ordered = [n for group in blocks.values() for n in sorted(group, key=lambda n: "skip_connect" in n)]
    load_in_order(net.branches[1], [multiresnet[n] for n in ordered])
    return net


def test_multiresnet_evaluation(tiny, multiresnet):
    wave = torch.from_numpy(multiresnet["tiny/wave_i16"] / np.float32(32768))
    with torch.no_grad():
        ours = tiny.eval()(wave).numpy()
    np.testing.assert_allclose(ours, multiresnet["tiny/eval"], atol=1e-5, rtol=1e-5)


def test_multiresnet_training_mode(tiny, multiresnet):
    wave = torch.from_numpy(multiresnet["tiny/wave_i16"] / np.float32(32768))
    ours = tiny.train()(wave).detach().numpy()
    np.testing.assert_allclose(ours, multiresnet["tiny/train"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("spectrograms", "parameters", "dim"),
    [([[1024, 512]], 2_495_568, 256), ([[256, 128], [1024, 512], [4096, 2048]], 5_000_432, 512)],
)
def test_multiresnet_full_size(spectrograms, parameters, dim):
    net = MultiResNet(seconds=10, spectrograms=spectrograms)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.embed_dim == dim


@pytest.fixture(scope="module")
def end_to_end():
    return np.load(HERE / "protocol/ae_e2e.npz")


@pytest.fixture
def official_autoencoder(end_to_end):
    net = Autoencoder()
    state = {n.removeprefix("state/"): torch.from_numpy(end_to_end[n]) for n in end_to_end.files if "state/" in n}
    net.load_state_dict(state)
    return net.frozen()


def test_autoencoder_size():
    net = Autoencoder()
    assert sum(p.numel() for p in net.parameters()) == 267_928
    assert sum(v.numel() for v in net.state_dict().values()) == 302_769


@pytest.mark.parametrize(("output", "tolerance"), [("mse", 1e-5), ("mahala", 1e-4)])
def test_autoencoder_scores(end_to_end, official_autoencoder, output, tolerance):
    for vectors, index in zip(end_to_end["clip_vectors"], end_to_end["clip_index"], strict=True):
        logmel = np.concatenate([vectors[:, :128], vectors[-1].reshape(5, 128)[1:]]).T  # back to frames
        ours = official_autoencoder.embed(torch.from_numpy(logmel.copy())[None], output)[0].min().item()
        assert ours == pytest.approx(end_to_end[f"scores_{output}"][index], rel=tolerance)


@pytest.mark.parametrize("size", ["small", "full"])
def test_mahalanobis_of_the_residual(size):
    stored = np.load(HERE / "protocol/mahala.npz")
    block = stored[f"{size}/cov_source"].shape[0]
    net = Autoencoder(n_mels=block)
    net.cov_source = torch.from_numpy(stored[f"{size}/cov_source"])
    net.cov_target = torch.from_numpy(stored[f"{size}/cov_target"])
    clips = sorted({n.split("/")[1] for n in stored.files if n.startswith(f"{size}/clip")})
    assert clips
    for clip in clips:
        residual = torch.from_numpy(stored[f"{size}/{clip}/x"] - stored[f"{size}/{clip}/recon"])
        ours = net.mahala(residual).numpy()
        np.testing.assert_allclose(ours[0], stored[f"{size}/{clip}/score_source"], rtol=1e-4)
        np.testing.assert_allclose(ours[1], stored[f"{size}/{clip}/score_target"], rtol=1e-4)
        np.testing.assert_allclose(ours.min(), stored[f"{size}/{clip}/score_min"], rtol=1e-4)
        assert ours[0] != pytest.approx(stored[f"{size}/{clip}/mean_of_row_distances_source"].item(), rel=0.01)


def test_logmel_vectors():
    stored = np.load(HERE / "protocol/logmel.npz")
    wave = (stored["waveform_int16"] / np.float32(32768)).T
    vectors = Autoencoder().vectors(torch.from_numpy(LogMel("near")(wave))).numpy()
    assert vectors.shape == (59, 640)
    np.testing.assert_allclose(vectors, stored["near_vectors"], atol=2e-3)
    far = Autoencoder().vectors(torch.from_numpy(LogMel("far")(wave))).numpy()
    np.testing.assert_allclose(far[:8], stored["far_vectors_first8"], atol=2e-3)
    silence = LogMel()(np.zeros((1, 4096), dtype=np.float32))
    np.testing.assert_allclose(silence, stored["silence_value"], atol=1e-4)
