"""Generated clips on the street: made, screened, trained on, dropped, measured; nobody tells them labels."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from asd_core import pipeline
from asd_core.artifacts import Workspace, load_run, read_embeddings, read_table
from asd_core.config import System, load_generator, load_profile, load_system, system_variant
from asd_core.data import audio
from asd_core.data.manifest import scan
from asd_core.engine import local
from asd_core.types import TEST, TRAIN, AsdError
from tests.conftest import ENVIRONMENT, REPOSITORY, SYSTEMS

torch.set_num_threads(1)
YAML = SYSTEMS / "tiny-generated.yaml"
SIDE = ("generator", "judge", "generate", "screen")  # the branch of the street that makes clips
ONE, TWO = "fanSim|00|target|spd_1", "gearboxSim|00|target|pro_a"  # the second is a combination nobody recorded


def system(**parts) -> System:
    """The tiny system with other parts."""
    return System.model_validate(load_system(str(YAML)).model_dump(exclude_unset=True) | parts)


def write_generator(path, **changes) -> Path:
    """Its generator as a file of its own; a mapping changes what it names."""
    values = yaml.safe_load(YAML.read_text())["synthesis"]["generator"]
    for name, value in changes.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(values))
    return path


def planned(context, *systems, **options):
    return pipeline.plan(systems, load_profile("full"), context, **options)


def keys(tasks, *kinds):
    return {(t.kind, t.key) for t in tasks if t.kind in kinds}


def payload(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "meta.json"}


def run_of(tasks, context, name):
    (task,) = (t for t in tasks if t.kind == "run" and t.spec["system"]["name"] == name)
    return load_run(context.workspace, task.spec["run_id"])


@pytest.fixture(scope="module")
def street(tiny_data, tmp_path_factory):
    """With generated clips, with them in the training only, without them, and a system that never heard of them."""
    context = pipeline.Context(Workspace(tmp_path_factory.mktemp("generated")), scan(tiny_data), "cpu")
    own = load_system(str(YAML))
    systems = [own, *(system_variant(own, name) for name in ("no-bank", "recorded"))]
    tasks = planned(context, *systems)
    local.run(tasks, context)
    return tasks, context


@pytest.fixture
def again(street, tmp_path):
    """A workspace that holds all of this and may be changed."""
    _, context = street
    shutil.copytree(context.workspace.root, tmp_path / "ws")
    return pipeline.Context(Workspace(tmp_path / "ws"), context.data, "cpu")


# ---------------------------------------------------------------- where they go


def test_kept_clips_reach_training_and_bank_and_not_the_scores(street):
    tasks, context = street
    run = run_of(tasks, context, "tiny-generated")
    kept = {
        t.spec["machine"]: read_table(t.folder(context.workspace) / "kept.parquet") for t in tasks if t.kind == SIDE[-1]
    }
    assert {machine: len(table) for machine, table in kept.items()} == {
        "BlowerSim": 2,
        "ToyCarSim": 2,
        "fanSim": 2,
        "gearboxSim": 2,
    }
    banks = [t for t in tasks if t.kind == "embed" and "screen" in [needed.kind for needed in t.inputs]]
    assert len(banks) == 4
    for task in banks:
        table = kept[task.spec["machine"]]
        bank = read_embeddings(task.folder(context.workspace) / "generated-clip.npz")
        assert bank.clip_ids.tolist() == table["clip"].tolist()
        assert set(bank.domains) == {"target"}
    assert sorted(run.scores["clip_id"]) == [clip.clip_id for clip in context.data.clips]
    assert run.record["generated"]["fanSim"] == {"drawn": 6, "kept": 2, "short": 0}
    assert any("Trained with 8 generated clips, kept of 21 drawn" in notice for notice in run.record["notices"])


def test_training_on_them_changes_the_network_and_the_bank_changes_scores(street):
    tasks, context = street
    steps = {
        t.title: json.loads((t.folder(context.workspace) / "meta.json").read_text())["steps"]
        for t in tasks
        if t.kind == "train"
    }
    assert sorted(steps.values()) == [8, 9]  # 60 clips in eights, and 68
    assert {count for title, count in steps.items() if "and generated clips" in title} == {9}
    scores = {
        name: run_of(tasks, context, f"tiny-generated{name}").scores for name in ("", "+no-bank", "+recorded")
    }  # fmt: skip
    for branch in ("branch:nearest", "branch:distance"):
        for one, other in (("", "+no-bank"), ("+no-bank", "+recorded")):
            assert not np.allclose(scores[one][branch], scores[other][branch])
    no_bank = keys(planned(context, system_variant(load_system(str(YAML)), "no-bank")), "train", "embed")
    both = keys(planned(context, load_system(str(YAML))), "train", "embed")
    assert {key for kind, key in no_bank & both if kind == "train"} == {key for kind, key in no_bank if kind == "train"}
    for kind, key in no_bank - both:
        assert not list(context.workspace.task(kind, key).glob("generated-*"))


def test_runs_with_other_seeds_train_on_the_same_clips(street):
    """Generated clips are data: they have the generator's seed."""
    tasks, context = street
    both = planned(context, load_system(str(YAML)), seeds=(0, 1))
    assert keys(both, *SIDE) == keys(tasks, *SIDE)
    assert len(keys(both, "train")) == 2


