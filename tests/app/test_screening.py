"""Screening: sets of generated clips, rules, verdicts and blind answers; and the page in every state."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from asd_core import api, jobs
from asd_core.analysis.blind import binomial_interval, blind_result
from asd_core.files import read_json, write_json
from asd_core.synthesis.verdicts import Rule, Verdicts, apply_rule, apply_verdicts, keep
from pages.components import tables
from tests.app import example
from tests.app.test_pages import place, texts

VIEWS = ("Review", "Grid", "Rule", "Blind test", "Quality")


@pytest.fixture
def generated(full):
    example.add_generated(full, api.data_set(full, "workshop"))
    return full


@pytest.fixture
def made(generated) -> api.GeneratedSet:
    (found,) = api.generated_sets(generated, "workshop")
    return found


def table(workspace, made) -> pd.DataFrame:
    return api.screened(workspace, made, api.candidates(workspace, made))


def names(machine: str = "bearing") -> list[str]:
    return [f"{machine}/generated/section_00_target_train_normal_{i:04d}_speed_9.wav" for i in range(6)]


# ------------------------------------------------------------------ readers


def test_a_set_is_found_for_its_data_alone(generated, made):
    assert made.profile == "quick"
    assert list(made.tasks) == ["bearing", "drone"]
    assert (made.drawn, made.rule) == (12, Rule())
    assert api.generated_sets(generated, "elsewhere") == []
    for key in made.tasks.values():  # made before tasks named their data: recordings tell
        path = generated.task("generate", key) / "meta.json"
        write_json(path, {name: value for name, value in read_json(path).items() if name != "data"})
    assert [one.key for one in api.generated_sets(generated, "workshop")] == [made.key]
    (generated.task("generate", made.tasks["drone"]) / "candidates.parquet").unlink()
    assert list(api.generated_sets(generated, "workshop")[0].tasks) == ["bearing"], "an unfinished task is none"


def test_rule_quota_and_verdicts_decide_in_this_order(generated, made):
    before = table(generated, made)
    own = before[before["machine"] == "bearing"]
    assert list(own["passes"]) == [False, True, True, True, False, False]
    assert list(own["kept"]) == [False, True, True, True, False, False]
    assert list(own["edge"].round(2)) == [-0.20, 0.02, 0.20, 0.05, -0.02, 0.15]
    assert list(own["copies"]) == [False] * 5 + [True]
    api.give_verdicts(generated, made, [names()[0], names()[5]], "keep")
    api.give_verdicts(generated, made, [names()[1]], "unsure")
    after = table(generated, made)
    assert list(after["kept"][:6]) == [True, True, False, False, False, True], "quota of three: by hand come first"
    assert list(after["said"][:6]) == ["keep", "unsure", "", "", "", "keep"]


def test_undo_goes_back_as_far_as_one_likes_and_never_over_others(generated, made):
    for name, verdict in ((names()[0], "keep"), (names("drone")[2], "drop"), (names()[0], "drop")):
        api.give_verdicts(generated, made, [name], verdict)
        time.sleep(0.002)  # verdicts are told apart by milliseconds
    Verdicts(generated.verdicts(made.logs["drone"])).add(names("drone")[4], "keep", "somebody else")
    assert api.undo_verdict(generated, made) == names()[0]
    assert table(generated, made).set_index("clip")["said"][names()[0]] == "keep"
    assert [api.undo_verdict(generated, made) for _ in range(3)] == [names("drone")[2], names()[0], ""]
    assert list(table(generated, made)["said"].value_counts().items()) == [("", 11), ("keep", 1)]


def test_nothing_is_written_for_clips_of_no_set(generated, made):
    with pytest.raises(api.AsdError, match="no generated clip moon"):
        api.give_verdicts(generated, made, [names()[0], "moon"], "keep")
    with pytest.raises(api.AsdError, match="not a verdict"):
        api.give_verdicts(generated, made, names(), "maybe")
    assert not (generated.root / "verdicts").exists()


def test_preview_is_what_applying_does(generated, made):
    wider = Rule(confidence=(0.25, 0.8))
    preview = api.rule_preview(made, table(generated, made), wider).set_index("condition")
    own = preview.loc["bearing|00|target|speed_9"]
    assert (own["near"], own["far"], own["passes"], own["kept"], own["before"]) == (3, 5, 3, 3, 3)
    assert not (generated.root / "verdicts").exists()
    assert api.apply_window(generated, made, api.candidates(generated, made), wider) == 4
    after = table(generated, made)
    assert list(after["passes"][:6]) == [True, True, True, False, False, False]
    assert after["kept"].sum() == preview["kept"].sum()
    assert api.applied_rule(generated, made) == "rule 0.25–0.80"
    time.sleep(0.002)  # lines are told apart by milliseconds
    narrower = Rule(confidence=(0.45, 0.8))
    assert api.apply_window(generated, made, api.candidates(generated, made), narrower) == 2
    lines = [line for log in made.logs.values() for line in Verdicts(generated.verdicts(log)).said()]
    assert {line["verdict"] for line in lines if line["who"] == "rule 0.45–0.80"} == {"rule"}, "it only takes back"
    assert api.applied_rule(generated, made) == "rule 0.45–0.80"


def test_a_rule_never_goes_over_a_person_and_can_be_taken_back(generated, made):
    measured, before = api.candidates(generated, made), table(generated, made)
    api.give_verdicts(generated, made, [names()[0]], "drop")
    api.give_verdicts(generated, made, [names()[3]], "keep")
    api.apply_window(generated, made, measured, Rule(confidence=(0.25, 0.8)))
    after = table(generated, made).set_index("clip")
    assert not after["passes"][names()[0]]
    assert after["passes"][names()[3]]
    api.undo_verdict(generated, made)
    api.undo_verdict(generated, made)
    assert list(table(generated, made)["passes"][:4]) == [True, True, True, False], "the rule is left"
    assert api.apply_window(generated, made, measured, made.rule) == 0
    pd.testing.assert_frame_equal(table(generated, made), before)
    assert api.applied_rule(generated, made) == ""
    lines = Verdicts(generated.verdicts(made.logs["bearing"])).said()
    assert [line["verdict"] for line in lines] == ["drop", "keep", "pass", "fail", "undo", "undo", "rule", "rule"]


def test_an_applied_rule_changes_the_key_of_screening_only_if_it_decides_something_else():
    said = [{"clip": "a", "verdict": word, "when": "", "who": ""} for word in ("pass", "rule")]
    log = Verdicts.__new__(Verdicts)
    log.said = lambda: said[:1]
    assert log.deciding() == {"a": "pass"}
    log.said = lambda: said
    assert log.deciding() == {}


def test_outcomes_of_a_rule_count_within_the_quota():
    clips = pd.DataFrame({"clip": list("abc"), "condition": "x", "passes": [True, True, False]})
    judged = apply_verdicts(clips.assign(reasons="", failed=""), {"a": "fail", "c": "pass"})
    kept, _ = keep(judged, {"x": 1})
    assert list(kept["passes"]) == [False, True, True]
    assert list(kept["kept"]) == [False, True, False]
    assert list(kept["failed"]) == ["stopped by the applied rule", "", "surplus"]


def test_what_a_rule_finds_is_what_it_says(generated, made):
    """`passes` comes of whole columns, the sentences of single rows."""
    rng = np.random.default_rng(0)
    found = api.candidates(generated, made)
    found = pd.concat([found] * 20, ignore_index=True)
    for one in ("near", "far"):
        found[f"{one}_confidence"] = rng.random(len(found))
        found[f"{one}_level"] = rng.normal(-20, 4, len(found))
    judged = apply_rule(found, Rule())
    assert 0 < judged["passes"].sum() < len(judged)
    assert ((judged["reasons"] == "") == judged["passes"]).all()
    assert ((judged["failed"] == "") == judged["passes"]).all()


def test_orders_of_the_review(generated, made):
    found = table(generated, made)
    own = "bearing|00|target|speed_9"
    assert [n[-13] for n in api.review_queue(found, "Borderline first", own)[:3]] == ["1", "4", "3"]
    assert [n[-13] for n in api.review_queue(found, "Highest confidence", own)[:2]] == ["3", "4"], "far is 0.75 at most"
    assert api.review_queue(found, "As drawn", own) == names()
    shuffled = api.review_queue(found, "Random")
    assert shuffled == api.review_queue(found, "Random")
    assert sorted(shuffled) == sorted(found["clip"])
    assert shuffled != list(found["clip"])


def test_the_matched_recording_is_of_the_same_condition(generated, made):
    match = api.matched_recording(generated, "workshop", f"generated:{made.tasks['bearing']}", names()[0])
    assert match.clip_id.startswith("bearing/train/section_00_target")
    assert (match.compared, match.recorded) == (3, 3)
    assert match.distance < 6
    again = api.matched_recording(generated, "workshop", f"generated:{made.tasks['bearing']}", names()[0])
    assert again == match


def test_the_page_looks_for_the_match_again_when_recordings_change(open_app, generated, made, monkeypatch):
    asked = []
    monkeypatch.setattr(api, "matched_recording", lambda *what: asked.append(what))
    for stamp in ("one", "one", "two"):
        monkeypatch.setattr(api, "clips_stamp", lambda *_, stamp=stamp: stamp)
        open_app(generated, "screening", screen="Review")
    assert len(asked) == 2


def test_quality_says_when_it_is_of_earlier_verdicts(generated, made):
    distances, samples, stale = api.generated_quality(generated, made)
    assert (len(distances), len(samples), stale) == (2, 2, [])
    api.give_verdicts(generated, made, [names()[1]], "drop")
    assert api.generated_quality(generated, made)[2] == ["bearing"]


@pytest.mark.parametrize("odd", [{}, {"inputs": []}, {"inputs": ["x"], "spec": None}, {"inputs": ["x"], "spec": {}}])
def test_odd_records_are_passed_over(generated, made, odd):
    for kind in ("screen", "quality", "generate"):
        folder = generated.task(kind, "odd")
        folder.mkdir(parents=True)
        write_json(folder / "meta.json", odd | {"created": 1e12, "files": {}})
    (generated.task("quality", "torn")).mkdir()
    (generated.task("quality", "torn") / "meta.json").write_text("{ not json")
    assert len(api.generated_quality(generated, made)[0]) == 2
    assert [one.key for one in api.generated_sets(generated, "workshop")] == [made.key]


def test_quality_is_read_once(generated, made, monkeypatch):
    from asd_core.api import generated as reader

    first = api.generated_quality(generated, made)
    for name in ("read_json", "read_table"):
        monkeypatch.setattr(reader, name, lambda path: pytest.fail(f"{path} is read again"))
    again = api.generated_quality(generated, made)
    pd.testing.assert_frame_equal(first[0], again[0])


def test_systems_that_would_train_with_exactly_these_clips(made):
    assert "satlab-1" in api.systems_using(made)
    assert "logmel-knn" not in api.systems_using(made)


# ------------------------------------------------------------------ blind


def test_the_interval_is_exact():
    """Its ends are where the binomial tails hold 2.5 %."""
    from scipy.stats import binom

    low, high = binomial_interval(15, 20)
    assert binom.sf(14, 20, low) == pytest.approx(0.025)
    assert binom.cdf(15, 20, high) == pytest.approx(0.025)
    assert binomial_interval(0, 20)[0] == 0
    assert binomial_interval(20, 20)[1] == 1
    assert binomial_interval(0, 0) == (0, 1)


def test_conditions_that_fool_come_first():
    rows = [("x", "generated", "generated"), ("x", "recorded", "generated"), ("y", "generated", "recorded")]
    result = blind_result(pd.DataFrame(rows * 4, columns=["condition", "truth", "answer"]))
    assert (result.answered, result.correct, result.is_above_chance) == (12, 4, False)
    assert list(result.conditions["condition"]) == ["y", "x"]
    assert result.conditions[["shown", "taken", "recorded", "mistaken"]].values.tolist() == [[4, 4, 0, 0], [4, 0, 4, 4]]


def test_a_blind_round_is_half_and_half_and_its_answers_are_no_verdicts(generated, made):
    name, clips = api.blind_round(generated, "workshop", table(generated, made), seed=3)
    assert sorted(one.truth for one in clips) == ["generated"] * 6 + ["recorded"] * 6
    assert {one.condition for one in clips} <= set(made.counts)
    assert len({one.clip_id for one in clips}) == 12
    for one in clips:
        api.answer_blind(generated, made, name, one, "generated")
    result = api.blind_results(generated, made, name)
    assert (result.answered, result.correct) == (12, 6)
    assert (table(generated, made)["said"] == "").all()
    assert api.blind_results(generated, made, "another").answered == 0


def test_a_blind_round_has_as_many_recordings_as_generated_clips_of_every_condition(generated, made):
    """Else a listener who knows which conditions are rare could answer without listening."""
    found = table(generated, made)
    found = found[(found["machine"] == "drone") | (found.groupby("machine").cumcount() < 2)]  # one kept bearing
    for count in (4, 20):
        _, clips = api.blind_round(generated, "workshop", found, count, seed=1)
        shares = pd.crosstab([one.condition for one in clips], [one.truth for one in clips])
        assert (shares["recorded"] == shares["generated"]).all()
        assert len(clips) == min(count, 8)
    assert shares.loc["bearing|00|target|speed_9"].tolist() == [1, 1], "as many as are kept"


def test_a_clip_that_is_heard_again_counts_once(generated, made):
    name, clips = api.blind_round(generated, "workshop", table(generated, made), seed=3)
    for one in clips:
        api.answer_blind(generated, made, name, one, "recorded")
    for one in clips[:5]:  # by now they are known
        api.answer_blind(generated, made, "later", one, one.truth)
    every = api.blind_results(generated, made)
    assert (every.answered, every.correct, every.again) == (12, 6, 5)
    assert (every.low, every.high) == binomial_interval(6, 12)
    later = api.blind_results(generated, made, "later")
    assert (later.answered, later.correct, later.again) == (5, 5, 0), "a round by itself counts whole"


def test_every_rule_has_a_name_of_its_own(generated, made):
    from asd_core.api.generated import _rule_name

    rules = [Rule(), Rule(False), Rule(near_copy=0.0), Rule(level_margin=9.0), Rule(confidence=(0.502, 0.95))]
    assert len({_rule_name(one) for one in rules}) == len(rules)
    assert _rule_name(Rule()) == "rule 0.50–0.95"
    assert _rule_name(Rule(False, (0.1, 0.9), 0.0, 9.0)) == (
        "rule 0.10–0.90, agreement not asked for, near copies below 0.0, level margin 9.0 dB"
    )


# ------------------------------------------------------------------ the page


def test_what_would_be_made_is_shown_and_started(open_app, tmp_path):
    workspace = example.build(tmp_path, clips=8, unlabelled=False)
    targets = api.generation_targets(api.data_set(workspace, "workshop"), api.generator("quick"))
    app = open_app(workspace, "screening", data="workshop")
    assert "No clips have been generated here yet" in texts(app)
    assert list(app.dataframe[0].value["Wanted"]) == list(targets["wanted"]) == [3, 3, 3]
    assert app.button(key="generate").label == "Generate 9 clips"
    app.button(key="generate").click().run()
    assert not app.exception
    (job,) = jobs.list_jobs(workspace.jobs)
    assert job.arguments[:3] == ("generate", "--data", str(tmp_path / "sounds"))
    assert job.title in texts(app)
    jobs.cancel(job.folder, force=True)


def test_nothing_to_make_and_no_recordings(open_app, full, empty):
    assert "nothing to make" in texts(open_app(full, "screening", data="workshop"))
    with pytest.raises(api.AsdError, match="Nothing to generate"):
        api.start_generation(full, "workshop", "quick")
    assert "No clips have been generated here yet" in texts(open_app(empty, "screening"))


@pytest.mark.parametrize("view", VIEWS)
def test_every_view(open_app, generated, view):
    app = open_app(generated, "screening", screen=view)
    assert not app.error
    assert not app.warning
    assert "6 kept" in texts(app)
    assert "simulated" in texts(app)


def test_bad_values_in_the_address_are_named(open_app, generated):
    app = open_app(generated, "screening", set="moon", clip="moon/generated/a.wav", screen="nowhere")
    said = " ".join(one.value for one in app.warning)
    assert "set of generated clips “moon”" in said
    assert "“moon/generated/a.wav”" in said
    assert not app.error


def test_one_click_per_verdict_and_the_next_clip_comes(open_app, generated, made):
    app = open_app(generated, "screening")
    queue = api.review_queue(table(generated, made), "Borderline first")
    assert place(app, "clip") == queue[0]
    for key, name in (("say_keep", queue[1]), ("say_drop", queue[2]), ("say_unsure", queue[3])):
        app.button(key=key).click().run()
        assert place(app, "clip") == name
    assert "3 / 12 judged · 1 kept by hand" in app.progress[0].text
    app.button(key="undo").click().run()
    assert place(app, "clip") == queue[2]
    app.button(key="previous").click().run()
    assert place(app, "clip") == queue[1]
    assert "your verdict: drop" in texts(app)


def test_undo_works_after_the_last(open_app, generated, made):
    api.give_verdicts(generated, made, [*names(), *names("drone")[:5]], "keep")
    app = open_app(generated, "screening", clip=names("drone")[5])
    app.button(key="say_drop").click().run()
    assert "has a verdict" in texts(app)
    app.button(key="undo").click().run()
    assert place(app, "clip") == names("drone")[5]
    assert "has a verdict" not in texts(app)
    app.button(key="undo").click().run()
    assert not app.exception


def test_the_rule_is_previewed_applied_and_warns(open_app, generated, made):
    app = open_app(generated, "screening", screen="Rule")
    assert "**6 of 12 would pass**" in texts(app)
    app.slider(key=f"window_{made.key}").set_value((0.0, 0.01)).run()
    assert "lets nothing pass" in app.warning[0].value
    assert not (generated.root / "verdicts").exists()
    app.slider(key=f"window_{made.key}").set_value((0.25, 0.8)).run()
    app.button(key="apply_rule").click().run()
    assert "In force: rule 0.25–0.80" in texts(app)


def test_without_confidences_the_rule_is_off_and_listening_works(open_app, generated, made):
    for key in made.tasks.values():
        path = generated.task("generate", key)
        found = pd.read_parquet(path / "candidates.parquet").assign(near_confidence=np.nan, far_confidence=np.nan)
        found.to_parquet(path / "candidates.parquet", index=False)
        meta = read_json(path / "meta.json")
        meta["files"]["candidates.parquet"] = (path / "candidates.parquet").stat().st_size
        write_json(path / "meta.json", meta)
    app = open_app(generated, "screening", screen="Rule")
    assert "has heard none of these conditions" in texts(app)
    app = open_app(generated, "screening")
    assert app.get("bidi_component")
    assert not app.error


def test_many_at_once_after_a_second_click(open_app, generated, made):
    app = open_app(generated, "screening", screen="Grid")
    grid = f"grid_{made.key}__1_12"
    app.session_state[grid] = {"selection": {"rows": [0, 4], "columns": [], "cells": []}}
    app.run()
    assert "Write “drop” for **2 clips**?" in texts(app)
    app.button(key="bulk_drop").click().run()
    assert (table(generated, made)["said"] == "drop").sum() == 2


def test_a_blind_round_hides_every_name(open_app, generated, made):
    app = open_app(generated, "screening", screen="Blind test", clip=names()[0])
    app.button(key="blind_start").click().run()
    assert "clip" not in app.query_params
    sent = json.loads(app.get("bidi_component")[0].proto.json)
    assert {sent["clip"][name] for name in ("title", "clip_id")} == {"Clip 1 of 12"}
    assert not any(word in texts(app) for word in ("section_00", "_normal_", "generated/"))
    for _ in range(12):
        app.button(key="blind_generated").click().run()
        assert not app.exception
    assert "**6 of 12 right, 50%**" in texts(app)
    app.button(key="blind_start").click().run()
    assert "Clip 1 of 12" in app.progress[0].text


def test_training_with_the_kept_clips_is_one_click(open_app, generated):
    app = open_app(generated, "screening")
    app.button(key="train_kept").click().run()
    assert not app.exception
    (job,) = jobs.list_jobs(generated.jobs)
    assert job.arguments[:2] == ("run", "satlab-1")
    jobs.cancel(job.folder, force=True)


def test_recordings_gone_and_sounds_gone(open_app, tmp_path):
    workspace = example.build(tmp_path, unlabelled=False)
    key = example.add_generated(workspace, api.data_set(workspace, "workshop"))
    (tmp_path / "sounds").rename(tmp_path / "elsewhere")
    assert "is not a folder" in open_app(workspace, "screening").error[0].value
    (tmp_path / "elsewhere").rename(tmp_path / "sounds")
    app = open_app(workspace, "screening", clip=names()[2])
    assert not app.error
    (workspace.task("generate", key) / names()[2].rpartition("/")[2]).unlink()
    app = open_app(workspace, "screening", clip=names()[2])
    assert "cannot be shown" in app.error[0].value


def test_a_confidence_just_below_the_rule_is_told_apart_from_it():
    row = pd.Series({"reasons": "near: confidence 0.50 below 0.5; far: silent", "near_confidence": 0.4996})
    assert tables.reasons(row) == "near: confidence 0.499 below 0.5; far: silent"
