"""The loop, its checkpoints, and the objectives."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from asd_core.config import Train
from asd_core.training import OBJECTIVES, checkpoint, loop
from asd_core.training.distributed import Processes
from asd_core.training.loop import fit
from asd_core.types import AsdError, Cancelled


class Lines:
    """y = 2x + noise that is drawn from the generator."""

    def __init__(self, count=21):
        self.count = count

    def __len__(self):
        return self.count

    def load(self, indices, generator):
        x = torch.from_numpy(indices[:, None] / self.count).float()
        return x + 0.1 * torch.rand(len(x), 1, generator=generator), 2 * x


class Learner(nn.Module):
    """Batch norm, dropout from the global state, frozen weights, and weights in another memory order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        self.frozen = nn.Linear(1, 50).requires_grad_(False)

    def forward(self, x, y):
        maps = self.conv(x.reshape(-1, 1, 1, 1) * torch.linspace(0, 1, 50).reshape(1, 2, 5, 5))
        start = self.frozen(x).mean(1, keepdim=True)
        return ((start + self.net(x) + maps.mean((1, 2, 3))[:, None] - y) ** 2).mean()


class Plain(nn.Module):
    """Nothing random, and no example feels another."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x, y):
        return ((self.net(x) - y) ** 2).mean()


OPTIONS = [
    {"optimizer": "adam"},
    {"optimizer": "adamw", "weight_decay": 0.1, "clip_norm": 0.5},
    {"ema": 0.9},
    {"precision": "bf16"},
    {"accumulate": 2, "schedule": {"name": "step", "epochs": 1, "factor": 0.5}, "warmup_steps": 3},
    {"schedule": "cosine", "warmup_epochs": 0.5, "max_steps": 14, "lr_encoder": 0.003, "layer_decay": 0.5},
    {"patience": 1, "ema": 0.5},
    {"patience": 2, "lr": 1.0},  # too fast: it stops before the last epoch
]


def train(path, options, stops=(), **more):
    """Train, cancelled after each of the given numbers of steps and resumed."""
    for stop in (*stops, None):
        learner = Learner()

        def progress(fraction, message, stop=stop, **values):
            if values.get("step") == stop:
                raise Cancelled

        try:
            history = fit(
                learner, Lines(), Train(**{"epochs": 4, "batch_size": 5, "lr": 0.01} | options),
                seed=3, checkpoint_file=path, device="cpu", progress=progress, report_seconds=0,
                held_out=Lines(7) if "patience" in options else None, depths={"net.0.weight": 2, "net.3.bias": 0}, **more,
            )  # fmt: skip
        except Cancelled:
            assert stop is not None
    return learner.state_dict(), history


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("weights", [None, np.arange(21)])
def test_resumed_training_equals_undisturbed(tmp_path, options, weights):
    """Stopped in the middle of an epoch, at its end, after its first step; with and without a sampler."""
    whole, history = train(tmp_path / "a", options, weights=weights)
    parts, resumed = train(tmp_path / "b", options, stops=(1, 4, 5, 8, 13), weights=weights)
    np.testing.assert_array_equal(history.losses, resumed.losses)
    np.testing.assert_array_equal(history.held_out, resumed.held_out)
    assert (history.best_epoch, history.stopped_early) == (resumed.best_epoch, resumed.stopped_early)
    if "patience" not in options:
        assert len(history.losses) == options.get("max_steps", 16)  # 21 in fives: the last batch of one is left out
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


@pytest.mark.parametrize("seconds", [0, 1e9])
def test_a_checkpoint_is_taken_up_wherever_it_was_written(tmp_path, seconds):
    """As after a kill: only what the last checkpoint holds is known."""
    options = {"patience": 3, "ema": 0.9, "warmup_steps": 3}
    whole, history = train(tmp_path / "a", options)
    kept = {}

    def keep(fraction, message, **values):
        if (tmp_path / "b").is_file():
            kept[values["step"]] = (tmp_path / "b").read_bytes()

    fit(
        Learner(), Lines(), Train(epochs=4, batch_size=5, lr=0.01, **options), seed=3, checkpoint_file=tmp_path / "b",
        device="cpu", held_out=Lines(7), progress=keep, report_seconds=0, checkpoint_seconds=seconds,
    )  # fmt: skip
    assert len(set(kept.values())) == (16 if seconds == 0 else 0)
    for step in list(kept)[::5]:
        (tmp_path / "c").write_bytes(kept[step])
        parts, resumed = train(tmp_path / "c", options)
        np.testing.assert_array_equal(history.losses, resumed.losses)
        assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_training_learns_and_depends_on_the_seed(tmp_path):
    options = Train(epochs=60, batch_size=5, lr=0.02)
    losses = fit(Learner(), Lines(), options, seed=0, checkpoint_file=tmp_path / "a", device="cpu").losses
    assert losses[-20:].mean() < 0.5 * losses[:20].mean()
    other = fit(Learner(), Lines(), options, seed=1, checkpoint_file=tmp_path / "b", device="cpu").losses
    assert not np.array_equal(losses, other)


def test_average_of_weights(tmp_path):
    """With decay so small that only the last step counts, the averaged weights are the last ones."""
    plain, _ = train(tmp_path / "a", {})
    averaged, _ = train(tmp_path / "b", {"ema": 1e-9})
    slow, _ = train(tmp_path / "c", {"ema": 0.99})
    np.testing.assert_allclose(averaged["net.0.weight"], plain["net.0.weight"], rtol=1e-5)
    assert not torch.allclose(slow["net.0.weight"], plain["net.0.weight"])


def test_accumulated_parts_make_the_step_of_the_whole_batch(tmp_path):
    """21 examples in eights, cut into three: parts of 3, 3 and 2, and of 3 and 2 in the last batch."""
    results = []
    for accumulate in (1, 3, 8):
        learner = Plain()
        options = Train(epochs=4, batch_size=8, lr=0.01, clip_norm=0.1, accumulate=accumulate)
        history = fit(learner, Lines(), options, seed=0, checkpoint_file=tmp_path / "c", device="cpu")
        results.append((history.losses, learner.net[0].weight.detach().numpy()))
    for losses, weights in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=1e-5)
        np.testing.assert_allclose(weights, results[0][1], rtol=1e-4)


def test_no_part_of_a_batch_is_one_example_alone(tmp_path):
    """Which a batch norm would refuse: 23 in fives leave three, cut in pairs."""
    options = Train(epochs=1, batch_size=5, lr=0.01, accumulate=3)
    history = fit(Learner(), Lines(23), options, seed=0, checkpoint_file=tmp_path / "c", device="cpu")
    assert len(history.losses) == 5


class Rising(nn.Module):
    """Training lowers w by lr in each step; the held-out loss is the distance of w from −0.22."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x, y):
        return self.w * 1.0 if self.training else (self.w + 0.22).abs()


