"""What pages and notebooks may ask for: ``from asd_core import api``, then ``api.runs(workspace)`` and so on.

Nothing heavy is imported before it is needed: the app's process never loads a learning library, it reads what the
command line has left in the workspace and starts jobs.
"""

from asd_core.api.configs import profiles, system_yaml, systems
from asd_core.api.generated import generation_targets
from asd_core.api.jobs import all_jobs, cancel, delete_job, job, job_curve, job_log, resume
from asd_core.api.overview import Line, readiness
from asd_core.api.recordings import (
    CHANNELS,
    ClipFacts,
    DataInfo,
    clip,
    clip_facts,
    data_set,
    data_sets,
    loudness_scale,
    picture_key,
    sound,
    spectrogram,
)
from asd_core.api.results import (
    LABEL_FREE_PRESETS,
    PRESETS,
    broken_runs,
    clip_table,
    explanation,
    histogram,
    leaderboard,
    machine_matrix,
    roc_curves,
    run_stamp,
    runs,
    select_clips,
)
from asd_core.api.submission import (
    BuiltPackage,
    build_package,
    check_package,
    compare_packages,
    expected_clips,
    flagged,
    package_problems,
    packages,
)
from asd_core.api.training import (
    asked_of,
    command,
    computed_seeds,
    missing_systems,
    result_of,
    seeds_text,
    start_demo,
    start_training,
    system_states,
    training_arguments,
)
from asd_core.api.weights import (
    CheckpointInfo,
    checkpoints,
    import_arguments,
    start_fetch,
    start_verify,
    weights_folder,
)
from asd_core.artifacts import Run, Workspace
from asd_core.data.manifest import REPOSITORY
from asd_core.data.spectrogram import AXES, Axis, ticks
from asd_core.files import write_bytes
from asd_core.jobs import Job
from asd_core.types import AsdError

DEFAULT_WORKSPACE = REPOSITORY / "workspace"

__all__ = [
    "AXES",
    "CHANNELS",
    "DEFAULT_WORKSPACE",
    "LABEL_FREE_PRESETS",
    "PRESETS",
    "AsdError",
    "Axis",
    "BuiltPackage",
    "CheckpointInfo",
    "ClipFacts",
    "DataInfo",
    "Job",
    "Line",
    "Run",
    "Workspace",
    "all_jobs",
    "asked_of",
    "broken_runs",
    "build_package",
    "cancel",
    "check_package",
    "checkpoints",
    "clip",
    "clip_facts",
    "clip_table",
    "command",
    "compare_packages",
    "computed_seeds",
    "data_set",
    "data_sets",
    "delete_job",
    "expected_clips",
    "explanation",
    "flagged",
    "generation_targets",
    "histogram",
    "import_arguments",
    "job",
    "job_curve",
    "job_log",
    "leaderboard",
    "loudness_scale",
    "machine_matrix",
    "missing_systems",
    "package_problems",
    "packages",
    "picture_key",
    "profiles",
    "readiness",
    "result_of",
    "resume",
    "roc_curves",
    "run_stamp",
    "runs",
    "seeds_text",
    "select_clips",
    "sound",
    "spectrogram",
    "start_demo",
    "start_fetch",
    "start_training",
    "start_verify",
    "system_states",
    "system_yaml",
    "systems",
    "ticks",
    "training_arguments",
    "weights_folder",
    "write_bytes",
]
