"""BEATs and EAT through the whole street, small: four ways of adapting, streams, shared passes, a variant."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from asd_core import pipeline
from asd_core.artifacts import Workspace, load_run
from asd_core.config import load_profile, load_system, system_variant
from asd_core.data.manifest import scan
from asd_core.engine import local
from asd_core.fusion import FUSIONS
from asd_core.types import AsdError
from tests.conftest import SYSTEMS

MACHINES = ["fanSim", "gearboxSim"]


@pytest.fixture(scope="module")
def done(tiny_data, tmp_path_factory):
    """The system and its variant, run: tasks, runs by name, context."""
    context = pipeline.Context(Workspace(tmp_path_factory.mktemp("workspace")), scan(tiny_data), "cpu")
    system = load_system(str(SYSTEMS / "tiny-transformers.yaml"))
    systems = [system, system_variant(system, "submitted")]
    tasks = pipeline.plan(systems, load_profile("full"), context, machines=MACHINES)
    local.run(tasks, context)
    runs = {task.spec["system"]["name"]: task.spec["run_id"] for task in tasks if task.kind == "run"}
    return tasks, {name: load_run(context.workspace, run_id) for name, run_id in runs.items()}, context


def test_nothing_is_done_twice(done):
    tasks, _, context = done
    counts = Counter(task.kind for task in tasks)
    # four encoders and the start that two of them share with the first; five branches look through four networks
    assert counts == {"train": 4, "embed": 4 * len(MACHINES), "score": 5 * len(MACHINES), "run": 2}
    start = next(task for task in tasks if task.title.startswith("train beats "))
    shared = [task for task in tasks if start.key in [needed.key for needed in task.inputs] and task.kind == "train"]
    assert {task.title.split()[1] for task in shared} == {"heads", "lora"}
    system = load_system(str(SYSTEMS / "tiny-transformers.yaml"))
    again = pipeline.plan([system], load_profile("full"), context, machines=MACHINES)
    assert local.run(again, context).computed == 0


def test_branches_of_a_stream_are_averaged_before_the_fusion(done):
    _, runs, _ = done
    scores = runs["tiny-transformers"].scores
    for _, rows in scores.groupby("machine"):
        columns = [rows[f"branch:{name}"] for name in ("beats-1", "beats-2", "heads", "lora", "eat")]
        streams = np.stack([(columns[0] + columns[1]) / 2, *columns[2:]], axis=1)
        training = (rows["split"] == "train").to_numpy()
        fusion = FUSIONS.create({"name": "weighted", "normalise": "ecdf"}).fit(streams[training])
        np.testing.assert_allclose(rows["score"], fusion.fuse(streams), rtol=1e-12)


def test_a_recording_by_itself_gets_the_score_it_got_in_the_run(done):
    _, runs, context = done
    run = runs["tiny-transformers"]
    clips = context.data.of("fanSim", "test")[:3]
    alone = pipeline.score_files(
        context.workspace, run.record["run_id"], "fanSim", [clip.path for clip in clips], device="cpu"
    )
    known = run.scores.set_index("clip_id").loc[[clip.clip_id for clip in clips]]
    np.testing.assert_allclose(alone["score"], known["score"], atol=1e-4)
    assert alone["decision"].tolist() == known["decision"].tolist()


def test_what_ranks_test_clips_says_so_and_scores_none_by_itself(done):
    _, runs, context = done
    plain, ranked = runs["tiny-transformers"], runs["tiny-transformers+submitted"]
    assert not plain.record["transductive"]
    assert ranked.record["transductive"]
    assert any("Transductive" in notice for notice in ranked.record["notices"])
    clip = context.data.of("fanSim", "test")[0]
    with pytest.raises(AsdError, match="cannot score clips by themselves"):
        pipeline.score_files(context.workspace, ranked.record["run_id"], "fanSim", [clip.path], device="cpu")
    test = ranked.scores[ranked.scores["split"] == "test"]
    for _, rows in test.groupby("machine"):
        assert rows["decision"].mean() == pytest.approx(0.1, abs=1 / len(rows))


def test_notices_of_a_profile_reach_the_run(done, tiny_data, tmp_path):
    from asd_core.config import Profile

    profile = Profile.model_validate(
        {"name": "p", "title": "p", "encoders": {"beats": {"notice": "A stand-in.", "train": {"max_steps": 1}}}}
    )
    context = pipeline.Context(Workspace(tmp_path), scan(tiny_data), "cpu")
    system = load_system(str(SYSTEMS / "tiny-transformers.yaml"))
    few = system.model_copy(update={"branches": [branch for branch in system.branches if branch.encoder == "beats"]})
    tasks = pipeline.plan([few], profile, context, machines=MACHINES)
    local.run(tasks, context)
    assert "A stand-in." in load_run(context.workspace, tasks[-1].spec["run_id"]).record["notices"]
