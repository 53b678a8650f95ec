"""The street in order: train → embed → score → (fuse, decide, evaluate). The only package that knows it.

`plan` turns systems into tasks named by content; `execute` does one task. Where tasks run is the business of `engine`.
"""

from asd_core.pipeline.loose import score_files
from asd_core.pipeline.planning import check, plan, plan_generated, record_verdicts, try_out
from asd_core.pipeline.tasks import Context, Task, all_inputs
from asd_core.pipeline.tuned import system_file, tune_runs
from asd_core.pipeline.verdict import is_transductive
from asd_core.pipeline.work import KINDS, TOGETHER, execute, opened, register, score, work

__all__ = [
    "KINDS",
    "TOGETHER",
    "Context",
    "Task",
    "all_inputs",
    "check",
    "execute",
    "is_transductive",
    "opened",
    "plan",
    "plan_generated",
    "record_verdicts",
    "register",
    "score",
    "score_files",
    "system_file",
    "try_out",
    "tune_runs",
    "work",
]
