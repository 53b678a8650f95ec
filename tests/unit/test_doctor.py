"""Every fault is planted in a healthy folder: the doctor must name it, its place, and nothing else."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asd_core.data import doctor
from asd_core.data.doctor import RULES, Report, examine, render, to_json
from asd_core.types import AsdError, Cancelled

RATE = 16_000
TRAIN = "section_00_{}_train_normal_{:04}_spd_{}.wav"
TEST = "section_00_{}_test_{}_{:04}_spd_{}.wav"
FIRST = "fan/train/" + TRAIN.format("source", 0, 1)
SECOND = "fan/train/" + TRAIN.format("source", 1, 1)
LAST = "fan/test/" + TEST.format("target", "anomaly", 1, 2)


def sound(seed: int, seconds: float = 1.25, delay: int = 48) -> np.ndarray:
    """(T, 2): the machine's hum and hiss near, the same later and duller far, in noise of its own."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    hiss = 0.05 * rng.standard_normal(n + delay)
    machine = hiss + 0.1 * np.sin(2 * np.pi * 440 * np.arange(n + delay) / RATE + rng.uniform(0, 6))
    far = np.convolve(machine, [0.1, 0.25, 0.1], "same")
    return np.stack([machine[delay:], far[:n]], axis=1) + 0.01 * rng.standard_normal((n, 2)) * [0.2, 1]


def save(path: Path, wave: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype=subtype)


def load(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("healthy")
    names = [f"train/{TRAIN.format('source', i, 1)}" for i in range(6)]
    names += [f"train/{TRAIN.format('target', i, 2)}" for i in range(2)]
    names += [
        f"test/{TEST.format(domain, label, i, 1 + (domain == 'target'))}"
        for domain in ("source", "target")
        for label in ("normal", "anomaly")
        for i in range(2)
    ]
    for seed, name in enumerate(names):
        save(root / "fan" / name, sound(seed))
    (root / "fan" / "attributes_00.csv").write_text("file_name\n")
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "data"))


def found(report: Report) -> set[tuple[str, str]]:
    return {(finding.rule, finding.subject) for finding in report.findings}


def test_healthy_folder_has_no_finding(root: Path) -> None:
    report = examine(root)
    assert report.findings == ()
    assert report.ok
    assert report.files == 16
    (row,) = report.machines.to_dict("records")
    expected = {"machine": "fan", "clips": 16, "train_source": 6, "train_target": 2, "test_unlabelled": 0}
    expected |= {f"test_{d}_{label}": 2 for d in ("source", "target") for label in ("normal", "anomaly")}
    expected |= {"channels": "2", "rate": "16000", "seconds": "1.25", "errors": 0, "warnings": 0}
    assert row == expected
    assert "Nothing to complain about." in render(report)


def change(edit: Callable[[np.ndarray], object], subtype: str = "PCM_16") -> Callable[[Path], None]:
    """A fault that rewrites the samples (T, 2) of the first training clip."""

    def plant(root: Path) -> None:
        wave = load(root / FIRST)
        edited = edit(wave)
        save(root / FIRST, wave if edited is None else edited, subtype=subtype)

    return plant


def set_to(index: object, value: float) -> Callable[[np.ndarray], None]:
    return lambda wave: wave.__setitem__(index, value)


def loud(wave: np.ndarray) -> np.ndarray:
    return wave * [20, 1]


def truncate(root: Path) -> None:
    (root / FIRST).write_bytes((root / FIRST).read_bytes()[:30_044])


def dangling(root: Path) -> None:
    (root / FIRST).unlink()
    (root / FIRST).symlink_to(root / "nowhere.wav")


