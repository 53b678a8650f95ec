"""The encoder in the box: wide designs, what is recorded of them, what is learned, and the file that comes out."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from asd_core import weights
from asd_core.__main__ import main
from asd_core.backbones import BACKBONES, pretrained
from asd_core.data.simulate import wide
from asd_core.data.simulate.presets import MACHINES
from asd_core.pretraining import corpus, evaluation
from asd_core.pretraining.objective import Contrast, Pretrainer
from asd_core.pretraining.recipe import FOLDER, Recipe, load_recipe
from asd_core.pretraining.training import pretrain
from asd_core.types import SAMPLE_RATE, AsdError, Cancelled

TINY = {
    "name": "tiny",
    "threads": 1,
    "rate_every": 2,
    "architecture": {"layers": 2, "width": 32, "heads": 2, "ffn": 64, "patch_width": 16, "conv_kernel": 16},
    "sound": {
        "designs": 4, "settings": 1, "faults": 2, "takes": 2, "held_out": 2, "held_out_takes": 4,
        "seconds": 1.0, "excerpt": 0.585, "processes": 1,
    },
    "objective": {"loss": {"name": "contrast"}},
    "train": {"epochs": 3, "batch_size": 2, "lr": 0.001},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    return Recipe.model_validate(TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pretraining")


@pytest.fixture(scope="module")
def recorded(tiny, folder) -> corpus.Corpus:
    return corpus.build(folder, tiny.sound, "train", 0)


# ------------------------------------------------------------------ designs


@pytest.mark.parametrize("kind", wide.KINDS)
def test_a_fault_changes_the_sound_and_nothing_else_does(kind: str) -> None:
    """Same specimen, same take: with severity 0 the fault is inaudible, with severity 1 it is not."""
    rng = np.random.default_rng(3)
    model, speed = wide.KINDS[kind][1](rng)

    def sound(fault: str, severity: float) -> np.ndarray:
        run = wide.Run(speed, 0.5, 7, 0, fault, severity)
        return model.sound(run, SAMPLE_RATE, np.random.default_rng(1))

    healthy = sound("", 0.0)
    assert np.isfinite(healthy).all()
    assert healthy.std() > 1e-3
    for fault in model.faults:
        np.testing.assert_array_equal(sound(fault, 0.0), healthy)
        assert np.abs(sound(fault, 1.0) - healthy).max() > 1e-3 * np.abs(healthy).max(), fault


def test_designs_are_their_seed_and_strangers_to_the_presets() -> None:
    def draw(seed: int) -> wide.Design:
        return wide.draw_design(np.random.default_rng(seed))

    assert draw(5) == draw(5)
    drawn = [draw(seed) for seed in range(200)]
    assert {design.kind for design in drawn} == set(wide.KINDS)
    presets = [machine.model for machine in MACHINES.values()]
    assert not any(design.model in presets for design in drawn)
    for design in drawn:
        healthy = [state for state in design.states if not state.fault]
        assert len(healthy) == 2
        assert len({(state.speed, state.fault) for state in design.states}) == len(design.states)


def test_a_recording_has_two_microphones_at_an_ordinary_level() -> None:
    rng = np.random.default_rng(2)
    design = wide.draw_design(rng)
    found = wide.record(design, 3, SAMPLE_RATE, rng)
    assert found.clips.shape == (len(design.states), 3, 2, SAMPLE_RATE)
    level = 20 * np.log10(np.sqrt((found.clips[0] / 32767.0) ** 2).mean() + 1e-9)
    assert -45 < level < -15
    noise = 20 * np.log10(np.sqrt(((found.noise / 32767.0) ** 2).mean(-1)))
    np.testing.assert_allclose(noise, -28, atol=1.5)


# ------------------------------------------------------------------ corpus


def test_a_corpus_goes_on_where_it_was_stopped(tiny, tmp_path: Path, recorded) -> None:
    def stop(fraction: float, message: str, **values: float) -> None:
        if fraction >= 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        corpus.build(tmp_path, tiny.sound, "train", 0, stop)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert 0 < len(before) < 4
    whole = corpus.build(tmp_path, tiny.sound, "train", 0)
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert [np.array_equal(*pair) for pair in zip(whole.clips, recorded.clips, strict=True)] == [True] * 4


def test_parts_and_seeds_share_no_design(tiny, folder, recorded) -> None:
    held_out = corpus.build(folder, tiny.sound, "held_out", 0)
    other = corpus.build(folder, tiny.sound, "train", 1)
    facts = [json.dumps(one) for found in (recorded, held_out, other) for one in found.states]
    assert len(set(facts)) == len(facts)


def test_a_batch_is_a_function_of_its_generator(tiny, recorded) -> None:
    mixtures = corpus.Mixtures(recorded, tiny.sound)
    load = lambda seed: mixtures.load(np.array([2, 0]), torch.Generator().manual_seed(seed))  # noqa: E731
    waves, classes = load(1)
    assert waves.shape == (2, 6, 2, round(0.585 * SAMPLE_RATE))
    torch.testing.assert_close(load(1)[0], waves, rtol=0, atol=0)
    assert not torch.equal(load(2)[0], waves)
    for row in classes.tolist():  # each of a design's three states twice
        assert sorted(row.count(state) for state in set(row)) == [2, 2, 2]
    assert set(classes[0].tolist()).isdisjoint(classes[1].tolist())


def test_healthy_states_of_a_design_may_be_one_class(tiny) -> None:
    states = [{"fault": fault} for fault in ("", "worn", "", "worn")]
    clips = [np.zeros((4, 2, 2, SAMPLE_RATE), np.int16)] * 2
    made = corpus.Corpus(clips, [np.zeros((1, 2, SAMPLE_RATE), np.int16)] * 2, [states] * 2, ["fan"] * 2)

    def classes(healthy: str) -> list[list[int]]:
        mixtures = corpus.Mixtures(made, tiny.sound.model_copy(update={"healthy": healthy}))
        return [sorted(set(row)) for row in mixtures.load(np.array([0, 1]), torch.Generator())[1].tolist()]

    assert classes("each") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert classes("one") == [[0, 1, 3], [4, 5, 7]], "the same fault in another setting is another state"


# ------------------------------------------------------------------ objective


def test_contrast_is_the_equation() -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    z = torch.nn.functional.normalize(x)
    losses = []
    for i in range(5):
        others = [j for j in range(6) if j != i]
        total = sum(torch.exp(z[i] @ z[j] / 0.2) for j in others)
        own = [j for j in others if labels[j] == labels[i]]
        losses.append(-sum(torch.log(torch.exp(z[i] @ z[j] / 0.2) / total) for j in own) / len(own))
    torch.testing.assert_close(Contrast("contrast", 0.2)(x, labels), torch.stack(losses).mean())


def test_hidden_patches_are_hidden(tiny) -> None:
    """What a hidden patch holds must not reach the network: its error alone tells."""
    recipe = tiny.model_copy(update={"objective": tiny.objective.model_copy(update={"masked": 0.99})})
    from asd_core.backbones.beats import Beats

    learner = Pretrainer(Beats(**recipe.architecture), recipe.objective, 3).eval()
    labels = torch.tensor([[0, 0]])
    found = []
    for seed in (1, 2):
        wave = 0.1 * torch.randn(1, 1, 1, 9360, generator=torch.Generator().manual_seed(seed)).expand(1, 2, 2, 9360)
        captured: list[torch.Tensor] = []
        hook = learner.trunk.encoder.register_forward_hook(lambda _, inputs, out, c=captured: c.append(inputs[0]))
        torch.manual_seed(4)  # hides nearly all, and the same
        learner(wave, labels)
        hook.remove()
        found.append(captured[0])
    assert torch.equal(*found) or (found[0] - found[1]).abs().amax((0, 2)).gt(1e-6).sum() < 24


def test_what_tells_faults_is_rated_high_and_noise_at_half(tiny) -> None:
    """Designs that hum at 500 Hz, and when they are ill at 900 Hz."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    hums = [(9000 * np.sin(2 * np.pi * pitch * time)).astype(np.int16) for pitch in (500, 900)]
    clips = np.stack([np.broadcast_to(hum, (6, 2, SAMPLE_RATE)) for hum in hums])
    noise = np.random.default_rng(0).normal(0, 1300, (1, 2, SAMPLE_RATE)).astype(np.int16)
    states = [{"fault": ""}, {"fault": "higher"}]
    made = corpus.Corpus([clips] * 20, [noise] * 20, [states] * 20, ["fan", "motor"] * 10)
    generator = torch.Generator().manual_seed(0)
    chance = evaluation.rate(lambda waves: torch.randn(len(waves), 8, generator=generator), made, tiny.sound)
    heard = evaluation.rate(lambda waves: torch.fft.rfft(waves).abs(), made, tiny.sound)
    assert set(heard) == {"all", "fan", "motor"}
    assert heard["all"] > 0.97
    assert 0.3 < chance["all"] < 0.7


