"""The inspector on a page: its states, its tabs, and what it hands to the player; and the addresses it uses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import soundfile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from streamlit.testing.v1 import AppTest

from asd_core import api
from asd_core.artifacts import Workspace, load_run
from asd_core.data.manifest import scan
from asd_core.files import read_json, write_json
from pages.components import context, inspector, pictures
from pages.shell import routes
from tests.app import example

RUN = "logmel-knn--workshop--quick--seed0"
BARE = "logmel-maha--workshop--quick--seed0"
CLIP = "fan/test/section_00_target_test_anomaly_0001_speed_9.wav"
TABS = {
    "Neighbours": ["Near", "Play", "Distance", "Domain", "Attributes", "Clip"],
    "Why": ["Time", "Band", "Score", "At", "Nearest normal clip"],
    "Scores by system": ["System · seed", "Flagged", "Percentile", "Score", "Threshold"],
    "File": ["Channel", "Peak", "RMS"],
}


@pytest.fixture(scope="session")
def prepared(built: Path, tmp_path_factory) -> Path:
    """A workspace in which one run has left everything behind."""
    folder = tmp_path_factory.mktemp("prepared") / "workspace"
    shutil.copytree(built / "workspace", folder)
    example.add_artefacts(Workspace(folder), scan(built / "sounds", "workshop", "simulated"), RUN)
    return folder


@pytest.fixture
def rich(prepared: Path, tmp_path: Path) -> Workspace:
    """A copy that a test may break; the recordings are shared."""
    shutil.copytree(prepared, tmp_path / "rich")
    return Workspace(tmp_path / "rich")


@pytest.fixture
def inspect(open_app) -> Callable[..., AppTest]:
    """inspect(workspace, run="…") → Results with the clip picked."""

    def open_clip(workspace: Workspace, run: str = RUN, clip: str = CLIP, **query: str) -> AppTest:
        query = {"run": run, "machine": clip.partition("/")[0], "clip": clip, "show": "By name"} | query
        return open_app(workspace, "results", **query)

    return open_clip


def played(app: AppTest) -> dict:
    """What the player was given."""
    (one,) = [part.proto for part in app.get("bidi_component") if part.proto.component_name == "asd_player"]
    return json.loads(one.json)


def columns(app: AppTest) -> list[list[str]]:
    return [list(table.value.columns) for table in app.dataframe]


def said(app: AppTest) -> str:
    parts = [*app.markdown, *app.caption, *app.info, *app.warning, *app.error]
    return "\n".join(str(part.value) for part in parts)


def turn_to(app: AppTest, tab: str) -> AppTest:
    app.session_state["inspector_tabs"] = tab
    app.run()
    assert not app.exception
    return app


def test_the_player_gets_the_clip_its_map_and_its_nearest_normal_clip(inspect, rich):
    given = played(inspect(rich))
    near = api.neighbours(rich, load_run(rich, RUN), CLIP)
    heat = api.heat(rich, load_run(rich, RUN), CLIP)
    assert given["clip"]["clip_id"] == CLIP
    assert given["other"]["clip_id"] == near["clip_id"][0]
    assert len(given["heat"]["values"]) == len(heat.map.values)
    assert given["heat"]["threshold"] == pytest.approx(heat.limit)
    assert given["heat"]["reason"] == ""
    assert given["heat"]["places"][0]["words"].startswith("nearest to source_train_normal_")
    assert given["anomaly"].startswith(f"/asd/anomaly/{RUN}/{CLIP}?")


@pytest.mark.parametrize("tab", TABS)
def test_only_the_open_tab_is_drawn(inspect, rich, tab):
    app = turn_to(inspect(rich), tab)
    shown = columns(app)
    assert TABS[tab] in shown
    assert not any(other in shown for name, other in TABS.items() if name != tab)


def test_the_difference_is_of_the_five_nearest(inspect, rich):
    app = turn_to(inspect(rich), "Difference")
    (frame,) = [part for part in app.get("html") if "/asd/difference/" in part.proto.body]
    assert frame.proto.body.count("other=") == 5
    assert "near-mel" in frame.proto.body
    app.session_state["inspector_channel"] = "far"
    app.run()
    assert any("far-mel" in part.proto.body for part in app.get("html"))


@pytest.mark.parametrize(("tab", "table"), [("Neighbours", "neighbours"), ("Why", "places")])
def test_a_picked_row_is_what_a_b_switches_to(inspect, rich, tab, table):
    run = load_run(rich, RUN)
    wanted = (
        api.neighbours(rich, run, CLIP)["clip_id"][2]
        if tab == "Neighbours"
        else api.heat(rich, run, CLIP).places[2].match
    )
    app = turn_to(inspect(rich), tab)
    app.session_state["inspector_against"] = (CLIP, wanted)  # what the table's callback sets
    app.run()
    assert played(app)["other"]["clip_id"] == wanted
    key = f"inspector_{table}"
    assert app.session_state[key]["selection"]["rows"]
    app.query_params["clip"] = CLIP.replace("0001", "0002")  # the choice is of one clip only
    app.run()
    assert played(app)["other"]["clip_id"] == api.neighbours(rich, run, CLIP.replace("0001", "0002"))["clip_id"][0]


def test_a_nearest_clip_of_other_conditions_is_named(inspect, rich):
    run = load_run(rich, RUN)
    clips = [clip for clip in api.clip_table(rich, run)["clip_id"] if clip.startswith("fan/")]
    strange = [clip for clip in clips if not api.neighbours(rich, run, clip)["same_attributes"][0]]
    familiar = [clip for clip in clips if api.neighbours(rich, run, clip)["same_attributes"][0]]
    assert strange
    assert familiar
    assert "of other attributes (speed" in said(inspect(rich, clip=strange[0]))
    assert "The nearest normal clip is" not in said(inspect(rich, clip=familiar[0]))


@pytest.mark.parametrize(
    ("same_domain", "same_attributes", "sentence"),
    [
        (True, True, ""),
        (None, None, ""),
        (False, True, "The nearest normal clip is of another domain (source)."),
        (True, False, "The nearest normal clip is of other attributes (none)."),
        (False, False, "The nearest normal clip is of another domain (source) and of other attributes (none)."),
    ],
)
def test_what_differs_is_said(same_domain, same_attributes, sentence):
    row = {"domain": "source", "attributes": "", "same_domain": same_domain, "same_attributes": same_attributes}
    assert inspector.strangeness(pd.Series(row, dtype=object)) == sentence


def test_what_is_gone_is_said_with_what_to_do(inspect, rich):
    app = inspect(rich, run=BARE)
    assert "gone or damaged. Run again" in said(app)
    assert played(app)["other"] is None
    assert "gone or damaged" in played(app)["heat"]["reason"]
    assert played(app)["anomaly"] is None
    for tab in TABS:
        turn_to(app, tab)
    assert "One stream" in said(turn_to(app, "Why"))


def test_a_missing_recording_leaves_what_the_run_knows(inspect, tmp_path):
    workspace = example.build(tmp_path, unlabelled=False)
    example.add_artefacts(workspace, scan(tmp_path / "sounds", "workshop", "simulated"), RUN)
    (tmp_path / "sounds" / CLIP).unlink()
    app = inspect(workspace)
    assert len(app.error) == 1
    assert "Expected, below the folder of workshop: fan/test/" in app.error[0].value.replace("\\", "")
    assert not app.get("bidi_component")
    for tab, table in TABS.items():
        turn_to(app, tab)
        assert (table in columns(app)) == (tab != "File")
    assert "is missing" in said(turn_to(app, "Difference"))


def test_a_missing_neighbour_is_no_a_b(inspect, tmp_path):
    workspace = example.build(tmp_path, unlabelled=False)
    example.add_artefacts(workspace, scan(tmp_path / "sounds", "workshop", "simulated"), RUN)
    (tmp_path / "sounds" / api.neighbours(workspace, load_run(workspace, RUN), CLIP)["clip_id"][0]).unlink()
    app = inspect(workspace)
    assert played(app)["other"] is None
    assert "There is no A/B" in said(app)


def test_one_channel_silent_or_clipped(inspect, tmp_path):
    workspace = example.build(tmp_path, unlabelled=False)
    path = tmp_path / "sounds" / CLIP
    wave, rate = soundfile.read(path, dtype="int16")
    soundfile.write(path, wave[:, 0] * 0, rate)
    app = inspect(workspace)
    far = played(app)["clip"]["channels"][1]
    assert (far["picture"], far["reason"]) == ("", "This file has one channel only.")
    assert "a channel is silent" in said(app)
    app = turn_to(app, "File")
    assert [list(table.value["Channel"]) for table in app.dataframe if "Channel" in table.value] == [["mono"]]
    soundfile.write(path, ((wave > 0) * 32767).astype("int16"), rate, subtype="PCM_16")
    assert "touches full scale" in said(inspect(workspace))


def test_unlabelled_clips_have_everything_but_a_verdict_on_the_verdict(inspect, rich):
    app = inspect(rich, clip="drone/test/section_00_0001.wav")
    assert "anomaly" not in [badge.value for badge in app.get("badge")]
    assert played(app)["other"]
    assert TABS["Neighbours"] in columns(app)
    assert "The nearest normal clip is" not in said(app)


def test_a_transductive_run_has_no_percentile(inspect, rich, built):
    data = scan(built / "sounds", "workshop", "simulated")
    run_id = example.add_run(rich, data, "logmel-knn", 1.0, seed=5, transductive=True)
    app = inspect(rich, run=run_id)
    assert "depend on the other test clips, so there is no percentile" in said(app)
    app = turn_to(app, "Scores by system")
    (table,) = [one.value for one in app.dataframe if "System · seed" in one.value]
    assert table["Percentile"].isna().sum() == 1
    assert table["System · seed"].iloc[-1] == "▸ logmel-knn (transductive) · 5"


def test_stepping_goes_through_the_list_as_it_is_shown(inspect, rich):
    app = inspect(rich)
    ids = app.session_state["inspector_ids"]
    place = ids.index(CLIP)
    assert f"{place + 1} of {len(ids)}" in said(app)
    app.button(key="next").click().run()
    assert played(app)["clip"]["clip_id"] == ids[place + 1]
    app.button(key="previous").click().run().button(key="previous").click().run()
    assert played(app)["clip"]["clip_id"] == ids[place - 1]


def test_several_branches_can_be_chosen_from(inspect, rich):
    folder = rich.run(RUN)
    record = read_json(folder / "run.json")
    first = record["config"]["branches"][0]
    record["config"]["branches"].append(first | {"name": "second"})
    record["scores"] = {machine: keys | {"second": keys[first["name"]]} for machine, keys in record["scores"].items()}
    meta = read_json(folder / "meta.json")
    write_json(folder / "run.json", record)
    meta["files"]["run.json"] = (folder / "run.json").stat().st_size
    write_json(folder / "meta.json", meta)
    app = inspect(rich)
    box = app.selectbox(key=f"inspector_branch_{RUN}")
    assert (box.label, box.options) == ("Branch", [first["name"], "second"])
    box.select("second").run()
    assert played(app)["heat"]["branch"] == "second"
    assert "branch second" in said(app)


SCRIPT = """
from pages.components import inspector
inspector.show({data!r}, {clip!r}, None, None, [{clip!r}])
"""


@pytest.fixture
def alone(monkeypatch, rich) -> Callable[[str, str], AppTest]:
    """A page that is nothing but the inspector, of a recording without a run."""

    def show(data: str, clip: str) -> AppTest:
        monkeypatch.setattr("sys.argv", ["app.py", "--workspace", str(rich.root)])
        context.workspace.cache_clear()
        app = AppTest.from_string(SCRIPT.format(data=data, clip=clip), default_timeout=30).run()
        assert not app.exception
        return app

    return show


def test_without_a_run_there_are_the_player_and_the_file(alone):
    app = alone("workshop", CLIP)
    given = played(app)
    assert (given["other"], given["heat"], given["anomaly"]) == (None, None, None)
    assert not app.tabs
    assert columns(app) == [TABS["File"]]


def test_nothing_picked_or_nothing_there(alone):
    assert "Pick a clip" in said(alone("workshop", ""))
    assert "cannot be shown" in said(alone("workshop", "fan/test/none.wav"))
    assert "cannot be shown" in said(alone("uploads:none", "none.wav"))


def answer(handler: Callable, workspace: Workspace, monkeypatch, query: str = "", **parts: str) -> int:
    """Status of one of the server's addresses."""
    monkeypatch.setattr("sys.argv", ["app.py", "--workspace", str(workspace.root)])
    context.workspace.cache_clear()
    try:
        return handler(Request({"type": "http", "path_params": parts, "query_string": query.encode()})).status_code
    except HTTPException as error:
        return error.status_code


