"""One safetensors file that holds everything a training needs to go on exactly where it was.

It holds what training changes and nothing else: a frozen encoder's weights come from where they came from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn, optim

from asd_core.files import write_bytes
from asd_core.types import AsdError

FORMAT = "2"


@dataclass
class TrainingState:
    """What a training changes beside the network and the optimiser's moments."""

    losses: list[float] = field(default_factory=list)  # of each step done
    held_out: list[float] = field(default_factory=list)  # loss after each epoch
    average: dict[str, Tensor] = field(default_factory=dict)  # averaged weights, if asked for
    best: dict[str, Tensor] = field(default_factory=dict)  # weights of the epoch of the lowest held-out loss

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)


def changing(learner: nn.Module) -> dict[str, Tensor]:
    """What training changes in a network: parameters that require gradients, and buffers. They share its memory."""
    frozen = {name for name, p in learner.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: value for name, value in learner.state_dict().items() if name not in frozen}


@torch.no_grad()
def put(weights: Mapping[str, Tensor], learner: nn.Module) -> None:
    """Copy what `changing` names back into a network."""
    for name, own in changing(learner).items():
        own.copy_(weights[name])


def save(path: Path, state: TrainingState, learner: nn.Module, optimiser: optim.Optimizer) -> None:
    """Write weights, running statistics, optimiser moments, and averaged and best weights, atomically."""
    tensors = {
        "losses": torch.tensor(state.losses, dtype=torch.float64),
        "held_out": torch.tensor(state.held_out, dtype=torch.float64),
    }
    for part, weights in (("learner", changing(learner)), ("average", state.average), ("best", state.best)):
        tensors |= {f"{part}/{name}": value for name, value in weights.items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{name}": value for name, value in moments.items()}
    _write(path, tensors, {"training": FORMAT})


def restore(path: Path, state: TrainingState, learner: nn.Module, optimiser: optim.Optimizer) -> None:
    """Load what `save` wrote into the given objects; names and shapes must agree."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("training") != FORMAT:
                raise ValueError(f"not of format {FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        losses, held_out = tensors["losses"].tolist(), tensors["held_out"].tolist()
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise AsdError(f"{path} is not a checkpoint ({error}). Delete it to train from the start.") from error
    own = changing(learner)
    weights, best, average = (_under(tensors, f"{part}/") for part in ("learner", "best", "average"))
    _agree(path, weights, own)
    _agree(path, average, own if state.average else {})
    _agree(path, best, own if best else {})
    put(weights, learner)
    state.losses, state.held_out = losses, held_out
    state.average = {name: value.to(own[name].device) for name, value in average.items()}
    state.best = {name: value.to(own[name].device) for name, value in best.items()}
    _restore_moments(path, _under(tensors, "optimiser/"), optimiser)


def _restore_moments(path: Path, tensors: Mapping[str, Tensor], optimiser: optim.Optimizer) -> None:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        if int(index) >= len(parameters) or value.shape not in ((), parameters[int(index)].shape):
            raise AsdError(f"{path} is of another optimiser ({name}). Delete it to train from the start.")
        moments.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    for parameter, own in optimiser.state.items():
        for key, value in own.items():
            if value.shape == parameter.shape:  # fused kernels read moments in the memory order of the weights
                own[key] = torch.empty_like(parameter).copy_(value)


def save_weights(path: Path, module: nn.Module) -> None:
    """Weights and buffers of a module as safetensors."""
    _write(path, module.state_dict())


def load_weights(path: Path, module: nn.Module) -> None:
    """Strictly: no missing and no unexpected key, and the same shapes."""
    try:
        module.load_state_dict(safetensors.torch.load_file(path))
    except (RuntimeError, safetensors.SafetensorError, OSError) as error:
        raise AsdError(f"{path} does not fit {type(module).__name__}: {error}") from error


def _write(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None) -> None:
    plain, memory = {}, set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in memory:  # tied weights: the format has no sharing
            value = value.clone()
        memory.add(value.untyped_storage().data_ptr())
        plain[name] = value
    write_bytes(path, safetensors.torch.save(plain, about))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _agree(path: Path, stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    differing = [name for name in stored.keys() & own.keys() if stored[name].shape != own[name].shape]
    problems = {"missing": own.keys() - stored.keys(), "unexpected": stored.keys() - own.keys(), "shapes": differing}
    if any(problems.values()):
        said = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise AsdError(f"{path} is of another network ({said}). Delete it to train from the start.")


def _some(names: Collection[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
