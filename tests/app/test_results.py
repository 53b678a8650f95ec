"""The Results page: comparison, filters, a threshold to try, and what stands against a run."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from asd_core import api
from asd_core.artifacts import begin, finish, read_table, write_table
from asd_core.files import write_json
from asd_core.types import AsdError
from tests.app import example
from tests.app.test_pages import place, texts

FIRST, SECOND = (f"{name}--workshop--quick--seed0" for name in ("logmel-maha", "official-mse"))


def table(app, column: str) -> pd.DataFrame:
    """The first table that has this column."""
    return next(one.value for one in app.dataframe if column in one.value)


def run_of(workspace: api.Workspace, run_id: str) -> api.Run:
    return next(run for run in api.runs(workspace) if run.record["run_id"] == run_id)


def change(workspace: api.Workspace, run_id: str, **facts: object) -> None:
    """Write a run's record anew."""
    folder = workspace.run(run_id)
    record = json.loads((folder / "run.json").read_text())
    begin(folder)
    write_json(folder / "run.json", record | facts)
    finish(folder, key=run_id)


def fan(workspace: api.Workspace, run_id: str = FIRST) -> pd.DataFrame:
    clips = api.clip_table(workspace, run_of(workspace, run_id))
    return clips[clips["machine"] == "fan"]


def test_two_runs_are_compared(open_app, full):
    app = open_app(full, "results", run=FIRST, against=SECOND, machine="fan", show="Systems disagree")
    assert not app.warning
    found = api.machine_differences(api.compare_runs(run_of(full, FIRST), run_of(full, SECOND)))
    matrix = table(app, "p (Holm)")
    assert list(matrix["AUC source"]) == pytest.approx(list(found["auc_source"]))
    matrices = [api.machine_matrix(run_of(full, name)).set_index("machine")["auc_source"] for name in (FIRST, SECOND)]
    assert list(found["auc_source"]) == pytest.approx(list(matrices[0] - matrices[1])), "points, first minus second"
    assert "is above official-mse" in texts(app).replace("\\", "")
    clips = table(app, "Differ by")
    assert list(clips["Differ by"].abs()) == sorted(clips["Differ by"].abs(), reverse=True)
    assert list(clips["Differ by"]) == pytest.approx(list(clips["Percentile"] - clips["Other"]))
    picker = app.selectbox(key="against_picker")
    ranked = [float(option.rpartition("Ω ")[2]) for option in picker.options]
    assert ranked == sorted(ranked, reverse=True)
    picker.set_value(None).run()
    assert "against" not in app.query_params
    assert "p (Holm)" not in [name for one in app.dataframe for name in one.value]
    assert not app.exception


def test_runs_that_cannot_be_compared_say_why(open_app, full, built):
    from asd_core.data.manifest import DataSet, scan

    whole = scan(built / "sounds", "workshop", "simulated")
    part = DataSet(whole.name, whole.kind, whole.root, whole.of("fan"), whole.truth)
    other = example.add_run(full, part, "tsz-baseline", 1.0)
    app = open_app(full, "results", run=FIRST, against=other)
    assert "same clips" in texts(app)
    assert "AUC source" in [name for one in app.dataframe[1:] for name in one.value], "its own figures stay"
    app = open_app(full, "results", run=FIRST, against="nobody")
    assert "nobody" in app.warning[0].value
    assert "against" not in app.query_params


def test_a_band_of_scores_and_the_other_filters_have_chips(open_app, full):
    scores = fan(full)["score"].sort_values()
    band = f"{float(scores.iloc[3])}~{float(scores.iloc[9])}"
    app = open_app(full, "results", run=FIRST, machine="fan", show="By name", band=band, domain="source")
    inside = fan(full)[fan(full)["score"].between(scores.iloc[3], scores.iloc[9])]
    assert f"**{(inside['domain'] == 'source').sum()} of {len(scores)}** clips" in texts(app)
    app.button(key="chip_source").click().run()
    assert f"**{len(inside)} of {len(scores)}** clips" in texts(app)
    app.button(key="chip_band").click().run()
    assert f"**{len(scores)} of {len(scores)}** clips" in texts(app)
    assert "band" not in app.query_params
    app.pills(key="outcome").set_value(["found"]).run()
    app.text_input(key="text").set_value("speed_9").run()
    assert {"chip_TP", "chip_text"} <= {button.key for button in app.button}
    app.button(key="reset").click().run()
    assert f"**{len(scores)} of {len(scores)}** clips" in texts(app)
    assert not app.exception