def test_early_stopping_keeps_the_best_epoch(tmp_path):
    learner = Rising()
    options = Train(epochs=9, batch_size=8, lr=0.05, optimizer="adam", patience=2)
    history = fit(learner, Lines(16), options, held_out=Lines(3), seed=0, checkpoint_file=tmp_path / "c", device="cpu")
    np.testing.assert_allclose(history.held_out, [0.12, 0.02, 0.08, 0.18], atol=1e-6)  # w = −0.1, −0.2, −0.3, −0.4
    assert len(history.losses) == 8
    assert history.stopped_early
    assert history.best_epoch == 2
    assert learner.w.item() == pytest.approx(-0.2, abs=1e-6)
    assert learner.training


def test_held_out_loss_without_patience_changes_nothing(tmp_path):
    options = Train(epochs=3, batch_size=8, lr=0.05, ema=0.5)
    results = []
    for held_out in (None, Lines(9)):
        learner = Learner()
        path = tmp_path / str(held_out is None)
        history = fit(learner, Lines(), options, held_out=held_out, seed=0, checkpoint_file=path, device="cpu")
        results.append((history.losses, learner.state_dict()))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())
    assert len(history.held_out) == 3
    assert (history.best_epoch, history.stopped_early) == (None, False)


def test_held_out_loss_is_that_of_the_weights_that_are_kept(tmp_path):
    """Averaged weights, evaluation mode, every example counted once."""
    learner = Learner()
    options = Train(epochs=2, batch_size=8, lr=0.05, ema=0.9)
    examples = Lines(11)
    examples.load = lambda indices, generator: (torch.from_numpy(indices[:, None]) / 11, torch.ones(len(indices), 1))
    history = fit(learner, Lines(), options, held_out=examples, seed=0, checkpoint_file=tmp_path / "c", device="cpu")
    with torch.no_grad():
        expected = learner.eval()(*examples.load(np.arange(11), None))
    assert history.held_out[-1] == pytest.approx(expected.item(), rel=1e-5)


