"""Conditions are the classes of the data, and targets follow their rule to the clip."""

import math
import statistics
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd_core.config import Targets
from asd_core.data.manifest import LABEL_PRESETS, class_of, parse_name
from asd_core.synthesis.conditions import Condition, check_counts, find_targets
from asd_core.types import TRAIN, AsdError, Clip


def recorded(counts):
    """Training clips of conditions, by their text."""
    clips = []
    for text, count in counts.items():
        c = Condition.parse(text)
        for number in range(count):
            clip_id = f"{c.machine}/train/{text}-{number}"
            clips.append(Clip(clip_id, Path(clip_id), c.machine, TRAIN, c.section, c.domain, c.attributes))
    return clips


def wanted(counts, **options):
    return {one.condition.text: one.wanted for one in find_targets(recorded(counts), Targets(**options))}


# ---------------------------------------------------------------- names

NAMES = {
    "spd_1": "fan|00|target|spd_1",
    "pro_Y": "fan|00|target|pro_y",  # the data hold both spellings
    "car_A1_mic_2_mic_1": "fan|00|target|car_a1_mic_2_mic_1",  # a key may come twice
    "noAttribute": "fan|00|target|noattribute",
    "vel_6": "fan|00|target|vel_6",
    "spd_1_odd": "fan|00|target|spd_1_odd_",  # a word left over
}


@pytest.mark.parametrize("attributes", NAMES)
def test_a_condition_is_the_class_of_its_clips(attributes):
    path = Path("fan/train") / f"section_00_target_train_normal_0007_{attributes}.wav"
    clip, _ = parse_name("fan", path)
    condition = Condition.of(clip)
    assert condition.text == class_of(clip, LABEL_PRESETS["full"]) == NAMES[attributes]
    assert Condition.parse(condition.text) == condition


def test_spellings_of_one_value_are_one_condition():
    clips = [
        parse_name("fan", Path(f"fan/train/section_00_target_train_normal_{i:04d}_pro_{value}.wav"))[0]
        for i, value in enumerate("Yy")
    ]
    assert Condition.of(clips[0]) == Condition.of(clips[1]) == Condition.parse("fan|00|target|PRO_Y")
    assert Condition.parse("fan|00|target|noAttribute") == Condition.parse("fan|00|target|NOATTRIBUTE")


words = st.text("abcXYZ019.-", min_size=1, max_size=4)
conditions = st.builds(
    "{}|{}|{}|{}".format,
    words,
    st.integers(0, 9).map("{:02d}".format),
    st.sampled_from(["source", "target"]),
    st.lists(words, max_size=6).map(lambda parts: "_".join(parts) or "noAttribute"),
).map(Condition.parse)


@given(conditions, st.integers(0, 99_999))
def test_names_lead_back(condition, number):
    assert Condition.parse(condition.text) == condition
    clip, truth = parse_name(condition.machine, Path(condition.machine) / TRAIN / condition.file_name(number))
    assert truth is None
    assert Condition.of(clip) == condition