def move(pattern: str, target: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        for path in list((root / "fan").glob(pattern)):
            new = root / target / path.name if target else None
            if new:
                new.parent.mkdir(parents=True, exist_ok=True)
                path.rename(new)
            else:
                path.unlink()

    return plant


def rename(subject: str, name: str) -> Callable[[Path], None]:
    return lambda root: (root / subject).rename((root / subject).with_name(name)) and None


def copy(source: str, target: str) -> Callable[[Path], None]:
    return lambda root: shutil.copy(root / source, root / target) and None


def all_clips(edit: Callable[[np.ndarray], np.ndarray], rate: int = RATE) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        for path in root.rglob("*.wav"):
            save(path, edit(load(path)), rate)

    return plant


def link_split(root: Path) -> None:
    moved = (root / "fan/test").rename(root.parent / "elsewhere")
    (root / "fan/test").symlink_to(moved)


def strip_labels(root: Path) -> None:
    (root / LAST).rename(root / "fan/test/section_00_0000.wav")


TRAIN_ANOMALY = "fan/train/section_00_source_train_anomaly_0000_spd_1.wav"
OF_TEST = "section_00_source_test_normal_0009_spd_1.wav"
PLANTED: list[tuple[str, Callable[[Path], object], set[tuple[str, str]]]] = [
    ("dangling link", dangling, {("unreadable", FIRST)}),
    ("text", lambda r: (r / FIRST).write_text("no sound at all" * 10), {("corrupt", FIRST)}),
    ("0 bytes", lambda r: (r / FIRST).write_bytes(b""), {("empty", FIRST)}),
    ("0 samples", change(lambda w: w[:0]), {("empty", FIRST)}),
    ("cut off", truncate, {("truncated", FIRST), ("short", FIRST), ("length", FIRST)}),
    ("NaN", change(set_to((100, 1), np.nan), "FLOAT"), {("not_finite", FIRST)}),
    ("inf", change(set_to((100, 0), np.inf), "FLOAT"), {("not_finite", FIRST)}),
    ("far dead", change(set_to((slice(None), 1), 0.0)), {("silent", FIRST)}),
    ("all dead", change(lambda w: w * 0), {("silent", FIRST)}),
    ("two dead", lambda r: [save(r / c, sound(0) * 0) for c in (FIRST, SECOND)], {("silent", FIRST), ("silent", SECOND)}),
    ("too loud", change(loud), {("clipped", FIRST)}),
    ("too loud, float", change(loud, "FLOAT"), {("clipped", FIRST)}),
    ("one peak at full scale", change(set_to((100, 0), 1.0)), set()),
    ("offset", change(lambda w: np.add(w, [0, 0.03])), {("dc_offset", FIRST)}),
    ("half a second", change(lambda w: w[:8000]), {("short", FIRST), ("length", FIRST)}),
    ("a bit longer", change(lambda w: np.concatenate([w, w[:4000]])), {("length", FIRST)}),
    ("copied channel", change(lambda w: w[:, [0, 0]]), {("identical_channels", FIRST)}),
    ("copied, quieter", change(lambda w: w[:, [0, 0]] * [1, -0.5]), {("identical_channels", FIRST)}),
    ("mono clip", change(lambda w: w[:, :1]), {("channels", FIRST)}),
    ("four channels", change(lambda w: w[:, [0, 1, 0, 1]]), {("channels", FIRST)}),
    ("mono machine", all_clips(lambda w: w[:, :1]), {("channels", "fan")}),
    ("other rate", lambda r: save(r / FIRST, sound(99, 2.5), 8000), {("rate", FIRST), ("length", FIRST)}),
    ("other rate everywhere", all_clips(lambda w: w, 10_000), {("rate", "fan")}),
    ("swapped", change(lambda w: w[:, ::-1]), {("swapped", FIRST)}),
    ("noise beside the far one", change(lambda w: w + 0.05 * sound(77) * [0, 20]), set()),
    ("all swapped", all_clips(lambda w: w[:, ::-1]), {("far_louder", "fan")}),
    ("capitals", rename(FIRST, "Section_00.wav"), {("misnamed", "fan/train/Section_00.wav")}),
    ("foreign file", lambda r: (r / "fan/test/notes.txt").write_text("x"), {("misnamed", "fan/test/notes.txt")}),
    ("hidden file", lambda r: (r / "fan/test/.DS_Store").write_text("x"), set()),
    ("beside", move("train/*_0005_*", "fan"), {("misplaced", f"fan/{TRAIN.format('source', 5, 1)}")}),
    ("deeper", move("train/*_0005_*", "fan/train/old"), {("misplaced", f"fan/train/old/{TRAIN.format('source', 5, 1)}")}),
    ("linked machine", lambda r: (r / "valve").symlink_to(r / "fan"), {("linked", "valve")}),
    ("linked split", link_split, set()),
    ("test in train", rename(FIRST, OF_TEST), {("wrong_split", f"fan/train/{OF_TEST}")}),
    ("anomaly", rename(FIRST, Path(TRAIN_ANOMALY).name), {("anomaly_in_train", TRAIN_ANOMALY)}),
    (
        "left-over word",
        rename(FIRST, "section_00_source_train_normal_0000_spd_1_x.wav"),
        {("odd_attributes", "fan/train/section_00_source_train_normal_0000_spd_1_x.wav")},
    ),
    (
        "empty value",
        rename(FIRST, "section_00_source_train_normal_0000_spd_.wav"),
        {("odd_attributes", "fan/train/section_00_source_train_normal_0000_spd_.wav")},
    ),
    ("case", rename(FIRST, "section_00_source_train_normal_0000_Spd_1.wav"), {("attribute_case", "fan")}),
    ("leak", copy(FIRST, LAST), {("leak", LAST)}),
    ("duplicate", copy(FIRST, SECOND), {("duplicate", SECOND)}),
    (
        "same samples, other header",
        lambda r: save(r / SECOND, load(r / FIRST), subtype="FLOAT"),
        {("duplicate", SECOND)},
    ),
    ("no train", move("train/*", ""), {("no_train", "fan")}),
    ("no source", move("train/*_source_*", ""), {("no_source", "fan")}),
    ("no target", move("train/*_target_*", ""), {("no_target", "fan")}),
    ("no test", move("test/*", ""), {("no_test", "fan")}),
    ("no anomalies", move("test/*_anomaly_*", ""), {("one_class", "fan")}),
    ("no normals", move("test/*_normal_*", ""), {("one_class", "fan")}),
    ("no target normals", move("test/*_target_test_normal_*", ""), {("one_domain", "fan")}),
    ("a label missing", strip_labels, {("mixed_labels", "fan")}),
    ("no labels", lambda r: [p.rename(p.with_name(f"section_00_{i:04}.wav")) for i, p in enumerate(sorted((r / "fan/test").iterdir()))], set()),
    ("machine twice", move("train/*_target_*", "more/fan/train"), {("machine_twice", "fan")}),
    ("description", lambda r: (r / "dataset.json").write_text("{"), {("description", "dataset.json")}),
    ("description is a list", lambda r: (r / "dataset.json").write_text("[]"), {("description", "dataset.json")}),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "expected"), [case[1:] for case in PLANTED], ids=[case[0] for case in PLANTED])
