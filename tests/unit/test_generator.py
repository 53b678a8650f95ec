"""The generator: it trains, stops and goes on to the same bytes, and a clip's number alone decides its noise."""

import numpy as np
import pytest
import soundfile
import torch

from asd_core.artifacts import read_arrays
from asd_core.config import load_system
from asd_core.data import audio
from asd_core.data.manifest import scan
from asd_core.files import read_json
from asd_core.synthesis import generator as module
from asd_core.synthesis.conditions import Condition
from asd_core.synthesis.generator import Drawn, Excerpts, load_generator, shaped_noise, train_generator
from asd_core.synthesis.representation import Spectra, filtered, log_power, smoothed
from asd_core.training.samplers import class_balance
from asd_core.types import TRAIN, AsdError, Cancelled, Clip
from tests.conftest import SYSTEMS

torch.set_num_threads(1)
TINY = load_system(str(SYSTEMS / "tiny-generated.yaml")).synthesis.generator
LEFT = {"model.safetensors", "spectra.npz", "losses.npz", "generator.json"}
RARE, UNRECORDED = Condition.parse("fanSim|00|target|spd_2"), Condition.parse("gearboxSim|00|target|pro_a")


def changed(**parts):
    """The tiny generator with other options: a mapping changes what it names, all else stays."""
    values = TINY.model_dump()
    for name, value in parts.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    return type(TINY).model_validate(values)


@pytest.fixture(scope="module")
def clips(tiny_data):
    data = scan(tiny_data)
    return [*data.of("fanSim", TRAIN), *data.of("gearboxSim", TRAIN)]


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    train_generator(clips, TINY, folder, "cpu")
    return folder


@pytest.fixture(scope="module")
def generator(folder):
    return load_generator(folder, TINY, "cpu")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


# ---------------------------------------------------------------- training


def test_what_a_training_leaves(folder, clips):
    assert set(contents(folder)) == LEFT
    conditions = {Condition.of(clip) for clip in clips}
    about = read_json(folder / "generator.json")
    assert about["channels"] == 2
    assert set(about["vocabulary"]) == {word for condition in conditions for word in condition.words}
    spectra = Spectra.read(read_arrays(folder / "spectra.npz"))
    assert set(spectra.means) == {condition.text for condition in conditions}
    assert set(spectra.spreads) == {"fanSim", "gearboxSim"}
    losses = read_arrays(folder / "losses.npz")["losses"]
    assert len(losses) == 6
    assert losses[0] == pytest.approx(1, abs=0.2)  # v̂ = 0 of white excerpts


def test_equal_seeds_give_equal_bytes_and_others_do_not(folder, clips, tmp_path):
    facts = train_generator(clips, TINY, tmp_path / "again", "cpu")
    assert contents(tmp_path / "again") == contents(folder)
    assert (facts["steps"], facts["conditions"], facts["device"]) == (6, 15, "cpu")
    train_generator(clips, changed(seed=1), tmp_path / "other", "cpu")
    same = {name for name, content in contents(tmp_path / "other").items() if content == contents(folder)[name]}
    assert same == {"spectra.npz", "generator.json"}


def stopped(at):
    """A progress that stops the training after some step, as pressing Ctrl-C does."""

    def progress(fraction, message, **values):
        if values.get("step", 0) >= at:
            raise Cancelled

    return progress


def test_a_training_that_is_stopped_goes_on_to_the_same_bytes(folder, clips, tmp_path):
    """After its first step, after the next one, and when nothing was left to do but to keep the weights."""
    for at in (1, 2, 6):
        with pytest.raises(Cancelled):
            train_generator(clips, TINY, tmp_path, "cpu", checkpoint_seconds=0, progress=stopped(at))
        assert not contents(tmp_path)
    train_generator(clips, TINY, tmp_path, "cpu", checkpoint_seconds=0)
    assert contents(tmp_path) == contents(folder)


