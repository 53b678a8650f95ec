"""What examples a classification is made of: labels, microphones, mixing, held-out clips, heads, frozen encoders."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from asd_core.backbones import BACKBONES
from asd_core.training import OBJECTIVES
from asd_core.training.classification import mix_far, split
from asd_core.training.tokens import TokenCache
from asd_core.types import AsdError, Clip
from asd_core.views import VIEWS

SIZES = {"layers": 2, "width": 32, "heads": 2, "ffn": 48, "patch_width": 16}
WAVEFORM = VIEWS.create({"name": "waveform"})


def network(**options):
    torch.manual_seed(0)
    return BACKBONES.create({"name": "beats", "architecture": SIZES, "pooling": {"name": "mean"}, **options})


def objective(**options):
    return OBJECTIVES.create({"name": "classification", "labels": "full", "loss": {"name": "arcface"}, **options})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twenty clips of two machines, 0.5 or 0.7 s, two channels; "fan" has speeds, "valve" tells nothing."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    made = []
    for i in range(20):
        machine, domain = ("fan", "valve")[i % 2], "target" if i >= 16 else "source"
        path = folder / f"{i}.wav"
        wave = rng.normal(size=(8000 + 3200 * (i % 3 == 0), 2)) * 0.1
        soundfile.write(path, wave.astype(np.float32), 16_000, subtype="FLOAT")
        attributes = (("spd", str(i % 4)),) if machine == "fan" else ()
        made.append(Clip(f"{machine}/train/{i}.wav", path, machine, "train", "00", domain, attributes))
    return made


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(problem, rows=range(8), seed=0):
    return problem.examples.load(np.array(rows), generator(seed))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [("full", 6), ("attributes", 3), ("section", 2), ("machine", 2), (["domain"], 2), (["machine", "attributes"], 3)],
)
def test_labels_and_presets(clips, labels, classes):
    problem = objective(labels=labels).problem(network(), clips, WAVEFORM, 0)
    assert batch(problem)[2].shape == (8, classes)


def test_both_microphones_are_clips_of_their_own(clips):
    problem = objective(labels="channel", channels=["near", "far"]).problem(network(), clips, WAVEFORM, 0)
    assert len(problem.examples) == 40
    x, lengths, labels, _ = batch(problem, [1, 21])
    near, far = soundfile.read(clips[1].path, dtype="float32", always_2d=True)[0].T
    assert lengths.tolist() == [8000, 8000]
    np.testing.assert_array_equal(x.numpy(), [near, far])
    assert labels.shape[1] == 6
    assert labels[0].argmax() != labels[1].argmax()


def test_far_microphone_is_mixed_in_training_only(clips):
    chosen = objective(far=[0.2, 0.5], validation=0.5)
    problem = chosen.problem(network(), clips, WAVEFORM, 0)
    rows = problem.examples.chosen
    x, lengths, _, _ = batch(problem, range(len(rows)))
    for wave, length, row in zip(x, lengths, rows, strict=True):
        near, far = soundfile.read(clips[row].path, dtype="float32", always_2d=True)[0].T
        amount = ((wave[:length].numpy() - near) * far).sum() / (far * far).sum()
        assert 0.2 <= amount <= 0.5
        np.testing.assert_allclose(wave[:length], near + amount * far, atol=1e-5)
    x, lengths, _, _ = problem.held_out.load(np.arange(2), generator())
    near = soundfile.read(clips[problem.held_out.chosen[0]].path, dtype="float32", always_2d=True)[0][:, 0]
    np.testing.assert_array_equal(x[0, : lengths[0]], near)


def test_one_microphone_is_what_the_far_one_is_mixed_into():
    wave = np.ones((1, 5), dtype=np.float32)
    np.testing.assert_array_equal(mix_far(wave, 0.4), wave[0])
    stereo = np.stack([wave[0], 2 * wave[0]])
    np.testing.assert_allclose(mix_far(stereo, 0.5), 2.0)


def test_mixed_clips_are_as_long_as_the_longer_one(clips):
    problem = objective(mixup_beta=0.5).problem(network(), clips, WAVEFORM, 0)
    x, lengths, labels, _ = batch(problem, range(6))
    assert x.shape == (6, 11_200)
    assert set(lengths.tolist()) <= {8000, 11_200}
    assert all((wave[length:] == 0).all() for wave, length in zip(x, lengths, strict=True))
    assert ((labels > 0) & (labels < 1)).any()
    torch.testing.assert_close(labels.sum(1), torch.ones(6))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_held_out_clips_are_a_share_of_each_class(share):
    targets = np.repeat([0, 1, 2, 3], [40, 10, 3, 1])
    training, held_out = split(targets, share, 0)
    assert sorted([*training, *held_out]) == list(range(54))
    counts = [round(40 * share), round(10 * share), round(3 * share), 0]
    assert Counter(targets[held_out].tolist()) == {c: n for c, n in enumerate(counts) if n}
    again = split(targets, share, 0)
    np.testing.assert_array_equal(again[1], held_out)
    if share:
        assert (split(targets, share, 1)[1] != held_out).any()


def test_small_classes_give_single_clips():
    targets = np.repeat(np.arange(10), 4)
    held_out = split(targets, 0.1, 0)[1]
    assert len(held_out) == len(set(targets[held_out])) == 4


def test_no_class_is_held_out_whole():
    assert set(np.repeat([0, 1], 5)[split(np.repeat([0, 1], 5), 1.0, 0)[0]]) == {0, 1}


def test_heads_of_attributes(clips):
    problem = objective(labels="machine", auxiliary=["SPD".lower(), "grit"]).problem(network(), clips, WAVEFORM, 0)
    assert any('"grit"' in notice and "0 value" in notice for notice in problem.notices)
    attributes = batch(problem, range(20))[3]
    assert attributes.shape == (20, 1)
    assert (attributes[1::2] == -1).all()  # valve
    assert attributes[::2, 0].tolist() == [(i % 4) // 2 for i in range(0, 20, 2)]
    learner = problem.learner.train()
    everything = batch(problem, range(20))
    alone = learner.losses[0](learner.backbone.embed(everything[0], lengths=everything[1]), everything[2])
    assert learner(*everything) > alone


def test_weights_of_balanced_draws(clips):
    plain = objective().problem(network(), clips, WAVEFORM, 0)
    assert plain.weights is None
    shared = objective(target_share=0.5).problem(network(), clips, WAVEFORM, 0).weights
    assert shared[16:].sum() == pytest.approx(0.5)
    balanced = objective(labels=["domain"], balance=1.0).problem(network(), clips, WAVEFORM, 0).weights
    assert balanced[16:].sum() == pytest.approx(0.5)


def test_more_losses_add_up(clips):
    both = objective(more_losses=[{"name": "center", "weight": 0.5}]).problem(network(), clips, WAVEFORM, 0)
    learner = both.learner.eval()
    x, lengths, labels, attributes = batch(both)
    embeddings = learner.backbone.embed(x, lengths=lengths)
    expected = learner.losses[0](embeddings, labels) + 0.5 * learner.losses[1](embeddings, labels)
    torch.testing.assert_close(learner(x, lengths, labels, attributes), expected)


def test_pretrained_parameters_are_known_by_depth(clips):
    net = network()
    assert objective().problem(net, clips, WAVEFORM, 0).depths == {}
    net.begin(network())
    problem = objective().problem(net, clips, WAVEFORM, 0)
    names = dict(problem.learner.named_parameters())
    assert problem.depths.keys() == {name for name in names if ".trunk." in name}
    assert set(problem.depths.values()) == {0, 1, 2}


def test_a_frozen_encoder_is_asked_once_per_clip(clips, tmp_path):
    net = network(adapt="frozen", pooling={"name": "asp"}, head=[{"linear": 8}])
    problem = objective().problem(net, clips, WAVEFORM, 0, tmp_path / "scratch")
    learner = problem.learner.train()
    tokens, counts, labels, attributes = batch(problem)
    assert tokens.dtype == torch.float16
    assert counts.tolist() == [32 if i % 3 == 0 else 24 for i in range(8)]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "scratch").iterdir()}
    assert len(before) == 8
    again = batch(problem, seed=1)
    assert torch.equal(again[0], tokens)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "scratch").iterdir()} == before

    loss = learner(tokens, counts, labels, attributes)
    loss.backward()
    assert all(p.grad is None for p in net.trunk.parameters())
    assert all(p.grad is not None for p in [*net.pooling.parameters(), *net.head.parameters()])
    # what is learnt from the store is what embedding computes, up to half precision
    learner.eval()
    waves, lengths = problem.examples._waves(np.arange(8))
    torch.testing.assert_close(net.from_tokens(tokens, counts), net.embed(waves, lengths=lengths), atol=5e-3, rtol=0)
    without_store = TokenCache(net, None).batch(np.arange(8), problem.examples._waves)
    assert torch.equal(without_store[0], tokens)


@pytest.mark.parametrize("shorter", ["keep", "tile", "zeros"])
def test_frozen_tokens_are_those_of_embedding_for_padded_clips_too(clips, shorter, tmp_path):
    """In training as when held out, whatever mode the network is in when a clip is first needed."""
    net = network(adapt="frozen", seconds=0.7, shorter=shorter, longer="first")
    examples = objective().problem(net, clips, WAVEFORM, 0, tmp_path).examples
    rows = np.arange(6)
    counts = {}
    for training in (True, False):
        net.train(training)
        store = TokenCache(net, None)
        counts[training] = store.batch(rows, examples._waves)[1].tolist()
    assert counts[True] == counts[False] == ([32, 24, 24, 32, 24, 24] if shorter == "keep" else [32] * 6)


def test_silence_after_a_short_clip(clips):
    """Heard in both phases, or in training masked in the attention and counted by the pooling."""
    rows = np.arange(1, 3)  # 0.5 s each
    lengths = {}
    for shorter in ("zeros", "zeros_masked"):
        net = network(seconds=0.7, shorter=shorter)
        examples = objective(mixup=1.0).problem(net, clips, WAVEFORM, 0).examples
        x, lengths[shorter], _, _ = examples.load(rows, generator())
        assert x.shape == (2, 11_200)
        assert (x[:, 8000:] == 0).all()
        plain = objective().problem(net, clips, WAVEFORM, 0).examples.plain()
        assert plain.load(rows, generator())[1].tolist() == [11_200] * 2
    assert lengths["zeros"].tolist() == [11_200] * 2
    assert lengths["zeros_masked"].tolist() == [8000] * 2
    net = network(seconds=0.7, shorter="zeros_masked").train()
    hidden, valid = net.hidden(x, lengths["zeros_masked"])
    assert valid.sum(1).tolist() == [24, 24]
    torch.testing.assert_close(net.embed(x, lengths=lengths["zeros_masked"]), hidden[2].mean(1))


def test_a_mixed_clip_is_masked_like_its_own_recording(clips):
    net = network(seconds=0.7, shorter="zeros_masked")
    examples = objective(mixup_beta=0.5).problem(net, clips, WAVEFORM, 0).examples
    lengths = examples.load(np.array([0, 1]), generator())[1]
    assert lengths.tolist() == [11_200, 8000]


@pytest.mark.parametrize(
    ("longer", "training", "embedding"), [("first", 0, 0), ("random", 1, 0), ("random_centre", 1, 100)]
)
def test_excerpts_of_longer_clips(longer, training, embedding):
    net = network(seconds=0.5, longer=longer)
    wave = np.arange(8200, dtype=np.float32)
    assert net.prepare(wave)[0] == embedding
    assert {net.prepare(wave, start)[0] > 0 for start in (0.3, 0.9)} == {bool(training)}
    few = network(seconds=0.5, longer=longer, train_seconds=0.25)
    assert len(few.prepare(wave, 0.5)) == 4000
    assert few.prepare(wave, 0.5)[0] > 0
    assert len(few.prepare(wave)) == 8000


def test_both_microphones_of_a_clip_are_on_one_side(clips):
    problem = objective(channels=["near", "far"], validation=0.3).problem(network(), clips, WAVEFORM, 0)
    training, held_out = problem.examples.chosen % 20, problem.held_out.chosen % 20
    assert not set(training) & set(held_out)
    assert len(problem.held_out) == 2 * len(set(held_out))


def test_views_of_one_microphone_do_not_keep_both(clips):
    views = objective().problem(network(), clips, WAVEFORM, 0).examples.views
    views.batch(range(4))
    assert all(view.base is None for view in views.kept.values())


@pytest.mark.parametrize(
    ("channel", "options"),
    [("far", {"far": [0.0, 0.5]}), ("near", {"channels": ["far"]})],
)
def test_training_hears_what_embedding_hears(clips, channel, options):
    view = VIEWS.create({"name": "waveform", "channel": channel})
    with pytest.raises(AsdError, match="but the encoder's view is"):
        objective(**options).problem(network(), clips, view, 0)


def test_a_clip_that_is_too_short_is_named(clips, tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, np.zeros((1000, 2), dtype=np.float32), 16_000, subtype="FLOAT")
    short = Clip("fan/train/short.wav", path, "fan", "train", "00", "source")
    with pytest.raises(AsdError, match=r"short\.wav: the clip has 1000 samples; beats needs 2800"):
        objective().problem(network(), [*clips, short], WAVEFORM, 0).examples.load(np.array([20]), generator())


def test_too_few_clips_to_hold_any_out(clips):
    with pytest.raises(AsdError, match="there is one clip of each class"):
        objective(labels=["machine"], validation=0.2).problem(network(), clips[:2], WAVEFORM, 0)


@pytest.mark.parametrize("options", [{"mixup": 0.5}, {"mixup_beta": 0.4}, {"far": [0.0, 0.5]}])
def test_a_frozen_encoder_cannot_hear_chance(clips, options):
    with pytest.raises(AsdError, match="computed once per clip"):
        objective(**options).problem(network(adapt="frozen"), clips, WAVEFORM, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "ful"}, "one of the presets full"),
        ({"labels": ["machine", "colour"]}, "labels must be some of machine"),
        ({"mixup": 1.5}, "mixup must lie between 0 and 1"),
        ({"mixup": 0.5, "mixup_beta": 0.4}, "choose one"),
        ({"mixup": 0.5, "auxiliary": ["spd"]}, "leave mixup out"),
        ({"far": [0.5, 0.1]}, "far must be"),
        ({"far": [0.0, 0.5], "channels": ["near", "far"]}, "channels must be"),
        ({"more_losses": [{"weight": 1.0}]}, "a loss needs a name"),
        ({"loss": {"name": "arcfacee"}}, 'Did you mean "arcface"'),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(AsdError, match=message):
        objective(**options)


def test_microphones_need_waveforms(clips):
    wiener = VIEWS.create({"name": "wiener"})
    with pytest.raises(AsdError, match='needs the view "waveform"'):
        objective(far=[0.0, 0.5]).problem(network(), clips, wiener, 0)