def test_planted_fault_is_the_only_finding(
    root: Path, plant: Callable[[Path], object], expected: set[tuple[str, str]]
) -> None:
    plant(root)
    report = examine(root)
    assert found(report) == expected
    assert report.ok == (not any(RULES[rule].severity == "error" for rule, _ in expected))
    for finding in report.findings:
        assert finding.message.startswith(finding.subject)
        assert RULES[finding.rule].advice in finding.message


def test_every_rule_is_planted_somewhere() -> None:
    planted = {rule for _, _, expected in PLANTED for rule, _ in expected}
    assert planted | {"no_machine"} == set(RULES)


def test_all_faults_together(root: Path) -> None:
    """The doctor never stops: a folder of ruins gives a report that can be shown and stored."""
    clips = sorted((root / "fan").rglob("*.wav"))
    for clip, payload in zip(clips, (b"", b"RIFF", b"RIFF\0\0\0\0WAVEfmt ", b"x" * 100), strict=False):
        clip.write_bytes(payload)
    save(root / "other/train/nonsense.wav", sound(50))
    report = examine(root)
    assert report.count("error") == 4
    assert {finding.rule for finding in report.findings} == {"corrupt", "empty", "misnamed"}
    assert not any(str(root) in finding.found for finding in report.findings)  # the subject names the file already
    values = json.loads(to_json(report))
    assert (values["files"], values["ok"], len(values["findings"])) == (17, False, 5)
    assert values["machines"][0]["errors"] == 4
    assert {"severity", "rule", "subject", "found", "message"} == set(values["findings"][0])


@pytest.mark.parametrize("name", ["sub/a.wav", "fan/train/a.wav", "fan/train/a.txt", None])
def test_folder_without_machine_is_reported(tmp_path: Path, name: str | None) -> None:
    if name:
        save(tmp_path / name, sound(0)) if name.endswith("wav") else None
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    report = examine(tmp_path)
    assert ("no_machine", str(tmp_path)) in found(report)
    assert len(report.findings) == 1 + (name is not None)
    assert "no machine found" in render(report)
    assert json.loads(to_json(report))["machines"] == []


