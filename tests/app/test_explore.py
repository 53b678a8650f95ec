"""The page Explore and what it reads: maps, selections, and every state the page can be in."""

import base64
import shutil

import numpy as np
import pandas as pd
import pytest

from asd_core import api
from asd_core.artifacts import Workspace, finish, load_run
from asd_core.files import read_json, write_json
from asd_core.pipeline.projection import plan_projection, project
from asd_core.types import AsdError
from pages.components import clip_map
from tests.app import example

RUN = "logmel-maha--workshop--quick--seed0"
BARE = "logmel-knn--workshop--quick--seed0"  # without embeddings


@pytest.fixture
def embedded(full) -> Workspace:
    example.add_artefacts(full, api.data_set(full, "workshop"), RUN)
    return full


@pytest.fixture
def mapped(embedded) -> Workspace:
    """With a map of all machines and one of the fan."""
    add_map(embedded)
    return embedded


def add_map(workspace: Workspace, *machines: str) -> str:
    plan = plan_projection(workspace, load_run(workspace, RUN), machines, method="pca")
    project(workspace, plan)
    return plan.key


def said(app, kind: str) -> str:
    return " ".join(str(one.value) for one in getattr(app, kind))


def picked(app) -> set[str]:
    return set(app.session_state["selected"])


# ---------------------------------------------------------------- readers


def test_maps_belong_to_the_runs_whose_embeddings_they_show(mapped):
    run = load_run(mapped, RUN)
    (info,) = api.projections(mapped, run)
    assert info.clips == len(run.scores)
    assert info.branches == (run.record["config"]["branches"][0]["name"],)
    assert info.title.startswith("PCA of 4 machines: train, test")
    assert api.projections(mapped, load_run(mapped, BARE)) == []
    stamp = api.projections_stamp(mapped)
    key = add_map(mapped, "fan")
    assert api.projections_stamp(mapped) != stamp
    assert api.projections(mapped, run)[0].key == key


def test_what_is_known_of_a_mapped_clip(mapped):
    run = load_run(mapped, RUN)
    (info,) = api.projections(mapped, run)
    clips = api.mapped_clips(mapped, run, info.key, load_run(mapped, BARE)).set_index("clip_id")
    judged = api.clip_table(mapped, run).set_index("clip_id")
    name = "fan/test/section_00_target_test_anomaly_0001_speed_9.wav"
    one = clips.loc[name]
    assert (one["label"], one["domain"], one["attribute speed"]) == ("anomaly", "target", "9")
    assert (one["outcome"], one["percentile"]) == tuple(judged.loc[name, ["outcome", "percentile"]])
    other = api.clip_table(mapped, load_run(mapped, BARE)).set_index("clip_id").loc[name, "percentile"]
    assert one["disagreement"] == pytest.approx(other - one["percentile"])
    training = clips[clips["split"] == "train"]
    assert set(training["label"]) == {"normal"}
    assert set(training["outcome"]) == {""}
    assert training["percentile"].between(0, 100).all()
    drone = clips[(clips["machine"] == "drone") & (clips["split"] == "test")]
    assert set(drone["label"]) | set(drone["domain"]) | set(drone["outcome"]) | set(drone["attributes"]) == {""}
    with pytest.raises(AsdError, match="no finished map"):
        api.mapped_clips(mapped, run, "../../runs")


def test_a_transductive_run_has_no_percentile_on_the_map(mapped, open_app):
    data = api.data_set(mapped, "workshop")
    ranks = example.add_run(mapped, data, "official-mse", 1.0, seed=5, transductive=True)
    run, other = load_run(mapped, RUN), load_run(mapped, ranks)
    (info,) = api.projections(mapped, run)
    clips = api.mapped_clips(mapped, run, info.key, other)
    assert clips["percentile"].notna().all()
    assert clips["disagreement"].isna().all()
    assert api.mapped_clips(mapped, other, info.key)["percentile"].isna().all()

    app = open_app(mapped, "explore", run=RUN, machine="fan", colour="disagreement")
    assert ranks not in app.selectbox(key="other_picker").options
    record = read_json(mapped.run(RUN) / "run.json") | {"transductive": True}
    (mapped.run(RUN) / "meta.json").unlink()
    write_json(mapped.run(RUN) / "run.json", record)
    finish(mapped.run(RUN), key=RUN)
    app = open_app(mapped, "explore", run=RUN, machine="fan", colour="percentile")
    assert "percentile" in said(app, "warning")
    assert not {"Score percentile", "Disagreement of two runs"} & set(app.selectbox(key="colour_picker").options)
    assert "scores depend on the other test clips" in said(app, "caption")
    app.selectbox(key="take_group").select("fan").run()
    app.session_state["selection_tabs"] = "Scores"
    app.run()
    assert not app.exception
    assert "Nothing to compare" in said(app, "caption")