@pytest.mark.parametrize("text", ["", "fan", "fan|00|target", "fan|00|both|spd_1"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(AsdError, match=r"is not a condition\. Write machine\|section\|source or target\|attributes"):
        Condition.parse(text)


def test_facts_mean_something_else_on_every_machine():
    fan, valve = (Condition.parse(f"{machine}|01|target|spd_1_mic_2_mic_1") for machine in ("fan", "valve"))
    assert not set(fan.words) & set(valve.words)
    assert fan.words == ["fan", "fan|section=01", "fan|target", "fan|spd=1", "fan|mic=2", "fan|mic=1"]
    assert Condition.parse("fan|01|source|noAttribute").words == ["fan", "fan|section=01", "fan|source"]


# ---------------------------------------------------------------- targets


def source(count=990, attributes="spd_1"):
    return {f"fan|00|source|{attributes}": count}


def test_the_challenge_has_89_target_clips_too_few():
    """990 + 10 clips, raised to a tenth: shared out evenly, what does not divide goes to the rarest."""
    counts = source() | {"fan|00|target|spd_5": 5, "fan|00|target|spd_4": 3, "fan|00|target|spd_9": 2}
    found = find_targets(recorded(counts), Targets())
    assert {one.condition.text: (one.recorded, one.wanted) for one in found} == {
        "fan|00|target|spd_9": (2, 30),
        "fan|00|target|spd_4": (3, 30),
        "fan|00|target|spd_5": (5, 29),
    }
    assert {one.why for one in found} == {"target clips of fan are to be 10% of its source clips"}
    assert wanted(source() | {"fan|00|target|noAttribute": 10}) == {"fan|00|target|noattribute": 89}


def test_no_condition_gets_too_many_clips_per_recorded_one():
    counts = source() | {"fan|00|target|spd_5": 9, "fan|00|target|spd_9": 1}
    assert wanted(counts, per_clip=20) == {"fan|00|target|spd_5": 44, "fan|00|target|spd_9": 20}
    assert wanted(counts, per_clip=1) == {"fan|00|target|spd_5": 9, "fan|00|target|spd_9": 1}


def test_rare_source_conditions_are_raised_to_a_share_of_the_median():
    counts = source(100) | source(90, "spd_2") | source(30, "spd_3") | source(5, "spd_4")
    assert wanted(counts, rare=0.25) == {"fan|00|source|spd_4": 10}  # a quarter of 60
    assert wanted(counts, rare=1.0) == {"fan|00|source|spd_3": 30, "fan|00|source|spd_4": 55}
    assert wanted(counts, rare=0.0) == {}
    assert "25% as often as the median" in find_targets(recorded(counts), Targets(rare=0.25))[0].why


def test_sections_and_machines_have_rules_of_their_own():
    counts = source(100) | {"fan|01|source|spd_1": 40, "fan|01|target|spd_2": 1, "valve|00|target|noattribute": 3}
    assert wanted(counts, share=0.1) == {"fan|01|target|spd_2": 3}
    assert wanted(counts, share=0.0) == {}


def test_numbers_come_last_and_win():
    counts = source(100) | {"fan|00|target|spd_2": 2, "fan|00|target|spd_3": 2}
    asked = {"fan|00|target|SPD_2": 0, "fan|00|source|spd_1": 7, "elsewhere|00|target|spd_1": 5}
    found = find_targets(recorded(counts), Targets(counts=asked))
    assert [(one.condition.text, one.wanted) for one in found] == [
        ("fan|00|source|spd_1", 7),
        ("fan|00|target|spd_3", 3),
    ]
    assert found[0].why == "asked for by number"


def test_combinations_that_nobody_recorded():
    """Of known values, at a number beyond any rule; a value that no clip has cannot be made."""
    counts = {"fan|00|source|spd_1_load_1": 9, "fan|00|source|spd_2_load_2": 9, "fan|00|target|spd_1_load_2": 1}
    counts |= {"valve|00|source|spd_7": 2}
    (found,) = find_targets(recorded(counts), Targets(share=0, counts={"fan|00|target|spd_2_load_1": 500}))
    assert (found.condition.text, found.recorded, found.wanted) == ("fan|00|target|spd_2_load_1", 0, 500)
    check_counts(recorded(counts), Targets(counts={"fan|00|target|load_1_spd_2": 1}))
    for text, said in {
        "fan|00|target|spd_7_load_1": "fan|spd=7, which no recorded clip has. Known: fan|load=1",  # another machine's
        "fan|00|target|pressure_1": "fan|pressure=1, which no recorded clip has",
        "fan|01|target|spd_1_load_2": "no clip of fan is of that section and domain, only 00|source, 00|target",
        "valve|00|target|spd_7": "no clip of valve is of that section and domain, only 00|source",
        "fann|00|target|spd_1": "of no machine of the data. There is: fan, valve",
    }.items():
        with pytest.raises(AsdError) as error:
            check_counts(recorded(counts), Targets(counts={text: 1}))
        assert said in str(error.value)


def test_the_order_of_attributes_does_not_matter():
    counts = {"fan|00|source|spd_1_load_1": 9, "fan|00|target|spd_2_load_1": 2}
    (found,) = find_targets(recorded(counts), Targets(share=0, counts={"fan|00|target|load_1_spd_2": 5}))
    assert (found.condition.text, found.recorded, found.wanted) == ("fan|00|target|spd_2_load_1", 2, 5)


own = st.dictionaries(
    st.builds(
        "{}|0{}|{}|spd_{}".format,
        st.sampled_from(["fan", "valve"]),
        st.integers(0, 1),
        st.sampled_from(["source", "target"]),
        st.integers(1, 4),
    ),
    st.integers(1, 60),
    max_size=16,
)


@given(own, st.floats(0, 2), st.floats(0, 1), st.integers(1, 30))
def test_what_is_wanted_is_what_the_rule_says(counts, share, rare, per_clip):
    found = find_targets(recorded(counts), Targets(share=share, rare=rare, per_clip=per_clip))
    got = Counter({one.condition.text: one.wanted for one in found})
    assert len(got) == len(found)
    assert min(got.values(), default=1) >= 1  # what needs none is left out
    assert [one.condition for one in found] == sorted(one.condition for one in found)
    assert all(one.recorded == counts[one.condition.text] for one in found)
    for place in {text.rsplit("|", 2)[0] for text in counts}:
        rows = {text: count for text, count in counts.items() if text.startswith(place)}
        targets = {text: count for text, count in rows.items() if "|target|" in text}
        sources = {text: count for text, count in rows.items() if "|source|" in text}
        lacking = max(0, math.ceil(share * sum(sources.values()) - 1e-9) - sum(targets.values())) if targets else 0
        fair = sorted(((lacking + i) // len(targets) for i in range(len(targets))), reverse=True)  # differ by one
        assert sum(fair) == lacking
        rarest_first = sorted(targets, key=lambda text: (targets[text], text))
        assert [got[text] for text in rarest_first] == [
            min(own, per_clip * targets[text]) for own, text in zip(fair, rarest_first, strict=True)
        ]
        level = rare * statistics.median(sources.values()) if sources else 0
        for text, count in sources.items():
            assert got[text] == (min(math.ceil(level) - count, per_clip * count) if count < level else 0)
