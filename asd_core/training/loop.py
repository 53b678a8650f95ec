"""The training loop: resumable to the step, in one process or several.

Every step seeds all randomness from (seed, step), the order of examples follows from (seed, epoch) and the
learning rate from the step, so a step is a pure function of the weights before it: a training that was killed and
resumed gives the same bytes as one that was left alone (on CPU; on accelerators up to the kernels' own rounding).

A thread loads the next batch while a step is computed, and losses stay on the device until somebody asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from asd_core.config import Train
from asd_core.training import checkpoint
from asd_core.training.checkpoint import changing, put
from asd_core.training.distributed import Processes, join
from asd_core.training.objective import Examples
from asd_core.training.samplers import order
from asd_core.training.schedules import rate
from asd_core.types import AsdError, Cancelled, Progress, no_progress

CHECKPOINT_SHARE = 0.1  # of the time, at most, goes into checkpoints

A = TypeVar("A")
B = TypeVar("B")
Part = tuple[tuple[Tensor, ...], float]  # rows computed together, and their share of the loss of the whole


@dataclass(frozen=True)
class History:
    """How a training went."""

    losses: np.ndarray  # (steps,) float64, of every step since the start
    held_out: np.ndarray  # (epochs,) float64 loss of the held-out examples after each epoch; empty if there are none
    best_epoch: int | None = None  # counted from 1: the one whose weights were kept; None: the last one
    stopped_early: bool = False


def seed_of(seed: int, *place: int) -> int:
    """A 63-bit seed that depends on all its arguments, none of them negative."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)


def pick_device(device: str = "auto") -> torch.device:
    """The device that training and embedding use: "auto" is the fastest there is."""
    return join(device).device


def fit(
    learner: nn.Module,
    examples: Examples,
    options: Train,
    *,
    seed: int,
    checkpoint_file: Path,
    held_out: Examples | None = None,
    depths: Mapping[str, int] | None = None,
    weights: np.ndarray | None = None,
    checkpoint_seconds: float = 30.0,
    report_seconds: float = 0.2,
    device: str = "auto",
    progress: Progress = no_progress,
) -> History:
    """Train `learner` in place, going on from `checkpoint_file` if there is one.

    Under `accelerate launch` all processes call this alike, and all get the result; only the main one writes.

    Args:
        examples, held_out: loaded by another thread, which must draw from the generator it is given and from
            nothing else. Held-out examples are evaluated after every epoch, in evaluation mode.
        depths: names (in `learner`) of pretrained parameters and the number of blocks between them and the
            output: their learning rate is lr_encoder · layer_decay^depth.
        weights: (N,) sampling weights: each epoch draws N examples with replacement in proportion.
        checkpoint_seconds: between two checkpoints, or more where writing one takes long; 0: after every step.
        report_seconds: between two calls of `progress`, with values loss, step, lr and held_out.
        device: "auto" (the fastest there is) or "cpu".

    Raises:
        Cancelled: asked for by `progress`; the position has been saved.
        AsdError: the loss is no longer finite, or there is nothing to stop early by.
    """
    if options.patience is not None and held_out is None:
        raise AsdError(
            "patience stops a training by its held-out loss, but this objective holds nothing out. Give the objective "
            "a share for validation, or remove patience."
        )
    processes = join(device)
    if processes.world > 1 and any(getattr(module, "sees_batch", False) for module in learner.modules()):
        raise AsdError(
            "A loss of this system looks at each batch as a whole (moving centres, a moving scale or heads for single "
            "attributes), so several processes cannot share it. Run it without `accelerate launch`."
        )
    training = _Training(learner, examples, held_out, options, seed, processes, depths or {}, weights)
    training.tells_to(progress, report_seconds)
    training.saves_to(checkpoint_file, checkpoint_seconds)
    with processes.joint_batch_norm(learner):
        try:
            training.run()
        except Cancelled:  # between two steps; a second interrupt may come in the middle of one and saves nothing
            training.save()
            raise
    return training.finish()