def test_branches_without_scores_have_no_maps_and_say_so(mapped):
    run = load_run(mapped, RUN)
    run.record["config"]["branches"].append(run.record["config"]["branches"][0] | {"name": "late"})
    (info,) = api.projections(mapped, run)
    assert "late" not in info.branches
    assert 'no scores of branch "late"' in api.plan_map(mapped, run, "fan", ["train"], branch="late").problem


def test_the_figure_follows_the_labels(mapped, open_app, tmp_path, built):
    shutil.copytree(built / "sounds", tmp_path / "sounds")
    place = mapped.dataset("workshop") / "dataset.json"
    write_json(place, read_json(place) | {"root": str(tmp_path / "sounds")})
    app = open_app(mapped, "explore", run=RUN, machine="fan", colour="label")
    before = app.session_state["figure_facts"]
    name = tmp_path / "sounds" / "fan" / "test" / "section_00_target_test_anomaly_0001_speed_9.wav"
    name.rename(name.with_name(name.name.replace("anomaly_0001", "normal_0099")))
    app.run()
    assert app.session_state["figure_facts"] != before


def test_enrichment_tells_what_a_selection_shares(mapped):
    run = load_run(mapped, RUN)
    (info,) = api.projections(mapped, run)
    clips = api.mapped_clips(mapped, run, info.key)
    chosen = ((clips["machine"] == "fan") & (clips["domain"] == "target")).to_numpy()
    found = api.enriched(clips, chosen)
    assert {"fan", "target"} <= set(found["value"][:3])
    row = found[(found["column"] == "machine") & (found["value"] == "fan")].iloc[0]
    assert (row["share_here"], row["share"]) == (100, pytest.approx(100 * (clips["machine"] == "fan").mean()))
    assert row["p"] < 0.001
    shares = api.percentile_shares(clips, chosen)
    assert shares[["here", "rest"]].sum().tolist() == pytest.approx([100, 100])


def test_selections_are_found_by_id_alone(full):
    ids = ["fan/test/b.wav", "fan/test/a.wav"]
    name = api.save_selection(full, ids, {"data": "workshop", "page": "explore"})
    saved = api.selection(full, name)
    assert saved.ids == tuple(ids)  # the order is kept
    assert (saved.data, saved.where_from["page"]) == ("workshop", "explore")
    assert api.save_selection(full, ids, {"data": "workshop"}) == name
    assert api.save_selection(full, ids[::-1], {"data": "workshop"}) != name
    assert [one.id for one in api.selections(full, "workshop")][-1] == name
    assert api.selections(full, "elsewhere") == []
    for odd in ("", "..", f"../selections/{name}", "x" * 16):
        with pytest.raises(AsdError, match="no saved selection"):
            api.selection(full, odd)
    for ids, where in (([], {"data": "workshop"}), (["a"], {})):
        with pytest.raises(AsdError):
            api.save_selection(full, ids, where)
    (full.root / "selections" / f"{name}.json").write_text('{"ids": []}')
    with pytest.raises(AsdError, match="not a selection"):
        api.selection(full, name)


def test_the_plan_tells_size_time_and_problem(embedded):
    run = load_run(embedded, RUN)
    own = (run.scores["machine"] == "fan").sum()
    plan = api.plan_map(embedded, run, "fan", ["train", "test"], method="umap")
    assert (plan.clips, plan.is_done, plan.problem) == (own, False, "")
    assert plan.seconds > api.plan_map(embedded, run, "fan", ["train", "test"], method="pca").seconds
    add_map(embedded, "fan")
    assert api.plan_map(embedded, run, "fan", ["train", "test"], method="pca").is_done
    assert "no machine" in api.plan_map(embedded, run, "moon", ["train"]).problem
    assert "none of them" in api.plan_map(embedded, run, "fan", []).problem


