"""Pre-training from the first design to the file that ships: record, train, rate on the way, write."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from asd_core.backbones.beats import FIXED, OPTIONS, Beats
from asd_core.files import digest, write_bytes, write_json
from asd_core.pretraining import corpus
from asd_core.pretraining.evaluation import rate
from asd_core.pretraining.objective import Pretrainer
from asd_core.pretraining.recipe import Recipe
from asd_core.training import loop
from asd_core.types import Progress, no_progress

RECORDING = 0.2  # share of the progress bar


@dataclass(frozen=True)
class Pretrained:
    """What came out."""

    file: Path
    sha256: str
    parameters: int
    losses: np.ndarray  # (steps,)
    rates: list[dict[str, float]]  # "step", and AUC on held-out designs by kind and of "all", in percent


def pretrain(recipe: Recipe, folder: Path, output: Path, device: str = "auto", progress: Progress = no_progress) -> Pretrained:  # fmt: skip
    """Do all of a recipe, going on where an earlier call stopped, and write the trunk's weights to `output`.

    On a CPU the same recipe gives the same bytes on the same kind of processor with the same number of threads, which
    `recipe.threads` sets.

    Args:
        folder: for recordings (a few GB) and checkpoints.

    Raises:
        Cancelled: asked for by `progress`; the position has been saved.
    """
    training, held_out = (
        corpus.build(folder, recipe.sound, part, recipe.seed, _share(progress, at, RECORDING / 2))
        for at, part in ((0.0, "train"), (RECORDING / 2, "held_out"))
    )
    with _threads(recipe.threads):
        torch.manual_seed(loop.seed_of(recipe.seed, 2**32 - 1))
        trunk = Beats(**recipe.architecture)
        learner = Pretrainer(trunk, recipe.objective, training.classes)
        rater = _Rater(learner, held_out, recipe, _share(progress, RECORDING, 1 - RECORDING))
        key = digest([corpus.VERSION, recipe.model_dump(mode="json")])[:12]
        history = loop.fit(
            learner,
            corpus.Mixtures(training, recipe.sound),
            recipe.train,
            seed=recipe.seed,
            checkpoint_file=folder / f"{recipe.name}-{key}.safetensors",
            device=device,
            progress=rater,
        )
        if not rater.rates or rater.rates[-1]["step"] < len(history.losses):
            rater.rate(len(history.losses))
    payload = encoded(trunk, recipe.architecture)
    write_bytes(output, payload)
    about = hashlib.sha256(payload).hexdigest()
    rates = [{name: round(value, 5) for name, value in one.items()} for one in rater.rates]
    write_json(output.with_suffix(".json"), {"recipe": recipe.model_dump(mode="json"), "sha256": about, "rates": rates})
    return Pretrained(output, about, sum(p.numel() for p in trunk.parameters()), history.losses, rates)


def encoded(trunk: Beats, architecture: dict[str, Any]) -> bytes:
    """A safetensors file in half precision, with the names of published BEATs and the configuration in its header."""
    defaults = {name: one.default for name, one in inspect.signature(Beats).parameters.items()}
    options = defaults | architecture
    config = {theirs: options[ours] for theirs, ours in OPTIONS.items()} | FIXED
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in trunk.state_dict().items()}
    return safetensors.torch.save(tensors, {"cfg": json.dumps(config, sort_keys=True)})


class _Rater:
    """Progress of the training that stops by now and then to rate the encoder on held-out designs."""

    def __init__(self, learner: Pretrainer, held_out: corpus.Corpus, recipe: Recipe, progress: Progress) -> None:
        self.learner, self.held_out, self.recipe, self.progress = learner, held_out, recipe, progress
        self.rates: list[dict[str, float]] = []

    def __call__(self, fraction: float, message: str, **values: float) -> None:
        step, every = int(values.get("step", 0)), self.recipe.rate_every
        due = step // every * every
        if due and (not self.rates or self.rates[-1]["step"] < due):
            self.rate(step)
        if self.rates:
            values["auc"] = self.rates[-1]["all"]
            message += f", AUC {values['auc']:.3f} on held-out designs"
        self.progress(fraction, message, **values)

    def rate(self, step: int) -> None:
        trunk = self.learner.trunk
        training = self.learner.training
        self.learner.eval()
        device = next(trunk.parameters()).device

        def embed(waves: Tensor) -> Tensor:
            tokens = trunk(trunk.fbank(waves.to(device))[0])[trunk.depth]
            return self.learner.pooling(tokens).cpu()

        self.rates.append({"step": step, **rate(embed, self.held_out, self.recipe.sound)})
        self.learner.train(training)


def _share(progress: Progress, start: float, size: float) -> Progress:
    def part(fraction: float, message: str, **values: float) -> None:
        progress(start + size * fraction, message, **values)

    return part


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