def test_early_stopping_needs_held_out_examples(tmp_path):
    options = Train(epochs=1, batch_size=8, lr=0.05, patience=2)
    with pytest.raises(AsdError, match="Give the objective a share for validation, or remove patience"):
        fit(Learner(), Lines(), options, seed=0, checkpoint_file=tmp_path / "c", device="cpu")


@pytest.mark.parametrize("report_seconds", [0.0, 1e9])
def test_loss_that_is_not_finite_stops_with_advice(tmp_path, report_seconds):
    """Whenever it is looked at, and before anything is saved; here from the third step on."""

    class Broken(Learner):
        calls = 0

        def forward(self, x, y):
            self.calls += 1
            return super().forward(x, y) * (float("nan") if self.calls > 2 else 1.0)

    options = Train(epochs=2, batch_size=5, lr=0.1)
    with pytest.raises(AsdError, match=r"became nan at step 3 \(epoch 1\).*Lower the learning rate"):
        fit(
            Broken(), Lines(), options, seed=0, checkpoint_file=tmp_path / "c", device="cpu", report_seconds=report_seconds
        )  # fmt: skip
    assert not (tmp_path / "c").exists()


def test_progress_tells_step_loss_and_rate(tmp_path):
    seen = []
    options = Train(epochs=2, batch_size=5, lr=0.1, warmup_steps=4)
    fit(
        Learner(), Lines(), options, seed=0, checkpoint_file=tmp_path / "c", device="cpu", held_out=Lines(5),
        progress=lambda fraction, message, **values: seen.append((fraction, message, values)), report_seconds=0,
    )  # fmt: skip
    last = {values["step"]: values for _, _, values in seen}
    assert list(last) == [1, 2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose([v["lr"] for v in last.values()], [0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1])
    assert "held_out" not in last[3]
    assert "held_out" in last[4]
    assert seen[-1][0] == 1
    assert seen[-1][1].startswith("epoch 2/2, loss ")


def test_the_last_step_is_told_however_seldom_the_others_are(tmp_path):
    seen = []
    fit(
        Learner(), Lines(), Train(epochs=2, batch_size=5, lr=0.1), seed=0, checkpoint_file=tmp_path / "c", device="cpu",
        progress=lambda fraction, message, **values: seen.append(values["step"]), report_seconds=1e9,
    )  # fmt: skip
    assert seen == [1, 8]


def test_weights_ruined_by_the_last_step_are_not_kept(tmp_path):
    """Its loss is still finite; its gradient is not."""

    class Cliff(Plain):
        def forward(self, x, y):
            return (self.net(x) * 0).abs().sqrt().sum()

    options = Train(epochs=1, batch_size=21, lr=0.1)
    with pytest.raises(AsdError, match=r"weights that are not finite\. Lower the learning rate"):
        fit(Cliff(), Lines(), options, seed=0, checkpoint_file=tmp_path / "c", device="cpu")


def test_checkpoints_take_a_tenth_of_the_time_at_most(tmp_path, monkeypatch):
    """By a clock on which a step takes a second and a checkpoint five: one every 45 seconds, though 2 were asked for."""
    clock, saved = [0.0], []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def save(path, state, *rest):
        saved.append(state.step)
        clock[0] += 5

    def second(fraction, message, **values):
        clock[0] += 1

    monkeypatch.setattr(checkpoint, "save", save)
    fit(
        Plain(), Lines(), Train(epochs=50, batch_size=5, lr=0.01), seed=0, checkpoint_file=tmp_path / "c", device="cpu",
        progress=second, report_seconds=0, checkpoint_seconds=2,
    )  # fmt: skip
    assert len(saved) == 5  # in 200 steps
    assert set(np.diff(saved)) == {45}


def test_shares_of_a_batch():
    """Consecutive, complete, and of equal size but for one row."""
    for rows in (0, 1, 5, 8):
        for world in (1, 2, 3):
            parts = [Processes(rank, world, torch.device("cpu")).part(rows) for rank in range(world)]
            assert [i for part in parts for i in range(part.start, part.stop)] == list(range(rows))
            sizes = [part.stop - part.start for part in parts]
            assert max(sizes) - min(sizes) <= 1


def test_a_clip_that_cannot_be_loaded_stops_the_training(tmp_path):
    """The loader's thread hands its error over, at the step it belongs to."""
    examples = Lines()

    def load(indices, generator):
        raise AsdError("broken.wav cannot be read")

    examples.load = load
    with pytest.raises(AsdError, match=r"broken\.wav"):
        fit(
            Learner(), examples, Train(epochs=1, batch_size=5, lr=0.1), seed=0, checkpoint_file=tmp_path / "c", device="cpu"
        )  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"\x10" + bytes(30)])
