"""The training loop: short, on accelerate, and resumable to the step.

Every step seeds all randomness from (seed, step) and the order of examples follows from (seed, epoch), so a
step is a pure function of the weights before it: a training that was killed and resumed gives the same bytes
as one that was left alone (on CPU; on accelerators up to the kernels' own rounding).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from asd_core.config import Train
from asd_core.training import checkpoint
from asd_core.training.objective import Examples
from asd_core.types import AsdError, Cancelled, Progress, no_progress


def seed_of(seed: int, *place: int) -> int:
    """A 63-bit seed that depends on all its arguments, none of them negative."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)


def pick_device(device: str = "auto") -> torch.device:
    """The device that training and embedding use: "auto" is the fastest there is."""
    return Accelerator(cpu=device == "cpu").device


def order(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch as index arrays; a last batch of one example is left out (batch norm)."""
    shuffled = np.random.default_rng([seed, epoch]).permutation(count)
    batches = [shuffled[i : i + batch_size] for i in range(0, count, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def fit(
    learner: nn.Module,
    examples: Examples,
    options: Train,
    *,
    seed: int,
    checkpoint_file: Path,
    checkpoint_seconds: float = 30.0,
    device: str = "auto",
    progress: Progress = no_progress,
) -> np.ndarray:
    """Train `learner` in place, going on from `checkpoint_file` if there is one.

    `device` is "auto" (the fastest there is) or "cpu".

    Returns:
        (steps,) float64 loss of every step since the start.

    Raises:
        Cancelled: asked for by `progress`; the position has been saved.
        AsdError: the loss is no longer finite.
    """
    accelerator = Accelerator(cpu=device == "cpu")  # precision is ours: accelerate would fix it for the whole process
    if accelerator.num_processes > 1:
        raise AsdError("Training on several processes is not built yet. Start it without `accelerate launch`.")
    precision = torch.bfloat16 if _use_bf16(options.precision, accelerator.device) else None
    optimiser = _optimiser(learner, options)
    learner, optimiser = accelerator.prepare(learner, optimiser)
    learner.train()
    average = {name: value.clone() for name, value in learner.state_dict().items()} if options.ema else {}
    state = checkpoint.TrainingState()
    if checkpoint_file.is_file():
        state = checkpoint.restore(checkpoint_file, learner, optimiser, average)

    per_epoch = len(order(len(examples), options.batch_size, seed, 0))
    steps = min(options.epochs * per_epoch, options.max_steps or options.epochs * per_epoch)
    saved = time.monotonic()
    batches: list[np.ndarray] = []
    try:
        while state.step < steps:
            epoch, position = divmod(state.step, per_epoch)
            if not batches or position == 0:
                batches = order(len(examples), options.batch_size, seed, epoch)
            torch.manual_seed(seed_of(seed, state.step))
            generator = torch.Generator().manual_seed(seed_of(seed, state.step, 1))
            batch = [tensor.to(accelerator.device) for tensor in examples.load(batches[position], generator)]
            with torch.autocast(accelerator.device.type, precision, enabled=precision is not None):
                loss = learner(*batch)
            accelerator.backward(loss)
            if options.clip_norm is not None:
                accelerator.clip_grad_norm_(learner.parameters(), options.clip_norm)
            optimiser.step()
            optimiser.zero_grad()
            _update_average(average, learner, options.ema)
            value = loss.item()
            if not np.isfinite(value):
                raise AsdError(
                    f"The loss became {value} at step {state.step + 1} (epoch {epoch + 1}). Lower the learning "
                    f"rate ({options.lr:g}), set clip_norm, or look for broken clips with `doctor`."
                )
            state.step += 1
            state.losses.append(value)
            if time.monotonic() - saved > checkpoint_seconds:
                checkpoint.save(checkpoint_file, state, learner, optimiser, average)
                saved = time.monotonic()
            progress(
                state.step / steps,
                f"epoch {epoch + 1}/{-(-steps // per_epoch)}, loss {value:.4g}",
                loss=value,
                step=state.step,
            )
    except Cancelled:  # comes from `progress`, so between two steps; an interrupt may come in the middle of one
        checkpoint.save(checkpoint_file, state, learner, optimiser, average)
        raise
    learner = accelerator.unwrap_model(learner)
    if average:
        learner.load_state_dict(average)
    return np.array(state.losses)


def _optimiser(learner: nn.Module, options: Train) -> torch.optim.Optimizer:
    trainable = [p for p in learner.parameters() if p.requires_grad]
    if options.optimizer == "adam":
        return torch.optim.Adam(trainable, lr=options.lr, fused=True)
    return torch.optim.AdamW(trainable, lr=options.lr, weight_decay=options.weight_decay, fused=True)


def _use_bf16(precision: str, device: torch.device) -> bool:
    """Precision "auto" is bf16 where the GPU computes in it, else fp32."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())


@torch.no_grad()
def _update_average(average: dict[str, Tensor], learner: nn.Module, decay: float | None) -> None:
    """ā ← decay·ā + (1 − decay)·w for weights; counters and integer buffers are copied."""
    if decay is None:
        return
    for name, value in learner.state_dict().items():
        if value.dtype.is_floating_point:
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)
