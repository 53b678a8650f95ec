"""Trainings that `test_distributed` starts in several processes, the last of which fails in one of them:
python joint_training.py FOLDER."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from asd_core.backbones.multiresnet import MultiResNet
from asd_core.config import Train
from asd_core.files import write_json
from asd_core.training import distributed
from asd_core.training.loop import fit
from asd_core.types import AsdError, Cancelled


class Waves:
    """Sines and their frequencies, in noise from the generator."""

    def __init__(self, count, samples=6):
        self.count, self.samples = count, samples

    def __len__(self):
        return self.count

    def load(self, indices, generator):
        y = torch.from_numpy(indices[:, None] / self.count).float()
        noise = torch.randn(len(y), self.samples, generator=generator)
        return torch.sin(8 * y * torch.arange(self.samples)) + 0.1 * noise, y


class Normed(nn.Module):
    """Batch norms with and without weights, over vectors and maps; a branch that only some examples take."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.front = nn.Sequential(nn.Conv1d(1, 4, 3, bias=False), nn.BatchNorm1d(4), nn.ReLU())
        self.back = nn.Sequential(
            nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8, affine=False), nn.Tanh(), nn.Linear(8, 1)
        )
        self.rare = nn.Linear(6, 1)
        self.never = nn.Linear(6, 1)

    def forward(self, x, y):
        guess = self.back(self.front(x[:, None]).flatten(1))
        rare = y[:, 0] > 0.8
        if rare.any():
            guess = guess + torch.where(rare[:, None], self.rare(x), 0)
        return ((guess - y) ** 2).mean()


class Maps(Normed):
    """Without the batch norm over vectors: of two rows it would leave the signs."""

    def __init__(self):
        super().__init__()
        self.back[1] = nn.Identity()


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x, y):
        return ((self.net(x) - y) ** 2).mean()


class Network(nn.Module):
    """A real network. In double precision, as float32 lets rounding errors grow tenfold every few steps, in one
    process just as well."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = MultiResNet(seconds=5, spectrograms=[[1024, 512]], base_channels=2, branch_dim=16).double()
        self.out = nn.Linear(self.net.embed_dim, 1).double()

    def forward(self, x, y):
        return ((self.out(self.net(x.double())) - y) ** 2).mean()


# 23 examples: the last batch is smaller, and odd
CASES = {
    "normed": (Normed, {"batch_size": 6, "clip_norm": 0.5, "ema": 0.8, "schedule": "cosine", "warmup_steps": 2}),
    "stopped": (Normed, {"batch_size": 6, "patience": 1, "weight_decay": 0.1, "lr": 0.1}),
    "parts": (Maps, {"batch_size": 6, "accumulate": 3}),  # of two rows: with three processes one has none
    "single": (Plain, {"batch_size": 4, "accumulate": 4}),  # of one row
    "sampled": (Plain, {"batch_size": 7}),
    "resumed": (Normed, {"batch_size": 6, "ema": 0.8}),
    "network": (Network, {"batch_size": 6, "epochs": 2, "lr": 1e-3}),
}


def train(case: str, folder: Path) -> dict:
    learner, options = CASES[case][0](), Train(**{"epochs": 4, "lr": 0.02} | CASES[case][1])
    rank = distributed.join("cpu").rank
    interrupted = False

    def progress(fraction, message, **values):
        nonlocal interrupted
        if case == "resumed" and rank == 1 and values["step"] == 6 and not interrupted:
            interrupted = True
            raise Cancelled  # in this process alone

    def go():
        return fit(
            learner, Waves(23, 80_000 if case == "network" else 6), options, seed=1, checkpoint_file=folder / f"{case}.safetensors", device="cpu",
            held_out=Waves(8) if case == "stopped" else None, weights=np.arange(23) if case == "sampled" else None,
            progress=progress, report_seconds=0,
        )  # fmt: skip

    try:
        history = go()
    except Cancelled:
        assert rank == 1 or not interrupted
        learner = CASES[case][0]()
        interrupted = True
        history = go()
    return {
        "losses": history.losses.tolist(),
        "held_out": history.held_out.tolist(),
        "best_epoch": history.best_epoch,
        "weights": {name: value.flatten().tolist() for name, value in learner.state_dict().items()},
        "cancelled": interrupted,
    }


class Failing(Waves):
    def load(self, indices, generator):
        raise AsdError("the disk is gone")


if __name__ == "__main__":
    target, processes = Path(sys.argv[1]), distributed.join("cpu")
    results = {case: train(case, target) for case in CASES}
    write_json(target / f"rank{processes.rank}.json", results)
    try:
        with processes.ending_together():
            examples = (Failing if processes.rank == 1 else Waves)(23)
            fit(
                Plain(),
                examples,
                Train(epochs=9, batch_size=6, lr=0.1),
                seed=0,
                checkpoint_file=target / "f",
                device="cpu",
            )
    except AsdError as error:
        sys.exit(f"error: {error}")