def test_a_band_belongs_to_its_machine(open_app, full):
    app = open_app(full, "results", run=FIRST, machine="fan", show="By name", band="0~5", threshold="4.5")
    assert "What if" in texts(app)
    app.selectbox(key="machine_picker").set_value("valve").run()
    assert place(app, "machine") == "valve"
    assert "band" not in app.query_params
    assert "threshold" not in app.query_params
    assert "What if" not in texts(app)


@pytest.mark.parametrize("odd", ["x", "1", "1~nan", "~", "1~2~3"])
def test_an_odd_band_is_named(open_app, full, odd):
    app = open_app(full, "results", run=FIRST, machine="fan", band=odd)
    assert "band" in app.warning[0].value
    assert not app.error


def test_a_threshold_can_be_tried_and_changes_nothing(open_app, full):
    clips = fan(full)
    tried = float(clips["score"].median())
    before = json.loads((full.run(FIRST) / "run.json").read_text())
    app = open_app(full, "results", run=FIRST, machine="fan", show="By name", threshold=repr(tried))
    counts = api.outcome_counts(api.at_threshold(clips, tried))
    assert counts["FN"] + counts["TN"] == (clips["score"] <= tried).sum()
    assert f"(TP {counts['TP']}, FN {counts['FN']}, FP {counts['FP']}, TN {counts['TN']})" in texts(app)
    shown = table(app, "Outcome")
    assert (shown["Outcome"] == "found").sum() == counts["TP"]
    app.button(key="own_threshold").click().run()
    assert "threshold" not in app.query_params
    own = api.outcome_counts(clips)
    assert (table(app, "Outcome")["Outcome"] == "found").sum() == own["TP"]
    assert json.loads((full.run(FIRST) / "run.json").read_text()) == before


def test_rates_at_any_threshold_are_those_of_the_decisions(full):
    clips = fan(full)
    curve = api.roc_curves(clips)["all"]
    scores = clips["score"].to_numpy()
    for limit in (*scores, *(scores + 1e-9), scores.min() - 1, scores.max() + 1):
        counts = api.outcome_counts(api.at_threshold(clips, limit))
        expected = (counts["FP"] / (counts["FP"] + counts["TN"]), counts["TP"] / (counts["TP"] + counts["FN"]))
        assert api.rates_at(curve, limit) == pytest.approx(expected)


def test_a_saved_selection_is_the_list(open_app, full):
    ids = [f"{machine}/test/section_00_target_test_anomaly_0002_speed_9.wav" for machine in ("valve", "fan")]
    saved = api.save_selection(full, ids, {"data": "workshop", "page": "explore"})
    app = open_app(full, "results", run=FIRST, machine="bearing", selection=saved)
    shown = table(app, "Outcome")
    assert list(shown["Machine"]) == ["valve", "fan"], "in their order, of all machines"
    assert place(app, "clip") == ids[0]
    app.button(key="next").click().run()
    assert place(app, "clip") == ids[1]
    app.button(key="chip_selection").click().run()
    assert "selection" not in app.query_params
    app.selectbox(key="saved_selection").set_value(saved).run()
    assert place(app, "selection") == saved, "it is in the list of saved ones"
    assert place(app, "clip") == ids[0]
    app = open_app(full, "results", run=FIRST, selection="nothing")
    assert "nothing" in app.warning[0].value


def test_a_selection_with_training_clips_says_how_many_are_none_of_the_list(open_app, full):
    clips = [one.clip_id for one in api.data_set(full, "workshop").of("fan")]
    training = [one for one in clips if "/train/" in one][:3]
    test = next(one for one in clips if "/test/" in one)
    saved = api.save_selection(full, [*training, test], {"data": "workshop"})
    app = open_app(full, "results", run=FIRST, machine="fan", selection=saved)
    assert "**1 of 1** clips" in texts(app)
    assert "The selection of 4 holds 3 training clips and 1 test clip." in texts(app)
    other = api.save_selection(full, [test], {"data": "elsewhere"})
    app = open_app(full, "results", run=FIRST, machine="fan", selection=other)
    assert "elsewhere" in app.warning[0].value
    assert "selection" not in app.query_params


