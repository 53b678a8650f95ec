"""Counting a data set's clips, and what a check of its recordings leaves behind."""

import os

import numpy as np
import pandas as pd
import pytest

from asd_core.analysis import inventory
from asd_core.data import audio, doctor
from asd_core.data.manifest import scan
from asd_core.files import read_json
from asd_core.types import SAMPLE_RATE

NAMES = {
    "fan/train": [
        *(f"section_00_source_train_normal_{i:04d}_spd_{i % 2}_mic_1.wav" for i in range(8)),
        "section_00_target_train_normal_0008_SPD_0_mic_1.wav",
    ],
    "fan/test": [
        "section_00_source_test_normal_0000_spd_0_mic_1.wav",
        "section_00_target_test_anomaly_0001_spd_2_mic_1.wav",
    ],
    "pump/train": ["section_00_source_train_normal_0000_noAttribute.wav"],
    "pump/test": ["section_00_0000.wav", "section_00_0001.wav"],
}


@pytest.fixture
def root(tmp_path):
    """Far is near, 6 dB fainter and 16 samples (1 ms) later, in noise of its own."""
    rng = np.random.default_rng(0)
    for folder, names in NAMES.items():
        for name in names:
            sound = 0.1 * rng.normal(size=SAMPLE_RATE + 16)
            far = 0.5 * sound[:-16] + 0.01 * rng.normal(size=SAMPLE_RATE)
            audio.write(tmp_path / "data" / folder / name, np.stack([sound[16:], far]))
    return tmp_path / "data"


@pytest.fixture
def clips(root):
    return inventory.clip_frame(scan(root))


def test_every_clip_is_a_row_and_unknown_is_not_none(clips):
    assert len(clips) == sum(map(len, NAMES.values()))
    pump = clips[clips["machine"] == "pump"]
    assert list(pump["attributes"]) == ["", "", "noattribute"]
    assert pump["label"].isna().all()
    assert list(clips.loc[clips["label"] == 1, "domain"]) == ["target"]


def test_balance_in_words(clips):
    table = inventory.balance(clips).set_index("machine")
    fan = table.loc["fan"]
    assert (fan["source"], fan["target"], fan["ratio"], fan["attributes"]) == (8, 1, 8.0, 2)
    assert fan["said"] == (
        "8 source and 1 target clips: 8 source clips for each target clip. Rarest attribute: spd_1_mic_1 with 4 clips."
    )
    assert table.loc["pump", "said"] == "All 1 training clips are of the source domain."
    assert np.isnan(table.loc["pump", "ratio"])


def test_a_machine_without_training_clips_says_so(clips):
    rest = clips[(clips["machine"] == "fan") & (clips["split"] == "test")]
    assert inventory.balance(rest)["said"].item() == "There are no training clips: nothing can be learnt."


def test_attributes_are_counted_together_and_one_by_one(clips):
    fan = clips[clips["machine"] == "fan"]
    assert inventory.attribute_keys(fan) == ["spd", "mic"]
    together = inventory.by_attribute(fan).set_index("attributes")
    assert together.loc["spd_0_mic_1"].to_dict() == {
        "train_source": 4,
        "train_target": 1,
        "test_source": 1,
        "test_target": 0,
        "test_unknown": 0,
    }
    assert list(together.index) == ["spd_0_mic_1", "spd_1_mic_1", "spd_2_mic_1"]
    assert inventory.by_attribute(fan, "mic")["train_source"].tolist() == [8]
    pump = inventory.by_attribute(clips[clips["machine"] == "pump"]).set_index("attributes")
    assert pump["test_unknown"].to_dict() == {"none": 0, "not known": 2}


def test_microphones_are_compared_as_they_were_made(root):
    facts = doctor.examine(root).clips
    table = inventory.microphones(facts).set_index("machine").loc["fan"]
    assert table["difference"] == pytest.approx(6.0, abs=0.2)
    assert table["lead"] == pytest.approx(1.0, abs=0.07)
    assert table["telling"] == 1
    assert abs(table["correlation"]) < 0.1  # noise against itself a millisecond later


def test_one_channel_is_no_comparison(root):
    for path in root.glob("fan/*/*.wav"):
        audio.write(path, audio.read(path)[:1])
    facts = doctor.examine(root).clips
    assert list(inventory.microphones(facts)["machine"]) == ["pump"]
    levels = inventory.levels(facts[facts["machine"] == "fan"])
    assert set(levels["microphone"]) == {"near"}
    assert levels["count"].sum() == len(NAMES["fan/train"]) + len(NAMES["fan/test"])


def test_levels_count_every_clip_once(root):
    levels = inventory.levels(doctor.examine(root).clips)
    assert levels.groupby("microphone")["count"].sum().to_dict() == {"near": 14, "far": 14}
    busiest = levels.loc[levels[levels["microphone"] == "near"]["count"].idxmax()]
    assert busiest["low"] <= -20 <= busiest["high"]  # an RMS of 0.1


def test_durations_by_split(root):
    first = next(iter(root.glob("fan/train/*0000*")))
    audio.write(first, np.repeat(audio.read(first), 3, axis=1))
    table = inventory.sound_facts(doctor.examine(root).clips).set_index(["machine", "split"])
    assert table.loc[("fan", "train"), ["shortest", "longest"]].tolist() == [1.0, 3.0]
    assert table.loc[("fan", "test"), ["rates", "channels"]].tolist() == ["16000", "2"]


def test_a_report_is_kept_and_read_again(root, tmp_path):
    (root / "fan" / "train" / "notes.txt").write_text("not a clip")
    report = doctor.examine(root)
    assert doctor.kept(tmp_path / "check") is None
    doctor.keep(report, tmp_path / "check")
    kept = doctor.kept(tmp_path / "check")
    assert kept.stamp == report.stamp == doctor.stamp(root)
    assert kept.files == 14
    pd.testing.assert_frame_equal(kept.clips, report.clips, check_dtype=False)
    assert list(kept.findings["rule"]) == [finding.rule for finding in report.findings]
    assert "misnamed" in set(kept.findings["rule"])
    (tmp_path / "check" / "clips.parquet").write_bytes(b"cut short")
    assert doctor.kept(tmp_path / "check") is None


def test_a_stamp_sees_new_gone_and_rewritten_files(root):
    seen = {doctor.stamp(root)}
    path = next(root.glob("fan/test/*.wav"))
    os.utime(path, ns=(1, 1))
    seen.add(doctor.stamp(root))
    path.unlink()
    seen.add(doctor.stamp(root))
    (root / "fan" / "test" / "section_00_0000.wav").touch()
    seen.add(doctor.stamp(root))
    assert len(seen) == 4
    (root / "fan" / "test" / ".hidden.part").touch()
    assert doctor.stamp(root) in seen


def test_the_job_keeps_the_report_and_ends_well(root, tmp_path, cli):
    """Also where it finds an error, for which the command line exits with 1."""
    first = next(iter(root.glob("fan/train/*")))
    audio.write(first, 0 * audio.read(first))
    (tmp_path / "job").mkdir()
    code, _, _ = cli("doctor", root, "--output", tmp_path / "check", "--job", tmp_path / "job")
    assert code == 1
    assert read_json(tmp_path / "job" / "result.json")["state"] == "done"
    kept = doctor.kept(tmp_path / "check")
    assert kept.findings.query("severity == 'error'")["rule"].tolist() == ["silent", "silent"]
    assert kept.clips.set_index("clip_id").loc[f"fan/train/{first.name}", "near"] == -140