class _Training:
    """A training under way: `done` steps of `steps`; the losses of the latest are still on the device."""

    def __init__(
        self,
        learner: nn.Module,
        examples: Examples,
        held_out: Examples | None,
        options: Train,
        seed: int,
        processes: Processes,
        depths: Mapping[str, int],
        weights: np.ndarray | None,
    ) -> None:
        self.learner, self.examples, self.held_out = learner, examples, held_out
        self.options, self.seed, self.processes = options, seed, processes
        self.device = processes.device
        learner.to(self.device)
        processes.equalise(learner)
        self.forward = torch.compile(learner, dynamic=True) if options.compile else learner
        self.parameters = [p for p in learner.parameters() if p.requires_grad]
        self.optimiser = _optimiser(learner, options, depths)
        self.state = checkpoint.TrainingState()
        if options.ema is not None:
            self.state.average = _copy(changing(learner))
        self.pending: list[Tensor] = []
        self.batches = lru_cache(2)(lambda epoch: order(len(examples), options.batch_size, seed, epoch, weights))
        self.per_epoch = len(self.batches(0))
        steps = options.epochs * self.per_epoch
        self.steps = min(steps, options.max_steps or steps)
        self.size = -(-options.batch_size // options.accumulate)  # rows computed together, over all processes
        self.precision = torch.bfloat16 if use_bf16(options.precision, self.device) else None

    # ------------------------------------------------------------ course

    def tells_to(self, progress: Progress, seconds: float) -> None:
        self.progress, self.report_seconds, self.next_report = progress, seconds, 0.0

    def saves_to(self, file: Path, seconds: float) -> None:
        """From now on; and take up the position that is saved there, if there is one."""
        self.checkpoint_file, self.checkpoint_seconds = file, seconds
        if self.processes.by_main(file.is_file):
            checkpoint.restore(file, self.state, self.learner, self.optimiser)
        self.next_checkpoint = time.monotonic() + seconds if self.processes.main else float("inf")

    def run(self) -> None:
        # a new thread would pin memory for device 0
        start = partial(torch.cuda.set_device, self.device) if self.device.type == "cuda" else None
        with ThreadPoolExecutor(1, "loader", start) as loader:
            self.learner.train()
            self.evaluate_if_due(loader)  # a training may have been stopped just before
            for parts in _ahead(loader, self.load, range(self.done, self.steps)):
                if self.is_exhausted():
                    break
                self.step(parts)
                self.evaluate_if_due(loader)
                if time.monotonic() >= self.next_checkpoint:
                    self.save()
                self.report(at_once=self.done == self.steps)

    def finish(self) -> History:
        """Leave the weights that are kept in the network."""
        self.fetch()
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters):
            raise AsdError(f"The last step gave weights that are not finite. {self.advice()}")
        if self.options.patience is not None:
            put(self.state.best, self.learner)
        elif self.state.average:
            put(self.state.average, self.learner)
        held_out = np.array(self.state.held_out)
        best = None if self.options.patience is None else int(held_out.argmin()) + 1
        return History(np.array(self.state.losses), held_out, best, self.done < self.steps)

    @property
    def done(self) -> int:
        return self.state.step + len(self.pending)

    def is_exhausted(self) -> bool:
        """Whether the held-out loss has not become better for `patience` epochs."""
        losses, patience = self.state.held_out, self.options.patience
        return patience is not None and len(losses) - int(np.argmin([*losses, np.inf])) > patience

    # ------------------------------------------------------------ one step

    def load(self, step: int) -> list[Part]:
        """This process's parts of a step's batch; runs in the loader thread."""
        epoch, position = divmod(step, self.per_epoch)
        generator = torch.Generator().manual_seed(seed_of(self.seed, step, 1))
        batch = self.examples.load(self.batches(epoch)[position], generator)
        rows = len(batch[0])
        count = -(-rows // self.size)
        if self.size > 1:
            count = max(1, min(count, rows // 2))  # a batch norm alone with one row would fail
        return [self.share(batch, part, rows) for part in np.array_split(np.arange(rows), count)]

    def share(self, batch: tuple[Tensor, ...], rows: np.ndarray, of: int) -> Part:
        """This process's share of some consecutive rows of a batch, ready to be sent to the device.

        Where it has none, one row stands in with weight 0: the processes must compute side by side.
        """
        own = rows[self.processes.part(len(rows))]
        first, last = (own[0], own[-1] + 1) if len(own) else (0, 1)
        tensors = tuple(tensor[first:last] for tensor in batch)
        if self.device.type == "cuda":
            tensors = tuple(tensor.pin_memory() for tensor in tensors)
        return tensors, len(own) / of

    def step(self, parts: list[Part]) -> None:
        step, rank, options = self.done, self.processes.rank, self.options
        torch.manual_seed(seed_of(self.seed, step, *((2, rank) if rank else ())))
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step, group["initial_lr"])
        total = torch.zeros((), device=self.device)
        for tensors, share in parts:
            loss = self.loss(tensors, share) * share
            loss.backward()
            total += loss.detach()
        self.processes.add_gradients(self.parameters)
        if options.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, options.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.update_average()
        self.pending.append(self.processes.sum(total))

    def loss(self, tensors: tuple[Tensor, ...], share: float) -> Tensor:
        """Mean loss of some rows, as a float32 scalar."""
        self.processes.idle = share == 0
        batch = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            return self.forward(*batch).float()

    def rate(self, step: int, base: float) -> float:
        return rate(self.options, base, step, self.per_epoch, self.steps)

    @torch.no_grad()
    def update_average(self) -> None:
        """ā ← decay·ā + (1 − decay)·w for weights; counters and integer buffers are copied."""
        if self.options.ema is None:
            return
        for name, value in changing(self.learner).items():
            if value.dtype.is_floating_point:
                self.state.average[name].lerp_(value, 1 - self.options.ema)
            else:
                self.state.average[name].copy_(value)

    # ------------------------------------------------------------ held-out loss

    def evaluate_if_due(self, loader: ThreadPoolExecutor) -> None:
        """After the last step of an epoch, and of the training: measure the held-out loss, remember the best."""
        epochs = -(-self.done // self.per_epoch)
        ended = self.done % self.per_epoch == 0 or self.done == self.steps
        if self.held_out is None or not ended or len(self.state.held_out) >= epochs:
            return
        with _evaluating(self.learner, self.state.average):
            value = self.evaluate(self.held_out, loader)
        if not np.isfinite(value):
            self.fetch()  # has more to say if training went wrong
            raise AsdError(f"The held-out loss became {value} after epoch {epochs}. {self.advice()}")
        if self.options.patience is not None and value < min(self.state.held_out, default=np.inf):
            self.state.best = _copy(self.state.average or changing(self.learner))
        self.state.held_out.append(value)

    @torch.no_grad()
    def evaluate(self, examples: Examples, loader: ThreadPoolExecutor) -> float:
        """Mean loss over examples; the same draws every time, so that epochs can be compared."""

        def load(first: int) -> Part:
            rows = np.arange(first, min(first + self.size, len(examples)))
            generator = torch.Generator().manual_seed(seed_of(self.seed, first, 3))
            return self.share(examples.load(rows, generator), rows - first, len(examples))

        total = torch.zeros((), device=self.device)
        for number, (tensors, share) in enumerate(_ahead(loader, load, range(0, len(examples), self.size))):
            torch.manual_seed(seed_of(self.seed, number, 4))
            if share:
                total += self.loss(tensors, share) * share
            self.report()
        return float(self.processes.sum(total))

    # ------------------------------------------------------------ telling and saving

    def report(self, at_once: bool = False) -> None:
        """Where it is time: fetch the losses and tell how it goes; stop if that is asked for, in any process."""
        if not self.processes.any([at_once or time.monotonic() >= self.next_report])[0]:
            return
        self.fetch()
        stop = False
        try:
            self.tell()
        except Cancelled:
            stop = True
        if self.processes.any([stop])[0]:
            raise Cancelled
        self.next_report = time.monotonic() + self.report_seconds

    def tell(self) -> None:
        epoch, epochs = -(-self.done // self.per_epoch), -(-self.steps // self.per_epoch)
        loss = self.state.losses[-1]
        message = f"epoch {epoch}/{epochs}, loss {loss:.4g}"
        values = {"loss": loss, "step": self.done, "lr": self.rate(self.done - 1, self.options.lr)}
        if self.state.held_out:
            values["held_out"] = self.state.held_out[-1]
            message += f", held out {values['held_out']:.4g}"
        self.progress(self.done / self.steps, message, **values)

    def fetch(self) -> None:
        """Bring the latest losses from the device, which waits for it."""
        values = torch.stack(self.pending).tolist() if self.pending else []
        self.pending.clear()
        for value in values:
            if not np.isfinite(value):
                step = self.state.step
                epoch = step // self.per_epoch + 1
                raise AsdError(f"The loss became {value} at step {step + 1} (epoch {epoch}). {self.advice()}")
            self.state.losses.append(value)

    def advice(self) -> str:
        lr = self.options.lr
        return f"Lower the learning rate ({lr:g}), set clip_norm, or look for broken clips with `doctor`."

    def save(self) -> None:
        """Write a checkpoint. The next one waits until this one's time is no more than a tenth of all."""
        if not self.processes.main:
            return
        self.fetch()
        started = time.monotonic()
        checkpoint.save(self.checkpoint_file, self.state, self.learner, self.optimiser)
        now = time.monotonic()
        least = (now - started) * (1 / CHECKPOINT_SHARE - 1) if self.checkpoint_seconds else 0.0
        self.next_checkpoint = now + max(self.checkpoint_seconds, least)


def _optimiser(learner: nn.Module, options: Train, depths: Mapping[str, int]) -> torch.optim.Optimizer:
    """One group of parameters per learning rate."""
    named = dict(learner.named_parameters())
    if unknown := depths.keys() - named.keys():
        raise ValueError(f"depths names {sorted(unknown)[0]}, which the learner does not have")
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named.items():
        base = options.lr
        if name in depths:
            base = (options.lr_encoder or options.lr) * options.layer_decay ** depths[name]
        if parameter.requires_grad:
            rates.setdefault(base, []).append(parameter)
    groups = [{"params": parameters, "lr": base, "initial_lr": base} for base, parameters in rates.items()]
    if options.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True)
    return torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=True)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Precision "auto" is bf16 where the GPU computes in it, else fp32; "fast" also where the processor does."""
    if device.type == "cpu":
        return precision == "bf16" or (precision == "fast" and _cpu_has_bf16())
    gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16" or (precision in ("auto", "fast") and gpu)


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself; those that do not are slower with it."""
    has = [getattr(torch.cpu, name, bool) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(ask() for ask in has)


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights.items()}


@contextmanager
def _evaluating(learner: nn.Module, average: Mapping[str, Tensor]) -> Iterator[None]:
    """The learner in evaluation mode, with its averaged weights if there are any.

    Frozen parts are in that mode anyway; they are left alone, as the loader may be computing with them.
    """
    own = _copy(changing(learner)) if average else {}
    if average:
        put(average, learner)
    training = [module for module in learner.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
        if own:
            put(own, learner)


def _ahead(loader: ThreadPoolExecutor, load: Callable[[A], B], places: Iterable[A]) -> Iterator[B]:
    """`load(place)` of each place in order; while one is used, the loader is at the next."""
    waiting = None
    for place in places:
        coming = loader.submit(load, place)
        if waiting is not None:
            yield waiting.result()
        waiting = coming
    if waiting is not None:
        yield waiting.result()
