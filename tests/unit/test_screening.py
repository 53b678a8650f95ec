"""Every check rejects what it is there for and nothing else; rules, quotas and verdicts can be applied again."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from asd_core.synthesis.judge import Judge, Judged
from asd_core.synthesis.screening import RealClips, copy_distances, pattern, screen
from asd_core.synthesis.verdicts import Rule, Verdicts, apply_rule, apply_verdicts, keep, reasons
from asd_core.types import AsdError, Clip

torch.set_num_threads(1)
OWN, OTHER = "fan|00|target|spd_1", "fan|00|source|spd_2"
CLASSES = [f"{condition}|{one}" for condition in (OWN, OTHER) for one in ("near", "far")]
RULE = Rule()


def hum(rng, seconds=2.0, channels=2):
    """(C, T): noise with more power at low frequencies, RMS −26 dBFS."""
    count = round(seconds * 16_000)
    spectrum = np.fft.rfft(rng.normal(size=(channels, count)))
    wave = np.fft.irfft(spectrum / (1 + np.arange(spectrum.shape[1]) / (300 * seconds)), count)
    return (0.05 * wave / np.sqrt(np.square(wave).mean(axis=1, keepdims=True))).astype(np.float32)


def surrogate(wave, rng):
    """Another noise of the same spectrum."""
    spectrum = np.abs(np.fft.rfft(wave))
    return np.fft.irfft(spectrum * np.exp(2j * np.pi * rng.random(spectrum.shape)), wave.shape[1]).astype(np.float32)


@pytest.fixture(scope="module")
def recorded():
    """Twelve, of which the last two have something in common, as recordings may."""
    rng = np.random.default_rng(0)
    waves = [hum(rng) for _ in range(12)]
    waves[11] = np.float32(0.7) * waves[10] + np.float32(0.714) * waves[11]
    return waves


@pytest.fixture(scope="module")
def real(recorded, tmp_path_factory):
    return RealClips(record(tmp_path_factory.mktemp("real"), recorded))


def record(folder, waves):
    clips = []
    for i, wave in enumerate(waves):
        path = folder / f"{i}.wav"
        soundfile.write(path, wave.T, 16_000, subtype="FLOAT")
        clips.append(Clip(f"fan/train/{i}.wav", path, "fan", "train", "00", "target", (("spd", "1"),)))
    return clips


class Hears:
    """A judge that gives the intended class of each microphone a probability, and the rest to another class."""

    classes = CLASSES

    def __init__(self, near=0.8, far=0.8, instead=OTHER):
        self.own, self.instead = (near, far), instead

    def judge(self, waves):
        probabilities = np.zeros((len(waves), len(waves[0]), len(CLASSES)), dtype=np.float32)
        for i, one in enumerate(("near", "far")[: len(waves[0])]):
            probabilities[:, i, CLASSES.index(f"{OWN}|{one}")] = self.own[i]
            probabilities[:, i, CLASSES.index(f"{self.instead}|{one}")] += 1 - self.own[i]
        labels = np.array(CLASSES)[probabilities.argmax(axis=2)]
        return Judged(labels, probabilities, np.zeros((*labels.shape, 4), dtype=np.float32))


def screened(wave, real, judge=None, rule=RULE, condition=OWN):
    return screen([wave], [condition], real, judge or Hears(), rule).iloc[0]


def fresh(seed=100, **more):
    return hum(np.random.default_rng(seed), **more)


# ---------------------------------------------------------------- one check each


def test_a_good_clip_passes(real):
    row = screened(fresh(), real)
    assert row["passes"]
    assert row["reasons"] == row["failed"] == ""
    assert row["near_agrees"]
    assert row["far_confidence"] == pytest.approx(0.8)
    assert row["near_level"] == pytest.approx(-26, abs=0.1)
    assert row["near_copy_of"].startswith("fan/train/")


def changed(change, microphone=0):
    wave = fresh()
    change(wave[microphone])
    return wave


def louder(decibels):
    def change(x):
        x *= 10 ** (decibels / 20)

    return change


def with_gap(x):
    x[8000:11200] = 0.0


def with_peaks(x):
    x[::400] = 1.0  # 80 of 32000 samples: loud clicks, and the level stays within its limits


def with_nan(x):
    x[5] = np.nan


@pytest.mark.parametrize(
    ("wave", "judge", "rule", "failed", "reason"),
    [
        (fresh(), Hears(near=0.3), Rule(confidence=(0.1, 0.95)), "wrong class", f"near: taken for {OTHER}"),
        (fresh(), Hears(far=0.52), Rule(confidence=(0.6, 0.95)), "low confidence", "far: confidence 0.52 below 0.6"),
        (fresh(), Hears(near=0.97), RULE, "high confidence", "near: confidence 0.970 above 0.95"),
        (changed(louder(-6)), None, RULE, "too quiet", "near: -32.0 dBFS, recordings have -26.0 dBFS at least"),
        (changed(louder(6), 1), None, RULE, "too loud", "far: -20.0 dBFS, recordings have -26.0 dBFS at most"),
        (changed(with_gap), None, RULE, "silent", "near: 10% of it is silent, of recordings 0% at most"),
        (changed(with_peaks), None, Rule(level_margin=9.0), "clipped", "near: 0.25% of the samples are clipped"),
        (changed(with_nan, 1), None, RULE, "not finite", "far: some samples are not finite"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 16 else "",
)
def test_each_check_rejects_on_its_own(real, wave, judge, rule, failed, reason):
    row = screened(wave, real, judge, rule)
    assert not row["passes"]
    assert row["failed"] == failed
    assert row["reasons"].startswith(reason)
    assert ";" not in row["reasons"]


def test_what_the_rule_leaves_out_does_not_matter(real, recorded):
    rule = Rule(agreement=False, confidence=(0.0, 1.0), near_copy=0.0, level_margin=100.0)
    assert screened(0.01 * recorded[3], real, Hears(near=0.1), rule)["passes"]


def test_a_condition_the_judge_has_never_heard(real):
    """Only its machine and its microphone can be heard."""
    row = screened(fresh(), real, condition="fan|00|target|spd_7")
    assert row["passes"]
    assert np.isnan(row["near_confidence"])


def test_digital_silence_is_told_and_harms_nothing(real):
    row = screened(np.zeros((2, 32_000), dtype=np.float32), real)
    assert row["near_level"] == -200
    assert row["near_silence"] == 1
    assert {"too quiet", "silent"} <= set(row["failed"].split(", "))


def test_the_other_microphone_is_another_class(real):
    class Swapped(Hears):
        def judge(self, waves):
            judged = super().judge(waves)
            return Judged(judged.labels[:, ::-1], judged.probabilities, judged.embeddings)

    row = screened(fresh(), real, Swapped())
    assert row["reasons"] == f"near: taken for {OWN} (far); far: taken for {OWN} (near)"


# ---------------------------------------------------------------- copies


def with_noise(x):
    return x + 0.1 * 0.05 * np.random.default_rng(7).normal(size=x.shape).astype(np.float32)  # 20 dB below


COPIES = {
    "exact": lambda x: x,
    "quieter": lambda x: 0.6 * x,
    "later": lambda x: x[:, 4800:],
    "later by half a hop": lambda x: x[:, 4800 + 256 :],
    "turned round": lambda x: np.roll(x, x.shape[1] // 2, axis=1),
    "noisy": with_noise,
    "longer": lambda x: np.concatenate([x, hum(np.random.default_rng(8), 1.0)], axis=1),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found(real, recorded, name):
    row = screened(COPIES[name](recorded[4]), real)
    assert row["failed"] == "near copy"
    assert row["near_copy_of"] == row["far_copy_of"] == "fan/train/4.wav"
    assert row["near_copy_distance"] < 0.45 < row["near_copy_least"]
    assert (
        f"near: a copy of fan/train/4.wav (distance {row['near_copy_distance']:.2f}, recordings differ by"
        in row["reasons"]
    )


def test_noise_of_the_same_spectrum_is_no_copy(real, recorded):
    row = screened(surrogate(recorded[4], np.random.default_rng(9)), real)
    assert row["passes"]
    assert row["near_copy_distance"] > 0.75


def test_copy_distance_equals_its_definition():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(3, 4, 21)).astype(np.float32), rng.normal(size=(2, 4, 15)).astype(np.float32)
    expected = np.empty((3, 2))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best = -1.0
            for lag in range(-14, 21):
                mine, theirs = x[:, max(lag, 0) : 15 + lag], y[:, max(-lag, 0) : 21 - lag]
                if mine.shape[1] >= 6:  # 40 % of 15
                    energy = max(np.square(mine).sum(), 0.1 * np.square(x).sum())
                    energy *= max(np.square(theirs).sum(), 0.1 * np.square(y).sum())
                    best = max(best, float((mine * theirs).sum() / np.sqrt(energy)))
            expected[i, j] = 1 - best
    np.testing.assert_allclose(copy_distances(list(a), list(b)), expected, atol=1e-5)


def test_copy_distances_of_many_lengths_in_any_order(recorded):
    cut = [pattern(wave[0, : 32_000 - 3000 * (i % 3)]) for i, wave in enumerate(recorded)]
    distances = copy_distances(cut, cut)
    np.testing.assert_allclose(np.diag(distances), 0, atol=1e-5)
    np.testing.assert_allclose(distances, distances.T, atol=1e-4)
    np.testing.assert_allclose(distances[5, 2], copy_distances(cut[5:6], cut[2:3])[0, 0], atol=1e-5)


@given(st.floats(-40, 40), st.integers(0, 10))
def test_patterns_know_neither_level_nor_spectrum(decibels, seed):
    wave = hum(np.random.default_rng(seed), 0.6, 1)[0]
    own = pattern(wave)
    np.testing.assert_allclose(own, pattern(wave * np.float32(10 ** (decibels / 20))), atol=0.02)
    np.testing.assert_allclose(own.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(own.std(axis=1), 1, atol=1e-3)


def test_recordings_that_repeat_each_other_shorten_the_yardstick(recorded, tmp_path):
    windows = [recorded[0][:, 1600 * i : 1600 * i + 16_000] for i in range(6)]
    real = RealClips(record(tmp_path, windows))
    assert real.nearest["near"][0] < 0.1
    assert screened(recorded[0][:, 800:16_800], real)["near_copy_distance"] < 0.6  # stored, though it may pass


def test_one_recording_has_no_yardstick_for_copies(recorded, tmp_path):
    row = screened(recorded[0], RealClips(record(tmp_path, recorded[:1])))
    assert row["passes"]
    assert row["near_copy_distance"] == pytest.approx(0, abs=1e-4)
    assert np.isnan(row["near_copy_share"])


# ---------------------------------------------------------------- tables


def candidates(count=8):
    waves = [fresh(200 + i) for i in range(count)]
    waves[1], waves[2] = 10 * waves[1], 0.01 * waves[2]
    return waves


@pytest.fixture(scope="module")
def table(real, recorded):
    waves = [*candidates(), recorded[0]]
    conditions = [OWN] * 6 + [OTHER] * 2 + [OWN]
    return screen(waves, conditions, real, Hears(0.6, 0.7), RULE, [f"fan/g{i}" for i in range(9)])


def test_a_rule_applied_again_says_the_same(table):
    pd.testing.assert_frame_equal(apply_rule(table, RULE), table)
    stored = pd.read_csv(StringIO(table.to_csv(index=False)), keep_default_na=False)
    pd.testing.assert_frame_equal(apply_rule(stored, RULE), table, check_dtype=False)
    for row, said in zip(table.to_dict("records"), table["reasons"], strict=True):
        assert "; ".join(reasons(row, RULE)) == said


def test_another_rule_needs_no_recordings(table, real, recorded):
    rule = Rule(confidence=(0.65, 0.9), near_copy=0.0, level_margin=30.0)
    again = apply_rule(table, rule)
    waves = [*candidates(), recorded[0]]
    first = screen(waves, list(table["condition"]), real, Hears(0.6, 0.7), rule, list(table["clip"]))
    pd.testing.assert_frame_equal(again, first)
    assert not again["passes"].any()  # near has 0.6
    assert set(table["passes"]) == {True, False}


def test_the_quantile_of_near_copies_can_be_changed_later(table):
    looser = apply_rule(table, Rule(near_copy=0.9))
    assert looser["failed"].str.contains("near copy").sum() > table["failed"].str.contains("near copy").sum() == 1
    assert looser["reasons"].str.contains(r"% of recordings are that near to another\)").any()


def test_tables_of_mono_and_stereo_machines_can_be_joined(table, recorded, tmp_path):
    mono = RealClips(record(tmp_path, [wave[:1] for wave in recorded[:3]]))
    own = screen([fresh(channels=1)], [OWN], mono, Hears(), RULE)
    assert not [column for column in own if column.startswith("far_")]
    both = pd.concat([table, own], ignore_index=True)
    pd.testing.assert_series_equal(apply_rule(both, RULE)["reasons"], both["reasons"])


def test_nothing_drawn(real):
    nothing = screen([], [], real, Judge(CLASSES), RULE)
    kept, short = keep(nothing, {OWN: 2})
    assert len(kept) == 0
    assert short.to_dict("records") == [
        {"condition": OWN, "wanted": 2, "drawn": 0, "passed": 0, "kept": 0, "short": 2, "reason": ""}
    ]


def test_what_does_not_belong_together_is_refused(real, recorded, tmp_path):
    with pytest.raises(AsdError, match=r"0 has 1 microphone\(s\), recordings of fan have 2"):
        screen([fresh(channels=1)], [OWN], real, Hears(), RULE)
    with pytest.raises(ValueError, match="not a condition of fan"):
        screen([fresh()], ["valve|00|source|noattribute"], real, Hears(), RULE)
    with pytest.raises(AsdError, match="no recorded clip"):
        RealClips([])


@pytest.mark.parametrize(
    "options", [{"confidence": (0.9, 0.5)}, {"confidence": (0.5, 1.5)}, {"near_copy": 1.5}, {"level_margin": -1.0}]
)
def test_rules_that_make_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Rule(**options)


# ---------------------------------------------------------------- quotas


def test_quotas_keep_the_first_that_pass(table):
    kept, short = keep(table, {OWN: 2, OTHER: 2, "fan|00|target|spd_3": 1})
    assert list(kept["clip"][kept["kept"]]) == ["fan/g0", "fan/g3"]
    assert list(kept["clip"][kept["reasons"] == "surplus"]) == ["fan/g4", "fan/g5"]
    pd.testing.assert_series_equal(kept["passes"], table["passes"])
    assert short.to_dict("records") == [
        {"condition": OWN, "wanted": 2, "drawn": 7, "passed": 4, "kept": 2, "short": 0, "reason": "too loud"},
        {"condition": OTHER, "wanted": 2, "drawn": 2, "passed": 0, "kept": 0, "short": 2, "reason": "wrong class"},
        {"condition": "fan|00|target|spd_3", "wanted": 1, "drawn": 0, "passed": 0, "kept": 0, "short": 1, "reason": ""},
    ]
    more, _ = keep(kept, {OWN: 3})
    assert list(more["clip"][more["kept"]]) == ["fan/g0", "fan/g3", "fan/g4"]
    assert list(more["clip"][more["reasons"] == "surplus"]) == ["fan/g5"]


# ---------------------------------------------------------------- verdicts


def test_people_go_over_the_rule(table):
    said = {"fan/g0": "drop", "fan/g1": "keep", "fan/g2": "unsure", "fan/g5": "keep", "of another run": "keep"}
    judged = apply_verdicts(table, said)
    assert list(judged["passes"][:6]) == [False, True, False, True, True, True]
    assert list(judged["reasons"][:2]) == ["dropped by hand", "kept by hand"]
    assert judged["reasons"][2] == table["reasons"][2]
    assert list(judged["verdict"]) == ["drop", "keep", "unsure", "", "", "keep", "", "", ""]
    pd.testing.assert_series_equal(judged["near_level"], table["near_level"])
    pd.testing.assert_frame_equal(apply_rule(judged, RULE), table)
    kept, short = keep(judged, {OWN: 3})
    assert list(kept["clip"][kept["kept"]]) == ["fan/g1", "fan/g3", "fan/g5"]  # those kept by hand never are surplus
    assert short["short"].tolist() == [0]
    kept, short = keep(judged, {OWN: 1})
    assert list(kept["clip"][kept["kept"]]) == ["fan/g1", "fan/g5"]


def test_undo_takes_back_one_verdict_after_the_other(tmp_path):
    log = Verdicts(tmp_path / "new" / "verdicts.jsonl")
    assert log.effective() == {}
    assert log.deciding() == {}
    seen = []
    for verdict in ("keep", "drop", "unsure", "undo", "undo", "undo", "undo", "drop"):
        log.add("a", verdict, "me")
        seen.append(log.effective().get("a"))
    assert seen == ["keep", "drop", "unsure", "drop", "keep", None, None, "drop"]
    log.add("b", "keep", "you")
    assert log.effective() == {"a": "drop", "b": "keep"}
    assert [one["who"] for one in log.said()][-2:] == ["me", "you"]
    assert len(log.said()) == 9


def test_unsure_decides_nothing(tmp_path):
    log = Verdicts(tmp_path / "log")
    log.add("a", "unsure", "me")
    assert log.deciding() == {}
    log.add("b", "keep", "me")
    assert log.deciding() == {"b": "keep"}
    assert log.effective() == {"a": "unsure", "b": "keep"}


@pytest.mark.parametrize("lost", [1, 5, 40])
def test_a_torn_line_was_never_said(tmp_path, lost):
    log = Verdicts(tmp_path / "log")
    log.add("a", "keep", "me")
    log.add("a", "drop", "me")
    path = tmp_path / "log"
    path.write_bytes(path.read_bytes()[:-lost])
    assert log.effective() == {"a": "keep"}
    log.add("b", "drop", "me")
    assert log.effective() == {"a": "keep", "b": "drop"}
    assert [json.loads(line)["clip"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_what_several_tabs_say_at_once_is_all_there(tmp_path):
    clips = [f"clip {number}" for number in range(2000)]  # more than a page of the disk
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda who: Verdicts(tmp_path / "log").add_all(clips, "keep", who), "abcdefgh"))
    assert Counter(line["who"] for line in Verdicts(tmp_path / "log").said()) == dict.fromkeys("abcdefgh", 2000)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "log"
    path.write_text('{"clip": "a"}\n')
    with pytest.raises(AsdError, match="line 1 is not a verdict"):
        Verdicts(path).effective()
    with pytest.raises(AsdError, match=r'"maybe" is not a verdict\. Allowed: keep, drop, unsure, undo'):
        Verdicts(path).add("a", "maybe", "me")
