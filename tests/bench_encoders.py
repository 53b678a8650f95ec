"""Speed and memory of the encoders at their published size: ``python -m tests.bench_encoders``.

Random weights, clips of 10 s. Everything that is compared runs in turns within one process, so that what else the
machine does hits all of it; the peaks of memory come from a process each. With ``--peer-beats`` and ``--peer-eat``,
folders of the official code, that runs beside ours on the same weights and clips (it is read from there, not shipped).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from asd_core.backbones.fbank import kaldi_fbank
from asd_core.backbones.transformer import Trunk
from asd_core.terminal import out, print_table
from tests.bench import DEVICE

GFLOP = {"beats": 98.61, "eat": 97.05}  # per clip, a multiplication and an addition being two operations
SAMPLES = 160_000
PRECISIONS = ("fp32", "bf16")
TINY = Path(__file__).parent / "golden/encoders/beats_tiny.pt"  # has every option of the published configuration
PUBLISHED_SIZE = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "embed_dim": 512,
    "encoder_layerdrop": 0.0,  # 0.05 in the published files: a step that skips a block is no measure
}


# ---------------------------------------------------------------- networks


def beats_config() -> dict[str, Any]:
    return torch.load(TINY, weights_only=True)["cfg"] | PUBLISHED_SIZE


def trunk_of(name: str) -> Trunk:
    torch.manual_seed(0)
    if name == "beats":
        from asd_core.backbones.beats import Beats

        trunk: Trunk = Beats(**Beats.architecture(beats_config()))
    else:
        from asd_core.backbones.eat import Eat

        trunk = Eat(target_frames=1024)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter += 0.02 * torch.randn_like(parameter)  # nothing stays at an initial value that hides it
    return trunk.to(DEVICE)


class Ours(nn.Module):
    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, wave: Tensor) -> Tensor:
        return self.trunk(self.trunk.fbank(wave)[0])[self.trunk.depth]


class OfficialBeats(nn.Module):
    def __init__(self, folder: Path, trunk: Trunk) -> None:
        super().__init__()
        stand_in_for_torchaudio()
        with importable(folder):
            code = importlib.import_module("BEATs")
        self.model = code.BEATs(code.BEATsConfig(beats_config()))
        tensors = trunk.state_dict()
        table = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
        copies = {table.format(layer): tensors[table.format(0)] for layer in range(1, trunk.depth)}
        self.model.load_state_dict(tensors | copies)

    def forward(self, wave: Tensor) -> Tensor:
        return self.model.extract_features(wave)[0]


class OfficialEat(nn.Module):
    """The official blocks behind our filter bank and patches, which are 1 % of the work."""

    def __init__(self, folder: Path, trunk: Trunk) -> None:
        super().__init__()
        stand_in_for_fairseq_and_timm()
        with importable(folder / "models"):
            code = importlib.import_module("modules")
        self.trunk = [trunk]  # in a list: its weights are not this module's
        blocks = (
            code.AltBlock(trunk.width, 12, qkv_bias=True, layer_norm_first=False, norm_layer=norm)
            for _ in range(trunk.depth)
        )
        self.blocks = nn.ModuleList(blocks)
        self.blocks.load_state_dict(trunk.blocks.state_dict())

    def forward(self, wave: Tensor) -> Tensor:
        trunk = self.trunk[0]
        with torch.autocast(DEVICE.type, enabled=False):
            x = trunk.prepare(trunk.embed(trunk.fbank(wave)[0]))  # type: ignore[operator]
        for block in self.blocks:
            x, _ = block(x)
        return x


def norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, 1e-6)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The official code imports its own files by their bare names, which both models share."""
    for name in ("modules", "backbone", "BEATs"):
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def stand_in_for_torchaudio() -> None:
    try:
        importlib.import_module("torchaudio.compliance.kaldi")
    except (ImportError, OSError):
        out.print("torchaudio cannot be imported: the official BEATs gets our filter bank, one clip at a time.")
        for name in ("torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"):
            sys.modules[name] = types.ModuleType(name)
        kaldi = sys.modules["torchaudio.compliance.kaldi"]
        kaldi.fbank = lambda wave, **_: kaldi_fbank(wave, "povey")[0]  # type: ignore[attr-defined]
        sys.modules["torchaudio"].compliance = sys.modules["torchaudio.compliance"]  # type: ignore[attr-defined]
        sys.modules["torchaudio.compliance"].kaldi = kaldi  # type: ignore[attr-defined]


def stand_in_for_fairseq_and_timm() -> None:
    """EAT's blocks need of them one class, two linear layers with a GELU between; the rest only has to be there."""

    class Mlp(nn.Sequential):
        def __init__(self, in_features: int, hidden_features: int, act_layer: type[nn.Module], drop: float) -> None:
            super().__init__()
            self.fc1 = nn.Linear(in_features, hidden_features)
            self.act = act_layer()
            self.fc2 = nn.Linear(hidden_features, in_features)

    out.print("The official EAT blocks get a stand-in for timm's Mlp.")
    modules = {
        "fairseq.modules": dict.fromkeys(("LayerNorm", "SamePad", "SamePad2d", "TransposeLast")),
        "timm.models.vision_transformer": {"Mlp": Mlp, "DropPath": nn.Identity},
    }
    for name, contents in modules.items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            sys.modules[".".join(parts[:depth])] = types.ModuleType(parts[-1])
        vars(sys.modules[name]).update(contents)


# ---------------------------------------------------------------- measurements