def test_a_training_that_is_killed_goes_on_to_the_same_bytes(folder, clips, tmp_path, monkeypatch):
    """From each checkpoint that it left; nothing else is known."""
    saved, save = [], module.loop.checkpoint.save

    def keep(path, *state):
        save(path, *state)
        saved.append(path.read_bytes())

    monkeypatch.setattr(module.loop.checkpoint, "save", keep)
    train_generator(clips, TINY, tmp_path / "whole", "cpu", checkpoint_seconds=0)
    assert contents(tmp_path / "whole") == contents(folder)
    assert len(saved) >= 5
    monkeypatch.undo()
    for number in (0, 3):
        own = tmp_path / str(number)
        own.mkdir()
        (own / ".checkpoint.safetensors").write_bytes(saved[number])
        train_generator(clips, TINY, own, "cpu")
        assert contents(own) == contents(folder)


def test_half_precision_is_as_repeatable(clips, tmp_path):
    """As the quick profile trains and draws where the processor has it."""
    options = changed(train={"precision": "bf16", "max_steps": 3})
    drawn = []
    for name in "ab":
        train_generator(clips, options, tmp_path / name, "cpu")
        drawn.append(load_generator(tmp_path / name, options, "cpu").draw(RARE, 8000, [0]).white)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert torch.equal(*drawn)
    assert drawn[0].dtype == torch.float32
    assert drawn[0].isfinite().all()


def test_conditions_are_drawn_by_their_balance(clips, tmp_path, monkeypatch):
    """Rare conditions come more often than their clips, in training on pairs and on single microphones."""

    def fit(learner, examples, options, **more):
        assert len(more["weights"]) == len(examples)
        texts = [Condition.of(clips[clip]).text for clip, _ in examples.rows]
        np.testing.assert_array_equal(more["weights"], class_balance(texts, 0.8))
        raise Cancelled

    monkeypatch.setattr(module.loop, "fit", fit)
    for microphones in ("joint", "each"):
        with pytest.raises(Cancelled):
            train_generator(
                clips, changed(balance=0.8, network={"microphones": microphones}), tmp_path, "cpu"
            )  # fmt: skip


def test_excerpts_too_short_for_the_network_are_refused(clips, tmp_path):
    with pytest.raises(AsdError, match=r"shortest excerpt is 0\.20 s, but this generator's network needs 0\.22 s"):
        train_generator(clips, changed(crop_seconds=0.2), tmp_path, "cpu")
    soundfile.write(tmp_path / "short.wav", np.zeros((1600, 2)), 16_000)
    short = Clip("fanSim/train/s", tmp_path / "short.wav", "fanSim", TRAIN, "00", "source", (("spd", "1"),))
    with pytest.raises(AsdError, match=r"shortest excerpt is 0\.10 s.*Leave short clips out"):
        train_generator([*clips, short], TINY, tmp_path, "cpu")


# ---------------------------------------------------------------- examples


@pytest.fixture(scope="module")
def excerpts(clips, generator):
    conditions = [Condition.of(clip) for clip in clips]
    return Excerpts(clips, conditions, generator.spectra, generator.denoiser, generator.vocabulary, 16_000)


def test_excerpts_are_whitened_parts_of_their_clips(excerpts, clips, generator):
    indices = np.array([3, 20, 3])
    x, facts, spectrum = excerpts.load(indices, torch.Generator().manual_seed(0))
    assert x.shape == (3, 2, 16_000)
    for row, index in enumerate(indices):
        condition = Condition.of(clips[index])
        told = {generator.vocabulary[i] for i in facts[row].nonzero().flatten()}
        assert told == set(condition.words)
        wave = torch.from_numpy(audio.read(clips[index].path))
        own = generator.spectra.near(condition, log_power(wave))
        assert torch.equal(spectrum[row], own[:, 2::2])  # every band of the transform but 0 Hz
        white = filtered(wave, -own / 2)
        product = torch.fft.irfft(torch.fft.rfft(white) * torch.fft.rfft(x[row], white.shape[1]).conj()).sum(0)
        place = int(product.abs().argmax())  # where the two agree, the right way up or upside down
        part = white[:, place : place + 16_000] * product[place].sign()
        torch.testing.assert_close(x[row], part, atol=1e-4, rtol=0)
    assert not torch.equal(x[0], x[2])  # another place, or upside down