def test_a_map_is_made_by_one_job(embedded):
    key = api.start_projection(embedded, RUN, "fan", neighbours=5)
    assert api.start_projection(embedded, RUN, "fan", neighbours=5) == key
    (job,) = api.all_jobs(embedded)
    assert api.projection_job(embedded, key) == job or api.projection_job(embedded, key).id == job.id
    assert job.arguments[:7] == ("project", "--run", RUN, "--machine", "fan", "--split", "train,test")
    assert "--neighbours" in job.arguments
    api.cancel(embedded, job.id, force=True)
    for change in ({"run_id": "nobody"}, {"machine": "moon"}, {"method": "magic"}, {"neighbours": 10**6}):
        with pytest.raises(AsdError):
            api.start_projection(embedded, **({"run_id": RUN} | change))


# ---------------------------------------------------------------- the figure


def points(count: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"clip_id": [f"fan/test/{row}.wav" for row in range(count)], "machine": "fan"})
    table["split"] = rng.choice(["train", "test"], count)
    table["label"] = np.where(table["split"] == "train", "normal", rng.choice(["normal", "anomaly", ""], count))
    table["domain"] = rng.choice(["source", "target", ""], count)
    table["percentile"] = rng.uniform(0, 100, count)
    table["x"], table["y"] = rng.standard_normal((2, count))
    return table


def test_every_clip_is_one_point_and_is_found_again():
    table = points()
    for colour in ("domain", "label", "percentile"):
        shown = clip_map.build("key", table, colour, True, [], frozenset())
        traces = [trace for trace in shown.figure.data if trace.type == "scattergl"]
        assert [len(trace.x) for trace in traces] == shown.sizes
        assert sorted(shown.ids) == sorted(table["clip_id"])
        drawn = np.concatenate([np.stack([trace.x, trace.y], axis=1) for trace in traces])
        assert [shown.places[clip_id] for clip_id in shown.ids] == [tuple(place) for place in drawn.tolist()]
        x = table.set_index("clip_id")["x"][list(shown.ids)]
        assert np.corrcoef(x, drawn[:, 0])[0, 1] > 0.9999


def test_shape_tells_the_label_whatever_the_colour():
    shown = clip_map.build("key", points(), "domain", False, [], frozenset())
    place, symbols = 0, {}
    labels = points().set_index("clip_id")["label"]
    for trace, size in zip(shown.figure.data, shown.sizes, strict=True):
        for clip_id in shown.ids[place : place + size]:
            symbols.setdefault(labels[clip_id], set()).add(trace.marker.symbol)
        place += size
    assert symbols == {"normal": {"circle"}, "anomaly": {"x"}, "": {"square"}}


def test_the_figure_shows_what_was_selected_before():
    table = points()
    chosen = frozenset(table["clip_id"][:7])
    shown = clip_map.build("key", table, "domain", False, [], chosen)
    place, found = 0, set()
    for trace, size in zip(shown.figure.data, shown.sizes, strict=True):
        found |= set(shown.ids[place : place + size][list(trace.selectedpoints)])
        place += size
    assert found == chosen


def test_names_in_the_figure_are_text():
    table = points().assign(attributes='<a href="http://x.example">y</a>')
    figure = clip_map.build("key", table, "attributes", False, [], frozenset()).figure
    assert "<a" not in figure.to_json().replace("\\u003c", "<")


def test_many_groups_share_the_last_colour():
    table = points(400).assign(attributes=[f"speed {row % 40:02d}" for row in range(400)])
    names = clip_map.groups(table, "attributes")
    assert names.nunique() == clip_map.MOST_GROUPS
    assert "25 others" in set(names)


def test_drawn_points_arrive_as_bits():
    chosen = np.random.default_rng(0).random(1001) < 0.3
    text = base64.b64encode(np.packbits(chosen, bitorder="little").tobytes()).decode()
    assert (clip_map.unpacked(text, 1001) == chosen).all()
    assert len(text) < 200
    assert not clip_map.unpacked(text, 900).any()
    assert not clip_map.unpacked("", 1001).any()


# ---------------------------------------------------------------- the page


def test_an_empty_workspace_shows_the_way(empty, open_app):
    app = open_app(empty, "explore")
    assert "Nothing has been trained" in said(app, "info")


def test_without_embeddings_there_is_a_word_on_it(full, open_app):
    app = open_app(full, "explore", run=BARE, machine="fan")
    assert "left no embeddings" in said(app, "warning")
    assert not app.get("plotly_chart")