def forward(network: nn.Module, wave: Tensor, precision: str) -> Callable[[], Tensor]:
    def run() -> Tensor:
        network.eval().requires_grad_(False)
        with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
            return network(wave)

    return run


def step(network: nn.Module, wave: Tensor, precision: str) -> Callable[[], None]:
    """One of fine-tuning everything: forward, backward, AdamW."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def run() -> None:
        network.train().requires_grad_(True)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = network(wave).float().square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return run


def matmul(precision: str, size: int = 2048) -> Callable[[], object]:
    a, b = torch.randn(2, size, size, device=DEVICE, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
    return lambda: a @ b


def in_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, the best of so many rounds in which all take turns, after one to warm up."""
    best = dict.fromkeys(works, float("inf"))
    for lap in range(rounds + 1):
        for name, work in works.items():
            repeats = 5 if name.startswith("matmul") else 1
            for _ in range(repeats):
                start = time.perf_counter()
                work()
                if DEVICE.type == "cuda":
                    torch.cuda.synchronize()
                if lap:
                    best[name] = min(best[name], time.perf_counter() - start)
    return best


def memory(name: str, kind: str, batch: int, precision: str) -> float:
    """MB that one run needs beyond the network itself, measured in a process of its own."""
    arguments = ["-m", "tests.bench_encoders", "--measure-memory", name, kind, str(batch), precision]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(name: str, kind: str, batch: int, precision: str) -> float:
    work = {"forward": forward, "step": step}[kind](Ours(trunk_of(name)), clips(batch), precision)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    status = Path("/proc/self/status")
    before = int(status.read_text().partition("VmRSS:")[2].split()[0])  # kB
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    work()
    return (int(status.read_text().partition("VmHWM:")[2].split()[0]) - before) / 1e3


def clips(batch: int) -> Tensor:
    return 0.1 * torch.randn(batch, SAMPLES, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def measure(name: str, folder: Path | None, quick: bool) -> tuple[pd.DataFrame, list[str]]:
    """One row per case, and remarks."""
    trunk = trunk_of(name)
    networks: dict[str, nn.Module] = {"ours": Ours(trunk)}
    if folder is not None:
        networks["official"] = {"beats": OfficialBeats, "eat": OfficialEat}[name](folder, trunk).to(DEVICE)
    cases = [("forward", batch) for batch in ((1, 2) if quick else (1, 8, 16))] + [("step", 2 if quick else 8)]
    remarks, rows = [], []
    if "official" in networks:
        remarks += differences(networks)
    for kind, batch in cases:
        wave = clips(batch)
        works = {f"matmul {precision}": matmul(precision) for precision in PRECISIONS}
        for who, network in networks.items():
            for precision in PRECISIONS:
                works[f"{who} {precision}"] = {"forward": forward, "step": step}[kind](network, wave, precision)
        if kind == "forward":
            works["fbank"] = lambda wave=wave: trunk.fbank(wave)
        took = in_turns(works, 1 if quick else 3)
        for precision in PRECISIONS:
            took_ours = took[f"ours {precision}"]
            speed = GFLOP[name] * batch * (1 if kind == "forward" else 3) / took_ours
            rate = 2 * 2.048**3 / took[f"matmul {precision}"]
            row = {
                "case": f"{name} {kind}, {precision}, batch {batch}",
                "clips/s": f"{batch / took_ours:.2f}",
                "GFLOP/s": f"{speed:.0f}",
                "of matmul": f"{speed / rate:.0%} of {rate:.0f}",
                "memory": f"{memory(name, kind, batch, precision):.0f} MB",
                "fbank": f"{took['fbank'] / took_ours:.1%}" if "fbank" in took else "",
            }
            for other in PRECISIONS if "official" in networks else ():
                row[f"× official {other}"] = f"{took[f'official {other}'] / took_ours:.2f}"
            rows.append(row)
    return pd.DataFrame(rows), remarks


def differences(networks: dict[str, nn.Module]) -> list[str]:
    reference = forward(networks["official"], clips(2), "fp32")()
    found = []
    for who, precision in (("ours", "fp32"), ("ours", "bf16"), ("official", "bf16")):
        difference = forward(networks[who], clips(2), precision)().float() - reference
        found.append(f"{who} in {precision} {float(difference.abs().max()):.1e}")
    spread = float(reference.std())
    return [
        f"Largest difference from the official output in fp32 (standard deviation {spread:.2f}): {', '.join(found)}."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--models", nargs="+", choices=sorted(GFLOP), default=sorted(GFLOP))
    parser.add_argument("--peer-beats", type=Path, metavar="FOLDER", help="with the official BEATs.py and backbone.py")
    parser.add_argument("--peer-eat", type=Path, metavar="FOLDER", help="with the official models/modules.py")
    parser.add_argument("--quick", action="store_true", help="small batches, one round")
    parser.add_argument("--measure-memory", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        name, kind, batch, precision = options.measure_memory
        print(json.dumps(measure_memory(name, kind, int(batch), precision)))
        return
    for name in options.models:
        rows, remarks = measure(name, getattr(options, f"peer_{name}"), options.quick)
        print_table(rows, f"{name}: {torch.get_num_threads()} threads, {DEVICE.type}")
        for remark in remarks:
            out.print(remark)
    out.print("Speeds are the best of the rounds; × official is how often ours is done in the official code's time.")
    out.print(
        "matmul is torch's own product of 2048² in that precision; ours in fp32 may beat it, see backbones/linear.py."
    )


if __name__ == "__main__":
    main()
