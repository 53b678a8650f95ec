"""Training by several processes: the steps that one process would make, computed together.

`accelerate launch --multi_gpu --num_processes N -m asd_core run …` starts them (on CPUs too, with --device cpu).
Every process draws the same batch, computes its share of the rows, and adds gradients and losses to those of the
others in proportion to rows. So the batch size of a system keeps its meaning, and the weights stay the same in all
processes. A loss that compares clips of a batch with each other sees those of one process only.

Two channels connect them: the device's own (NCCL, gloo) for tensors, and one over the CPUs for decisions, which
neither waits for a GPU nor gives up while the main process embeds for hours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from asd_core.types import AsdError, Cancelled

LONGEST_WAIT = timedelta(days=7)  # while the main process does what is not shared; gloo cannot count much further
BUCKET = 2**24  # numbers added up at once

T = TypeVar("T")


class Processes:
    """The processes that work together, seen from one of them. Alone, everything here is free."""

    def __init__(self, rank: int, world: int, device: torch.device, control: Any = None) -> None:
        self.rank, self.world, self.device, self.control = rank, world, device, control
        self.idle = False  # computing on a stand-in row, because there are fewer rows than processes

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def part(self, rows: int) -> slice:
        """This process's share of a batch's rows; shares differ by one row at most and may be empty."""
        each, more = divmod(rows, self.world)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def by_main(self, work: Callable[[], T]) -> T:
        """`work()` of the main process, while the others wait: its result is that of all, and so is its end."""
        if self.world == 1:
            return work()
        result: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.main:
            try:
                result[0] = work()
            except BaseException as error:
                failure, result[1] = error, 130 if isinstance(error, Cancelled | KeyboardInterrupt) else 1
        dist.broadcast_object_list(result, 0, self.control)
        if failure is not None:
            raise failure
        if result[1] is not None:
            raise SystemExit(result[1])  # silently: the main process says what it was
        return result[0]

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Element by element: is it true in some process?"""
        if self.world == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX, self.control)
        return votes.bool().tolist()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace gradients by their sums. A parameter that no process used keeps having none."""
        if self.world == 1:
            return
        gradients: list[Tensor] = []
        for parameter, used in zip(parameters, self.any([p.grad is not None for p in parameters]), strict=True):
            if used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            sums = flat.split([gradient.numel() for gradient in bucket])
            for gradient, total in zip(bucket, sums, strict=True):
                gradient.copy_(total.view(gradient.shape))

    @torch.no_grad()
    def equalise(self, network: nn.Module) -> None:
        """Give all processes the main process's weights and buffers."""
        for value in network.state_dict().values() if self.world > 1 else ():
            plain = value.contiguous()
            dist.broadcast(plain, 0)
            value.copy_(plain)

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """What ends one process ends all, the launcher sees to that; here each says something that makes sense."""
        try:
            yield
            self.by_main(lambda: None)  # nobody leaves before the last file is written
            if dist.is_initialized():  # its threads would abort a process that leaves while they run
                dist.destroy_process_group()
        except Cancelled:
            if self.main:
                raise
            raise SystemExit(130) from None  # the main process tells
        except AsdError as error:
            raise error if self.main else AsdError(f"process {self.rank}: {error}") from error
        except RuntimeError as error:
            if not _lost_contact(error):
                raise
            raise AsdError(f"process {self.rank} stopped because another one ended, which tells why.") from error

    @contextmanager
    def joint_batch_norm(self, network: nn.Module) -> Iterator[None]:
        """While it lasts, batch norms in training mode take their statistics over the rows of all processes."""
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)] if self.world > 1 else []
        for norm in norms:
            norm.forward = partial(_batch_norm, norm, self)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for norm in norms:
                del norm.forward


@cache
def join(device: str = "auto") -> Processes:
    """This process among those of its launch; `device` is "auto" (the fastest there is) or "cpu"."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(0, 1, torch.device("cpu") if device == "cpu" else PartialState().device)
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)
    control = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return Processes(state.process_index, state.num_processes, state.device, control)


def _lost_contact(error: RuntimeError) -> bool:
    """Whether an error only says that another process is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours together, up to about `BUCKET` numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(one.numel() for one in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _batch_norm(norm: _BatchNorm, processes: Processes, x: Tensor) -> Tensor:
    """(B, C, …) → the same, normalised over the rows of all processes, however many each has; differentiable."""
    if not norm.training and norm.running_mean is not None:
        return type(norm).forward(norm, x)
    axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    counts = 0.0 if processes.idle else 1.0
    rows = values.new_full((1,), counts * values[:, 0].numel())
    sums = _total(torch.cat([counts * values.sum(axes), rows]))
    mean, n = sums[:-1] / sums[-1], sums[-1]
    centred = values - mean.reshape(shape)
    variance = _total(counts * centred.square().sum(axes)) / n
    y = centred * (variance + norm.eps).rsqrt().reshape(shape)
    if norm.affine:
        y = y * norm.weight.reshape(shape) + norm.bias.reshape(shape)
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
            norm.running_mean.lerp_(mean, share)
            norm.running_var.lerp_(variance * n / (n - 1), share)
    return y.to(x.dtype)


class _Total(torch.autograd.Function):
    """The sum over all processes; as each one's loss depends on it, so do gradients add up."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(_, gradient.contiguous())


def _total(values: Tensor) -> Tensor:
    return _Total.apply(values)
