"""The manifest against every real file name of 2026 (golden/file_list.csv.gz), and against layouts that bend it."""

import json
import os
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from asd_core.data import manifest
from asd_core.data.manifest import (
    DataSet,
    attribute_text,
    class_of,
    fingerprint,
    open_dataset,
    parse_attributes,
    parse_name,
    scan,
)
from asd_core.types import AsdError, Clip

FILE_LIST = Path(__file__).parent.parent / "golden" / "file_list.csv.gz"
DEVELOPMENT = ["ToyCar", "ToyCarEmu", "bearingEmu", "fan", "gearboxEmu", "sliderEmu", "valveEmu"]
EVALUATION = ["BlowerDustCollector", "Sander", "SewingMachine", "ToothBrush", "ToyDrone"]
CLASS = ("machine", "section", "domain", "attributes")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """All 14 400 names as empty files, in the folders of the official baseline."""
    root = tmp_path_factory.mktemp("dcase2026")
    table = pd.read_csv(FILE_LIST)
    for (part, machine), names in table.groupby(["split", "machine"])["file_name"]:
        stage, split = str(part).split("_")
        folder = root / f"{stage}_data" / "raw" / str(machine) / split
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        (folder.parent / "attributes_00.csv").touch()
    return scan(root, kind="DCASE 2026")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_real_counts(real: DataSet) -> None:
    assert len(real.clips) == 14_400
    assert real.problems == ()
    counts = real.counts().set_index("machine")
    assert sorted(counts.index) == sorted(DEVELOPMENT + EVALUATION)
    assert (counts["train_source"] == 990).all()
    assert (counts["train_target"] == 10).all()
    groups = [f"test_{domain}_{label}" for domain in ("source", "target") for label in ("normal", "anomaly")]
    assert (counts.loc[DEVELOPMENT, groups] == 50).all(axis=None)
    assert (counts.loc[DEVELOPMENT, "test_unlabelled"] == 0).all()
    assert (counts.loc[EVALUATION, groups] == 0).all(axis=None)
    assert (counts.loc[EVALUATION, "test_unlabelled"] == 200).all()
    assert {machine for machine in real.machines if real.is_labelled(machine)} == set(DEVELOPMENT)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [(CLASS, 80), (("machine", "section", "attributes"), 71), (("machine",), 12), (("machine", "section"), 12)],
)
def test_real_class_counts(real: DataSet, fields: tuple[str, ...], expected: int) -> None:
    train = [clip for clip in real.clips if clip.split == "train"]
    classes = {class_of(clip, fields) for clip in train}
    assert len(classes) == expected
    if expected == 71:
        assert len({(name, channel) for name in classes for channel in ("near", "far")}) == 142


def test_real_class_counts_by_stage(real: DataSet) -> None:
    for machines, expected in ((DEVELOPMENT, 45), (EVALUATION, 35)):
        assert len({class_of(clip, CLASS) for m in machines for clip in real.of(m, "train")}) == expected


def test_real_attribute_counts(real: DataSet) -> None:
    """Samples of the table in the protocol notes, section 9."""
    drone = Counter(attribute_text(clip.attributes) for clip in real.of("ToyDrone", "train") if clip.domain == "target")
    assert drone == {"car_C1_spd_3_mic_2_mic_1": 5, "car_C2_spd_3_mic_2_mic_1": 5}
    fan = Counter((clip.domain, attribute_text(clip.attributes)) for clip in real.of("fan", "train"))
    assert fan == {
        ("source", "spd_1"): 330, ("source", "spd_2"): 330, ("source", "spd_3"): 330,
        ("target", "spd_1"): 4, ("target", "spd_2"): 3, ("target", "spd_3"): 3,
    }  # fmt: skip
    assert {clip.attributes for clip in real.of("bearingEmu", "train")} == {()}


def test_lower_case_pro_y_is_the_same_product(real: DataSet) -> None:
    """Product Y in upper and lower case would otherwise tell normal from anomaly."""
    truths = [real.truth[clip.clip_id] for clip in real.of("gearboxEmu", "test")]
    spelled = Counter((attribute_text(t.attributes), t.label) for t in truths if t.domain == "target")
    assert (spelled["pro_y", 0], spelled["pro_Y", 1]) == (17, 17)
    assert len({manifest.attribute_key(t.attributes) for t in truths}) == 9


def test_key_that_comes_twice_keeps_both_in_order(real: DataSet) -> None:
    clip = real.of("ToyCarEmu", "train")[0]
    assert [key for key, _ in clip.attributes] == ["car", "spd", "mic", "mic"]
    assert clip.attributes[2:] == (("mic", "2"), ("mic", "1"))
    assert attribute_text(clip.attributes) in clip.file_name


