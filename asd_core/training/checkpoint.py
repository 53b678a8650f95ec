"""One safetensors file that holds everything a training needs to go on exactly where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn, optim

from asd_core.files import write_bytes
from asd_core.types import AsdError


@dataclass
class TrainingState:
    """Position in the training, beside the weights and the optimiser's moments."""

    step: int = 0  # steps done
    losses: list[float] = field(default_factory=list)  # of each step done


def save(
    path: Path, state: TrainingState, learner: nn.Module, optimiser: optim.Optimizer, average: dict[str, Tensor]
) -> None:
    """Write weights, running statistics, optimiser moments, averaged weights and position, atomically."""
    tensors = {f"learner/{name}": value for name, value in learner.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{name}": value for name, value in moments.items()}
    about = json.dumps({"step": state.step, "losses": state.losses})  # repr of floats: exact
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_bytes(path, safetensors.torch.save(contiguous, {"training": about}))


def restore(path: Path, learner: nn.Module, optimiser: optim.Optimizer, average: dict[str, Tensor]) -> TrainingState:
    """Load what `save` wrote into the given objects."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise AsdError(f"{path} is not a checkpoint ({error}). Delete it to train from the start.") from error
    learner.load_state_dict(_under(tensors, "learner/"))
    average.update({name: value.to(average[name].device) for name, value in _under(tensors, "average/").items()})
    moments: dict[int, dict[str, Any]] = {}
    for name, value in _under(tensors, "optimiser/").items():
        index, _, key = name.partition("/")
        moments.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    for parameter, own in optimiser.state.items():
        for key, value in own.items():
            if value.shape == parameter.shape:  # fused kernels read moments in the memory order of the weights
                own[key] = torch.empty_like(parameter).copy_(value)
    return TrainingState(about["step"], about["losses"])


def save_weights(path: Path, module: nn.Module) -> None:
    """Weights and buffers of a module as safetensors."""
    weights = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    write_bytes(path, safetensors.torch.save(weights))


def load_weights(path: Path, module: nn.Module) -> None:
    """Strictly: no missing and no unexpected key, and the same shapes."""
    try:
        module.load_state_dict(safetensors.torch.load_file(path))
    except (RuntimeError, safetensors.SafetensorError, OSError) as error:
        raise AsdError(f"{path} does not fit {type(module).__name__}: {error}") from error


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
