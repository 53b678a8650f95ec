"""Our EAT against every stage of the official code's, on its own weights (random ones of a tiny size)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asd_core.backbones import pretrained
from asd_core.backbones.eat import Classifier, Eat, positions

FOLDER = Path(__file__).parent / "encoders"
TOLERANCE = 1e-5
FILES = [
    "eat_tiny_hf_pretrain.safetensors",
    "eat_tiny_hf_finetune.safetensors",
    "eat_tiny_fairseq_pretrain.pt",
    "eat_tiny_fairseq_finetune.pt",
]
CASES = {"a2s_T208": ("2s", 208), "b2s_T256": ("2s", 256), "c10s_T1024": ("10s", 1024), "d10s5_T1024": ("10s5", 1024)}


@pytest.fixture(scope="module")
def io():
    return dict(np.load(FOLDER / "eat_tiny_io.npz"))


@pytest.fixture(scope="module")
def pretraining() -> dict[str, torch.Tensor]:
    """Weights that the stored hidden states were made with."""
    return pretrained.read(FOLDER / "eat_tiny_hf_pretrain.safetensors").tensors


@pytest.fixture(scope="module")
def finetuned() -> dict[str, torch.Tensor]:
    """Weights that the stored logits and gradients were made with."""
    return pretrained.read(FOLDER / "eat_tiny_hf_finetune.safetensors").tensors


def load(tensors: dict[str, torch.Tensor], **options) -> Eat:
    config = json.loads((FOLDER / "eat_tiny_hf_finetune_config.json").read_text())
    model = Eat(**Eat.architecture(config) | options)
    model.adopt(tensors)
    return model.eval()


def classifier(tensors: dict[str, torch.Tensor], eps: float) -> Classifier:
    head = Classifier(64, 7, eps)
    head.load_state_dict({name: value for name, value in tensors.items() if name.startswith(("fc_norm.", "head."))})
    return head


def wave_of(io, name: str) -> torch.Tensor:
    pcm = np.concatenate([io["wave10s_i16"], io["wave10s_i16"][:8000]]) if name == "10s5" else io[f"wave{name}_i16"]
    return torch.from_numpy(pcm / np.float32(32768))[None]


def close(ours: torch.Tensor, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, atol=TOLERANCE, rtol=0)


def test_stages(io, pretraining):
    """Every stage from the official code's own input."""
    model, found = load(pretraining), {}
    for i, block in enumerate(model.blocks):
        block.mlp.register_forward_hook(lambda module, args, output, i=i: found.update({f"block{i}_ffn": output}))
    fbank = torch.from_numpy(io["a2s_T208_input"][:, 0])
    with torch.no_grad():
        patches = model.embed(fbank)
        hidden = model(fbank, layers=range(3))
    found |= {"patch": patches, "pre_norm": hidden[0], "block0": hidden[1], "block1": hidden[2], "out": hidden[2]}
    for stage, ours in found.items():
        close(ours, io[f"a2s_T208_{stage}"])
    assert len(found) == 7


@pytest.mark.parametrize("case", CASES)
def test_from_waveform_to_hidden_states(io, pretraining, case):
    name, target = CASES[case]
    model = load(pretraining, target_frames=target)
    with torch.no_grad():
        fbank, frames = model.fbank(wave_of(io, name))
        hidden = model(fbank, frames, layers=range(3))
    assert fbank.shape == (1, target, 128)
    assert frames.tolist() == [target]
    if f"{case}_input" in io:
        close(fbank, io[f"{case}_input"][:, 0])
    out = io[f"{case}_out"]
    close(hidden[2][:, : out.shape[1]], out)
    close(torch.stack([hidden[1][:, 0], hidden[2][:, 0]]), io[f"{case}_cls_per_block"])
    close(hidden[2][:, 0], io[f"{case}_cls"])


def cls_of(io, tensors, case: str) -> torch.Tensor:
    name, target = CASES[case]
    model = load(tensors, target_frames=target)
    with torch.no_grad():
        return model(*model.fbank(wave_of(io, name)))[2][:, 0]


@pytest.mark.parametrize(("code", "eps"), [("hf", 1e-5), ("fairseq", 1e-6)])
@pytest.mark.parametrize("case", CASES)
def test_from_waveform_to_logits(io, finetuned, case, code, eps):
    close(classifier(finetuned, eps)(cls_of(io, finetuned, case)), io[f"{case}_logits_{code}"])


def test_the_two_classifiers_differ(io, finetuned):
    """Only by the epsilon of a norm, but which of the two is which can be told."""
    cls = cls_of(io, finetuned, "c10s_T1024")
    ours = {eps: classifier(finetuned, eps)(cls).detach().numpy() for eps in (1e-5, 1e-6)}
    apart = {
        (eps, their): np.abs(ours[eps] - io[f"c10s_T1024_logits_{their}"]).max()
        for eps in ours
        for their in ("hf", "fairseq")
    }
    assert max(apart[1e-5, "hf"], apart[1e-6, "fairseq"]) < min(apart[1e-5, "fairseq"], apart[1e-6, "hf"]) / 2


def test_gradients(io, finetuned):
    grads = np.load(FOLDER / "eat_tiny_grads.npz")
    model, head = load(finetuned), classifier(finetuned, 1e-5)
    cls = model(torch.from_numpy(io["a2s_T208_input"][:, 0]))[2][:, 0]
    loss = (head(cls) * torch.from_numpy(grads["R"])).sum()
    loss.backward()
    close(loss, grads["loss"])
    own = dict(model.named_parameters()) | dict(head.named_parameters())
    stored = {name.removeprefix("grad/model."): grads[name] for name in grads.files if name.startswith("grad/")}
    assert own.keys() - stored.keys() == {"fixed_positional_encoder.positions"}
    assert own["fixed_positional_encoder.positions"].grad is None
    for name, theirs in stored.items():
        close(own[name].grad, theirs)


def test_table_of_positions(io):
    rows = io["pos768_rows"]
    ours, theirs = positions(768, 768)[0, rows].numpy(), io["pos768"]
    first = rows < 64 * 8  # 10 s
    np.testing.assert_allclose(ours[first], theirs[first], atol=TOLERANCE, rtol=0)
    # the float32 power differs with the CPU in the last bit, which 767 time steps make 6e-5
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("file", FILES)
def test_every_published_format(io, file):
    found = pretrained.read(FOLDER / file)
    model = Eat(**Eat.architecture(found.config), target_frames=208).eval()
    model.adopt(found.tensors)
    with torch.no_grad():
        cls = model(*model.fbank(wave_of(io, "2s")))[2][:, 0]
    if found.classes is None:
        close(cls, io["a2s_T208_cls"])
    else:
        close(classifier(found.tensors, 1e-6)(cls), io["a2s_T208_logits_fairseq"])


def test_published_size():
    """No name missing and none too many; those of the classifier are a part of their own."""
    tables = json.loads((FOLDER / "keys.json").read_text())
    shapes = {name.removeprefix("model."): shape for name, shape in tables["eat_hf_finetune"].items()}
    model = Eat()
    model.adopt({name: torch.full(shape, 0.5) for name, shape in shapes.items()})
    assert all((value == 0.5).all() for value in model.state_dict().values())
    own = {f"model.{name}": list(value.shape) for name, value in model.state_dict().items()}
    head = {f"model.{name}": list(value.shape) for name, value in Classifier(768, 527).state_dict().items()}
    assert own == tables["eat_hf_pretrain"]
    assert own | head == tables["eat_hf_finetune"]
    assert (len(own), len(own | head)) == (150, 154)
