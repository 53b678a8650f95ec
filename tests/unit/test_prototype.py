"""Groups and distances of the scorer, and what the objective of the same name learns from which clips."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional as F

from asd_core import pipeline
from asd_core.artifacts import Workspace, load_run
from asd_core.backbones import BACKBONES
from asd_core.config import load_profile, load_system
from asd_core.data import audio
from asd_core.data.manifest import scan
from asd_core.engine import local
from asd_core.scorers import SCORERS
from asd_core.scorers.base import folds
from asd_core.scorers.prototype import value_of
from asd_core.training import OBJECTIVES
from asd_core.training.prototypes import supervised_contrastive
from asd_core.types import AsdError, Clip, EmbeddingSet
from asd_core.views import VIEWS
from tests.conftest import SYSTEMS

SIZES = {"layers": 2, "width": 32, "heads": 2, "ffn": 48, "patch_width": 16}


# ------------------------------------------------------------------ scorer


def embeddings(x, domains, attributes=None):
    n = len(x)
    return EmbeddingSet(
        np.asarray(x, dtype=np.float32),
        np.array([f"fan/train/{i}" for i in range(n)]),
        np.full(n, "00"),
        np.array(domains),
        None if attributes is None else np.array(attributes),
    )


def scorer(**options):
    return SCORERS.create({"name": "prototype", **options})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("spd_2", "2"),
        ("car_A1_SPD_2V", "2v"),
        ("spd_1_mic_2_spd_3", "1"),
        ("mic_spd_car_B1", ""),
        ("noAttribute", ""),
        ("", ""),
        ("car_A1_spd", ""),
    ],
)
def test_values_of_attributes(text, value):
    assert value_of(text, "spd") == value


def test_distance_to_the_nearest_mean_direction():
    """By hand: three groups in the plane, lengths do not matter."""
    x = [[1, 0], [5, 5], [0, 1], [-2, 0]]
    fitted = scorer().fit(embeddings(x, ["source"] * 2 + ["target"] * 2, ["spd_1"] * 2 + ["spd_1", "spd_2"]))
    angles = np.radians([22.5, 90, 180])
    np.testing.assert_allclose(fitted.prototypes_, np.stack([np.cos(angles), np.sin(angles)], axis=1), atol=1e-7)
    asked = np.radians([22.5, 82.5, 180, 270])
    test = embeddings(3 * np.stack([np.cos(asked), np.sin(asked)], axis=1), [""] * 4)
    expected = [0.0, 2 * np.sin(np.radians(7.5 / 2)), 0.0, 2 * np.sin(np.radians(45))]
    np.testing.assert_allclose(fitted.score(test), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("attribute", "attributes", "groups"),
    [
        ("spd", ["spd_1", "spd_2", "spd_1", "spd_1"], 3),
        ("spd", ["noAttribute"] * 4, 2),
        ("spd", ["car_A", "car_B", "car_C", "car_D"], 2),
        ("spd", ["spd_1", "spd_1", "", "spd_1"], 3),
        ("car", ["car_A", "car_a", "car_C", "car_D"], 3),
        (None, ["spd_1", "spd_2", "spd_3", "spd_4"], 2),
        (None, None, 2),
    ],
)
def test_groups(attribute, attributes, groups):
    train = embeddings(np.eye(4), ["source", "source", "target", "target"], attributes)
    assert len(scorer(attribute=attribute).fit(train).prototypes_) == groups


def test_unknown_attributes_are_not_taken_for_none():
    with pytest.raises(AsdError, match="attribute: null"):
        scorer().fit(embeddings(np.eye(3), ["source"] * 3))


def test_training_clips_are_scored_by_what_the_other_folds_make_of_them():
    rng = np.random.default_rng(0)
    train = embeddings(rng.normal(size=(23, 4)), ["source"] * 20 + ["target"] * 3, ["spd_1", "spd_2"] * 11 + ["spd_9"])
    scores = scorer().fit(train).training_scores()
    fold = folds(train)
    for row in (0, 7, 22):
        rest = train[fold != fold[row]]
        np.testing.assert_allclose(scores[row], scorer().fit(rest).score(train[np.array([row])])[0])
    assert scores[22] > scorer().fit(train).score(train)[22] + 0.1  # its own group is gone


# ------------------------------------------------------------------ objective


@pytest.fixture(scope="module")
def make_clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")

    def make(speeds, target=4, count=16, channels=2, samples=12_000):
        rng = np.random.default_rng(0)
        made = []
        for i in range(count):
            path = folder / f"{channels}-{samples}-{i}.wav"
            wave = rng.normal(size=(samples, channels)) * 0.1
            soundfile.write(path, wave.astype(np.float32), 16_000, subtype="FLOAT")
            domain = "target" if i >= count - target else "source"
            attributes = (("spd", str(i % speeds)),) if speeds else ()
            made.append(Clip(f"fan/train/{i}.wav", path, "fan", "train", "00", domain, attributes))
        return made

    return make


def problem(clips, view="stereo", backbone=None, **options):
    torch.manual_seed(0)
    spec = backbone or {"name": "beats", "architecture": SIZES, "pooling": {"name": "mean"}, "train_seconds": 0.5}
    net = BACKBONES.create(spec)
    chosen = OBJECTIVES.create({"name": "prototypes", **options})
    return chosen.problem(net, clips, VIEWS.create({"name": view}), 0)


def load(problem, rows=range(8), seed=0):
    return problem.examples.load(np.array(rows), torch.Generator().manual_seed(seed))


def test_machines_that_tell_their_speed(make_clips):
    clips = make_clips(3)
    found = problem(clips, "waveform", mixup_beta=None)
    x, lengths, labels = load(found, range(16))
    assert x.shape == (16, 1, 8000)
    assert lengths.tolist() == [8000] * 16
    assert labels.shape == (16, 6)  # two domains × three speeds
    expected = [(clip.domain, clip.attributes) for clip in clips]
    same = [[a == b for b in expected] for a in expected]
    np.testing.assert_array_equal((labels @ labels.T).numpy() == 1, same)
    assert [type(loss).__name__ for loss in found.learner.losses] == ["ArcFace", "Center"]
    assert found.learner.temperature is None


def test_machines_that_do_not(make_clips):
    found = problem(make_clips(0), "waveform")
    x, _, labels = load(found)
    assert x.shape == (8, 2, 8000)
    assert not torch.equal(x[:, 0], x[:, 1])
    assert labels.shape == (8, 2)
    assert set(labels.flatten().tolist()) == {0.0, 1.0}  # nothing is mixed
    learner = found.learner.eval()
    embedded = learner.backbone.embed(x.flatten(0, 1))
    twice = labels.repeat_interleave(2, 0)
    expected = 0.5 * learner.losses[0](embedded, twice) + supervised_contrastive(embedded, twice, 0.1)
    torch.testing.assert_close(learner(*load(found)), expected)


def test_the_attribute_can_be_left_out(make_clips):
    assert load(problem(make_clips(3), "waveform", attribute=None))[2].shape == (8, 2)
    assert load(problem(make_clips(3), "waveform", attribute="grit"))[0].shape[1] == 2


def test_the_learner_adds_up_its_losses(make_clips):
    found = problem(make_clips(3), "waveform")
    learner, batch = found.learner.eval(), load(found)
    embedded = learner.backbone.embed(batch[0][:, 0])
    margin, centres = (loss(embedded, batch[2]) for loss in learner.losses)
    torch.testing.assert_close(learner(*batch), margin + 0.01 * centres)


def test_mixed_clips_have_mixed_groups(make_clips):
    clips = make_clips(3)
    mixed, plain = (load(problem(clips, "waveform", mixup_beta=beta, gain=0.0)) for beta in (0.9, None))
    torch.testing.assert_close(mixed[2].sum(1), torch.ones(8))
    weight = mixed[2][mixed[2] < 1].max()
    assert 0.5 <= weight < 1
    partners = [
        [torch.allclose(mixed[0][i], w * plain[0][i] + (1 - w) * plain[0][j], atol=1e-6) for j in range(8)]
        for w in (weight, 1 - weight)
        for i in range(8)
    ]
    assert sum(map(any, partners)) >= 8


def test_levels_change_by_at_most_the_gain_and_alike_in_both_microphones(make_clips):
    clips = make_clips(0)
    net = {"name": "geosnet", "architecture": SIZES, "layers": [1, 2], "widths": [16, 16], "train_seconds": 0.75}
    plain, loud = (load(problem(clips, backbone=net, gain=gain))[0] for gain in (0.0, 3.0))
    assert plain.shape == (8, 2, 2, 12_000)
    change = 20 * (loud.square().mean(3) / plain.square().mean(3)).sqrt().log10()  # (8, 2, 2) dB
    torch.testing.assert_close(change[..., 0], change[..., 1], atol=1e-4, rtol=0)
    assert change.abs().max() <= 3
    assert change.std() > 0.5
    assert not torch.allclose(change[:, 0], change[:, 1], atol=0.1)


def test_target_clips_come_more_often(make_clips):
    clips = make_clips(0)
    target = np.array([clip.domain == "target" for clip in clips])
    assert problem(clips, "waveform").weights[target].sum() == pytest.approx(0.3)
    assert problem(clips, "waveform", target_share=None).weights is None


@pytest.mark.parametrize(("speeds", "hint"), [(0, 'write the attribute "spd"'), (1, "target domain")])
def test_one_group_gives_nothing_to_tell_apart(make_clips, speeds, hint):
    with pytest.raises(AsdError, match=r"of one group \(\"fan\|00\|source") as caught:
        problem(make_clips(speeds, target=0), "waveform")
    assert hint in str(caught.value)


def test_one_domain_with_speeds_can_be_told_apart(make_clips):
    assert load(problem(make_clips(3, target=0), "waveform"))[2].shape == (8, 3)


def test_a_recording_of_one_microphone_is_named(make_clips):
    clips = make_clips(0, channels=1)
    net = {"name": "geosnet", "architecture": SIZES, "layers": [1, 2], "widths": [16, 16]}
    with pytest.raises(AsdError, match=r"1-12000-0\.wav: .*one channel; geosnet compares two microphones"):
        load(problem(clips, backbone=net))


def test_clips_of_several_lengths_are_padded_where_the_network_can_tell(make_clips):
    clips = [*make_clips(0, count=8, target=0), *make_clips(0, count=8, target=8, samples=6000)]
    found = problem(clips, "waveform", {"name": "beats", "architecture": SIZES, "pooling": {"name": "mean"}})
    x, lengths, _ = load(found, [0, 8])
    assert x.shape == (2, 2, 12_000)
    assert lengths.tolist() == [12_000, 6000]
    assert (x[1, :, 6000:] == 0).all()
    assert torch.isfinite(found.learner(*load(found, [0, 8])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"mixup_beta": 0.0}, "mixup_beta must be above 0"),
        ({"gain": -1.0}, "gain must not be negative"),
        ({"target_share": 1.0}, "target_share must lie between"),
        ({"margin": 2.0}, "margin in"),
        ({"center_lr": 2.0}, "center_lr must not be above 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(AsdError, match=message):
        OBJECTIVES.create({"name": "prototypes", **options})


# ------------------------------------------------------------------ contrastive loss


def test_contrastive_loss_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    groups = [0, 0, 1, 1, 1, 0]
    unit = F.normalize(x)
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        rest = torch.stack([torch.dot(unit[i], unit[j]) / 0.2 for j in others]).logsumexp(0)
        positives = [j for j in others if groups[j] == groups[i]]
        total -= sum(torch.dot(unit[i], unit[j]) / 0.2 - rest for j in positives) / len(positives)
    labels = F.one_hot(torch.tensor(groups), 2).double()
    torch.testing.assert_close(supervised_contrastive(x, labels, 0.2), total / 6)


def test_contrastive_loss_ignores_a_view_without_company_and_stays_finite():
    x = torch.randn(3, 4, requires_grad=True)
    value = supervised_contrastive(x, torch.eye(3), 0.1)
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(x.grad).all()


def test_descending_the_contrastive_loss_gathers_groups():
    torch.manual_seed(0)
    x = torch.randn(16, 8, requires_grad=True)
    labels = F.one_hot(torch.arange(16) % 2, 2).float()
    optimiser = torch.optim.Adam([x], lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        supervised_contrastive(x, labels, 0.1).backward()
        optimiser.step()
    cosine = F.normalize(x) @ F.normalize(x).T
    same = labels @ labels.T == 1
    assert cosine[same].min() > cosine[~same].max() + 0.5


# ------------------------------------------------------------------ through the street


def test_the_whole_street(tiny_data, tmp_path):
    """A machine that tells its speed and one that does not, from an earlier BEATs to scores of loose recordings."""
    system = load_system(str(SYSTEMS / "tiny-geosnet.yaml"))
    context = pipeline.Context(Workspace(tmp_path), scan(tiny_data), "cpu")
    machines = ["fanSim", "gearboxSim"]
    tasks = pipeline.plan([system], load_profile("full"), context, machines=machines)
    assert [task.title.split()[1] for task in tasks if task.kind == "train"] == ["start", "geosnet", "geosnet"]
    local.run(tasks, context)
    run = load_run(context.workspace, tasks[-1].spec["run_id"])
    assert np.isfinite(run.scores["score"]).all()
    assert set(run.scores["machine"]) == set(machines)
    clips = context.data.of("fanSim", "test")[:3]
    alone = pipeline.score_files(
        context.workspace, run.record["run_id"], "fanSim", [clip.path for clip in clips], device="cpu"
    )
    known = run.scores.set_index("clip_id").loc[[clip.clip_id for clip in clips]]
    np.testing.assert_allclose(alone["score"], known["score"], atol=1e-5)


@pytest.mark.parametrize(
    ("system", "split", "is_refused"),
    [
        ("tsz-proto", "train", True),
        ("tsz-proto", "test", True),
        ("satlab-1", "train", True),
        ("satlab-1", "test", False),  # the far microphone serves its training only
        ("tsz-fusion", "train", False),
    ],
)
def test_one_microphone_is_refused_before_any_work(tiny_data, tmp_path, system, split, is_refused):
    shutil.copytree(tiny_data / "fanSim", tmp_path / "data" / "fanSim")
    path = sorted((tmp_path / "data" / "fanSim" / split).iterdir())[-1]
    audio.write(path, audio.read(path)[:1])
    context = pipeline.Context(Workspace(tmp_path / "ws"), scan(tmp_path / "data"), "cpu")
    if is_refused:
        with pytest.raises(AsdError, match=f"{path} has one channel, but {system} needs the near and the far"):
            pipeline.plan([load_system(system)], load_profile("quick"), context)
    else:
        assert pipeline.plan([load_system(system)], load_profile("quick"), context)


@pytest.mark.parametrize(("names", "starts"), [(("tsz-fusion", "tsz-proto"), 0), (("unis-1", "unis-3"), 1)])
def test_small_beats_is_there_and_a_small_eat_is_trained_once_for_all_systems(names, starts, tiny_data, tmp_path):
    context = pipeline.Context(Workspace(tmp_path), scan(tiny_data), "cpu")
    systems = [load_system(name) for name in names]
    tasks = pipeline.plan(systems, load_profile("quick"), context, machines=["fanSim"])
    assert len([task for task in tasks if task.title.startswith("train start of")]) == starts