def test_excerpts_depend_on_the_generator_they_are_given_and_not_on_the_cache(excerpts, clips, monkeypatch):
    indices = np.array([0, 7, 25, 7])
    first = excerpts.load(indices, torch.Generator().manual_seed(5))
    monkeypatch.setattr(module, "CACHE", 0)
    bare = Excerpts(
        clips, excerpts.conditions, excerpts.spectra, excerpts.denoiser, excerpts.vocabulary, excerpts.samples
    )
    again = bare.load(indices, torch.Generator().manual_seed(5))
    assert not bare.kept
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(excerpts.load(indices, torch.Generator().manual_seed(6))[0], first[0])


# ---------------------------------------------------------------- drawing


def white(generator, condition, samples, numbers, tell=lambda fraction: None):
    return generator.draw(condition, samples, numbers, tell).white


def test_equal_numbers_give_equal_bytes(generator, folder):
    drawn = generator.draw(RARE, 20_000, range(3))
    assert drawn.white.shape == (3, 2, 20_000)
    assert drawn.spectra.shape == (3, 2, 1025)
    assert drawn.white.isfinite().all()
    again = load_generator(folder, TINY, "cpu").draw(RARE, 20_000, range(3))
    assert torch.equal(drawn.white, again.white)
    assert torch.equal(drawn.spectra, again.spectra)
    for part in (drawn.white, drawn.spectra):
        assert not torch.allclose(part[0], part[1], atol=0.1)


def test_a_clip_does_not_depend_on_those_it_is_drawn_with(generator):
    """Neither its noise nor its spectrum; rounding may."""
    whole, part = generator.draw(RARE, 16_000, range(8)), generator.draw(RARE, 16_000, range(3, 6))
    assert torch.equal(part.spectra, whole.spectra[3:6])
    torch.testing.assert_close(part.white, whole.white[3:6], atol=1e-4, rtol=1e-4)


def test_spectra_of_pairs_lie_on_opposite_sides_of_the_mean(generator):
    """So even few clips have it in their middle; pairs differ from each other, and noise is not mirrored."""
    drawn = generator.draw(RARE, 8000, range(4))
    apart = drawn.spectra - generator.spectra.of(RARE)
    torch.testing.assert_close(apart[0::2], -apart[1::2], atol=1e-5, rtol=0)
    assert apart.abs().mean() > 0.05
    assert not torch.allclose(apart[0], apart[2], atol=0.1)
    assert abs(np.corrcoef(drawn.white[0].flatten(), drawn.white[1].flatten())[0, 1]) < 0.1


def test_other_seeds_and_conditions_have_other_noise(generator, folder):
    drawn = white(generator, RARE, 8000, [0])
    other = white(load_generator(folder, changed(seed=1), "cpu"), RARE, 8000, [0])
    unlike = white(generator, Condition.parse("fanSim|00|target|spd_1"), 8000, [0])
    for one in (other, unlike):
        assert abs(np.corrcoef(one.flatten(), drawn.flatten())[0, 1]) < 0.1


@pytest.mark.parametrize("microphones", ["joint", "each"])
def test_noise_on_the_way_is_a_clip_s_own_too(clips, tmp_path, microphones):
    options = changed(network={"microphones": microphones}, sampling={"eta": 1.0}, train={"max_steps": 2})
    train_generator(clips, options, tmp_path, "cpu")
    generator = load_generator(tmp_path, options, "cpu")
    whole, part = white(generator, RARE, 8000, range(4)), white(generator, RARE, 8000, [2])
    torch.testing.assert_close(part, whole[2:3], atol=1e-4, rtol=1e-4)
    assert torch.equal(white(generator, RARE, 8000, range(4)), whole)