def test_nothing_is_computed_on_opening(embedded, open_app):
    app = open_app(embedded, "explore", run=RUN, machine="fan")
    assert "No map of fan" in said(app, "info")
    assert api.all_jobs(embedded) == []
    assert "about" in said(app, "caption")
    assert not app.button(key="compute").disabled
    app.button(key="compute").click().run()
    assert not app.exception
    (job,) = api.all_jobs(embedded)
    assert app.query_params["projection"] == job.key
    assert job.title in said(app, "markdown").replace("\\", "")
    api.cancel(embedded, job.id, force=True)


def test_the_map_opens_with_the_most_anomalous_clip(mapped, open_app):
    app = open_app(mapped, "explore", run=RUN, machine="fan")
    assert len(app.get("plotly_chart")) == 1
    clips = api.clip_table(mapped, load_run(mapped, RUN))
    own = clips[clips["machine"] == "fan"]
    assert app.query_params["clip"] == own.sort_values("score").iloc[-1]["clip_id"]
    assert "Nothing is selected" in said(app, "info")
    assert "workshop" in said(app, "markdown")


def test_bad_values_in_the_address_are_named(mapped, open_app):
    app = open_app(
        mapped, "explore", run=RUN, machine="fan", clip="fan/test/x.wav", projection="f" * 16, colour="taste",
        selection="nothing",
    )  # fmt: skip
    for bad in ("fan/test/x.wav", "f" * 16, "taste", "nothing"):
        assert bad in said(app, "warning")
    assert len(app.get("plotly_chart")) == 1


def test_labels_give_no_colour_where_there_are_none(embedded, open_app):
    add_map(embedded, "drone")
    app = open_app(embedded, "explore", run=RUN, machine="drone")
    assert "carry no labels" in said(app, "caption")
    options = app.selectbox(key="colour_picker").options
    assert "Label" not in options
    assert "Domain" in options


def test_a_group_can_be_selected_saved_and_linked(mapped, open_app):
    app = open_app(mapped, "explore", run=RUN, machine="fan", colour="label")
    app.selectbox(key="take_group").select("anomaly").run()
    assert not app.exception
    clips = api.clip_table(mapped, load_run(mapped, RUN))
    expected = set(clips.loc[clips["label"] == 1, "clip_id"])
    assert picked(app) == expected
    shown = app.dataframe[0].value
    assert "anomaly" in set(shown["Value"])
    app.button(key="listen").click().run()
    assert app.query_params["clip"] in expected
    app.button(key="save_selection").click().run()
    name = app.query_params["selection"]
    assert set(api.selection(mapped, name).ids) == expected
    again = open_app(mapped, "explore", run=RUN, machine="fan", selection=name)
    assert picked(again) == expected
    again.button(key="clear").click().run()
    assert not again.exception
    assert picked(again) == set()
    assert "selection" not in again.query_params


def test_a_selection_of_other_data_is_not_shown(mapped, open_app):
    name = api.save_selection(mapped, ["a"], {"data": "elsewhere"})
    app = open_app(mapped, "explore", run=RUN, machine="fan", selection=name)
    assert "elsewhere" in said(app, "warning")


def test_missing_recordings_leave_the_map(mapped, open_app, built, tmp_path):
    shutil.copytree(built / "sounds", tmp_path / "sounds")
    about = mapped.dataset("workshop") / "dataset.json"
    write_json(about, read_json(about) | {"root": str(tmp_path / "sounds")})
    shutil.rmtree(tmp_path / "sounds")
    app = open_app(mapped, "explore", run=RUN, machine="fan")
    assert len(app.get("plotly_chart")) >= 1


def test_disagreement_needs_another_run(mapped, open_app):
    app = open_app(mapped, "explore", run=RUN, machine="fan", colour="disagreement", other=BARE)
    assert app.selectbox(key="other_picker").value == BARE
    assert len(app.get("plotly_chart")) == 1


def test_the_asked_map_is_shown_though_another_is_newer(mapped, open_app):
    asked = add_map(mapped, "fan")
    add_map(mapped, "fan", "valve")  # newer
    app = open_app(mapped, "explore", run=RUN, machine="fan", projection=asked)
    assert app.selectbox(key="projection_picker").value == asked
    assert not app.warning