def test_scores_that_are_no_numbers_are_listed(open_app, full):
    folder = full.run(FIRST)
    scores = read_table(folder / "scores.parquet")
    row = scores.index[(scores["machine"] == "fan") & (scores["split"] == "test")][0]
    scores.loc[row, "score"] = np.nan
    write_table(folder / "scores.parquet", scores)
    change(full, FIRST)
    app = open_app(full, "results", run=FIRST, machine="fan", show="By name")
    assert "1 clips have no finite score" in app.warning[0].value
    assert scores.loc[row, "clip_id"].rpartition("/")[2] in app.warning[0].value.replace("\\", "")
    assert sum(api.histogram(fan(full))["count"]) == len(fan(full)) - 1


def test_other_recordings_than_those_of_the_run_are_told(open_app, full, tmp_path, built):
    assert api.check_recordings(full, run_of(full, FIRST)) == ("same", "")
    about = run_of(full, FIRST).record["data"]
    now = about["fingerprint"]
    change(full, FIRST, data=about | {"fingerprint": "0123456789abcdef"})
    app = open_app(full, "results", run=FIRST)
    assert "0123456789abcdef" in app.warning[0].value
    assert now in app.warning[0].value
    shutil.rmtree(full.cache)
    state, said = api.check_recordings(full, run_of(full, FIRST))
    assert state == "unknown"
    assert "0123456789abcdef" in said
    shutil.rmtree(full.root / "datasets")
    assert api.check_recordings(full, run_of(full, FIRST))[0] == "gone"


def test_few_clips_are_greyed(open_app, full):
    few = api.too_few(api.machine_matrix(run_of(full, FIRST)))
    assert few["auc_source"].all(), "four normal clips per domain"
    assert not few["pauc"].any(), "but eight in both"
    assert few["hmean"].all()
    assert "Grey" in texts(open_app(full, "results", run=FIRST))


def test_what_is_drawn_stays_the_same_object(open_app, full):
    app = open_app(full, "results", run=FIRST, machine="fan")
    before = [chart.proto.id for chart in app.get("plotly_chart")]
    app.text_input(key="text").set_value("speed_9").run()
    assert [chart.proto.id for chart in app.get("plotly_chart")] == before, "else brushes would be lost"


def test_runs_are_read_once(full, monkeypatch):
    from asd_core.api import results

    first = api.runs(full)
    monkeypatch.setattr(results, "read_json", lambda path: pytest.fail(f"{path} is read again"))
    assert [one is two for one, two in zip(first, api.runs(full), strict=True)] == [True] * 3
    monkeypatch.undo()
    stamp = api.run_stamp(run_of(full, FIRST))
    change(full, FIRST, notices=["changed"])
    assert run_of(full, FIRST).record["notices"] == ["changed"]
    assert api.run_stamp(run_of(full, FIRST)) != stamp


def tasks(workspace: api.Workspace, run_id: str, *made: tuple[str, str, list[str]]) -> None:
    """Give a run parts: (kind, key, keys of their inputs)."""
    for kind, key, inputs in made:
        folder = workspace.task(kind, key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "payload").write_bytes(b"x" * 1000)
        finish(folder, kind=kind, key=key, inputs=inputs)
    change(workspace, run_id, tasks=[{"kind": kind, "key": key} for kind, key, _ in made])


def finish_map(workspace, key: str, made_of: list[str]) -> None:
    folder = workspace.task("projection", key)
    folder.mkdir(parents=True)
    finish(folder, kind="projection", key=key, inputs=made_of)


def test_deleting_a_run_takes_what_nothing_else_uses(full):
    train, embed, shared = ("train", "a", []), ("embed", "b", ["a"]), ("embed", "c", ["a"])
    made, judged = ("generate", "d", ["e"]), ("train", "e", [])
    tasks(full, FIRST, train, embed, ("score", "f", ["b"]), shared, made, judged)
    tasks(full, SECOND, shared)
    for key, made_of in (("m", ["b"]), ("n", ["b", "c"])):  # maps; of the second one, a part stays
        finish_map(full, key, made_of)
    found = api.belongings(full, run_of(full, FIRST))
    assert dict(found.kinds) == {"projection": 1, "score": 1}, "b is on a map with c, which is of another run"
    shutil.rmtree(full.task("projection", "n"))
    found = api.belongings(full, run_of(full, FIRST))
    kinds = {"embed": 1, "projection": 1, "score": 1}
    assert dict(found.kinds) == kinds, "c is of another run and was made from a; d was made from e"
    assert found.bytes > 2000
    assert api.delete_run(full, FIRST).kinds == found.kinds
    assert not full.run(FIRST).exists()
    left = {path.name for path in (full.root / "tasks").glob("*/*") if path.is_dir()}
    assert left == {"a", "c", "d", "e"}
    assert [run.record["run_id"] for run in api.runs(full) if run.record["run_id"] == FIRST] == []
    assert api.broken_runs(full) == []
    assert (full.run(SECOND) / "run.json").is_file()
    api.delete_run(full, SECOND)
    assert not full.task("embed", "c").exists()