def test_guidance_is_heard(folder):
    drawn = {
        scale: white(load_generator(folder, changed(sampling={"guidance": scale}), "cpu"), RARE, 8000, [0])
        for scale in (0.0, 1.0, 3.0)
    }
    assert not torch.equal(drawn[0.0], drawn[1.0])
    assert not torch.equal(drawn[3.0], drawn[1.0])


@pytest.mark.parametrize("samples", [1000, 16_001, 60_000])
def test_any_length_can_be_drawn(generator, samples):
    """Shorter and longer than the excerpts it was trained on."""
    assert white(generator, RARE, samples, [0]).shape == (1, 2, samples)


def test_unseen_combinations_can_be_drawn_and_unknown_facts_can_not(generator):
    drawn = generator.draw(UNRECORDED, 16_000, [0])
    wave = generator.coloured(drawn, generator.equaliser(drawn.white))
    assert np.isfinite(wave).all()
    for text, fact in {
        "fanSim|00|target|spd_9": r"fanSim\|spd=9",
        "fanSim|00|target|pro_a": r"fanSim\|pro=a",
        "fanSim|01|target|spd_1": r"fanSim\|section=01",
        "valveSim|00|target|spd_1": "valveSim",
    }.items():
        with pytest.raises(AsdError, match=f"was not trained on {fact}"):
            generator.draw(Condition.parse(text), 16_000, [0])


def test_progress_of_drawing_rises_to_one(folder, clips, tmp_path):
    for microphones in ("joint", "each"):
        options = changed(network={"microphones": microphones}, train={"max_steps": 1})
        train_generator(clips, options, tmp_path / microphones, "cpu")
        told = []
        load_generator(tmp_path / microphones, options, "cpu").draw(RARE, 4000, [0], told.append)
        assert told == sorted(told)
        assert len(told) == (4 if microphones == "joint" else 8)
        assert told[-1] == 1


# ---------------------------------------------------------------- level and colour


def recorded_power(clips, condition):
    waves = [audio.read(clip.path) for clip in clips if Condition.of(clip) == condition]
    return torch.stack([log_power(torch.from_numpy(wave)) for wave in waves]).mean(0)


def test_generated_clips_have_the_level_and_the_colour_they_are_to_have(generator, clips):
    drawn = generator.draw(RARE, 32_000, range(6))
    waves = generator.coloured(drawn, generator.equaliser(drawn.white))
    assert waves.dtype == np.float32
    difference = (log_power(torch.from_numpy(waves)) - drawn.spectra).mean(0)
    assert smoothed(difference, 65)[:, 32:-32].abs().max() < 0.2  # nepers of power: 0.9 dB
    heard = [audio.read(clip.path) for clip in clips if clip.machine == "fanSim"]
    levels = [20 * np.log10(np.sqrt(np.square(wave).mean(axis=1))) for wave in heard]
    found = 20 * np.log10(np.sqrt(np.square(waves).mean(axis=2)))
    assert (found > np.min(levels, axis=0) - 6).all()
    assert (found < np.max(levels, axis=0) + 6).all()


def test_an_equaliser_gives_back_what_was_lost(generator):
    noise = torch.randn(20, 2, 32_000, generator=torch.Generator().manual_seed(0))
    assert np.abs(generator.equaliser(noise)).mean() < 0.03
    loss = torch.linspace(-2, 0, 1025).expand(20, 2, -1)  # 17 dB at low frequencies
    lossy = filtered(noise, loss)
    found = generator.equaliser(lossy)
    assert found.shape == (2, 1025)
    np.testing.assert_allclose(found[:, 20:-20], -loss[0, :, 20:-20], atol=0.15)
    spectra = generator.spectra.of(RARE).expand(20, -1, -1)
    level = [generator.coloured(Drawn(x, spectra), generator.equaliser(x)).std() for x in (noise, lossy)]
    assert level[0] == pytest.approx(level[1], rel=0.05)