def test_wavs_are_recordings_like_the_others(street):
    tasks, context = street
    for task in (t for t in tasks if t.kind == "generate"):
        longest = max(audio.info(clip.path).frames for clip in context.data.of(task.spec["machine"], TRAIN))
        wavs = sorted(task.folder(context.workspace).glob("*.wav"))
        assert len(wavs) == len(read_table(task.folder(context.workspace) / "candidates.parquet"))
        for path in wavs:
            info = audio.info(path)
            assert (info.sample_rate, info.channels, info.frames) == (16_000, 2, longest)
            assert 1e-4 < audio.read(path).std() < 0.5


def test_a_recording_by_itself_gets_the_score_it_got_in_the_run(street):
    tasks, context = street
    for name in ("tiny-generated", "tiny-generated+no-bank"):
        run = run_of(tasks, context, name)
        clips = context.data.of("fanSim", TEST)[:4]
        alone = pipeline.score_files(
            context.workspace, run.record["run_id"], "fanSim", [clip.path for clip in clips], device="cpu"
        )
        known = run.scores.set_index("clip_id").loc[[clip.clip_id for clip in clips]]
        np.testing.assert_allclose(alone["score"], known["score"], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(alone["threshold"], known["threshold"], rtol=1e-9)
        assert alone["decision"].tolist() == known["decision"].tolist()


def test_scorers_that_cannot_compare_with_generated_clips_say_so(street):
    _, context = street
    ratio = {"name": "knn", "domains": "min", "density": "ratio", "density_k": 2}
    branches = [{"name": "a", "encoder": "multiresnet", "scorer": ratio}]
    with pytest.raises(AsdError, match=r"branch a: scorer \"knn\", as it is set, cannot compare.*Write bank: false"):
        planned(context, system(branches=branches))
    synthesis = load_system(str(YAML)).synthesis.model_dump(exclude_unset=True) | {"bank": False}
    assert planned(context, system(branches=branches, synthesis=synthesis))


# ---------------------------------------------------------------- as if they had never been


def test_without_synthesis_nothing_differs_from_a_system_that_never_had_it(street, tmp_path):
    _, context = street
    bare = planned(context, system(name="tiny-bare", synthesis=None, variants={}))
    own = planned(context, system_variant(load_system(str(YAML)), "recorded"))
    kinds = ("train", "embed", "score")
    assert keys(own, *kinds, *SIDE) == keys(bare, *kinds)
    elsewhere = pipeline.Context(Workspace(tmp_path), context.data, "cpu")
    local.run(bare, elsewhere)
    for task in (t for t in bare if t.kind in kinds):
        assert payload(task.folder(elsewhere.workspace)) == payload(task.folder(context.workspace))
    mine, other = run_of(own, context, "tiny-generated+recorded"), run_of(bare, elsewhere, "tiny-bare")
    assert (mine.folder / "scores.parquet").read_bytes() == (other.folder / "scores.parquet").read_bytes()
    assert mine.metrics == other.metrics


def test_a_system_that_lacks_no_clips_is_as_one_without_synthesis(street):
    _, context = street
    synthesis = load_system(str(YAML)).synthesis.model_dump(exclude_unset=True)
    synthesis["generator"]["targets"] = {"share": 0, "rare": 0}
    plenty = planned(context, system(synthesis=synthesis))
    recorded = planned(context, system_variant(load_system(str(YAML)), "recorded"))
    assert keys(plenty, "train", "embed", "score", *SIDE) == keys(recorded, "train", "embed", "score")


def test_dropping_every_clip_gives_the_recorded_scores_and_undoing_it_the_former_run(street, again, cli, tmp_path):
    tasks, context = street
    generator = write_generator(tmp_path / "g.yaml")
    place = ("--generator", generator, "--data", context.data.root, "--workspace", again.workspace.root)
    code, out, err = cli("screen", *place, "--clips", "--json")
    assert (code, "0 tasks computed" in err) == (0, True), err
    clips = [row["clip"] for row in json.loads(out)]
    assert len(clips) == 21
    code, out, err = cli("screen", *place, "--json", *(word for clip in clips for word in ("--drop", clip)))
    assert (code, "4 tasks computed" in err) == (0, True), err  # nothing is drawn again
    assert {(row["kept"], row["short"], row["reason"]) for row in json.loads(out)} <= {
        (0, 1, "dropped by hand"),
        (0, 2, "dropped by hand"),
    }

    dropped = planned(again, load_system(str(YAML)))
    assert keys(dropped, "generate") == keys(tasks, "generate")
    assert not keys(dropped, "screen", "score") & keys(tasks, "screen", "score")
    local.run(dropped, again)
    mine, other = run_of(dropped, again, "tiny-generated"), run_of(tasks, context, "tiny-generated+recorded")
    assert (mine.folder / "scores.parquet").read_bytes() == (other.folder / "scores.parquet").read_bytes()
    assert mine.metrics == other.metrics
    for machine, branches in mine.record["scores"].items():
        for name, key in branches.items():
            expected = context.workspace.task("score", other.record["scores"][machine][name])
            assert payload(again.workspace.task("score", key)) == payload(expected)

    code, _, err = cli("screen", *place, *(word for clip in clips for word in ("--undo", clip)))
    assert (code, "0 tasks computed" in err) == (0, True), err
    former = planned(again, load_system(str(YAML)))
    assert local.run(former, again).computed == 0
    assert keys(former, "run") == {
        (t.kind, t.key) for t in tasks if t.spec.get("run_id", "").startswith("tiny-generated--")
    }
    logs = sorted((again.workspace.root / "verdicts").glob("*.jsonl"))
    assert sum(len(log.read_text().splitlines()) for log in logs) == 2 * len(clips)  # nothing said was ever deleted


def test_one_clip_dropped_makes_room_for_the_next(street, again, cli, tmp_path):
    _, context = street
    place = ("--generator", write_generator(tmp_path / "g.yaml"), "--data", context.data.root)
    place += ("--workspace", again.workspace.root, "--machines", "fanSim", "--clips", "--json")
    rows = json.loads(cli("screen", *place)[1])
    first, second = [row["clip"] for row in rows if row["condition"] == ONE][:2]
    assert [row["clip"] for row in rows if row["condition"] == ONE and row["kept"]] == [first]
    rows = json.loads(cli("screen", *place, "--drop", first)[1])
    assert [row["clip"] for row in rows if row["condition"] == ONE and row["kept"]] == [second]
    assert {row["reasons"] for row in rows if row["clip"] == first} == {"dropped by hand"}
    rows = json.loads(cli("screen", *place, "--undo", first, "--keep", second)[1])
    assert [row["clip"] for row in rows if row["condition"] == ONE and row["kept"]] == [second]


# ---------------------------------------------------------------- labels


def renamed(data, root, rename):
    """The same recordings with other names of the test clips."""
    for machine in data.machines:
        (root / machine / "test").mkdir(parents=True)
        (root / machine / "train").symlink_to(data.root / machine / "train")
        for number, clip in enumerate(data.of(machine, TEST)):
            (root / machine / "test" / rename(clip.file_name, number)).symlink_to(clip.path)
    return scan(root)


def swapped(name, number):
    words = {"normal": "anomaly", "anomaly": "normal", "source": "target", "target": "source", "1": "2", "2": "1"}
    return "_".join(words.get(word, word) for word in name.removesuffix(".wav").split("_")) + ".wav"


def blind(name, number):
    return f"section_00_{number:04d}.wav"


@pytest.mark.parametrize("rename", [swapped, blind])
def test_labels_do_not_reach_the_generator(street, tmp_path, rename):
    """Other labels, domains and attributes of test clips, or none: what makes clips is the same."""
    _, context = street
    other = pipeline.Context(context.workspace, renamed(context.data, tmp_path / "data", rename), "cpu")
    assert {t.label for t in other.data.truth.values()} == ({0, 1} if rename is swapped else set())
    found = planned(other, load_system(str(YAML)))
    mine = planned(context, load_system(str(YAML)))
    assert keys(found, *SIDE, "train") == keys(mine, *SIDE, "train")
    assert len(keys(mine, *SIDE)) == 10
    assert keys(found, "embed") != keys(mine, "embed")  # names of test clips are in there


# ---------------------------------------------------------------- how many


def test_a_dry_run_shows_the_targets_and_does_nothing(cli, tiny_data, tmp_path):
    place = ("--generator", write_generator(tmp_path / "g.yaml"), "--data", tiny_data, "--workspace", tmp_path / "ws")
    code, out, err = cli("generate", *place, "--dry-run", "--json")
    assert code == 0, err
    wanted = {row["condition"]: (row["recorded"], row["wanted"]) for row in json.loads(out)}
    assert wanted[ONE] == (1, 1)
    assert wanted["ToyCarSim|00|target|noattribute"] == (3, 2)
    assert sum(count for _, count in wanted.values()) == 8
    code, out, _ = cli("generate", *place, "--dry-run", "--machines", "fanSim")
    assert code == 0
    assert "2 clips in all" in out
    assert "gearboxSim" not in out
    assert not (tmp_path / "ws").exists()


def test_edited_numbers_are_what_is_made_and_trained_on(again, cli, tmp_path):
    edited, data = tmp_path / "mine.yaml", again.data.root
    code, _, err = cli(
        "generate", "--generator", write_generator(tmp_path / "g.yaml"), "--data", data, "--output", edited
    )
    assert (code, "Edit targets.counts" in err) == (0, True), err
    values = yaml.safe_load(edited.read_text())
    assert sum(values["targets"]["counts"].values()) == 8
    values["targets"]["counts"] |= dict.fromkeys(values["targets"]["counts"], 0) | {ONE: 4, TWO: 2}
    edited.write_text(yaml.safe_dump(values))
    place = ("--data", data, "--workspace", again.workspace.root, "--device", "cpu")
    code, out, err = cli("generate", "--generator", edited, *place, "--json")
    assert (code, "4 tasks computed, 2 reused" in err) == (0, True), err  # the generator and the judge are there
    rows = {row["condition"]: row for row in json.loads(out)}
    assert {text: (row["wanted"], row["drawn"], row["kept"]) for text, row in rows.items()} == {
        ONE: (4, 6, 4),
        TWO: (2, 3, 2),
    }
    known = again.workspace.run_ids()
    code, _, err = cli("run", YAML, "--generator", edited, *place)
    assert code == 0, err
    runs = [load_run(again.workspace, run_id) for run_id in again.workspace.run_ids()]
    (run,) = [
        one for one in runs if one.record["config"]["name"] == "tiny-generated" and one.record["run_id"] not in known
    ]
    made = {machine: facts["kept"] for machine, facts in run.record["generated"].items()}
    assert made == {"fanSim": 4, "gearboxSim": 2}
    assert cli("run", YAML, "--generator", edited, *place)[2].startswith("0 tasks computed")


def test_a_generator_for_systems_that_use_none_is_refused(street, cli, tmp_path):
    _, context = street
    generator = write_generator(tmp_path / "g.yaml", seed=7)
    code, _, err = cli(
        "run", SYSTEMS / "tiny-multiresnet.yaml", "--generator", generator, "--data", context.data.root,
        "--dry-run", "--workspace", tmp_path / "ws",
    )  # fmt: skip
    assert (code, "None of these systems uses generated clips" in err) == (1, True), err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"targets": {"counts": {"fanSim|00|target|spd_9": 3}}}, "asks for fanSim|spd=9, which no recorded clip has"),
        ({"targets": {"counts": {"fanSim|spd_1": 3}}}, '"fanSim|spd_1" is not a condition. Write machine|section'),
        ({"targets": {"share": 0}}, "has too few clips by the generator's targets. Raise targets.share"),
        ({"targets": {"shares": 0.5}}, 'unknown key "shares". Allowed: share, rare, per_clip, counts. Did you'),
        ({"network": {"widths": [33]}}, "network.widths.0"),
        ({"network": {"attention": 2}}, "attention on 2 levels, but widths has 1"),
        ({"screening": {"confidence": [0.9, 0.5]}}, "confidence must be [low, high]"),
        ({"crop_seconds": 0.1}, "The shortest excerpt is 0.10 s, but this generator's network needs 0.22 s"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_generator_is_told(cli, tiny_data, tmp_path, changes, told):
    generator = write_generator(tmp_path / "g.yaml", **changes)
    code, _, err = cli("generate", "--generator", generator, "--data", tiny_data, "--workspace", tmp_path / "ws")
    assert (code, told in err) == (1, True), err


def test_other_mistakes_are_told(again, cli, tmp_path):
    generator = write_generator(tmp_path / "g.yaml")
    place = ("--generator", generator, "--data", again.data.root, "--workspace", again.workspace.root)
    for arguments, told in (
        (("generate", *place, "--output", generator), "g.yaml exists or is no .yaml file. Give a new name that ends"),
        (("generate", *place, "--machines", "fan"), 'has no machine "fan". It has: BlowerSim'),
        (("generate", "--generator", "difusion"), 'There is no generator "difusion". Known: diffusion. Did you mean'),
        (("screen", *place, "--drop", "fanSim/generated/no.wav"), "There is no generated clip fanSim/generated/no.wav"),
        (("screen", *place, "--keep", "no", "--drop", "fanSim/train/x.wav"), "Such as: BlowerSim/generated/section_00"),
    ):
        code, _, err = cli(*arguments)
        assert (code, told in err) == (1, True), err
    assert not list((again.workspace.root / "verdicts").glob("*"))  # of several, nothing is written if one is wrong
    code, _, err = cli("screen", *place[:4], "--workspace", tmp_path / "empty", "--drop", "fanSim/generated/no.wav")
    assert (code, "`generate` makes some" in err) == (1, True), err


# ---------------------------------------------------------------- the same bytes


def test_equal_seeds_give_equal_wavs_and_others_do_not(street, tmp_path):
    tasks, context = street
    elsewhere = pipeline.Context(Workspace(tmp_path), context.data, "cpu")
    generator = load_system(str(YAML)).synthesis.generator
    made = pipeline.plan_generated(generator, elsewhere)
    local.run(made, elsewhere)
    assert keys(made, *SIDE) == keys(tasks, *SIDE)
    for task in (t for t in made if t.kind != "judge"):
        assert payload(task.folder(elsewhere.workspace)) == payload(task.folder(context.workspace))
    other = pipeline.plan_generated(generator.model_copy(update={"seed": 1}), elsewhere)
    assert not keys(other, *SIDE) & keys(made, *SIDE)
    local.run(other, elsewhere)
    for one, two in zip(made, other, strict=True):
        if one.kind == "generate":
            mine, theirs = (payload(task.folder(elsewhere.workspace)) for task in (one, two))
            assert mine.keys() == theirs.keys()
            assert not any(mine[name] == theirs[name] for name in mine)


def test_drawing_that_is_killed_goes_on_to_the_same_bytes(again, tmp_path):
    """SIGKILL between or within batches of one clip each, twice; what is drawn already stays."""
    counts = {ONE: 12, "fanSim|00|target|spd_2": 9}
    file = write_generator(
        tmp_path / "g.yaml", sampling={"batch": 1}, targets={"share": 0, "rare": 0, "counts": counts}
    )
    undisturbed = pipeline.Context(Workspace(tmp_path / "undisturbed"), again.data, "cpu")
    shutil.copytree(again.workspace.root, undisturbed.workspace.root)
    tasks = pipeline.plan_generated(load_generator(str(file)), undisturbed)
    (drawing,) = (t for t in tasks if t.kind == "generate")
    folder, table = drawing.folder(again.workspace), drawing.folder(again.workspace) / ".candidates.parquet"
    moments = random.Random(0)
    for kill in range(2):
        process = subprocess.Popen(
            drawing_command(file, again), cwd=REPOSITORY, env=ENVIRONMENT, stderr=subprocess.DEVNULL
        )
        drawn = stamp(table)
        while stamp(table) == drawn and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        assert process.poll() is None, f"it ended before it could be killed {kill + 1} times"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "meta.json").exists()
    assert 2 <= len(read_table(table)) < 21
    for context in (again, undisturbed):
        subprocess.run(drawing_command(file, context), cwd=REPOSITORY, env=ENVIRONMENT, check=True, capture_output=True)
    assert len(list(folder.glob("*.wav"))) == 21
    for task in tasks:
        assert payload(task.folder(again.workspace)) == payload(task.folder(undisturbed.workspace))


