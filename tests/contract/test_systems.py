"""Every system under every profile: read, resolved, checked and planned, as `run --dry-run` does."""

import shutil

import pytest
import yaml

from asd_core import pipeline
from asd_core.artifacts import Workspace
from asd_core.backbones import BACKBONES
from asd_core.config import CONFIGS, load_profile, load_system, resolve, system_names
from asd_core.data import audio
from asd_core.data.manifest import scan

PROFILES = sorted(path.stem for path in (CONFIGS / "profiles").glob("*.yaml"))
PAIRS = [(system, profile) for system in system_names() for profile in PROFILES]


@pytest.fixture(scope="module")
def context(tiny_data, tmp_path_factory):
    return pipeline.Context(Workspace(tmp_path_factory.mktemp("planned")), scan(tiny_data), "cpu")


def test_all_files_are_seen():
    assert set(PROFILES) >= {"full", "quick"}
    assert set(system_names()) >= {"logmel-knn", "logmel-maha", "neu-1", "official-mse", "tsz-baseline"}


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_name_backbones_that_exist(profile):
    loaded = load_profile(profile)
    assert loaded.name == profile
    assert set(loaded.encoders) <= set(BACKBONES.classes)


@pytest.mark.parametrize(("system", "profile"), PAIRS)
def test_resolved_is_the_file_with_the_profile_on_top(system, profile):
    """Both files read by hand: every option is the profile's where it has one, else the system's."""
    resolved = resolve(load_system(system), load_profile(profile)).model_dump()
    written = yaml.safe_load((CONFIGS / f"systems/{system}.yaml").read_text())
    overlays = yaml.safe_load((CONFIGS / f"profiles/{profile}.yaml").read_text()).get("encoders", {})
    for name, encoder in written.get("encoders", {}).items():
        overlay = overlays.get(encoder["backbone"]["name"], {})
        assert resolved["encoders"][name]["view"] == encoder["view"]
        for part in ("backbone", "objective", "train"):
            expected = encoder[part] | overlay.get(part, {})
            assert resolved["encoders"][name][part].items() >= expected.items(), part
    assert [branch["scorer"] for branch in resolved["branches"]] == [b["scorer"] for b in written["branches"]]
    assert resolved["decision"] == written.get("decision", {"name": "percentile"})


def within(part, whole):
    """Whether everything in `part` is the same in `whole`, which may spell out more defaults."""
    if isinstance(part, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(within, part, whole))
    return part == whole


@pytest.mark.parametrize(("system", "profile"), PAIRS)
def test_plan(system, profile, context):
    loaded, overlay = load_system(system), load_profile(profile)
    resolved = resolve(loaded, overlay)
    pipeline.check(resolved)
    pipeline.try_out(resolved)
    tasks = pipeline.plan([loaded], overlay, context, seeds=[0, 1])

    seen: set[str] = set()
    for task in tasks:  # inputs come first, and nothing comes twice
        assert {needed.key for needed in task.inputs} <= seen
        assert task.key not in seen
        assert not task.done(context.workspace)
        seen.add(task.key)
    runs = [task for task in tasks if task.kind == "run"]
    assert [task.spec["seed"] for task in runs] == [0, 1]
    for seed, task in enumerate(runs):
        assert task.spec["run_id"].startswith(f"{system}--{context.data.name}--{profile}--seed{seed}")
    assert all(within(resolved.model_dump(mode="json", exclude_unset=True), task.spec["system"]) for task in runs)

    machines = context.data.machines
    for run in runs:
        assert [t.spec["machine"] for t in run.inputs] == [m for m in machines for _ in resolved.branches]
    trainings = [task for task in tasks if task.kind == "train"]
    expected = sum(len(machines) if e.scope == "machine" else 1 for e in resolved.encoders.values())
    assert len(trainings) == 2 * expected  # for two seeds
    for task in trainings:
        clips = [clip for machine in task.spec["machines"] for clip in context.data.of(machine, "train")]
        longest = max(audio.info(clip.path).seconds for clip in clips)
        (encoder,) = (e for e in resolved.encoders.values() if e.train.model_dump() == task.spec["encoder"]["train"])
        backbone = BACKBONES[encoder.backbone.name]
        assert within(backbone.resolve(encoder.backbone.spec, longest), task.spec["encoder"]["backbone"])


def test_plan_is_repeatable_and_depends_on_seed_and_profile(context):
    system = load_system("neu-1")

    def keys(profile, seed):
        return {(t.kind, t.key) for t in pipeline.plan([system], load_profile(profile), context, seeds=[seed])}

    assert keys("quick", 0) == keys("quick", 0)
    assert not keys("quick", 0) & keys("quick", 1)
    assert not keys("quick", 0) & keys("full", 0)


def test_all_systems_together_share_what_is_equal(context):
    """The two systems on the official autoencoder train it once."""
    systems = [load_system(name) for name in system_names()]
    for profile in PROFILES:
        tasks = pipeline.plan(systems, load_profile(profile), context)
        assert len([t for t in tasks if t.kind == "run"]) == len(systems)
        keys = [(t.kind, t.key) for t in tasks]
        assert len(set(keys)) == len(keys)
        trainings = [t for t in tasks if t.kind == "train" and t.spec["encoder"]["backbone"]["name"] == "autoencoder"]
        assert len(trainings) == len(context.data.machines)


def test_the_longest_clip_sets_the_network_s_length(tiny_data, tmp_path):
    """Through the plan, with one clip of 7 s among clips of 2 s; the recordings are tiled, nothing is trained."""
    import numpy as np
    import soundfile

    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    longest = sorted(data.glob("*/train/*.wav"))[-1]
    wave, rate = soundfile.read(longest)
    soundfile.write(longest, np.tile(wave, (4, 1))[: 7 * rate], rate)
    context = pipeline.Context(Workspace(tmp_path / "workspace"), scan(data), "cpu")
    tasks = pipeline.plan([load_system("neu-1")], load_profile("quick"), context)
    (training,) = (task for task in tasks if task.kind == "train")
    assert training.spec["encoder"]["backbone"]["seconds"] == 7.0