def test_test_clips_know_nothing(real: DataSet) -> None:
    test = [clip for clip in real.clips if clip.split == "test"]
    assert {(clip.domain, clip.attributes) for clip in test} == {("", ())}
    assert set(real.truth) == {clip.clip_id for clip in test if clip.machine in DEVELOPMENT}


def test_ids_repeat_but_clip_ids_do_not(real: DataSet) -> None:
    assert len({clip.clip_id for clip in real.clips}) == len(real.clips)
    assert [clip.clip_id for clip in real.clips] == sorted(clip.clip_id for clip in real.clips)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ()), ("", ()), ("noAttribute", ()), ("NOATTRIBUTE", ()),
        ("spd_1", (("spd", "1"),)), ("car_A1_mic_2_mic_1", (("car", "A1"), ("mic", "2"), ("mic", "1"))),
        ("bg_A_noise", (("bg", "A"), ("noise", ""))), ("vel_-1.5", (("vel", "-1.5"),)),
    ],
)  # fmt: skip
def test_attributes(text: str | None, expected: tuple[tuple[str, str], ...]) -> None:
    assert parse_attributes(text) == expected


def test_sections_are_kept_as_written(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "fan/train/section_00_source_train_normal_0000.wav",
        "fan/train/section_02_target_train_normal_0000_spd_1.wav",
        "fan/test/section_02_0123.wav",
    )
    clips = scan(tmp_path).clips
    assert [(clip.split, clip.section, clip.domain) for clip in clips] == [
        ("test", "02", ""), ("train", "00", "source"), ("train", "02", "target"),
    ]  # fmt: skip
    assert class_of(clips[1], CLASS) == "fan|00|source|noattribute"
    assert class_of(clips[2], ("section", "domain")) == "02|target"


@pytest.mark.parametrize(
    "name",
    [
        "fan/train/section_00_0001.wav",  # no domain in training
        "fan/train/section_00_source_test_normal_0000_spd_1.wav",  # other split than the folder
        "fan/train/section_00_source_train_anomaly_0000_spd_1.wav",
        "fan/train/section_00_source_train_normal_0000_spd_1.WAV",
        "fan/test/section_00_source_test_normal_spd_1.wav",  # no number
        "fan/test/readme.txt",
    ],
)
def test_other_names_are_passed_over_and_said(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "fan/train/section_00_source_train_normal_0009_spd_1.wav", "fan/test/.DS_Store")
    data = scan(tmp_path)
    assert len(data.clips) == 1
    assert len(data.problems) == 1
    assert Path(name).name in data.problems[0]
    with pytest.raises(AsdError):
        parse_name("fan", tmp_path / name)


def test_machine_twice_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/fan/train/section_00_source_train_normal_0000.wav", "b/fan/test/section_00_0000.wav")
    with pytest.raises(AsdError, match=r'"fan" is there twice: .*a/fan and .*b/fan'):
        scan(tmp_path)
    assert scan(tmp_path / "a").machines == ["fan"]


def test_folders_without_a_clip_are_no_machine(tmp_path: Path) -> None:
    """Such as a workspace beside the machines, which has tasks/train and tasks/test too."""
    clip = "section_00_source_train_normal_0000.wav"
    touch(
        tmp_path, f"fan/train/{clip}", f"ws/tasks/train/0123/{clip}", f"old/fan/train/{clip[:-4]}", "pump/train/x.wav"
    )
    touch(tmp_path, "ws2/tasks/train/4567/meta.json", "ws/tasks/train/.0123.lock")
    data = scan(tmp_path)
    assert data.machines == ["fan"]
    assert [problem.partition(":")[0] for problem in data.problems] == [f"fan/train/{clip[:-4]}", "pump/train/x.wav"]


def test_machines_come_by_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{m}/train/section_00_source_train_normal_0000.wav" for m in ("fan", "fan-2", "fan 3")))
    assert scan(tmp_path).machines == ["fan", "fan 3", "fan-2"]


def test_links_to_nothing_and_names_in_bytes_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "fan/train/section_00_source_train_normal_0000.wav")
    (tmp_path / "fan/train/section_00_source_train_normal_0001.wav").symlink_to(tmp_path / "nothing.wav")
    touch(tmp_path, "fan/train/section_00_source_train_normal_0002_bg_\udce9.wav")
    data = scan(tmp_path)
    assert len(data.clips) == 1
    assert "normal_0001.wav: a link to a file that is not there" in data.problems[0]
    assert "bg_\\udce9.wav': the name holds characters that cannot be printed" in data.problems[1]


def test_empty_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AsdError, match="holds no clip"):
        scan(tmp_path)
    touch(tmp_path, "fan/train/x.wav")
    with pytest.raises(AsdError, match=r"1 files were passed over; the first: fan/train/x\.wav"):
        scan(tmp_path)
    with pytest.raises(AsdError, match="is not a folder"):
        scan(tmp_path / "nowhere")