def drawing_command(generator, context) -> list[str]:
    """In a process of its own, on one thread: another number of threads rounds otherwise."""
    command = ["-m", "asd_core", "generate", "--generator", generator, "--data", context.data.root, "--device", "cpu"]
    return [sys.executable, *map(str, command), "--workspace", str(context.workspace.root)]


def stamp(path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


# ---------------------------------------------------------------- how good they are


@pytest.fixture(scope="module")
def hums(tmp_path_factory):
    """A machine that hums at three speeds: five seconds a clip, so that few clips make windows enough."""
    root = tmp_path_factory.mktemp("hums")
    rng = np.random.default_rng(0)
    spectrum = 1 / (1 + np.arange(40_001) / 2000)

    def record(name, hertz):
        noise = np.fft.irfft(np.fft.rfft(rng.normal(size=(2, 80_000))) * spectrum, 80_000)
        tone = np.sin(2 * np.pi * hertz * np.arange(80_000) / 16_000 + rng.uniform(0, 6))
        audio.write(root / "humSim" / name, 0.02 * (noise + tone).astype(np.float32))

    for speed, domain, count in ((1, "source", 5), (2, "source", 5), (3, "target", 4)):
        for number in range(count):
            name = f"section_00_{domain}_train_normal_{number:04d}_spd_{speed}.wav"
            record(f"train/{name}", 300 * speed)
    for domain, speed in (("source", 1), ("target", 3)):
        for label in ("normal", "anomaly"):
            for number in range(3):
                name = f"section_00_{domain}_test_{label}_{number:04d}_spd_{speed}.wav"
                record(f"test/{name}", 300 * speed + 100 * (label == "anomaly"))
    return root


@pytest.mark.parametrize("labelled", [True, False])
def test_quality_is_measured_beside_its_yardsticks(hums, cli, tmp_path, labelled):
    data = hums if labelled else renamed(scan(hums), tmp_path / "data", blind).root
    generator = write_generator(tmp_path / "g.yaml", targets={"share": 0.7}, screening={"most": 1.0})
    place = ("--generator", generator, "--data", data, "--workspace", tmp_path / "ws")
    code, out, err = cli("quality", *place, "--json")
    assert code == 0, err
    found = json.loads(out)
    distances = pd.DataFrame(found["distances"])
    assert set(distances["condition"]) == {"humSim|00|target|spd_3"}
    assert set(distances["reference"]) == {"held-out" if labelled else "training"}
    assert len(distances) == 2 * 2 * 2  # microphones, spaces, measures
    figures = distances[["generated", "real", "other", "noise"]].to_numpy(float)
    assert np.isfinite(figures).all()
    assert set(distances["nearest"]) <= {"humSim|00|source|spd_1", "humSim|00|source|spd_2"}
    assert distances["said"].str.len().min() > 10
    near = distances[(distances["space"] == "log-mel") & (distances["measure"] == "Fréchet")]
    assert (near["real"] < near["other"]).all()  # the yardsticks mean something: a tone elsewhere is farther
    samples = pd.DataFrame(found["samples"])
    assert samples[["recorded", "wanted", "drawn", "kept"]].to_numpy().tolist() == [[4, 3, 3, 3]] * 2
    assert np.isfinite(
        samples[["taken for it", "confidence", "diversity", "copy distance", "copies"]].to_numpy(float)
    ).all()
    code, out, err = cli("quality", *place)
    assert (code, "0 tasks computed" in err) == (0, True), err
    assert out.count("closer to held-out clips than any other condition for") == (4 if labelled else 0)
    assert "local recordings" in out


def test_quality_of_nothing(cli, hums, tmp_path):
    """Screening that lets no clip through: a table of what was drawn, and no distances."""
    generator = write_generator(
        tmp_path / "g.yaml", targets={"share": 0.5}, screening={"confidence": [0.99, 1.0], "most": 1.0}
    )  # fmt: skip
    place = ("--generator", generator, "--data", hums, "--workspace", tmp_path / "ws")
    code, out, err = cli("quality", *place, "--json")
    assert code == 0, err
    assert json.loads(out)["distances"] == []
    code, _, err = cli("quality", *place)
    assert code == 0, err
