"""Noisier copies of data sets: the level that was asked for, the right colour, the same bytes again, nothing half."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import welch
from typer.testing import CliRunner

from asd_core import __main__ as command_line
from asd_core.data import degrade as module
from asd_core.data.degrade import add_noise, degrade, pink, white
from asd_core.data.manifest import DataSet, open_dataset, scan
from asd_core.types import SAMPLE_RATE, AsdError, Cancelled

RATE = SAMPLE_RATE


def record(path: Path, wave: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave.T, rate, subtype=subtype)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """Two machines, stereo, clips of different levels with an offset; truth and attributes beside them."""
    rng = np.random.default_rng(0)
    root = tmp_path / "shop"
    for machine in ("fan", "saw"):
        names = [f"train/section_00_source_train_normal_{i:04d}_spd_1.wav" for i in range(4)]
        names += [f"test/section_00_target_test_{kind}_0000_spd_2.wav" for kind in ("normal", "anomaly")]
        for i, name in enumerate(names):
            level = np.array([[0.01], [0.02]]) * (i + 1)
            record(root / machine / name, 0.01 + level * rng.normal(size=(2, RATE // 2)))
        (root / machine / "attributes_00.csv").write_text("file_name,d1p,d1v\n")
        (root / f"{machine}_truth.csv").write_text("file_name,domain,label\n")
    (root / "dataset.json").write_text(json.dumps({"name": "shop", "kind": "local bench", "seed": 3}))
    return open_dataset(str(root))


def waves(path: Path) -> np.ndarray:
    return soundfile.read(path, always_2d=True)[0].T


def bytes_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("noise", ["pink", "white", "far"])
@pytest.mark.parametrize("snr", [-6.0, 0.0, 12.0])
def test_every_channel_of_every_clip_has_the_ratio(data: DataSet, tmp_path: Path, noise: str, snr: float) -> None:
    made = degrade(data, tmp_path / "new", snr, noise)
    gain = 10 ** (made.gain_db / 20)
    copies = {clip.clip_id: clip.path for clip in scan(made.root).clips}
    assert copies.keys() == {clip.clip_id for clip in data.clips}
    for clip in data.clips:
        before, after = waves(clip.path), waves(copies[clip.clip_id]) / gain
        measured = 10 * np.log10(before.var(axis=1) / (after - before).var(axis=1))
        assert measured == pytest.approx([snr, snr], abs=0.1)
        near, far = after - before
        assert abs(np.corrcoef(near, far)[0, 1]) < 0.9  # each microphone has a noise of its own


@pytest.mark.parametrize(("make", "slope"), [(lambda n, rng: pink(n, rng, RATE), -3.01), (white, 0.0)])
def test_the_slope_of_the_spectrum(make: object, slope: float) -> None:
    noise = make(60 * RATE, np.random.default_rng(1))
    frequency, density = welch(noise, RATE, nperseg=4096)
    inside = (frequency > 50) & (frequency < 7000)
    found, _ = np.polyfit(np.log2(frequency[inside]), 10 * np.log10(density[inside]), 1)
    assert found == pytest.approx(slope, abs=0.5)


def test_pink_noise_wastes_nothing_below_hearing() -> None:
    power = np.abs(np.fft.rfft(pink(10 * RATE, np.random.default_rng(0), RATE))) ** 2
    assert power[:200].sum() < 1e-12 * power.sum()  # bins of 0.1 Hz


def test_far_noise_is_what_another_training_clip_heard(data: DataSet, tmp_path: Path) -> None:
    made = degrade(data, tmp_path / "new", 0.0, "far")
    gain = 10 ** (made.gain_db / 20)
    training = {clip.clip_id: waves(clip.path)[1] for clip in data.of("fan", "train")}
    for clip in scan(made.root).of("fan"):
        before = waves(data.root / "fan" / clip.split / clip.file_name)
        near, far = waves(clip.path) / gain - before
        for added in (near, far):
            alike = {name: np.corrcoef(added, heard)[0, 1] for name, heard in training.items()}
            best = max(alike, key=alike.get)
            assert alike[best] > 0.99
            assert best != clip.clip_id


def test_equal_arguments_give_equal_bytes(data: DataSet, tmp_path: Path) -> None:
    first, second, other = (
        degrade(data, tmp_path / f"new{i}", 3.0, "pink", seed).root for i, seed in enumerate((5, 5, 6))
    )
    assert bytes_of(first) == bytes_of(second)
    changed = bytes_of(other)
    assert all(changed[name] != payload for name, payload in bytes_of(first).items() if name.endswith(".wav"))


def test_a_clip_does_not_depend_on_the_others(data: DataSet, tmp_path: Path) -> None:
    whole, part = degrade(data, tmp_path / "whole", 20.0), degrade(data, tmp_path / "part", 20.0, machines=["saw"])
    assert whole.gain_db == part.gain_db == 0
    alone = bytes_of(part.root / "saw")
    assert alone == bytes_of(whole.root / "saw")
    assert scan(part.root).machines == ["saw"]


def test_levels_of_one_seed_share_their_noise(data: DataSet, tmp_path: Path) -> None:
    clip = data.clips[0]
    added = []
    for snr in (10.0, 20.0):
        made = degrade(data, tmp_path / f"{snr:g}", snr)
        added.append(waves(made.root / clip.path.relative_to(data.root)) - waves(clip.path))
    assert np.corrcoef(added[0][0], added[1][0])[0, 1] > 0.99


def test_what_is_said_about_the_clips_comes_along(data: DataSet, tmp_path: Path) -> None:
    made = degrade(data, tmp_path / "new", -2.5, "white", seed=7)
    again = open_dataset(str(made.root))
    assert (again.name, again.kind) == ("shop+white-2.5dB", "local bench")
    assert again.truth == data.truth
    for name in ("fan/attributes_00.csv", "saw_truth.csv"):
        assert (made.root / name).read_bytes() == (data.root / name).read_bytes()
    facts = json.loads((made.root / "dataset.json").read_text())["degraded"]
    assert facts["source"] == {"name": "shop", "kind": "local bench", "seed": 3}
    assert (facts["noise"], facts["snr_db"], facts["seed"], facts["machines"]) == ("white", -2.5, 7, ["fan", "saw"])
    assert facts["gain_db"] == made.gain_db


def test_published_recordings_with_noise_are_no_published_recordings(data: DataSet, tmp_path: Path) -> None:
    (data.root / "dataset.json").write_text('{"name": "dcase2026", "kind": "DCASE 2026"}')
    made = degrade(open_dataset(str(data.root)), tmp_path / "new", 0)
    assert open_dataset(str(made.root)).kind == "DCASE 2026 with noise"


def test_a_machine_folder_keeps_its_name(data: DataSet, tmp_path: Path) -> None:
    made = degrade(scan(data.root / "fan"), tmp_path / "new", 0)
    again = scan(made.root)
    assert [clip.clip_id for clip in again.clips] == [clip.clip_id for clip in data.of("fan")]
    assert (made.root / "fan" / "attributes_00.csv").is_file()
    assert (made.root / "fan_truth.csv").is_file()


def test_one_gain_for_all_where_a_clip_would_be_cut(data: DataSet, tmp_path: Path) -> None:
    loud = data.clips[0].path
    record(loud, 0.9 * np.sign(waves(loud)))
    made = degrade(data, tmp_path / "new", 0.0)
    assert made.gain_db < -3
    levels = []
    for clip in data.clips:
        before, after = waves(clip.path), waves(made.root / clip.path.relative_to(data.root))
        assert np.abs(after).max() < 1
        levels.append(10 * np.log10(after.var(axis=1) / before.var(axis=1)) - 10 * np.log10(2))
    assert np.mean(levels) == pytest.approx(made.gain_db, abs=0.3)  # signal and noise add up to twice the power
    assert np.ptp(np.mean(levels, axis=1)) < 0.5
    peaks = [np.abs(waves(path)).max() for path in made.root.rglob("*.wav")]
    assert max(peaks) == pytest.approx(32767 / 32768, abs=1e-4)


def test_a_silent_channel_stays_silent_and_is_told(data: DataSet, tmp_path: Path) -> None:
    clip = data.clips[3]
    record(clip.path, waves(clip.path) * np.array([[1.0], [0.0]]))
    made = degrade(data, tmp_path / "new", 0)
    assert made.silent == (clip.clip_id,)
    near, far = waves(made.root / clip.path.relative_to(data.root))
    assert not far.any()
    assert near.var() > 1.5 * waves(clip.path)[0].var()


def test_rate_format_and_single_microphones_stay(tmp_path: Path) -> None:
    root, rng = tmp_path / "mono", np.random.default_rng(0)
    for split, name in (("train", "source_train_normal_0000"), ("test", "source_test_normal_0000")):
        wave = 0.1 * rng.normal(size=(1, 4001))
        record(root / "fan" / split / f"section_00_{name}_noAttribute.wav", wave, 44_100, "PCM_24")
    made = degrade(scan(root), tmp_path / "new", 10)
    for clip in scan(made.root).clips:
        about = soundfile.info(clip.path)
        assert (about.samplerate, about.subtype, about.channels, about.frames) == (44_100, "PCM_24", 1, 4001)
        before = waves(root / clip.path.relative_to(made.root))
        assert 10 * np.log10(before.var() / (waves(clip.path) - before).var()) == pytest.approx(10, abs=0.1)


def test_the_offset_is_not_part_of_the_level() -> None:
    wave = 0.5 + 0.01 * np.random.default_rng(0).normal(size=(1, RATE))
    noisy, _ = add_noise(wave, 0.0, iter([white(RATE, np.random.default_rng(1))]))
    assert (noisy - wave).std() == pytest.approx(wave.std())
    assert noisy.mean() == pytest.approx(wave.mean())


def test_the_command_tells_what_it_did(data: DataSet, tmp_path: Path) -> None:
    words = ["data", "degrade", str(data.root), "--output", str(tmp_path / "new"), "--snr", "-20", "--noise", "white"]
    result = CliRunner().invoke(command_line.app, words)
    assert result.exit_code == 0, result.exception
    made = json.loads((tmp_path / "new" / "dataset.json").read_text())
    assert f"lowered by {-made['degraded']['gain_db']:.1f} dB" in result.stderr
    assert "shop+white-20dB: 12 clips are in" in result.stderr
    assert isinstance(CliRunner().invoke(command_line.app, words).exception, AsdError)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "brown"}, "Allowed: pink, white, far"),
        ({"snr": 61.0}, "between -40 and 60 dB"),
        ({"snr": float("nan")}, "between -40 and 60 dB"),
        ({"seed": -1}, "from 0 on"),
        ({"machines": ["saw", "lathe"]}, 'no machine "lathe"'),
    ],
)
def test_wrong_options(data: DataSet, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(AsdError, match=message):
        degrade(data, tmp_path / "new", **{"snr": 0.0} | options)
    assert not (tmp_path / "new").exists()


def test_folders_that_hold_something(data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    degrade(data, tmp_path / "empty", 0)
    (tmp_path / "file").touch()
    for place in (tmp_path / "empty", tmp_path / "file", data.root):
        with pytest.raises(AsdError, match="new or empty folder"):
            degrade(data, place, 0)
    with pytest.raises(AsdError, match="count twice"):
        degrade(data, data.root / "noisy", 0)
    assert open_dataset(str(data.root)).clips == data.clips


def test_nothing_to_borrow(data: DataSet, tmp_path: Path) -> None:
    for clip in data.of("fan", "train"):
        record(clip.path, waves(clip.path)[:1])
    with pytest.raises(AsdError, match="no far microphone"):
        degrade(data, tmp_path / "new", 0, "far")
    for clip in data.of("saw", "train")[1:]:
        clip.path.unlink()
    with pytest.raises(AsdError, match="saw has no other training clip"):
        degrade(scan(data.root), tmp_path / "new", 0, "far", machines=["saw"])
    assert not any(tmp_path.glob(".new*"))


def test_a_name_that_no_folder_may_have(data: DataSet, tmp_path: Path) -> None:
    (data.root / "dataset.json").write_text(json.dumps({"name": "x" * 60}))
    with pytest.raises(AsdError, match="at most 64"):
        degrade(open_dataset(str(data.root)), tmp_path / "new", 0)


def test_nothing_half_is_left(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(data.root, tmp_path / ".new.part")  # of a call that was killed

    def stop(fraction: float, message: str, **values: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        degrade(data, tmp_path / "new", 0, progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == {"shop"}

    written = module.write_bytes

    def full(path: Path, payload: bytes) -> None:
        if "saw" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        written(path, payload)

    monkeypatch.setattr(module, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        degrade(data, tmp_path / "new", 0)
    assert {path.name for path in tmp_path.iterdir()} == {"shop"}


def test_a_disk_without_room_is_found_out_at_once(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 100))
    with pytest.raises(AsdError, match="The copy needs"):
        degrade(data, tmp_path / "new", 0)


def test_a_damaged_clip_is_named(data: DataSet, tmp_path: Path) -> None:
    data.clips[2].path.write_bytes(b"no sound")
    with pytest.raises(AsdError, match=data.clips[2].file_name):
        degrade(data, tmp_path / "new", 0)
    assert {path.name for path in tmp_path.iterdir()} == {"shop"}


def test_no_two_channels_borrow_from_one_clip(data: DataSet, tmp_path: Path) -> None:
    """Two excerpts of one clip of this length are the same sound, which the far microphone would tell from the near."""
    for clip in data.of("saw", "train")[2:]:
        clip.path.unlink()
    with pytest.raises(AsdError, match=r"saw has no other training clip .* every channel takes one"):
        degrade(scan(data.root), tmp_path / "new", 0, "far", machines=["saw"])


def test_a_second_call_for_the_folder_is_refused_and_spoils_nothing(data: DataSet, tmp_path: Path) -> None:
    answers = []

    def again(fraction: float, message: str, **values: float) -> None:
        with pytest.raises(AsdError, match="Another process is writing"):
            degrade(data, tmp_path / "new", 0)
        answers.append(fraction)

    made = degrade(data, tmp_path / "new", 0, progress=again)
    assert answers
    assert len(open_dataset(str(made.root)).clips) == len(data.clips)
    assert {path.name for path in tmp_path.iterdir()} == {"shop", "new"}


def test_a_link_to_an_empty_folder_is_followed(data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    degrade(data, tmp_path / "link", 0)
    assert len(open_dataset(str(tmp_path / "disk")).clips) == len(data.clips)
