"""What the inspector reads: neighbours, maps, other systems' scores, differences and the sound of a map."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from asd_core import api
from asd_core.analysis import evidence
from asd_core.artifacts import Workspace, load_run, read_embeddings, read_evidence
from asd_core.data.manifest import scan
from asd_core.files import read_json, write_json
from asd_core.scorers import SCORERS
from asd_core.scorers.knn import KNN
from asd_core.types import SAMPLE_RATE, AsdError, EmbeddingSet
from pages.components import pictures
from tests.app import example

RUN = "logmel-knn--workshop--quick--seed0"
BARE = "logmel-maha--workshop--quick--seed0"
CLIP = "fan/test/section_00_target_test_anomaly_0001_speed_9.wav"
ONES = np.ones((1, 1))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Workspace:
    folder = tmp_path_factory.mktemp("inspection")
    workspace = example.build(folder)
    example.add_artefacts(workspace, scan(folder / "sounds", "workshop", "simulated"), RUN)
    return workspace


@pytest.fixture
def workspace(built: Workspace, tmp_path) -> Workspace:
    """A copy that a test may break; the recordings are shared."""
    shutil.copytree(built.root, tmp_path / "workspace")
    return Workspace(tmp_path / "workspace")


def noise(seconds: float = 1.0, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(-20_000, 20_000, (channels, round(seconds * SAMPLE_RATE))).astype(np.int16)


# distances


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "cosine"},
        {"metric": "chord"},
        {"metric": "euclidean"},
        {"metric": "euclidean", "standardise": True},
        {"metric": "cosine", "clip_zscore": True},
        {"metric": "cosine", "standardise": True},
    ],
)
def test_distances_are_those_of_the_nearest_neighbour_scorer(options):
    rng = np.random.default_rng(1)
    train = rng.standard_normal((40, 12)).astype(np.float32) * np.arange(1, 13)
    query = rng.standard_normal((3, 12)).astype(np.float32)
    ids, section = np.arange(40).astype(str), np.full(40, "00")
    known = EmbeddingSet(train, ids, section, np.full(40, "source"))
    asked = EmbeddingSet(query, ids[:3], section[:3], np.full(3, ""))
    scores = KNN(**options).fit(known).score(asked)
    nearest = [evidence.distances(train, one, options)[0].min() for one in query]
    np.testing.assert_allclose(nearest, scores, rtol=1e-4, atol=1e-6)


def test_a_scorer_that_names_no_metric_gets_one_and_says_which():
    rng = np.random.default_rng(1)
    train, query = rng.standard_normal((9, 4)), rng.standard_normal(4)
    assert evidence.distances(train, query, {"name": "gmm"})[1] == "cosine distance"
    standardised = {"name": "mahalanobis", "standardise": True}
    assert evidence.distances(train, query, standardised)[1] == "Euclidean distance of standardised features"
    known, ids = EmbeddingSet(train, np.arange(9).astype(str), np.full(9, "00"), np.full(9, "source")), np.array(["q"])
    score = KNN(standardise=True).fit(known).score(EmbeddingSet(query[None], ids, np.array(["00"]), np.array([""])))
    own = evidence.distances(train, query, {"name": "knn", "standardise": True})[0]
    assert own.min() == pytest.approx(score[0], rel=1e-4)
    with pytest.raises(AsdError, match="hamming"):
        evidence.distances(train, query, {"metric": "hamming"})


def test_patches_are_averaged_over_their_valid_steps():
    x = np.arange(2 * 3 * 2 * 4, dtype=np.float16).reshape(2, 3, 2, 4)
    means = evidence.pooled(x, np.array([3, 1]))
    np.testing.assert_allclose(means[0], x[0].reshape(-1, 4).mean(axis=0))
    np.testing.assert_allclose(means[1], x[1, :1].reshape(-1, 4).mean(axis=0))
    assert means.dtype == np.float32
    assert evidence.pooled(x[:0]).shape == (0, 4)


def test_the_scorers_without_places_are_the_ones_that_say_so():
    assert {name for name, scorer in SCORERS.classes.items() if not scorer.gives_evidence} == evidence.WHOLE_CLIP


# neighbours


def test_neighbours_are_the_nearest_training_clips_with_what_is_known_of_them(built):
    near = api.neighbours(built, load_run(built, RUN), CLIP, count=4)
    assert list(near["rank"]) == [1, 2, 3, 4]
    assert near["distance"].is_monotonic_increasing
    assert all(name.startswith("fan/train/") for name in near["clip_id"])
    assert set(near["metric"]) == {"cosine distance"}
    # target clips lie apart from source clips, so those of another domain come last
    assert (near["domain"][:3] == "target").all()
    assert list(near["same_domain"]) == [True, True, True, False]
    assert list(near["same_attributes"]) == list(near["attributes"] == "speed_9")

    folder = built.task("embed", f"{RUN}-fan")
    train, test = (read_embeddings(folder / f"{split}-view.npz") for split in ("train", "test"))
    asked = test.x[test.clip_ids == CLIP][0]
    cosine = train.x @ asked / np.linalg.norm(train.x, axis=1) / np.linalg.norm(asked)
    assert near["clip_id"][0] == train.clip_ids[cosine.argmax()]
    assert near["distance"][0] == pytest.approx((1 - cosine.max()) / 2, abs=1e-6)


def test_a_training_clip_is_not_its_own_neighbour(built):
    clip_id = "fan/train/section_00_source_train_normal_0000_speed_1.wav"
    near = api.neighbours(built, load_run(built, RUN), clip_id, count=99)
    assert clip_id not in set(near["clip_id"])
    assert len(near) == 14  # all others


def test_without_truth_nothing_is_said_to_be_the_same(built):
    near = api.neighbours(built, load_run(built, RUN), "drone/test/section_00_0000.wav")
    assert near["same_domain"].isna().all()
    assert near["same_attributes"].isna().all()


@pytest.mark.parametrize("reader", [api.neighbours, api.heat, api.anomaly_sound])
def test_what_is_unknown_or_gone_is_said(workspace, reader):
    run = load_run(workspace, RUN)
    with pytest.raises(AsdError, match='no branch "loud"'):
        reader(workspace, run, CLIP, branch="loud")
    with pytest.raises(AsdError, match='no machine "pump"'):
        reader(workspace, run, "pump/test/a.wav")
    with pytest.raises(AsdError, match="9999"):
        reader(workspace, run, "fan/test/section_00_9999.wav")
    with pytest.raises(AsdError, match="gone or damaged"):
        reader(workspace, load_run(workspace, BARE), CLIP)
    for folder in (workspace.root / "tasks" / "score").glob(f"{RUN}-*"):
        shutil.rmtree(folder)
    with pytest.raises(AsdError, match="Run again"):
        reader(workspace, run, CLIP)


# maps


def test_a_map_has_the_scale_of_the_clips_that_are_not_flagged(built):
    run = load_run(built, RUN)
    heat = api.heat(built, run, CLIP)
    kept, ids, _ = read_evidence(built.task("score", f"{RUN}-fan") / "evidence-00.npz")
    np.testing.assert_array_equal(heat.map.values, kept.values[ids == CLIP][0])
    scores = run.scores
    calm = np.isin(ids, scores["clip_id"][scores["decision"] == 0])
    assert 5 <= calm.sum() < len(ids)
    np.testing.assert_allclose([heat.low, heat.high], np.percentile(kept.values[calm], [1, 99.5]), rtol=1e-6)
    assert "not flagged" in heat.unit
    assert heat.places[0].score == pytest.approx(heat.map.values.max())
    assert heat.channel == "near"


def test_a_scale_is_that_of_the_unflagged_clips_where_they_are_enough():
    values = np.arange(12, dtype=np.float32).reshape(12, 1, 1) ** 2
    few, enough = np.arange(12) < evidence.CALM - 1, np.arange(12) < evidence.CALM
    assert evidence.scale_of(values, few) == (*np.percentile(values, [1, 99.5, 99]), False)
    assert evidence.scale_of(values, enough) == (*np.percentile(values[enough], [1, 99.5, 99]), True)


def test_of_a_single_branch_the_contour_is_the_run_s_threshold(built):
    run = load_run(built, RUN)
    heat = api.heat(built, run, CLIP)
    assert heat.limit == run.record["thresholds"]["fan"]["00"]
    assert heat.limit_words == "the run's threshold"
    unlike = load_run(built, RUN)
    unlike.record["config"]["branches"].append({"name": "other", "scorer": {"name": "knn"}})
    heat = api.heat(built, unlike, CLIP, branch=run.record["config"]["branches"][0]["name"])
    assert heat.limit_words == "where 1 % of those lie higher"
    assert heat.low < heat.limit < heat.high


def test_a_scorer_of_whole_clips_has_no_map_and_says_why(workspace):
    run = load_run(workspace, RUN)
    folder = workspace.task("score", f"{RUN}-fan")
    (folder / "evidence-00.npz").unlink()
    meta = read_json(folder / "meta.json")
    meta["files"].pop("evidence-00.npz")
    write_json(folder / "meta.json", meta)
    with pytest.raises(AsdError, match="was made before"):
        api.heat(workspace, run, CLIP)
    run.record["config"]["branches"][0]["scorer"] = {"name": "mahalanobis"}
    with pytest.raises(AsdError, match="judges a clip as a whole"):
        api.heat(workspace, run, CLIP)


def test_branches_with_a_map_come_first(built):
    run = load_run(built, RUN)
    (name,) = [branch["name"] for branch in run.record["config"]["branches"]]
    run.record["config"]["branches"].insert(0, {"name": "blind", "scorer": {"name": "gmm"}})
    assert api.branch_names(built, run, "fan") == [name, "blind"]


# other systems


def test_scores_by_system_are_the_runs_own(built):
    table = api.scores_by_system(built, "workshop", CLIP)
    assert set(table["run_id"]) == {run.record["run_id"] for run in api.runs(built)}
    assert table["percentile"].is_monotonic_decreasing
    row = table[table["run_id"] == RUN].iloc[0]
    clips = api.clip_table(built, load_run(built, RUN))
    own = clips[clips["clip_id"] == CLIP].iloc[0]
    assert (row["score"], row["percentile"]) == (own["score"], own["percentile"])
    assert row["flagged"] == (own["decision"] == 1)
    assert api.scores_by_system(built, "workshop", "fan/test/none.wav").empty


# differences


def test_a_clip_differs_from_itself_by_nothing_and_from_a_fainter_one_by_its_level(built, tmp_path):
    same = api.difference(built, "workshop", CLIP, [CLIP, CLIP])
    assert np.abs(same).max() < 1e-4
    other = "fan/train/section_00_source_train_normal_0000_speed_1.wav"
    levels = [api.spectrogram(built, "workshop", one, "far", "log") for one in (CLIP, other)]
    found = api.difference(built, "workshop", CLIP, [other, CLIP], "far", "log")
    np.testing.assert_allclose(found, (levels[0] - levels[1]) / 2, atol=1e-3)


def test_addresses_follow_every_recording_behind_them(built, tmp_path):
    """Browsers keep what they got for a day."""
    shutil.copytree(built.root.parent / "sounds", tmp_path / "sounds")
    shutil.copytree(built.root, tmp_path / "workspace")
    workspace = Workspace(tmp_path / "workspace")
    about = read_json(workspace.dataset("workshop") / "dataset.json")
    write_json(workspace.dataset("workshop") / "dataset.json", about | {"root": str(tmp_path / "sounds")})
    run, other = load_run(workspace, RUN), "fan/train/section_00_source_train_normal_0000_speed_1.wav"

    def versions():
        own = api.inspection_stamp(workspace, run, CLIP)
        return own, pictures.difference_key(workspace, "workshop", CLIP, [other])

    before = versions()
    assert versions() == before
    path = api.clip(workspace, "workshop", other).path
    soundfile.write(path, noise().T // 2, SAMPLE_RATE)
    after = versions()
    assert after[0] == before[0]
    assert after[1] != before[1]
    soundfile.write(api.clip(workspace, "workshop", CLIP).path, noise().T, SAMPLE_RATE)
    assert versions()[0] != before[0]
    path.unlink()
    with pytest.raises(AsdError, match="missing"):
        versions()


def test_a_difference_needs_one_to_twenty_others_and_a_known_channel(built):
    for others, channel in (([], "near"), ([CLIP] * 21, "near"), ([CLIP], "middle")):
        with pytest.raises(AsdError, match="from 1 to 20"):
            api.difference(built, "workshop", CLIP, others, channel)


# the sound of a map


@pytest.mark.parametrize("length", [300, 1024, 12_345, SAMPLE_RATE])
def test_a_mask_of_ones_gives_the_sound_back_and_one_of_zeros_silence(length):
    wave = noise()[:, :length]
    taken = evidence.Masking(wave, SAMPLE_RATE)
    assert taken.sound(ONES).shape == wave.shape
    assert np.abs(taken.sound(ONES) - wave).max() < 1
    assert not taken.sound(0 * ONES).any()


def test_gains_follow_the_map_in_time_and_frequency():
    values = np.array([[0.0, 0.0], [0.0, 10.0], [0.0, 0.0]])
    start = np.array([0.0, 0.4, 0.8])
    edges = np.array([0.0, 4000.0, 8000.0])
    hertz, seconds = np.linspace(0, 8000, 81), np.linspace(0, 1.2, 121)
    gains = evidence.mask(values, start, start + 0.4, edges, (1.0, 9.0), hertz, seconds)
    assert gains.min() == 0
    assert gains.max() == 1
    band, moment = np.unravel_index(gains.argmax(), gains.shape)
    assert 5500 < hertz[band] <= 8000
    assert seconds[moment] == pytest.approx(0.6, abs=0.05)
    assert not gains[hertz < 2000].any()
    assert np.abs(np.diff(gains, axis=1)).max() < 0.1  # no steps


def test_one_stretch_to_the_end_is_heard_throughout():
    gains = evidence.mask(
        np.array([[5.0, 0.0]]), np.zeros(1), np.array([np.inf]), np.array([0.0, 4000.0, 8000.0]), (0.0, 5.0),
        np.array([100.0, 7900.0]), np.linspace(0, 3, 7),
    )  # fmt: skip
    np.testing.assert_array_equal(gains, [[1.0] * 7, [0.0] * 7])


def test_the_sound_of_the_anomaly_is_as_long_as_the_clip_and_no_louder(built):
    run = load_run(built, RUN)
    path = api.anomaly_sound(built, run, CLIP)
    taken, rate = soundfile.read(path, dtype="int16", always_2d=True)
    whole, its_rate = soundfile.read(api.clip(built, "workshop", CLIP).path, dtype="int16", always_2d=True)
    assert (taken.shape, rate) == (whole.shape, its_rate)
    energy = (taken.astype(float) ** 2).sum(), (whole.astype(float) ** 2).sum()
    assert 0 < energy[0] < energy[1]
    stamp = path.stat().st_mtime_ns
    assert api.anomaly_sound(built, run, CLIP).stat().st_mtime_ns == stamp  # made once


def test_the_checksum_is_the_file_s(built):
    import hashlib

    payload = api.clip(built, "workshop", CLIP).path.read_bytes()
    assert api.checksum(built, "workshop", CLIP) == hashlib.sha256(payload).hexdigest()
