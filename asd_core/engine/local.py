"""All tasks in this process, one after the other. Repeating a call continues: what is done is not repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asd_core.pipeline import Context, Task, execute, register
from asd_core.types import Progress, no_progress


@dataclass(frozen=True)
class Outcome:
    """How many tasks were there already and how many were done now."""

    reused: int
    computed: int


def run(tasks: Sequence[Task], context: Context, progress: Progress = no_progress) -> Outcome:
    """Execute a plan in its order; `progress` sees one fraction over all of it."""
    register(context)
    todo = [task for task in tasks if not task.done(context.workspace)]
    total = sum(task.weight for task in todo) or 1.0
    before = 0.0
    for task in todo:

        def share(
            fraction: float, message: str, *, start: float = before, size: float = task.weight, **values: float
        ) -> None:
            progress((start + size * fraction) / total, message, **values)

        execute(task, context, share)
        before += task.weight
        progress(before / total, task.title)
    return Outcome(len(tasks) - len(todo), len(todo))
