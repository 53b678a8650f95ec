"""Tables for the command line and the pages, from runs and score files. Nothing is drawn here.

Metric values in these tables are percent, because they stand beside the published percentages; `metrics` and
metrics.json hold fractions. Rates, percentiles of clips and scores keep the unit their column states.
"""

from asd_core.analysis.clips import clip_table, histogram, percentile, percentiles, roc
from asd_core.analysis.comparison import SIGNIFICANT, compare_runs, labelled_scores, runs_named
from asd_core.analysis.runs import (
    false_alarms,
    leaderboard,
    machine_matrix,
    machine_results,
    published,
    recompute_omega,
)
from asd_core.analysis.score_files import read_score_table
from asd_core.analysis.systems import hears_both, needs_two_microphones, system_table

__all__ = [
    "SIGNIFICANT",
    "clip_table",
    "compare_runs",
    "false_alarms",
    "hears_both",
    "histogram",
    "labelled_scores",
    "leaderboard",
    "machine_matrix",
    "machine_results",
    "needs_two_microphones",
    "percentile",
    "percentiles",
    "published",
    "read_score_table",
    "recompute_omega",
    "roc",
    "runs_named",
    "system_table",
]