def test_a_report_is_not_written_among_other_things(root: Path, tmp_path: Path) -> None:
    report, place = examine(root), tmp_path / "report"
    doctor.keep(report, place)
    doctor.keep(report, place)
    (place / ".env").write_text("mine")
    with pytest.raises(AsdError, match=r"holds other things, such as \.env"):
        doctor.keep(report, place)
    assert (place / ".env").read_text() == "mine"


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AsdError, match="is not a folder"):
        examine(tmp_path / "nowhere")


def test_forbidden_files_and_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no permission stops; so the refusal itself is simulated."""
    opened = Path.open

    def refuse(self: Path, *args: object, **options: object) -> object:
        if self.name == Path(FIRST).name:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    walk = doctor.os.walk

    def closed(top: Path, onerror: Callable[[OSError], None], followlinks: bool) -> object:
        onerror(PermissionError(13, "Permission denied", str(top / "vault")))
        return walk(top, onerror=onerror, followlinks=followlinks)

    monkeypatch.setattr(doctor.os, "walk", closed)
    report = examine(root)
    assert found(report) == {("unreadable", FIRST), ("unreadable", "vault")}
    assert "Permission denied" in report.findings[0].found


def test_truncation_tells_both_lengths(root: Path) -> None:
    truncate(root)
    (finding,) = [finding for finding in examine(root).findings if finding.rule == "truncated"]
    assert finding.found == "0.47 s of the 1.25 s its header announces"


def test_length_of_a_streamed_header_is_not_believed(root: Path) -> None:
    """A recorder that writes to a pipe leaves 0xFFFFFFFF as the length of its data."""
    content = bytearray((root / FIRST).read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    (root / FIRST).write_bytes(content)
    assert examine(root).findings == ()


def test_clipping_names_share_and_run(root: Path) -> None:
    wave = load(root / FIRST)
    wave[1000:1100, 1] = -1
    save(root / FIRST, wave)
    (finding,) = examine(root).findings
    assert finding.found == "far: 0.50% of the samples at full scale, up to 100 in a row"


@pytest.mark.parametrize(("channels", "who"), [([0, 1], "near"), ([1, 0], "far")])
def test_louder_far_channel_says_which_hears_first(tmp_path: Path, channels: list[int], who: str) -> None:
    """Loud at the far microphone and late there: noise. Loud and early: probably swapped."""
    for i in range(6):
        wave = sound(i, delay=80)[:, channels]
        save(tmp_path / "fan/train" / TRAIN.format("source", i, 1), wave * [0.01, 1] if who == "near" else wave)
    (note,) = [finding for finding in examine(tmp_path).findings if finding.rule == "far_louder"]
    assert f"reaches the {who} one first, by 5.0 ms" in note.found


def test_no_order_no_suspicion(tmp_path: Path) -> None:
    """Two microphones at equal distance: any clip may lie on either side, and none is suspected."""
    for i in range(10):
        rng = np.random.default_rng(i)
        wave = 0.1 * rng.standard_normal((RATE, 2)) * rng.uniform(0.7, 1.4, 2)
        save(tmp_path / "fan/train" / TRAIN.format("source", i, 1), wave)
    assert {finding.rule for finding in examine(tmp_path).findings} == {"no_target", "no_test"}


def test_spellings_are_counted(root: Path) -> None:
    for path in list((root / "fan/test").glob("*target*normal*")):
        path.rename(path.with_name(path.name.replace("spd", "Spd")))
    (note,) = examine(root).findings
    assert (note.rule, note.severity, note.found) == ("attribute_case", "note", "Spd_2 ×2, spd_2 ×4")


def test_worst_comes_first_and_long_lists_are_cut(root: Path) -> None:
    for path in sorted((root / "fan/train").iterdir())[:4]:
        save(path, np.add(load(path), [0.02, 0]))
    (root / LAST).write_bytes(b"")
    report = examine(root)
    assert [finding.severity for finding in report.findings] == ["error"] + ["warning"] * 4
    text = render(report, per_rule=3)
    assert text.index("ERROR") < text.index("WARNING")
    assert "(dc_offset, 4×)" in text
    assert "… and 1 more" in text
    assert text.count("has a mean of") == 3
    assert "1 error, 4 warnings" in text


def test_progress_and_cancelling(root: Path) -> None:
    told: list[float] = []
    examine(root, lambda fraction, message, **_: told.append(fraction))
    assert told == [pytest.approx((i + 1) / 16) for i in range(16)]

    def stop(fraction: float, message: str, **_: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        examine(root, stop)