def test_a_folder_may_describe_itself(tmp_path: Path) -> None:
    touch(tmp_path, "fan/train/section_00_source_train_normal_0000.wav")
    assert (scan(tmp_path).name, scan(tmp_path).kind) == (tmp_path.name, "local recordings")
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "bench", "kind": "simulated"}))
    assert (open_dataset(str(tmp_path)).name, scan(tmp_path).kind) == ("bench", "simulated")
    assert scan(tmp_path, "mine", "test data").kind == "test data"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "../../../escape"}', r'cannot be called "\.\./.*letters, digits.*dataset\.json'),
        ('{"name": "a/b"}', "letters, digits"), ('{"name": ".hidden"}', "must not begin with a dot"),
        ('{"name": "a\\n"}', "letters, digits"), (json.dumps({"name": "x" * 65}), "at most 64"),
        ('{"name": 5}', r"(?s)dataset\.json is not .*name: .*string \(got 5\)"), ('{"kind": []}', "kind: .*string"),
        ("[]", r"(?s)dataset\.json is not .*dictionary"), ("null", "dictionary"), ('{"name": ', "not valid JSON"),
        ("\udce9", "not valid JSON"),
    ],
)  # fmt: skip
def test_descriptions_with_a_fault(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "fan/train/section_00_source_train_normal_0000.wav")
    (tmp_path / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(AsdError, match=message):
        scan(tmp_path)


@pytest.mark.parametrize("name", ["Lüfter 2.0_b+c-d", "x" * 64])
def test_names_that_may_be_given(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name, "fan/train/section_00_source_train_normal_0000.wav")
    (tmp_path / name / "dataset.json").write_text('{"licence": "CC"}')
    assert scan(tmp_path / name).name == name


def test_data_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "REPOSITORY", tmp_path)
    with pytest.raises(AsdError, match=r'"dcase2026" is not on this machine .*data download dcase2026'):
        open_dataset("dcase2026")
    touch(tmp_path, "data/dcase2026/eval_data/raw/Sander/test/section_00_0000.wav")
    data = open_dataset("dcase2026")
    assert (data.name, data.kind, data.machines) == ("dcase2026", "DCASE 2026", ["Sander"])


def test_partly_labelled_machine_is_refused_where_its_labels_matter(tmp_path: Path) -> None:
    touch(tmp_path, "fan/test/section_00_source_test_normal_0000.wav", "fan/test/section_00_0001.wav")
    data = scan(tmp_path)
    with pytest.raises(AsdError, match=r"fan: 1 of 2 test clips .* fan/test/section_00_0001\.wav\. Move .*--machines"):
        data.is_labelled("fan")
    assert data.counts().set_index("machine").loc["fan", ["test_source_normal", "test_unlabelled"]].tolist() == [1, 1]
    with pytest.raises(AsdError, match=r'no machine "valve"\. It has: fan'):
        data.of("valve")


def test_fingerprint_follows_content_and_names_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clip(name: str, content: bytes) -> Clip:
        path = tmp_path / name
        path.write_bytes(content)
        return Clip(f"fan/train/{name}", path, "fan", "train", "00", "source")

    cache = tmp_path / "cache" / "fingerprints"
    a, b = clip("a.wav", b"1"), clip("b.wav", b"2")
    first = fingerprint([a, b], cache)
    assert fingerprint([b, a], tmp_path / "other") == first
    assert fingerprint([a], cache) != first
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "file_digest", None)  # contents are known: not read again
        assert fingerprint([a, b], cache) == first
    clip("b.wav", b"33")
    assert fingerprint([a, b], cache) != first


def test_fingerprint_sees_a_change_that_keeps_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    clip = Clip("fan/train/a.wav", path, "fan", "train", "00", "source")
    prints, changed = [], 0
    for content in (b"1", b"2"):
        path.write_bytes(content)
        while path.stat().st_ctime_ns == changed or path.stat().st_mtime_ns != 10**18:  # clocks tick in milliseconds
            os.utime(path, ns=(10**18, 10**18))
        changed = path.stat().st_ctime_ns
        prints.append(fingerprint([clip], tmp_path / "cache"))
    assert prints[0] != prints[1]


@pytest.mark.parametrize("damaged", [b"", b'{"a.wav": [1,', b"[]", b"\xff"])
def test_damaged_cache_of_fingerprints_is_made_anew(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(b"1")
    clip = Clip("fan/train/a.wav", tmp_path / "a.wav", "fan", "train", "00", "source")
    expected = fingerprint([clip], tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    good = file.read_text()
    file.write_bytes(damaged)
    assert fingerprint([clip], tmp_path / "cache") == expected
    assert file.read_text() == good
