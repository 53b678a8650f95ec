"""The real path of BEATs and EAT systems, profile full, from checkpoints on disk in the official formats (tiny ones)."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from asd_core import pipeline
from asd_core.artifacts import Workspace, load_run
from asd_core.backbones import pretrained
from asd_core.config import CONFIGS, load_profile, load_system
from asd_core.data.manifest import scan
from asd_core.engine import local
from asd_core.types import AsdError
from tests.conftest import REPOSITORY

GOLDEN = REPOSITORY / "tests/golden/encoders"
FILES = {
    "neu-4": "beats_tiny.pt",
    "tsz-fusion": "beats_tiny.pt",
    "tsz-sera": "beats_tiny_ft.pt",
    "unis-1": "eat_tiny_hf_pretrain.safetensors",
    "unis-2": "beats_tiny.pt",
}


def shrunk(name, folder, checkpoint):
    """A system as it is, but with another checkpoint, two layers instead of twelve and a few steps."""
    values = yaml.safe_load((CONFIGS / f"systems/{name}.yaml").read_text())
    for encoder in values["encoders"].values():
        encoder["backbone"]["checkpoint"] = str(checkpoint)
        encoder["backbone"]["lora_rank"] = 4
        if name == "unis-1":  # 1024 frames are more than the tiny table of positions has
            encoder["backbone"] |= {"seconds": 2.0, "architecture": {"target_frames": 208, "train_positions": True}}
        encoder["train"] |= {"max_steps": 4, "batch_size": 8}
    for branch in values["branches"]:
        if branch.get("output", "clip") != "clip":
            branch["output"] = "layer1"
    path = folder / "system.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_system(str(path))


def context(tiny_data, tmp_path):
    return pipeline.Context(Workspace(tmp_path / "workspace"), scan(tiny_data), "cpu")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_system_trains_from_an_official_checkpoint(name, tiny_data, tmp_path):
    place = context(tiny_data, tmp_path)
    system = shrunk(name, tmp_path, GOLDEN / FILES[name])
    tasks = pipeline.plan([system], load_profile("full"), place, machines=["fanSim", "gearboxSim"])
    assert local.run(tasks, place).computed == len(tasks)

    (trained,) = [task.folder(place.workspace) for task in tasks if task.kind == "train"]
    assert not (trained / ".scratch").exists()
    weights = safetensors.torch.load_file(trained / "model.safetensors")
    published = pretrained.read(GOLDEN / FILES[name]).tensors
    trunk = {key.removeprefix("trunk.").replace(".base_layer", ""): value for key, value in weights.items()}
    shared = published.keys() & trunk.keys()
    changed = {key for key in shared if not torch.equal(trunk[key], published[key])}
    assert len(shared) >= 30
    near = max((trunk[key] - published[key]).abs().max().item() for key in shared)
    assert near < 0.01  # so it began there
    if name in ("neu-4", "tsz-sera"):
        assert not changed
    else:
        assert changed
    if name == "neu-4":
        assert any(value.any() for key, value in weights.items() if "lora_B" in key)

    run = load_run(place.workspace, tasks[-1].spec["run_id"])
    assert np.isfinite(run.scores["score"]).all()
    assert run.record["config"]["encoders"]  # resolved, with the sizes that the checkpoint has
    assert local.run(tasks, place).computed == 0


def test_the_checkpoint_s_content_is_part_of_the_key(tiny_data, tmp_path):
    checkpoint = tmp_path / "weights.pt"
    keys = []
    for change in (0.0, 0.0, 1e-3):
        stored = torch.load(GOLDEN / "beats_tiny.pt", weights_only=True)
        stored["model"]["encoder.layer_norm.bias"] += change
        torch.save(stored, checkpoint)
        tasks = pipeline.plan(
            [shrunk("unis-2", tmp_path, checkpoint)], load_profile("full"), context(tiny_data, tmp_path)
        )
        keys.append([task.key for task in tasks if task.kind == "train"])
    assert keys[0] == keys[1] != keys[2]


def test_a_checkpoint_of_another_family(tiny_data, tmp_path):
    system = shrunk("unis-2", tmp_path, GOLDEN / "eat_tiny_hf_pretrain.safetensors")
    with pytest.raises(AsdError, match="holds weights of eat, but the system asks for beats"):
        pipeline.plan([system], load_profile("full"), context(tiny_data, tmp_path))


def test_a_broken_checkpoint_stops_before_any_work(tiny_data, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes((GOLDEN / "beats_tiny.pt").read_bytes()[:200_000])
    system = shrunk("unis-2", tmp_path, broken)
    with pytest.raises(AsdError, match="was not received completely"):
        pipeline.plan([system], load_profile("full"), context(tiny_data, tmp_path))