def test_shaped_noise_is_noise_with_the_mean_spectrum(generator, clips):
    noise = shaped_noise(generator, RARE, 32_000, 20, 0)
    assert noise.shape == (20, 2, 32_000)
    waves = [audio.read(clip.path) for clip in clips if Condition.of(clip) == RARE]
    mean = torch.stack([log_power(torch.from_numpy(wave)) for wave in waves]).mean(0)
    difference = log_power(torch.from_numpy(noise)).mean(0) - mean
    assert smoothed(difference, 65)[:, 32:-32].abs().max() < 0.2
    assert np.array_equal(noise, shaped_noise(generator, RARE, 32_000, 20, 0))
    assert not np.array_equal(noise, shaped_noise(generator, RARE, 32_000, 20, 1))


# ---------------------------------------------------------------- microphones


def as_mono(clips, folder):
    found = []
    for number, clip in enumerate(clips):
        path = folder / f"{number}.wav"
        audio.write(path, audio.read(clip.path)[:1])
        found.append(Clip(clip.clip_id, path, clip.machine, TRAIN, clip.section, clip.domain, clip.attributes))
    return found


@pytest.mark.parametrize("microphones", ["joint", "each"])
@pytest.mark.parametrize("mono", [False, True])
def test_microphones_together_one_by_one_and_only_one(clips, tmp_path, microphones, mono):
    options = changed(network={"microphones": microphones}, train={"max_steps": 2})
    train_generator(as_mono(clips, tmp_path) if mono else clips, options, tmp_path / "g", "cpu")
    generator = load_generator(tmp_path / "g", options, "cpu")
    assert generator.channels == (1 if mono else 2)
    assert generator.denoiser.channels == (2 if microphones == "joint" and not mono else 1)
    known = {"near", "far"} & set(generator.vocabulary)
    assert known == (set() if microphones == "joint" else {"near"} if mono else {"near", "far"})
    drawn = generator.draw(RARE, 8000, range(2))
    assert drawn.white.shape == (2, generator.channels, 8000)
    assert generator.coloured(drawn, generator.equaliser(drawn.white)).shape == drawn.white.shape
    if not mono:
        assert abs(np.corrcoef(drawn.white[0])[0, 1]) < 0.5  # each microphone has noise of its own


def test_examples_of_single_microphones_are_told_which(clips, folder, tmp_path):
    options = changed(network={"microphones": "each"}, train={"max_steps": 1})
    train_generator(clips, options, tmp_path, "cpu")
    generator = load_generator(tmp_path, options, "cpu")
    conditions = [Condition.of(clip) for clip in clips]
    examples = Excerpts(clips, conditions, generator.spectra, generator.denoiser, generator.vocabulary, 8000)
    assert len(examples) == 2 * len(clips)
    x, facts, spectrum = examples.load(np.array([4, 4 + len(clips)]), torch.Generator().manual_seed(0))
    assert x.shape == (2, 1, 8000)
    words = [{generator.vocabulary[i] for i in row.nonzero().flatten()} for row in facts]
    assert words[0] == {"near", *conditions[4].words}
    assert words[1] == {"far", *conditions[4].words}
    own = generator.spectra.near(conditions[4], log_power(torch.from_numpy(audio.read(clips[4].path))))
    for row in (0, 1):
        assert torch.equal(spectrum[row, 0], own[row, 2::2])


def test_where_one_machine_is_mono_all_are_heard_near(clips, tmp_path):
    mixed = [*as_mono(clips[:3], tmp_path), *clips[3:]]
    train_generator(mixed, changed(train={"max_steps": 1}), tmp_path / "g", "cpu")
    generator = load_generator(tmp_path / "g", TINY, "cpu")
    assert generator.channels == 1
    assert white(generator, RARE, 4000, [0]).shape == (1, 1, 4000)
