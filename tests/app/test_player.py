"""What the player is given: addresses, figures and a small, clean map. What it does with them is for a browser."""

import json
import sys

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from asd_core import api
from asd_core.data.spectrogram import position
from pages.components import context, player

CLIP = "fan/test/section_00_target_test_anomaly_0001_speed_9.wav"


@pytest.fixture
def over(monkeypatch):
    """over(workspace): what the command line would set."""

    def use(workspace: api.Workspace) -> None:
        monkeypatch.setattr(sys, "argv", ["app.py", "--workspace", str(workspace.root)])
        context.workspace.cache_clear()

    return use


def heat(**changed) -> player.Heat:
    given = {
        "values": np.array([[0.123456, 2], [3, 1e-6]]),
        "start": np.array([0.0, 0.25]),
        "stop": np.array([0.25, np.inf]),
        "edges": np.array([0, 1000, 8000]),
        "low": np.float32(0.5),
        "high": np.float32(2),
        "threshold": np.float64(1.5),
        "branch": "local",
        "places": [(0.25, None, np.int64(0), 1000.0, np.float32(3), "")],
    }
    return player.Heat(**(given | changed))


def mounted(workspace: api.Workspace, over, map_of_it: player.Heat | None = None) -> tuple[AppTest, dict]:
    """A page with nothing but the player, and the data that its script in the browser gets."""
    over(workspace)

    def page(clip_id, map_of_it):
        import streamlit as st

        from pages.components import player

        clip, _ = player.sound("workshop", clip_id, "mel")
        marker = player.mount(clip, other=clip, heat=map_of_it, anomaly="/asd/anomaly/run/clip")
        st.text(str(marker))

    app = AppTest.from_function(page, args=(CLIP, map_of_it), default_timeout=30)
    app.run()
    assert not app.exception, app.exception
    (found,) = app.get("bidi_component")
    return app, json.loads(found.proto.json)


def test_a_sound_has_what_can_be_seen_and_heard(full, over):
    over(full)
    clip, facts = player.sound("workshop", CLIP, "log")
    assert (clip.seconds, clip.sample_rate, clip.axis) == (facts.seconds, 16000, "log")
    assert [view.name for view in clip.channels] == ["Near", "Far"]
    assert "/near-log/" in clip.channels[0].picture
    assert "/both/" in clip.sound
    assert len(clip.levels) == 2
    assert clip.levels[0][0] > clip.levels[0][1], "the peak is above the RMS"


def test_a_missing_file_is_for_the_page_to_tell(full, over):
    over(full)
    with pytest.raises(api.AsdError, match="missing from workshop"):
        player.sound("workshop", "fan/test/nothing.wav", "mel")


def test_one_channel(tmp_path, over):
    from asd_core.data import audio
    from asd_core.data.manifest import scan
    from asd_core.files import write_json

    name = "section_00_source_train_normal_0000_noAttribute.wav"
    audio.write(tmp_path / "sounds" / "fan" / "train" / name, np.full((1, 16000), 0.1))
    scan(tmp_path / "sounds", "mono", "local recordings")
    workspace = api.Workspace(tmp_path / "workspace")
    about = {"name": "mono", "kind": "local recordings", "root": str(tmp_path / "sounds")}
    write_json(workspace.dataset("mono") / "dataset.json", about)
    over(workspace)
    clip, _ = player.sound("mono", f"fan/train/{name}", "mel")
    assert [bool(view.picture) for view in clip.channels] == [True, False]
    assert "one channel only" in clip.channels[1].reason
    assert len(clip.levels) == 1


def test_the_map_arrives_small_and_finite(full, over):
    _, data = mounted(full, over, heat())
    assert data["heat"]["values"] == [[0.1235, 2.0], [3.0, 1e-6]]
    assert data["heat"]["stop"] == [0.25, data["clip"]["seconds"]]
    assert data["heat"]["places"][0]["stop"] == data["clip"]["seconds"]
    assert data["heat"]["threshold"] == 1.5


def test_a_large_map_stays_below_the_budget(full, over):
    rng = np.random.default_rng(0)
    u, f = 62, 128
    large = heat(
        values=rng.random((u, f)), start=np.arange(u) / 100, stop=np.arange(1, u + 1) / 100, edges=np.linspace(0, 8000, f + 1)
    )  # fmt: skip
    _, data = mounted(full, over, large)
    assert len(json.dumps(data)) < 100_000


@pytest.mark.parametrize(
    ("values", "why"), [(np.array([[np.nan]]), "not finite"), (np.zeros((500, 100)), "50000 cells")]
)
def test_of_a_map_that_cannot_be_drawn_the_reason_is_told(full, over, values, why):
    _, data = mounted(full, over, heat(values=values))
    assert why in data["heat"]["reason"]
    assert not data["heat"]["values"]
    assert not data["heat"]["places"]


def test_without_a_map_the_reason_goes_along(full, over):
    _, data = mounted(full, over, player.Heat(reason="It looks at the clip as a whole."))
    assert not data["heat"]["values"]
    assert data["heat"]["reason"].startswith("It looks")


def test_an_unchanged_mount_sends_the_same(full, over):
    app, data = mounted(full, over, heat())
    app.run()
    assert json.loads(app.get("bidi_component")[0].proto.json) == data


def test_a_marker_of_another_clip_is_not_this_ones(full, over):
    app, _ = mounted(full, over)
    assert app.text[0].value == "None"
    for clip_id, shown in ((CLIP, "1.25"), (CLIP.replace("0001", "0002"), "None")):
        app.session_state["player"] = {"marker": {"clip_id": clip_id, "seconds": 1.25, "hertz": 440.0}}
        app.run()
        assert shown in app.text[0].value


def test_levels_can_be_read_back_from_the_colours():
    colours = player._palette()
    assert len({colours[at : at + 6] for at in range(0, len(colours), 6)}) == 256


@pytest.mark.parametrize("axis", api.AXES)
def test_the_axis_ends_are_where_the_pictures_end(axis):
    low = api.LOG_FROM if axis == "log" else 0.0
    assert position(low, axis) == pytest.approx(0)
    assert position(api.SAMPLE_RATE / 2, axis) == pytest.approx(1)


def test_keys_on_the_buttons_are_the_keys_of_the_script():
    script = (player.ASSETS / "player.js").read_text()
    for key, action in (("N", "swap"), ("L", "loop"), ("M", "heat"), ("B", "other"), ("O", "anomaly"), ("H", "help")):
        assert f"{key.lower()}: '{action}'" in script
        assert f"<kbd>{key}</kbd>" in player.HTML
        assert f"\n  {action}(" in script, "every key does something"
