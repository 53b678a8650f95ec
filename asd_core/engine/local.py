"""All tasks on this computer, one after the other. Repeating a call continues: what is done is not repeated.

Under `accelerate launch` every process runs the same plan: they train together (`training.distributed`), and the
main process does all the rest while the others wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asd_core.pipeline import TOGETHER, Context, Task, execute, opened, register, work
from asd_core.types import Progress, no_progress

if TYPE_CHECKING:
    from asd_core.training.distributed import Processes


@dataclass(frozen=True)
class Outcome:
    """How many tasks were there already and how many were done now."""

    reused: int
    computed: int
    main: bool = True  # whether this is the process that shows results


def run(tasks: Sequence[Task], context: Context, progress: Progress = no_progress) -> Outcome:
    """Execute a plan in its order; `progress` sees one fraction over all of it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        todo = _todo(tasks, context)
        for task, share in _shares(tasks, todo, progress):
            execute(task, context, share)
        return Outcome(len(tasks) - len(todo), len(todo))

    from asd_core.training import distributed

    processes = distributed.join(context.device)
    with processes.ending_together():
        todo = processes.by_main(lambda: _todo(tasks, context))  # one look, lest two see different things done
        for task, share in _shares(tasks, todo, progress):
            if task.kind in TOGETHER:
                _train_together(task, context, share, processes)
            else:
                processes.by_main(lambda task=task, share=share: execute(task, context, share))  # type: ignore[misc]
    return Outcome(len(tasks) - len(todo), len(todo), processes.main)


def _todo(tasks: Sequence[Task], context: Context) -> list[int]:
    """Numbers of the tasks that are not done yet."""
    register(context)
    return [number for number, task in enumerate(tasks) if not task.done(context.workspace)]


def _shares(tasks: Sequence[Task], todo: Sequence[int], progress: Progress) -> Iterator[tuple[Task, Progress]]:
    """Each task with a progress of its own, which is a part of the whole."""
    total = sum(tasks[number].weight for number in todo) or 1.0
    before = 0.0
    for number in todo:
        task = tasks[number]

        def share(
            fraction: float, message: str, *, start: float = before, size: float = task.weight, **values: float
        ) -> None:
            progress((start + size * fraction) / total, message, **values)

        yield task, share
        before += task.weight
        progress(before / total, task.title)


def _train_together(task: Task, context: Context, progress: Progress, processes: Processes) -> None:
    """As `execute`, but the main process alone holds the folder, and all do the work."""
    with ExitStack() as held:
        if processes.by_main(lambda: held.enter_context(opened(task, context, progress))):
            work(task, context, progress, writes=processes.main)
