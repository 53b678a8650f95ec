"""What a checkpoint file is, told by its content; and a helpful word for everything that is none."""

import json
import pickle
import resource
import shutil
import struct
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch

from asd_core.backbones import pretrained
from asd_core.types import AsdError

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
KEYS = json.loads((GOLDEN / "keys.json").read_text())
FILES = {
    "beats_tiny.pt": ("beats", "beats", None, 50),
    "beats_tiny_ft.pt": ("beats", "beats", 7, 52),
    "eat_tiny_fairseq_pretrain.pt": ("eat", "eat-fairseq", None, 30),
    "eat_tiny_fairseq_finetune.pt": ("eat", "eat-fairseq", 7, 34),
    "eat_tiny_hf_pretrain.safetensors": ("eat", "eat-huggingface", None, 30),
    "eat_tiny_hf_finetune.safetensors": ("eat", "eat-huggingface", 7, 34),
}
BASE = {
    "encoder_layers": 12, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072, "encoder_attention_heads": 12,
    "conv_pos": 128, "conv_pos_groups": 16, "relative_position_embedding": True, "num_buckets": 320,
    "max_distance": 800, "gru_rel_pos": True, "deep_norm": True, "input_patch_size": 16, "embed_dim": 512,
}  # fmt: skip


def official(name: str) -> dict:
    return torch.load(GOLDEN / name, weights_only=True)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(AsdError) as caught:
        pretrained.read(path)
    message = str(caught.value)
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("alias", ["download (1)", "x.pt", "x.safetensors"])
def test_published_formats_are_told_by_content(name: str, alias: str, tmp_path: Path) -> None:
    """Whatever the name says; EAT keeps its configuration beside it, as Hugging Face does."""
    shutil.copyfile(GOLDEN / name, tmp_path / alias)
    beside = GOLDEN / f"{Path(name).stem}_config.json"
    if beside.is_file():
        shutil.copyfile(beside, tmp_path / "config.json")
    found = pretrained.read(tmp_path / alias)
    assert (found.family, found.format, found.classes, len(found.tensors)) == FILES[name]
    assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in found.tensors.values())
    assert found.notes == ()
    described = pretrained.read_config(tmp_path / alias)
    assert (described.family, described.config, described.classes) == (found.family, found.config, found.classes)


def test_beats_comes_with_its_configuration_and_labels() -> None:
    found = pretrained.read(GOLDEN / "beats_tiny_ft.pt")
    stored = official("beats_tiny_ft.pt")
    assert found.config == stored["cfg"]
    assert found.labels == stored["label_dict"]
    assert all(torch.equal(value, stored["model"][name]) for name, value in found.tensors.items())
    before = pretrained.read(GOLDEN / "beats_tiny.pt")
    assert before.config["finetuned_model"] is False
    assert before.labels is None


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_both_formats_of_eat_are_the_same_model(stage: str) -> None:
    ours = pretrained.read(GOLDEN / f"eat_tiny_hf_{stage}.safetensors")
    theirs = pretrained.read(GOLDEN / f"eat_tiny_fairseq_{stage}.pt")
    assert ours.config == theirs.config
    assert ours.config["model_variant"] == stage
    assert ours.config["num_heads"] == 4
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(value, theirs.tensors[name]) for name, value in ours.tensors.items())
    assert not any(name.startswith(("model.", "decoder.", "_ema")) for name in ours.tensors)


def test_without_a_configuration_the_sizes_of_eat_come_from_its_tensors(tmp_path: Path) -> None:
    path = shutil.copyfile(GOLDEN / "eat_tiny_hf_pretrain.safetensors", tmp_path / "model.safetensors")
    found = pretrained.read_config(path)
    stated = pretrained.read_config(GOLDEN / "eat_tiny_hf_pretrain.safetensors").config
    assert found.config == stated | {"num_heads": 1}
    assert "1 attention heads of width 64 are assumed" in found.notes[0]
    (tmp_path / "config.json").write_text('{"model_type": "bert", "num_heads": 2}')  # of another model: passed over
    assert pretrained.read_config(path) == found


def test_half_precision_is_widened(tmp_path: Path) -> None:
    stored = official("eat_tiny_fairseq_pretrain.pt")
    stored["model"] = {name: v.half() if name != "_ema" else v for name, v in stored["model"].items()}
    found = pretrained.read(saved(tmp_path / "half.pt", stored))
    assert {value.dtype for value in found.tensors.values()} == {torch.float32}


