"""The auxiliary classifier: it learns what can be learnt, its training can be repeated and resumed, any clip fits."""

from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from asd_core.config import Train
from asd_core.synthesis.judge import Judge, load_judge, train_judge
from asd_core.training import loop
from asd_core.types import AsdError, Cancelled, Clip

torch.set_num_threads(1)
OPTIONS = Train(epochs=30, batch_size=16, lr=3e-3, schedule={"name": "cosine", "lowest": 1e-5}, clip_norm=1.0)
SECONDS = 0.8  # below the shortest excerpt, so that clips are repeated


def tone(hertz, rng, seconds=SECONDS, channels=2):
    """(C, T): a tone in noise; the far microphone hears more of the noise."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    noise = np.array([[0.003], [0.01]])[:channels] * rng.normal(size=(channels, len(time)))
    return (0.1 * np.sin(2 * np.pi * hertz * time) + noise).astype(np.float32)


def record(folder, counts, channels=2, origin="recorded"):
    rng = np.random.default_rng(0)
    clips = []
    for (speed, domain), count in counts.items():
        for _ in range(count):
            path = folder / f"{len(clips)}.wav"
            soundfile.write(path, tone(500.0 * int(speed), rng, channels=channels).T, 16_000, subtype="FLOAT")
            clip_id = f"fan/train/{origin}{path.name}"
            clips.append(Clip(clip_id, path, "fan", "train", "00", domain, (("spd", speed),), origin))
    return clips


COUNTS = {("1", "source"): 12, ("2", "source"): 12, ("5", "target"): 4, ("9", "target"): 1}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return record(tmp_path_factory.mktemp("clips"), COUNTS)


def train(clips, folder, seed=0, options=OPTIONS, **more):
    return train_judge(clips, options, 0.25, seed, folder, "cpu", **more)


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    return folder, train(clips, folder)


def test_classes_that_differ_are_told_apart(trained):
    folder, facts = trained
    assert facts["accuracy"] > 0.9
    assert facts["held_out"] == 14  # a quarter of 12, 12 and 4 clips, both microphones; none of the only one
    assert facts["confidence"]["0.5"] > 0.5
    assert len(facts["confidences"]) == 14
    assert facts["conditions"]["fan|00|target|spd_5|far"]["held_out"] == 1
    assert "fan|00|target|spd_9|near" not in facts["conditions"]
    assert "2 of 8 classes" in facts["notices"][0]
    judge = load_judge(folder)
    rng = np.random.default_rng(1)
    judged = judge.judge([tone(500, rng), tone(1000, rng), tone(4500, rng)])
    expected = ["fan|00|source|spd_1", "fan|00|source|spd_2", "fan|00|target|spd_9"]
    assert judged.labels.tolist() == [[f"{one}|near", f"{one}|far"] for one in expected]
    assert judged.probabilities.shape == (3, 2, 8)
    assert judged.embeddings.shape == (3, 2, 128)
    np.testing.assert_allclose(judged.probabilities.sum(axis=2), 1, rtol=1e-5)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 2.0, 7.3])
def test_clips_of_any_length_are_judged_alone(trained, seconds):
    judge = load_judge(trained[0])
    wave = tone(500, np.random.default_rng(2), seconds)
    together = judge.judge([tone(1000, np.random.default_rng(3)), wave])
    alone = judge.judge([wave])
    np.testing.assert_array_equal(together.probabilities[1], alone.probabilities[0])
    if seconds >= 0.5:
        assert alone.labels[0, 0] == "fan|00|source|spd_1|near"


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(trained, clips, tmp_path):
    folder, facts = trained
    assert train(clips, tmp_path / "same") == facts
    train(clips, tmp_path / "other", seed=1)
    own, same, other = (
        (place / "judge.safetensors").read_bytes() for place in (folder, tmp_path / "same", tmp_path / "other")
    )
    assert own == same != other


def test_a_stopped_training_goes_on_where_it_was(trained, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "fit", partial(loop.fit, report_seconds=0))

    def stop(fraction, message, step=0.0, **values):
        if step == 20:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(clips, tmp_path, progress=stop)
    assert not (tmp_path / "judge.safetensors").exists()
    seen = []
    train(clips, tmp_path, progress=lambda fraction, message, step=0.0, **values: seen.append(step))
    assert min(step for step in seen if step) == 21
    assert (tmp_path / "judge.safetensors").read_bytes() == (trained[0] / "judge.safetensors").read_bytes()


def test_generated_clips_are_not_learnt(trained, clips, tmp_path):
    more = record(tmp_path, {("3", "target"): 3}, origin="generated")
    assert train([*clips, *more], tmp_path / "judge") == trained[1]


def test_one_microphone(tmp_path):
    clips = record(tmp_path, {("1", "source"): 4, ("5", "target"): 4}, channels=1)
    train(clips, tmp_path / "judge", options=OPTIONS.model_copy(update={"epochs": 2}))
    judge = load_judge(tmp_path / "judge")
    assert judge.classes == ["fan|00|source|spd_1|near", "fan|00|target|spd_5|near"]
    assert judge.judge([tone(500, np.random.default_rng(0), channels=1)]).labels.shape == (1, 1)
    with pytest.raises(AsdError, match=r"2 microphone\(s\), the classifier knows near"):
        judge.judge([tone(500, np.random.default_rng(0))])


def test_a_single_class_cannot_be_told_apart(tmp_path):
    with pytest.raises(AsdError, match="nothing to tell apart"):
        train(record(tmp_path, {("1", "source"): 3}, channels=1), tmp_path / "judge")
    with pytest.raises(AsdError, match="0 recorded clips"):
        train([], tmp_path / "judge")


def test_clips_that_all_are_the_only_ones_leave_nothing_to_measure(tmp_path):
    facts = train(record(tmp_path, {("1", "source"): 1, ("5", "target"): 1}), tmp_path / "judge")
    assert facts["accuracy"] is None
    assert facts["confidences"] == []
    assert "4 of 4 classes" in facts["notices"][0]


def test_nothing_to_judge():
    judged = Judge(["a|near", "a|far"]).judge([])
    assert judged.labels.shape == (0, 0)


def test_a_damaged_judge_says_so(trained, tmp_path):
    for name in ("judge.json", "judge.safetensors"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    (tmp_path / "judge.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(AsdError, match="does not fit Judge"):
        load_judge(tmp_path)