# ------------------------------------------------------------------ the whole


def test_two_runs_give_the_same_bytes_and_so_does_a_resumed_one(tiny, tmp_path: Path, folder) -> None:
    one = pretrain(tiny, folder, tmp_path / "one.safetensors", "cpu")

    def stop(fraction: float, message: str, **values: float) -> None:
        if values.get("step", 0) >= 3:
            raise Cancelled

    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(Cancelled):
        pretrain(tiny, elsewhere, tmp_path / "two.safetensors", "cpu", stop)
    assert not (tmp_path / "two.safetensors").exists()
    two = pretrain(tiny, elsewhere, tmp_path / "two.safetensors", "cpu")
    assert one.file.read_bytes() == two.file.read_bytes()
    assert one.sha256 == hashlib.sha256(one.file.read_bytes()).hexdigest()
    other = pretrain(tiny.model_copy(update={"seed": 1}), folder, tmp_path / "other.safetensors", "cpu")
    assert other.sha256 != one.sha256
    about = json.loads((tmp_path / "one.json").read_text())
    assert about["recipe"]["name"] == "tiny"
    assert [rated["step"] for rated in about["rates"]][-1] == 6


def test_the_file_is_a_beats_that_systems_start_from(tiny, tmp_path: Path, folder, monkeypatch) -> None:
    made = pretrain(tiny, folder, tmp_path / "own_mini.safetensors", "cpu")
    found = pretrained.read(made.file)
    assert (found.family, found.config["encoder_layers"]) == ("beats", 2)
    monkeypatch.setattr(weights, "EMBEDDED", tmp_path)
    assert weights.locate("own_mini") == made.file
    spec = {"name": "beats", "checkpoint": "own_mini", "pooling": {"name": "mean"}}
    backbone = BACKBONES.create(BACKBONES["beats"].resolve(spec, 2.0))
    backbone.begin(None)
    for name, value in backbone.trunk.state_dict().items():
        torch.testing.assert_close(value, found.tensors[name])
    with pytest.raises(AsdError, match="own_mini"):
        weights.locate("folder/else.pt")


def test_the_command(tiny, tmp_path: Path, capsys, monkeypatch) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(TINY | {"rate_every": 100}))
    out = tmp_path / "mine.safetensors"
    monkeypatch.setattr("sys.argv", ["asd", "pretrain", str(recipe), "--output", str(out), "--device", "cpu", "--workspace", str(tmp_path / "ws"), "--json"])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert 0 <= told["rates"][-1]["all"] <= 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sound": TINY["sound"] | {"design": 4}}, 'unknown key "design".*designs'),
        ({"objective": {"loss": {"name": "contrast"}, "masked": 1.5}}, "less than 1"),
        ({"train": TINY["train"] | {"lr": -1}}, "greater than 0"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path: Path, change: dict, told: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(TINY | change))
    with pytest.raises(AsdError, match=told):
        load_recipe(str(file))


def test_shipped_recipes_are_valid_and_unknown_ones_listed() -> None:
    names = [path.stem for path in FOLDER.glob("*.yaml")]
    assert names
    assert [load_recipe(name).name for name in names] == names
    with pytest.raises(AsdError, match=f'no recipe "nothing".*{names[0]}'):
        load_recipe("nothing")