def test_a_table_stored_once_and_old_files_are_accepted(tmp_path: Path) -> None:
    stored = official("beats_tiny.pt")
    del stored["model"]["encoder.layers.1.self_attn.relative_attention_bias.weight"]
    torch.save(stored, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert len(pretrained.read(tmp_path / "old.pt").tensors) == 49


# ------------------------------------------------------------------ the real sizes


@pytest.mark.parametrize(("table", "classes"), [("beats_pretrained", None), ("beats_finetuned_AS2M", 527)])
def test_every_name_and_shape_of_the_real_beats(table: str, classes: int | None) -> None:
    expected = {name: tuple(shape) for name, shape in KEYS[table].items()}
    assert pretrained._beats_shapes(BASE, classes) == expected


@pytest.mark.parametrize(
    ("table", "classes"),
    [
        ("eat_hf_pretrain", None),
        ("eat_hf_finetune", 527),
        ("eat_fairseq_pretrain", None),
        ("eat_fairseq_finetune", 527),
    ],
)
def test_every_name_and_shape_of_the_real_eat(table: str, classes: int | None) -> None:
    plan = {"embed_dim": 768, "depth": 12, "mlp_ratio": 4, "max_length": 768, "patch_size": 16}
    names = {pretrained._eat_name(name): tuple(shape) for name, shape in KEYS[table].items() if name != "_ema"}
    kept = {name: shape for name, shape in names.items() if not name.startswith("decoder.")}
    assert kept == pretrained._eat_shapes(plan, classes)
    if table == "eat_fairseq_pretrain":
        assert len(names) - len(kept) == 14  # the decoder: six convolutions and the projection


def test_real_sizes_are_read_without_room_for_them(tmp_path: Path) -> None:
    """Sparse files: 361 MB and 360 MB that hold zeros."""
    tensors = {name: torch.zeros(shape) for name, shape in KEYS["beats_pretrained"].items()}
    with torch.serialization.skip_data():
        saved(tmp_path / "beats.pt", {"cfg": BASE, "model": tensors})
    assert (tmp_path / "beats.pt").stat().st_size == pytest.approx(361_499_833, abs=50_000)
    assert pretrained.read_config(tmp_path / "beats.pt").family == "beats"
    offset, header = 0, {"__metadata__": {"format": "pt"}}
    for name, shape in sorted(KEYS["eat_hf_pretrain"].items()):
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with (tmp_path / "eat.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    assert (tmp_path / "eat.safetensors").stat().st_size == 359_905_840
    found = pretrained.read_config(tmp_path / "eat.safetensors")
    assert (found.config["depth"], found.config["num_heads"], found.config["max_length"]) == (12, 12, 768)


# ------------------------------------------------------------------ refusals


class Hostile:
    """Would create a file if it were unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


class Shell(Hostile):
    def __reduce__(self) -> tuple:
        import os

        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("kind", [Hostile, Shell])
@pytest.mark.parametrize("form", ["pickle", "zip", "old", "among the weights"])
def test_nothing_is_run(tmp_path: Path, kind: type, form: str) -> None:
    target, path = tmp_path / "touched", tmp_path / "weights.pt"
    evil = kind(target)
    if form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif form == "zip":
        saved(path, evil)
    elif form == "old":
        torch.save({"cfg": {}, "model": evil}, path, _use_new_zipfile_serialization=False)
    else:
        stored = official("beats_tiny.pt")
        stored["model"]["predictor.bias"] = evil
        saved(path, stored)
    said = refusal(path)
    assert ("system" if kind is Shell else "pathlib") in said
    assert "Nothing was run" in said
    assert not target.exists()
    if form == "zip":  # the test itself can fail: unprotected loading does run it
        torch.load(path, weights_only=False)
        assert target.exists()


def test_objects_of_another_program_are_named(tmp_path: Path) -> None:
    stored = official("eat_tiny_fairseq_pretrain.pt") | {"args": Namespace(lr=1)}
    said = refusal(saved(tmp_path / "x.pt", stored))
    assert "argparse.Namespace" in said
    assert "Hugging Face" in said


@pytest.mark.parametrize("name", ["beats_tiny.pt", "eat_tiny_hf_pretrain.safetensors"])
@pytest.mark.parametrize("share", [0.999, 0.5, 0.02])
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    whole = (GOLDEN / name).read_bytes()
    (tmp_path / "x").write_bytes(whole[: int(share * len(whole))])
    assert "not received completely" in refusal(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:86\nsize 359905840\n",
            "Git LFS pointer, a note of 72 bytes that stands for the file of 359,905,840 bytes",
        ),
        (b"<!DOCTYPE html><html><title>OneDrive</title>", "a web page"),
        (b"\n <?xml version='1.0'?><Error><Code>AuthenticationFailed", "a web page"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "neither a file of torch.save nor safetensors"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not a header at all}", "like safetensors, but is damaged"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{", "like safetensors, but is damaged"),
        (b"\x80\x02}q\x00X\x05", "damaged"),
        (pickle.dumps([1, 2]), "damaged"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    assert said in refusal(tmp_path / "x.pt")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.pt")
    assert "a folder" in refusal(tmp_path)


def test_archives_that_torch_did_not_write(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as bundle:
        bundle.write(GOLDEN / "beats_tiny.pt", "BEATs/BEATs_iter3.pt")
    assert "BEATs/BEATs_iter3.pt" in refusal(tmp_path / "packed.zip")
    with (
        zipfile.ZipFile(GOLDEN / "beats_tiny.pt") as right,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in right.namelist():
            packed.writestr(entry, right.read(entry))
    assert "packed anew" in refusal(tmp_path / "b.pt")


def test_another_model_and_the_nearest_known(tmp_path: Path) -> None:
    other = {"conv1.weight": torch.zeros(3), "bn1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}
    said = refusal(saved(tmp_path / "x.pt", other))
    assert "conv1.weight, bn1.weight, fc.bias" in said
    assert "nearest that is known" in said
    safetensors.torch.save_file(other, tmp_path / "x.safetensors")
    assert "of another model" in refusal(tmp_path / "x.safetensors")
    assert "holds one Tensor" in refusal(saved(tmp_path / "one.pt", torch.zeros(3)))
    assert "no weights by name, but epoch, best" in refusal(saved(tmp_path / "n.pt", {"epoch": 1, "best": 0.5}))


def changed_beats(path: Path, change) -> str:
    stored = official("beats_tiny_ft.pt")
    change(stored)
    return refusal(saved(path, stored))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["model"].pop("encoder.layers.0.fc1.weight"), "Missing: encoder.layers.0.fc1.weight."),
        (lambda s: s["model"].update(extra=torch.zeros(1)), "Not part of it: extra."),
        (lambda s: s["model"].update({"layer_norm.bias": torch.zeros(9)}), "layer_norm.bias (9 instead of 32)"),
        (lambda s: s["cfg"].update(encoder_layers=3), "encoder_layers = 3, its weights 2"),
        (lambda s: s["cfg"].update(encoder_layers=1), "encoder_layers = 1, its weights 2"),
        (lambda s: s["cfg"].update(encoder_attention_heads=5), "does not divide"),
        (lambda s: s["cfg"].update(encoder_embed_dim="64"), "encoder_embed_dim = '64'"),
        (lambda s: s["cfg"].pop("conv_pos"), "conv_pos = None"),
        (lambda s: s.pop("cfg"), 'no configuration ("cfg")'),
        (lambda s: s["cfg"].update(finetuned_model=False), "finetuned_model = False"),
        (lambda s: s["cfg"].update(predictor_class=9), "predictor.weight (7×64 instead of 9×64)"),
        (lambda s: s["cfg"].update(encoder_layers=999_999), "encoder_layers = 999999, its weights 2"),
        (lambda s: s["cfg"].update(dropout="x"), "dropout = 'x', where a number from 0 to below 1 is due"),
        (lambda s: s["cfg"].update(dropout_input=None), "dropout_input = None"),
        (lambda s: s["cfg"].update(attention_dropout=1.0), "attention_dropout = 1.0"),
        (lambda s: s["cfg"].update(activation_dropout=float("nan")), "activation_dropout = nan"),
        (lambda s: s["cfg"].update(encoder_layerdrop=-0.1), "encoder_layerdrop = -0.1"),
        (lambda s: s["cfg"].update(layer_wise_gradient_decay_ratio=float("inf")), "decay_ratio = inf"),
        (lambda s: s["cfg"].update(layer_wise_gradient_decay_ratio=0), "decay_ratio = 0, where a number above 0"),
        (lambda s: s["cfg"].update(max_distance=0), "max_distance = 0, where a positive whole number is due"),
        (lambda s: s["cfg"].update(max_distance=80.0), "max_distance = 80.0"),
        (lambda s: s["cfg"].update(max_distance=80), "above a quarter"),
        (lambda s: s["cfg"].update(num_buckets=3), "at least 4 buckets"),
        (lambda s: s["cfg"].update(deep_norm="yes"), "deep_norm = 'yes', where True or False is due"),
        (lambda s: s["cfg"].update(activation_fn=["gelu"]), "activation_fn = ['gelu']"),
        (lambda s: s["label_dict"].update({3: [3]}), "label_dict does not name the classes 0 to 6"),
        (lambda s: s["label_dict"].pop(3), "label_dict does not name the classes 0 to 6"),
        (lambda s: s["model"].update({"quantize.embedding.weight": torch.zeros(2)}), "a tokenizer of BEATs"),
        (lambda s: s["model"].update({"layer_norm.bias": torch.zeros(32, dtype=int)}), "layer_norm.bias holds int64"),
        (lambda s: s["model"].update({"predictor.bias": "seven"}), "predictor.bias are no tensors"),
        (lambda s: s["model"]["encoder.layers.1.fc2.bias"].fill_(float("nan")), "64 of the 64 values of encoder.layers.1"),
        (lambda s: s["model"]["layer_norm.weight"][3:4].fill_(float("inf")), "1 of the 32 values of layer_norm.weight"),
    ],
)  # fmt: skip
def test_inconsistent_beats(tmp_path: Path, change, said: str) -> None:
    assert said in changed_beats(tmp_path / "x.pt", change)


def changed_eat(tmp_path: Path, change=lambda tensors: None, **config) -> str:
    tensors = safetensors.torch.load_file(GOLDEN / "eat_tiny_hf_finetune.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    stated = json.loads((GOLDEN / "eat_tiny_hf_finetune_config.json").read_text())
    (tmp_path / "x_config.json").write_text(json.dumps(stated | config))
    return refusal(tmp_path / "x.safetensors")


def test_inconsistent_eat(tmp_path: Path) -> None:
    assert "depth = 3, but its weights have 2" in changed_eat(tmp_path, depth=3)
    assert "max_length = 768, but its weights have 80" in changed_eat(tmp_path, max_length=768)
    for wrong in ("abc", -1, 0, 1e-2, float("nan"), [1], True):
        assert "norm_eps = " in changed_eat(tmp_path, norm_eps=wrong)
    assert "layer_norm_first = 'no'" in changed_eat(tmp_path, layer_norm_first="no")
    assert "5 attention heads do not divide a width of 64" in changed_eat(tmp_path, num_heads=5)
    said = changed_eat(tmp_path, lambda t: t.pop("model.blocks.1.attn.qkv.bias"))
    assert "Missing: blocks.1.attn.qkv.bias." in said
    assert "Missing: fc_norm.bias." in changed_eat(tmp_path, lambda t: t.pop("model.fc_norm.bias"))
    assert "misses local_encoder.proj.weight" in changed_eat(
        tmp_path, lambda t: t.pop("model.local_encoder.proj.weight")
    )
    twice = changed_eat(tmp_path, lambda t: t.update({"head.bias": torch.zeros(7)}))
    assert "two of its tensors mean head.bias" in twice
    said = changed_eat(tmp_path, lambda t: t["model.blocks.0.mlp.fc1.weight"].view(-1)[5].fill_(float("-inf")))
    assert "1 of the 16,384 values of blocks.0.mlp.fc1.weight are NaN or infinite" in said
    (tmp_path / "x_config.json").write_text("{")
    with pytest.raises(AsdError, match="not valid JSON"):
        pretrained.read(tmp_path / "x.safetensors")
    (tmp_path / "x_config.json").write_text(200_000 * "[")
    with pytest.raises(AsdError, match="not valid JSON"):
        pretrained.read(tmp_path / "x.safetensors")


def test_tensors_that_only_pretend_to_be_large(tmp_path: Path) -> None:
    stored = official("beats_tiny.pt")
    config = stored["cfg"] | {"encoder_embed_dim": 64_000, "encoder_ffn_embed_dim": 128_000, "embed_dim": 32_000}
    shapes = pretrained._beats_shapes(config, None)
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    assert "bytes, but the file has" in refusal(saved(tmp_path / "x.pt", {"cfg": config, "model": tensors}))


def test_a_tensor_without_values_does_not_hide_what_others_pretend(tmp_path: Path) -> None:
    """13 kB that once asked for 131 GB: the numbers are in half precision, so widening them would take up room."""
    stored = official("beats_tiny.pt")
    config = stored["cfg"] | {"encoder_embed_dim": 64_000, "encoder_ffn_embed_dim": 128_000, "embed_dim": 32_000}
    shapes = pretrained._beats_shapes(config, None)
    tensors = {name: torch.zeros(1, dtype=torch.half).expand(shape) for name, shape in shapes.items()}
    first = next(iter(tensors))
    for pretending in (tensors, tensors | {first: torch.empty(shapes[first], device="meta")}):
        path = saved(tmp_path / "x.pt", {"cfg": config, "model": pretending})
        assert path.stat().st_size < 20_000
        with limited_memory():
            said = refusal(path)
        assert "bytes, but the file has" in said or f"{first} is not stored as plain numbers" in said
        with pytest.raises(AsdError):
            pretrained.read_config(path)


@contextmanager
def limited_memory() -> Iterator[None]:
    """8 GB of addresses more than now, so that a failing test spares the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 8 * 10**9, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


PACKED = [kind for kind in ("float8_e4m3fn", "float8_e8m0fnu", "float4_e2m1fn_x2") if hasattr(torch, kind)]


def odd_tensors() -> dict[str, torch.Tensor]:
    zeros = torch.zeros(32)
    found = {
        "meta": torch.empty(32, device="meta"),
        "nested": torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)]),
        "sparse": zeros.to_sparse(),
        "quantized": torch.quantize_per_tensor(zeros, 0.1, 0, torch.qint8),
        "complex": zeros.cfloat(),
        "bytes": zeros.byte(),
    }
    packed = {kind: zeros.byte().view(getattr(torch, kind)) for kind in PACKED}
    return found | packed


