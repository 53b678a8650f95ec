"""Every bad input: a message that says what came, what is allowed and what to do; exit code; nothing lost."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asd_core import files
from asd_core.data.manifest import scan
from tests.conftest import SYSTEMS


@pytest.fixture
def data(tiny_data, tmp_path) -> Path:
    """A copy of one machine that a test may damage."""
    tiny = scan(tiny_data)
    machine = next(m for m in tiny.machines if tiny.is_labelled(m))
    shutil.copytree(tiny_data / machine, tmp_path / "data" / machine)
    return tmp_path / "data"


def first_clip(data: Path, split: str = "train") -> Path:
    return scan(data).of(scan(data).machines[0], split)[0].path


def run(cli, data, tmp_path, *systems, **options):
    extra = [word for name, value in options.items() for word in (f"--{name}", value)]
    return cli("run", *(systems or ["logmel-knn"]), "--data", data, "--workspace", tmp_path / "ws", *extra)


def test_good_data_first(cli, data, tmp_path):
    code, out, err = run(cli, data, tmp_path)
    assert code == 0, err
    assert "logmel-knn" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as sound"),
        (b"RIFF....WAVEfmt broken", "cannot be read as sound"),
        (b"\x00" * 5000, "cannot be read as sound"),
    ],
)
def test_corrupt_recordings(cli, data, tmp_path, content, message):
    clip = first_clip(data)
    clip.write_bytes(content)
    code, _, err = run(cli, data, tmp_path)
    assert code == 1
    assert clip.name in err
    assert message in err
    assert "doctor" in err


def test_recording_without_samples(cli, data, tmp_path):
    soundfile.write(first_clip(data), np.zeros((0, 2)), 16_000)
    code, _, err = run(cli, data, tmp_path)
    assert (code, "holds no samples" in err) == (1, True)


def test_recording_with_nan(cli, data, tmp_path):
    wave = np.zeros((32_000, 2), dtype=np.float32)
    wave[5] = np.nan
    soundfile.write(first_clip(data), wave, 16_000, subtype="FLOAT")
    code, _, err = run(cli, data, tmp_path)
    assert (code, "holds NaN or infinite samples. Export it again" in err) == (1, True)


@pytest.mark.parametrize(
    "system", ["logmel-maha", SYSTEMS / "tiny-autoencoder.yaml", SYSTEMS / "tiny-multiresnet.yaml"]
)
def test_silent_and_clipped_recordings_are_scored_and_reported(cli, data, tmp_path, system):
    clips = [clip.path for clip in scan(data).of(scan(data).machines[0], "train")]
    soundfile.write(clips[0], np.zeros((32_000, 2)), 16_000)
    soundfile.write(clips[1], np.clip(np.random.default_rng(0).normal(size=(32_000, 2)), -1, 1), 16_000)
    code, _, err = run(cli, data, tmp_path, system)
    assert code == 0, err
    code, out, _ = cli("doctor", data)
    assert "silent" in out
    assert "clip" in out


def test_clip_too_short_for_the_autoencoder(cli, data, tmp_path):
    soundfile.write(first_clip(data), np.zeros((1_000, 2)), 16_000)
    code, _, err = run(cli, data, tmp_path, SYSTEMS / "tiny-autoencoder.yaml")
    assert (code, "needs at least 5" in err) == (1, True)


def test_misnamed_files_are_passed_over_and_said(cli, data, tmp_path, caplog):
    clip = first_clip(data)
    clip.rename(clip.with_name("recording 1.wav"))
    code, _, _ = run(cli, data, tmp_path)
    assert code == 0
    assert "recording 1.wav: not a name of this layout. Expected such as section_00_source_train_normal" in caplog.text
    _, out, _ = cli("doctor", data)
    assert "recording 1.wav" in out


def test_missing_folder_and_unknown_data_set(cli, data, tmp_path):
    code, _, err = run(cli, tmp_path / "nowhere", tmp_path)
    assert (code, "is not a folder" in err) == (1, True)
    (tmp_path / "empty").mkdir()
    code, _, err = run(cli, tmp_path / "empty", tmp_path)
    assert (code, "holds no clip in the layout" in err) == (1, True)
    code, _, err = run(cli, data, tmp_path, machines="bearingsim")
    assert (code, 'has no machine "bearingsim". It has:' in err) == (1, True)


def test_machine_without_test_clips(cli, data, tmp_path):
    machine = scan(data).machines[0]
    shutil.rmtree(data / machine / "test")
    code, _, err = run(cli, data, tmp_path)
    assert (code, f"{machine} has no test clips" in err) == (1, True)


def test_missing_domain_and_one_class_still_score(cli, data, tmp_path):
    machine = scan(data).machines[0]
    for path in [*(data / machine / "train").glob("*target*"), *(data / machine / "test").glob("*anomaly*")]:
        path.unlink()
    code, out, err = run(cli, data, tmp_path, "logmel-knn", "logmel-maha", SYSTEMS / "tiny-autoencoder.yaml")
    assert code == 0, err
    assert "–" in out  # no Ω, and no invented one


def test_unknown_names_suggest_the_right_ones(cli, data, tmp_path):
    code, _, err = run(cli, data, tmp_path, "logmel-kn")
    assert (code, 'Did you mean "logmel-knn"?' in err) == (1, True)
    code, _, err = run(cli, data, tmp_path, profile="quik")
    assert (code, 'Did you mean "quick"?' in err) == (1, True)
    code, _, err = cli("score", first_clip(data), "--run", "none", "--machine", "fan", "--workspace", tmp_path)
    assert (code, 'no finished run "none"' in err) == (1, True)


TYPOS = [
    ("epochs: 2}", "epoch: 2}", 'unknown key "epoch"', 'Did you mean "epochs"?'),
    ("epochs: 2}", "epochs: two}", "encoders.autoencoder.train.epochs", "valid integer"),
    ("epochs: 2}", "epochs: 0}", "encoders.autoencoder.train.epochs", "greater than or equal to 1"),
    ("name: autoencoder}", "name: autoencodr}", 'There is no backbone "autoencodr"', 'Did you mean "autoencoder"?'),
    ("name: autoencoder}", "name: autoencoder, widht: 9}", 'has no option "widht"', 'Did you mean "width"?'),
    ("output: mahala", "output: maha", 'no output "maha"', "Allowed: mse, mahala, latent"),
    ("view: {name: logmel}", "view: {name: waveform}", 'view "waveform" gives a waveform', "logmel is needed: logmel"),
    ("encoder: autoencoder,", "encoder: auto,", 'asks for encoder "auto"', "this system has autoencoder"),
    ("{name: reconstruction}}", "{name: knn, metrik: cosine}}", 'no option "metrik"', 'Did you mean "metric"?'),
    ("{name: reconstruction}}", "{name: knn, k: 0}}", "k must be at least 1", "branch mahalanobis"),
    ("fit: official_batch", "fit: official", 'fit "official" is not one of clip, official_batch', "decision"),
    ("{name: reconstruction}}", "{name: knn, metric: cosin}}", "is not one of euclidean", 'Did you mean "cosine"?'),
    ("{name: reconstruction}}", "{name: knn, 1: 2}}", "branches.0.scorer", "Keys should be strings"),
    ("{name: logmel}", "{name: logmel, channel: neer}", 'channel "neer"', 'Did you mean "near"?'),
    ("name: tiny-autoencoder", "name: ../../evil", "name: a name may hold letters", "../../evil"),
    ("name: logmel}", "name: logmel, n_mels: 64}", "does not fit backbone", "branch mahalanobis"),
    ("branches:", "branches: [", "is not valid YAML", "tiny-autoencoder.yaml"),
    ("family: Tests", "famly: Tests", 'unknown key "famly"', 'Did you mean "family"?'),
]


@pytest.mark.parametrize(("right", "wrong", "what", "advice"), TYPOS, ids=[t[1] for t in TYPOS])
def test_typos_in_a_system(cli, data, tmp_path, right, wrong, what, advice):
    text = (SYSTEMS / "tiny-autoencoder.yaml").read_text()
    assert right in text
    path = tmp_path / "tiny-autoencoder.yaml"
    path.write_text(text.replace(right, wrong))
    code, _, err = run(cli, data, tmp_path, path)
    assert code == 1
    assert what in err
    assert advice in err
    assert not list((tmp_path / "ws").glob("tasks/*/*"))  # refused before any work


def test_data_that_names_itself_elsewhere(cli, data, tmp_path):
    (data / "dataset.json").write_text('{"name": "../../../escape"}')
    code, _, err = run(cli, data, tmp_path)
    assert (code, "a name may hold letters" in err) == (1, True)
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "ws"}


def test_names_that_look_like_markup(cli, data, tmp_path):
    (data / "dataset.json").write_text('{"name": "x", "kind": "[/x] [b]"}')
    code, out, err = cli("data", "show", data)
    assert (code, "x ([/x] [b])" in out) == (0, True), err
    code, out, err = run(cli, data, tmp_path)
    assert (code, "x ([/x] [b]), percent" in out) == (0, True), err


def test_one_clip_without_label_in_a_labelled_folder(cli, data, tmp_path):
    clip = first_clip(data, "test")
    clip.rename(clip.with_name("section_00_0000.wav"))
    code, _, err = run(cli, data, tmp_path)
    assert (code, "have no label in their names" in err, "section_00_0000.wav" in err) == (1, True, True)
    assert "--machines" in err
    code, out, _ = cli("data", "show", data, "--json")
    assert (code, '"test_unlabelled": 1' in out) == (0, True)


@pytest.mark.parametrize("seed", [-1, 2**33])
def test_seeds_out_of_range(cli, data, tmp_path, seed):
    code, _, err = run(cli, data, tmp_path, seeds=seed)
    assert (code, "Invalid value for '--seeds'" in err) == (2, True)


def test_groups_of_one_clip_have_no_interval(cli, tmp_path):
    names = [f"fan/section_00_{d}_test_{k}_0000.wav" for d in ("source", "target") for k in ("normal", "anomaly")]
    (tmp_path / "s.csv").write_text("file_name,score\n" + "".join(f"{n},{i}\n" for i, n in enumerate(names)))
    code, out, err = cli("evaluate", tmp_path / "s.csv")
    assert (code, "no interval: a group has fewer than two clips" in out) == (0, True), err


def test_missing_recording_to_score(cli, data, tmp_path):
    run(cli, data, tmp_path)
    name = next(path.parent.name for path in (tmp_path / "ws/runs").glob("*/run.json"))
    machine = scan(data).machines[0]
    code, _, err = cli(
        *("score", tmp_path / "absent.wav", "--run", name, "--machine", machine, "--workspace", tmp_path / "ws")
    )
    assert (code, "absent.wav is missing. Check its name" in err) == (1, True)


def test_damaged_runs_are_passed_over_and_said(cli, data, tmp_path):
    run(cli, data, tmp_path, "logmel-knn", "logmel-maha", SYSTEMS / "tiny-autoencoder.yaml")
    broken, other, kept = sorted(path.parent for path in (tmp_path / "ws/runs").glob("*/run.json"))
    for path, content in ((broken / "run.json", b"{"), (other / "metrics.json", b"x")):
        path.write_bytes(content * path.stat().st_size)  # of the same size, so that it seems complete
    code, out, err = cli("table", "--workspace", tmp_path / "ws")
    assert code == 0, err
    assert "tiny-autoencoder" in out
    assert "logmel" not in out
    for folder in (broken, other):
        assert f"passed over: {folder.name} is damaged" in err
        assert f"Delete {folder} and run it again" in err
    (kept / "scores.parquet").unlink()
    code, _, err = cli("table", "--workspace", tmp_path / "ws")
    assert (code, f"passed over: {kept.name} is damaged" in err) == (1, True)


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "scores.json"
    files.write_json(target, {"kept": True})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(files.AsdError, match=r"disk is full.*Nothing was lost"):
        files.write_json(target, {"kept": False})
    assert files.read_json(target) == {"kept": True}
    assert [p.name for p in tmp_path.iterdir()] == ["scores.json"]


def test_workspace_that_cannot_be_written(cli, data, tmp_path):
    (tmp_path / "ws").write_text("a file where a folder should be")
    code, _, err = run(cli, data, tmp_path)
    assert code == 1
    assert "ws" in err


def test_dry_run_shows_the_plan_and_does_nothing(cli, data, tmp_path):
    code, out, _ = cli(
        "run", "neu-1", "--data", data, "--profile", "quick", "--dry-run", "--workspace", tmp_path / "ws"
    )
    assert code == 0
    assert '"batch_size": 32' in out  # the profile's value, resolved
    assert "to do: train multiresnet" in out
    assert not list((tmp_path / "ws").glob("tasks/*/*"))