def leave(workspace: api.Workspace, *place: str, **facts: object) -> None:
    folder = workspace.root.joinpath(*place)
    folder.mkdir(parents=True)
    (folder / "page.html").write_text("x" * 500)
    finish(folder, **facts)


def test_reports_verdicts_on_recordings_and_tuned_weights_go_with_their_run(full):
    for run_id in (FIRST, SECOND):
        folder = full.root / "reports" / run_id
        folder.mkdir(parents=True)
        for name in ("alone.html", "alone.pdf"):
            (folder / name).write_text("told")
        leave(full, "scored", f"of-{run_id}", run_id=run_id)
    leave(full, "tasks", "tune", "both", runs=[FIRST, SECOND])
    leave(full, "tasks", "tune", "other", runs=[SECOND, "another"])
    found = api.belongings(full, run_of(full, FIRST))
    assert (found.reports, found.scored, dict(found.kinds)) == (2, 1, {"tune": 1})
    assert found.bytes > 1000
    api.delete_run(full, FIRST)
    left = [path.name for place in ("reports", "scored", "tasks/tune") for path in (full.root / place).glob("[!.]*")]
    assert left == [SECOND, f"of-{SECOND}", "other"]


def test_what_another_process_works_on_is_not_deleted(full):
    tasks(full, FIRST, ("train", "a", []))
    underway = full.task("embed", "b")
    for folder in (full.task("train", "a"), underway):
        with full.locked(folder):
            folder.mkdir(exist_ok=True, parents=True)
            with pytest.raises(AsdError, match="is being worked on"):
                api.delete_run(full, FIRST)
        assert (full.run(FIRST) / "meta.json").is_file()
    api.delete_run(full, FIRST)
    assert underway.is_dir(), "it was looked at, not deleted"


def test_files_that_were_read_are_let_go(full):
    from asd_core.api import inspection

    data = api.data_set(full, "workshop")
    example.add_artefacts(full, data, FIRST)
    clip = data.of("fan", "test")[0].clip_id
    api.neighbours(full, run_of(full, FIRST), clip)
    assert inspection._read_embeddings.cache_info().currsize
    api.delete_run(full, FIRST)
    assert not inspection._read_embeddings.cache_info().currsize


def test_what_a_link_leads_to_is_left_alone(full, tmp_path):
    full.run(FIRST).rename(tmp_path / "elsewhere")
    full.run(FIRST).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AsdError, match="is a link"):
        api.delete_run(full, FIRST)
    assert (tmp_path / "elsewhere" / "meta.json").is_file()


def test_only_known_runs_are_deleted_and_none_while_a_job_works(full):
    for odd in ("..", "", "../datasets", "nobody"):
        with pytest.raises(AsdError, match="no finished run"):
            api.delete_run(full, odd)
    job_id = api.start_training(full, "logmel-knn", "workshop", seeds=[3])
    with pytest.raises(AsdError, match="queued or running"):
        api.delete_run(full, FIRST)
    api.cancel(full, job_id, force=True)
    api.delete_run(full, FIRST)


def test_what_has_not_changed_is_not_sent_again(open_app, full):
    """Streamlit leaves out what is byte for byte the same; tables with colours would have another name each time."""
    app = open_app(full, "results", machine="fan", show="By name")

    def sent() -> dict[str, bytes]:
        app.button(key="next").click().run()
        protos = {one.proto.id.rpartition("-")[2]: one.proto for one in app.get("dataframe")}
        return {key: protos[key].SerializeToString(deterministic=True) for key in ("leaderboard", "matrix", "clips")}

    sent()  # the first ones still tell what is selected
    before, after = sent(), sent()
    assert before["clips"] != after["clips"], "another row is selected"
    assert {key for key in before if before[key] == after[key]} == {"leaderboard", "matrix"}