def test_broken_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    learner = Learner()
    with pytest.raises(AsdError, match="Delete it to train from the start"):
        checkpoint.restore(
            tmp_path / "c", checkpoint.TrainingState(), learner, torch.optim.Adam(learner.parameters())
        )  # fmt: skip


def _saved(path, learner, state=None):
    optimiser = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad])
    checkpoint.save(path, state or checkpoint.TrainingState(), learner, optimiser)
    return optimiser


def test_checkpoint_of_another_network_is_refused(tmp_path):
    _saved(tmp_path / "c", Learner())
    for other in (Plain(), nn.ModuleDict({"net": nn.Linear(9, 9)})):
        optimiser = _saved(tmp_path / "d", other)
        with pytest.raises(AsdError, match=r"is of another network \(.*missing: .*unexpected: .*Delete it"):
            checkpoint.restore(tmp_path / "c", checkpoint.TrainingState(), other, optimiser)
    wider = Learner()
    wider.net[0] = nn.Linear(2, 8)
    with pytest.raises(AsdError, match=r"shapes: net\.0\.weight"):
        checkpoint.restore(tmp_path / "c", checkpoint.TrainingState(), wider, _saved(tmp_path / "d", wider))


def test_checkpoint_without_the_asked_average_is_refused(tmp_path):
    learner = Learner()
    optimiser = _saved(tmp_path / "c", learner)
    state = checkpoint.TrainingState(average=checkpoint.changing(learner))
    with pytest.raises(AsdError, match="missing"):
        checkpoint.restore(tmp_path / "c", state, learner, optimiser)


def test_checkpoint_of_another_optimiser_is_refused(tmp_path):
    learner = Plain()
    optimiser = torch.optim.Adam(learner.parameters())
    learner(torch.ones(1, 1), torch.ones(1, 1)).backward()
    optimiser.step()
    checkpoint.save(tmp_path / "c", checkpoint.TrainingState(), learner, optimiser)
    other = torch.optim.Adam(reversed(list(learner.parameters())))
    with pytest.raises(AsdError, match="is of another optimiser"):
        checkpoint.restore(tmp_path / "c", checkpoint.TrainingState(), learner, other)


def test_checkpoint_holds_only_what_training_changes(tmp_path):
    """A frozen encoder of 4 MB costs nothing; its small head and running statistics are there."""
    learner = Learner()
    learner.encoder = nn.Linear(1000, 1000).requires_grad_(False)
    _saved(tmp_path / "c", learner)
    assert (tmp_path / "c").stat().st_size < 20_000
    names = checkpoint.changing(learner).keys()
    assert {"net.1.running_mean", "net.0.weight"} <= names
    assert not names & {"frozen.weight", "encoder.weight"}


def test_tied_weights_are_stored(tmp_path):
    net = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    net["b"].weight = net["a"].weight
    checkpoint.save_weights(tmp_path / "w", net)
    other = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    checkpoint.load_weights(tmp_path / "w", other)
    assert torch.equal(other["b"].weight, net["a"].weight)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    checkpoint.save_weights(tmp_path / "w", nn.Linear(2, 3))
    with pytest.raises(AsdError, match="does not fit Linear"):
        checkpoint.load_weights(tmp_path / "w", nn.Linear(3, 3))


def test_classification_needs_known_labels():
    with pytest.raises(AsdError, match="labels must be some of machine, section, domain, attributes"):
        OBJECTIVES.create({"name": "classification", "labels": ["label"], "loss": {"name": "subcluster_adacos"}})


def test_a_compiled_training_learns_the_same(tmp_path, monkeypatch):
    """Through the front of the compiler, which needs no C++; resumed, and with a checkpoint of the plain names."""
    used = []

    def compiled(learner, **more):
        used.append(more)
        return compile_by(learner, backend="aot_eager", **more)

    compile_by = torch.compile
    monkeypatch.setattr(torch, "compile", compiled)
    found = []
    for options in ({}, {"compile": True}):
        learner = Plain()
        train = Train(epochs=2, batch_size=7, lr=0.01, **options)
        history = fit(learner, Lines(), train, seed=0, checkpoint_file=tmp_path / f"{len(found)}.st", device="cpu")
        found.append((history.losses, learner.state_dict()))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
    assert found[1][1].keys() == found[0][1].keys()
    assert used == [{"dynamic": True}]
    assert "compile" not in Train(epochs=1, batch_size=1, lr=1).model_dump()
