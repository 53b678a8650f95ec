"""Every system under every profile: read, resolved, checked and planned, as `run --dry-run` does."""

import shutil

import pytest
import yaml

from asd_core import pipeline, weights
from asd_core.artifacts import Workspace
from asd_core.backbones import BACKBONES
from asd_core.backbones.transformer import PatchTransformer
from asd_core.config import CONFIGS, System, load_generator, load_profile, load_system, resolve, system_names
from asd_core.data import audio
from asd_core.data.manifest import scan
from asd_core.files import digest
from asd_core.types import AsdError

PROFILES = sorted(path.stem for path in (CONFIGS / "profiles").glob("*.yaml"))
NAMES = [name for base in system_names() for name in (base, *(f"{base}+{v}" for v in load_system(base).variants))]
PAIRS = [(system, profile) for system in NAMES for profile in PROFILES]


@pytest.fixture(scope="module")
def context(tiny_data, tmp_path_factory):
    return pipeline.Context(Workspace(tmp_path_factory.mktemp("planned")), scan(tiny_data), "cpu")


def test_all_files_are_seen():
    assert set(PROFILES) >= {"full", "quick"}
    baselines = {"logmel-knn", "logmel-maha", "official-mse", "tsz-baseline", "tsz-fusion", "tsz-proto", "tsz-sera"}
    assert set(system_names()) >= baselines | {f"{team}-{n}" for team in ("unis", "neu") for n in (1, 2, 3, 4)}


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_name_backbones_that_exist(profile):
    loaded = load_profile(profile)
    assert loaded.name == profile
    assert set(loaded.encoders) <= set(BACKBONES.classes)


@pytest.mark.parametrize(("system", "profile"), [pair for pair in PAIRS if "+" not in pair[0]])
def test_resolved_is_the_file_with_the_profile_on_top(system, profile):
    """Both files read by hand: every option is the profile's where it has one, else the system's."""
    resolved = resolve(load_system(system), load_profile(profile)).model_dump()
    written = yaml.safe_load((CONFIGS / f"systems/{system}.yaml").read_text())
    overlays = yaml.safe_load((CONFIGS / f"profiles/{profile}.yaml").read_text()).get("encoders", {})
    outputs = {}
    for name, encoder in written.get("encoders", {}).items():
        if isinstance(encoder, str):  # another system's
            encoder = yaml.safe_load((CONFIGS / f"systems/{encoder}.yaml").read_text())["encoders"][name]
        overlay = overlays.get(encoder["backbone"]["name"], {})
        replacement = overlay.get("backbone", {}).get("checkpoint", "none is replaced")
        if encoder["backbone"].get("checkpoint") in (None, replacement):  # nothing published to replace
            overlay = {} if "checkpoint" in overlay.get("backbone", {}) else overlay
        outputs[name] = overlay.get("outputs", {})
        assert resolved["encoders"][name]["view"] == encoder["view"]
        for part in ("backbone", "objective", "train"):
            if part not in encoder:  # nothing is trained
                assert resolved["encoders"][name][part] is None
                continue
            expected = encoder[part] | overlay.get(part, {})
            assert within(expected, resolved["encoders"][name][part]), part
        assert within(overlay.get("start"), resolved["encoders"][name]["start"])
    for branch, wanted in zip(resolved["branches"], written["branches"], strict=True):
        assert branch["scorer"] == wanted["scorer"]
        output = wanted.get("output", "clip")
        assert branch["output"] == outputs.get(wanted.get("encoder"), {}).get(output, output)
    assert resolved["decision"] == written.get("decision", {"name": "percentile"})


@pytest.mark.parametrize("name", [name for name in NAMES if "+" in name])
def test_a_variant_is_its_system_with_its_own_keys_on_top(name):
    base, _, variant = name.partition("+")
    system, changed = load_system(base), load_system(name)
    assert changed.name == name
    wanted = dict(system.variants[variant])
    if "synthesis" in wanted:  # a generator by name is looked up, and nothing is said where there is none
        asked, got = wanted.pop("synthesis"), changed.synthesis
        assert (got is None) == (asked is None)
        if asked:
            assert got.generator == (load_generator(asked["generator"]) if "generator" in asked else got.generator)
            assert got.bank == asked.get("bank", system.synthesis and system.synthesis.bank)
    assert within(wanted, changed.model_dump())
    untouched = set(System.model_fields) - set(system.variants[variant]) - {"name", "variants"}
    assert changed.model_dump(include=untouched) == system.model_dump(include=untouched)


def starts_from_published(system):
    named = {encoder.backbone.spec.get("checkpoint") for encoder in system.encoders.values()}
    return bool(named - {None, *weights.embedded()})


@pytest.mark.parametrize("name", [name for name in NAMES if starts_from_published(load_system(name))])
def test_without_weights_a_system_says_which_file_it_wants_where(name, context, tmp_path, monkeypatch):
    monkeypatch.setenv("ASD_WEIGHTS", str(tmp_path))
    system = load_system(name)
    files = {weights.find(e.backbone.spec["checkpoint"]).file for e in system.encoders.values()}
    with pytest.raises(AsdError, match=r"belongs at") as caught:
        pipeline.plan([system], load_profile("full"), context)
    assert any(str(tmp_path / file) in str(caught.value) for file in files)
    assert "rofile quick runs without it" in str(caught.value)


@pytest.fixture
def published(monkeypatch):
    """As if the published checkpoints were there: networks have their sizes, and nobody reads or tries them out."""
    monkeypatch.setattr(PatchTransformer, "files", classmethod(lambda cls, options: []))
    real = pipeline.try_out
    monkeypatch.setattr(
        "asd_core.pipeline.planning.try_out", lambda system: starts_from_published(system) or real(system)
    )


def within(part, whole):
    """Whether everything in `part` is the same in `whole`, which may spell out more defaults."""
    if isinstance(part, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(within, part, whole))
    return part == whole


@pytest.mark.parametrize(("system", "profile"), PAIRS)
def test_plan(system, profile, context, published):
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
    starts = {digest(e.start.model_dump(mode="json")) for e in resolved.encoders.values() if e.start}
    used = [(b.encoder, resolved.encoders[b.encoder], b.seed) for b in resolved.branches if b.encoder]
    # seeds of a run and of its branches add up; what starts from an earlier training depends on that one's seed too
    seeded = {(name, seed + extra, seed if e.start else None) for name, e, extra in used for seed in (0, 1)}
    expected = sum(len(machines) if resolved.encoders[name].scope == "machine" else 1 for name, *_ in seeded)
    assert len(trainings) == expected + 2 * len(starts)
    for task in trainings:
        encoders = [stage for e in resolved.encoders.values() for stage in (e, e.start) if stage]
        clips = [clip for machine in task.spec["machines"] for clip in context.data.of(machine, "train")]
        longest = max(audio.info(clip.path).seconds for clip in clips)
        backbone = BACKBONES[task.spec["encoder"]["backbone"]["name"]]
        fitting = [backbone.resolve(e.backbone.spec, longest) for e in encoders if e.backbone.name == backbone.name]
        assert any(within(options, task.spec["encoder"]["backbone"]) for options in fitting)


def test_plan_is_repeatable_and_depends_on_seed_and_profile(context):
    system = load_system("neu-1")

    def keys(profile, seed):
        return {(t.kind, t.key) for t in pipeline.plan([system], load_profile(profile), context, seeds=[seed])}

    assert keys("quick", 0) == keys("quick", 0)
    assert not keys("quick", 0) & keys("quick", 1)
    assert not keys("quick", 0) & keys("full", 0)


def test_all_systems_together_share_what_is_equal(context, published):
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
