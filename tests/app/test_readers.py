"""What the app shows without a browser: spectrogram levels, filters, and that no learning library is loaded."""

import io
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from asd_core import api, config
from asd_core.api.training import lacking_weights
from asd_core.data.spectrogram import AXES, HOP, ROWS, position, spectrogram, ticks
from asd_core.files import read_json, write_json
from asd_core.types import SAMPLE_RATE, AsdError
from pages.components import pictures


@pytest.mark.parametrize("axis", AXES)
def test_a_full_scale_sine_is_bright_at_its_frequency(axis):
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    levels = spectrogram(np.sin(2 * np.pi * 2000 * t).astype(np.float32), axis)
    assert levels.shape == (ROWS, SAMPLE_RATE // HOP + 1)
    column = levels[:, 15]
    assert -6 < column.max() < 0.5  # dBFS; a row averages neighbouring bins
    assert column.argmax() / ROWS == pytest.approx(float(position(2000, axis)), abs=2 / ROWS)


@pytest.mark.parametrize("axis", AXES)
def test_axis_runs_from_0_to_1(axis):
    places = [place for place, _ in ticks(axis)]
    assert places == sorted(places)
    assert places[0] > 0
    assert places[-1] == pytest.approx(1)


def test_silence_and_very_short_clips_have_a_picture():
    assert np.isfinite(spectrogram(np.zeros(SAMPLE_RATE, np.float32))).all()
    assert spectrogram(np.ones(10, np.float32)).shape[1] >= 1


@pytest.fixture
def sounds(full, built, tmp_path) -> Path:
    """A copy of the recordings, to be changed."""
    shutil.copytree(built / "sounds", tmp_path / "sounds")
    about = full.dataset("workshop") / "dataset.json"
    write_json(about, read_json(about) | {"root": str(tmp_path / "sounds")})
    return tmp_path / "sounds"


def test_pictures_are_made_once_and_again_when_the_file_changes(full, sounds):
    clip_id = "fan/test/section_00_source_test_normal_0000_speed_1.wav"
    first = pictures.picture(full, "workshop", "near-mel", clip_id)
    stamp = first.stat().st_mtime_ns
    assert pictures.picture(full, "workshop", "near-mel", clip_id).stat().st_mtime_ns == stamp
    (sounds / clip_id).touch()
    assert pictures.picture(full, "workshop", "near-mel", clip_id) != first


def test_one_channel_is_served_sample_for_sample(full, built):
    import soundfile

    clip_id = "fan/test/section_00_source_test_normal_0000_speed_1.wav"
    stored, rate = soundfile.read(built / "sounds" / clip_id, dtype="int16")
    for number, channel in enumerate(("near", "far")):
        served, served_rate = soundfile.read(api.sound(full, "workshop", clip_id, channel), dtype="int16")
        assert served_rate == rate
        assert (served == stored[:, number]).all()


def test_floats_are_served_as_they_are_and_not_as_silence(full):
    import soundfile

    wave = np.random.default_rng(0).normal(0, 0.1, (16_000, 2)).astype(np.float32)
    held = io.BytesIO()
    soundfile.write(held, wave, 16_000, subtype="FLOAT", format="WAV")
    one = api.take_upload(full, "a.wav", held.getvalue())
    for number, channel in enumerate(("near", "far")):
        served, _ = soundfile.read(api.sound(full, one.source, one.clip_id, channel), dtype="float32")
        assert (served == wave[:, number]).all()


def test_the_truth_is_read_again_when_recordings_come_or_go(full, sounds):
    before = api.clips_stamp(full, "workshop")
    (sounds / "fan" / "test" / "section_00_9999.wav").touch()
    assert api.clips_stamp(full, "workshop") != before
    assert api.clips_stamp(full, "nobody") == ""


def test_an_id_is_looked_up_and_never_a_path(full):
    for odd in ("../../etc/passwd", "/etc/passwd", "fan/test/../test/section_00_source_test_normal_0000_speed_1.wav"):
        with pytest.raises(AsdError, match="missing"):
            api.clip(full, "workshop", odd)
    with pytest.raises(AsdError, match="no data set"):
        api.clip(full, "..", "x")


def test_presets_and_filters():
    clips = pd.DataFrame(
        {
            "clip_id": ["m/test/a.wav", "m/test/b.wav", "m/test/c.wav", "m/test/d.wav"],
            "domain": ["source", "target", "source", "target"],
            "outcome": ["FP", "FP", "FN", "TP"],
            "attributes": ["speed_1", "Speed_2", "", ""],
            "score": [3.0, 5.0, 1.0, 9.0],
            "margin": [1.0, 3.0, -1.5, 7.0],
        }
    )

    def names(**wanted: object) -> str:
        return "".join(clip_id[-5] for clip_id in api.select_clips(clips, **wanted)["clip_id"])

    assert names() == "abcd"
    assert names(preset="Worst false alarms") == "ba"
    assert names(preset="Missed anomalies") == "c"
    assert names(preset="Closest to threshold") == "acbd"
    assert names(preset="Highest scores") == "dbac"
    assert names(domains=["target"], outcomes=["FP"]) == "b"
    assert names(text=" SPEED ") == "ab"


def test_training_is_refused_for_what_is_not_there(full):
    for change in ({"name": "nobody"}, {"data": "nothing"}, {"profile": "huge"}, {"machines": ["moon"]}, {"seeds": []}):
        with pytest.raises(AsdError):
            api.start_training(full, **({"name": "logmel-knn", "data": "workshop"} | change))
    assert api.all_jobs(full) == []


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of configs/ that a test may change."""
    shutil.copytree(config.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    return tmp_path / "configs"


def test_a_system_that_is_invalid_under_a_profile_is_one_invalid_row(full, configs):
    path = configs / "systems" / "neu-1.yaml"
    path.write_text(path.read_text().replace("batch_size: 64", "batch_size: 64, accumulate: 64"))
    states = api.system_states(full, "workshop", "quick").set_index("name")
    assert states.loc["neu-1", "state"] == "invalid"
    assert "neu-1 under profile quick" in states.loc["neu-1", "problem"]
    assert (states["state"] == "invalid").sum() == 1
    assert "neu-1" not in api.missing_systems(states.reset_index())
    assert api.system_states(full, "workshop", "full").set_index("name").loc["neu-1", "state"] != "invalid"


def test_a_typo_in_a_variant_is_of_that_variant_alone(full, configs):
    path = configs / "systems" / "unis-3.yaml"
    path.write_text(path.read_text().replace("variants:", "variants:\n  odd: {fusio: {name: minimum}}"))
    states = api.system_states(full, "workshop", "quick").set_index("name")["state"]
    assert [states[name] for name in ("unis-3", "unis-3+odd", "unis-3+submitted")] == [
        "not started",
        "invalid",
        "not started",
    ]


def test_transductive_systems_are_told(full):
    told = api.system_states(full, "workshop", "quick").set_index("name")["transductive"]
    names = ("unis-3", "unis-3+submitted", "tsz-fusion", "tsz-fusion+ranked")
    assert [bool(told[name]) for name in names] == [False, True, False, True]


def test_weights_of_a_start_are_wanted_too(tmp_path, monkeypatch):
    monkeypatch.setenv("ASD_WEIGHTS", str(tmp_path))
    system, profile = config.load_system("unis-1"), config.load_profile("quick")
    assert lacking_weights(system, profile) == ""
    start = profile.encoders["eat"].start
    started = start.model_copy(update={"backbone": config.Component(name="eat", checkpoint="eat_base_pretrain")})
    overlay = profile.encoders["eat"].model_copy(update={"start": start.model_copy(update={"start": started})})
    profile = profile.model_copy(update={"encoders": {"eat": overlay}})
    assert "EAT-base_epoch30_pretrain.safetensors" in lacking_weights(system, profile)


def test_the_app_loads_no_learning_library(full):
    code = (
        "import sys; sys.argv = ['app.py', '--workspace', sys.argv[1]]\n"
        "from streamlit.testing.v1 import AppTest; from pages.components import context\n"
        "for page in ('home', 'results', 'train', 'export'):\n"
        "    app = AppTest.from_file(str(context.PAGES / 'shell' / 'main.py'), default_timeout=60)\n"
        "    app.switch_page(context.page(page)); app.run(); assert not app.exception\n"
        "loaded = {'torch', 'sklearn', 'librosa', 'faiss'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(full.root)], cwd=config.CONFIGS.parent, check=True, capture_output=True
    )


def test_within_a_moment_the_disk_is_looked_at_once(full, sounds):
    before = api.clips_stamp(full, "workshop")
    with api.moment():
        assert api.clips_stamp(full, "workshop") == before
        (sounds / "fan" / "test" / "section_00_9999.wav").touch()
        with api.moment():
            assert api.clips_stamp(full, "workshop") == before
        assert api.clips_stamp(full, "workshop") == before, "a moment within another has ended, not the other"
        with ThreadPoolExecutor(1) as beside:
            assert beside.submit(api.clips_stamp, full, "workshop").result() != before
    assert api.clips_stamp(full, "workshop") != before


def test_a_moment_ends_with_an_error(full):
    with pytest.raises(AsdError, match="no data set"), api.moment():
        api.data_set(full, "late")
    write_json(full.dataset("late") / "dataset.json", {"name": "late", "kind": "recorded", "root": str(full.root)})
    assert "late" in api.data_sets(full)


def test_short_ids_are_looked_up(full):
    clip_id = "fan/test/section_00_source_test_normal_0000_speed_1.wav"
    assert api.clip_of_short_id(full, "workshop", api.short_id(clip_id)) == api.clip(full, "workshop", clip_id)
    for odd in ("", "../../etc/passwd", clip_id, api.short_id("fan/test/none.wav")):
        with pytest.raises(AsdError, match="No clip of workshop"):
            api.clip_of_short_id(full, "workshop", odd)