def test_addresses_answer_by_id_only(rich, monkeypatch):
    other = "fan/train/section_00_source_train_normal_0000_speed_1.wav"
    ask = lambda query="", **parts: answer(routes.difference, rich, monkeypatch, query, **parts)  # noqa: E731
    good = {"data": "workshop", "kind": "near-mel", "clip_id": CLIP}
    assert ask(f"other={other}", **good) == 200
    assert ask(f"other={other}&of=workshop", **good) == 200
    assert ask(**good) == 404
    assert ask(f"other={other}", **good | {"kind": "thumbnail"}) == 404
    assert ask(f"other={other}", **good | {"clip_id": "../../etc/passwd"}) == 404
    assert ask("other=../../etc/passwd", **good) == 404
    assert ask(f"other={other}&of=nowhere", **good) == 404
    assert ask("&".join([f"other={other}"] * 21), **good) == 404

    ask = lambda query="", **parts: answer(routes.thumbnail, rich, monkeypatch, query, **parts)  # noqa: E731
    assert ask(data="workshop", short=api.short_id(CLIP)) == 200
    assert ask(data="workshop", short=CLIP) == 404
    assert ask(data="nowhere", short=api.short_id(CLIP)) == 404

    ask = lambda query="", **parts: answer(routes.anomaly, rich, monkeypatch, query, **parts)  # noqa: E731
    assert ask(run=RUN, clip_id=CLIP) == 200
    assert ask("branch=statistics", run=RUN, clip_id=CLIP) == 200
    assert ask("branch=none", run=RUN, clip_id=CLIP) == 404
    assert ask(run=BARE, clip_id=CLIP) == 404
    assert ask(run="../runs/" + RUN, clip_id=CLIP) == 404
    assert ask(run=RUN, clip_id="fan/test/none.wav") == 404


def test_differences_are_drawn_once(rich):
    others = ["fan/train/section_00_source_train_normal_0000_speed_1.wav"]
    first = pictures.difference(rich, "workshop", "far-log", CLIP, others, "workshop")
    stamp = first.stat().st_mtime_ns
    again = pictures.difference(rich, "workshop", "far-log", CLIP, others, "workshop")
    assert (again, again.stat().st_mtime_ns) == (first, stamp)
    assert pictures.difference(rich, "workshop", "near-log", CLIP, others, "workshop") != first