@pytest.mark.filterwarnings("ignore")  # of kinds that PyTorch gives up
@pytest.mark.parametrize("kind", ["meta", "nested", "sparse", "quantized", "complex", "bytes", *PACKED])
def test_tensors_of_other_kinds(tmp_path: Path, kind: str) -> None:
    said = changed_beats(tmp_path / "x.pt", lambda s: s["model"].update({"layer_norm.bias": odd_tensors()[kind]}))
    assert "layer_norm.bias is not stored as plain numbers" in said or "not floating-point numbers of" in said


def test_attributes_of_tensors_are_left_behind(tmp_path: Path) -> None:
    stored = official("beats_tiny.pt")
    odd = torch.nn.Parameter(stored["model"]["layer_norm.bias"])
    odd.numel = odd.float = 5
    stored["model"]["layer_norm.bias"] = odd
    found = pretrained.read(saved(tmp_path / "x.pt", stored)).tensors["layer_norm.bias"]
    assert type(found) is torch.Tensor
    assert torch.equal(found, odd.detach())
    assert not vars(found)


def test_anything_else_that_goes_wrong_is_a_refusal(tmp_path: Path) -> None:
    stored = official("eat_tiny_fairseq_pretrain.pt")
    stored["cfg"]["model"]["embed_dim"] = torch.zeros(3)  # whose comparison with a number has no truth
    path = saved(tmp_path / "x.pt", stored)
    assert "its content makes no sense (RuntimeError" in refusal(path)
    with pytest.raises(AsdError, match="makes no sense"):
        pretrained.read_config(path)


def test_values_that_would_be_endless_in_words(tmp_path: Path) -> None:
    endless: list = []
    for _ in range(100):
        endless = [endless] * 10
    said = changed_beats(tmp_path / "x.pt", lambda s: s["cfg"].update(encoder_embed_dim=endless))
    assert len(said) < 1000


def test_names_are_shown_short_and_printable(tmp_path: Path) -> None:
    name = "\x1b]0;title\x07\u202e\nline " + 1000 * "x"
    said = changed_beats(tmp_path / "x.pt", lambda s: s["model"].update({name: torch.zeros(1)}))
    assert "Not part of it: �]0;title���line xxx" in said
    assert said.isprintable()
    assert len(said) < 600
    said = refusal(saved(tmp_path / "y.pt", {name: torch.zeros(1)}))
    assert said.isprintable()
    assert len(said) < 900
