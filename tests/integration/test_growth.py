"""A hundred machines in one plan: what a machine costs does not depend on how many there are.

Calls are counted, not seconds: of Python functions, of looks at files and of files opened.
"""

import cProfile
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asd_core import api, config, pipeline
from asd_core.artifacts import Workspace
from asd_core.data import audio, manifest
from asd_core.data.manifest import DataSet, scan
from asd_core.engine import local
from tests.conftest import SYSTEMS

MACHINES = (6, 12, 24)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> DataSet:
    """24 machines of ten clips, each a quarter of a second."""
    root, rng = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    for number in range(max(MACHINES)):
        names = [f"train/section_00_source_train_normal_{i:04d}_speed_{i % 2}.wav" for i in range(5)]
        names += ["train/section_00_target_train_normal_0000_speed_9.wav"]
        names += [
            f"test/section_00_{domain}_test_{label}_0000_speed_1.wav"
            for domain in ("source", "target")
            for label in ("normal", "anomaly")
        ]
        for name in names:
            audio.write(root / f"machine{number:02d}" / name, 0.1 * rng.normal(size=(2, 4000)).astype("f4"))
    return scan(root)


def first(data: DataSet, machines: int) -> DataSet:
    chosen = set(data.machines[:machines])
    return dataclasses.replace(data, clips=tuple(clip for clip in data.clips if clip.machine in chosen))


def planned(data: DataSet, workspace: Path, system: str = "logmel-knn"):
    context = pipeline.Context(Workspace(workspace), data, "cpu")
    return pipeline.plan([config.load_system(system)], config.load_profile("quick"), context), context


def calls(work: Callable[[], object], of: str = "") -> int:
    """How many functions `work` calls in this thread, or how often those whose name holds `of`."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats() if of in str(entry.code))


def assert_no_dearer(counts: list[int], tolerance: float) -> None:
    """The last twelve machines cost per machine what the six before them do; what costs nothing may waver a little."""
    few, more, most = counts
    earlier, later = (more - few) / 6, (most - more) / 12
    assert later <= tolerance * max(earlier, 1e-4 * few), counts


@pytest.mark.parametrize("system", ["logmel-knn", "wistlab-3", str(SYSTEMS / "tiny-generated.yaml")])
def test_planning(many, tmp_path, monkeypatch, system):
    planned(first(many, 2), tmp_path / "warm", system)  # imports
    remembered = []
    write = manifest.write_json
    monkeypatch.setattr(manifest, "write_json", lambda path, seen: (remembered.append(len(seen)), write(path, seen)))
    counts = [calls(lambda n=n: planned(first(many, n), tmp_path / str(n), system)) for n in MACHINES]
    assert_no_dearer(counts, 1.25)
    assert sum(remembered) == 10 * sum(MACHINES), "what is known of a clip was written more than once"


def test_doing_and_looking(many, tmp_path):
    looks, opened, again, readers = [], [], [], {}
    for n in (2, *MACHINES):  # the first two warm up
        tasks, context = planned(first(many, n), tmp_path / str(n))
        looks.append(0)
        profile = cProfile.Profile()
        profile.runcall(local.run, tasks, context)
        counted = {str(entry.code): entry.callcount for entry in profile.getstats()}
        looks[-1] = sum(count for name, count in counted.items() if "posix.stat" in name)
        opened.append(sum(count for name, count in counted.items() if "io.open" in name))
        again.append(calls(lambda n=n, place=tmp_path / str(n): local.run(*planned(first(many, n), place))))
        for name, reader in page_readers(context.workspace).items():
            reader()
            readers.setdefault(name, []).append(calls(reader))
    for counts in (looks, opened, again, *readers.values()):
        assert_no_dearer(counts[1:], 1.25)


def page_readers(workspace: Workspace) -> dict[str, Callable[[], object]]:
    (run,) = api.runs(workspace)
    clip_id = api.clip_table(workspace, run)["clip_id"].iloc[0]
    return {
        "leaderboard": lambda: api.leaderboard(workspace),
        "clips": lambda: api.clip_table(workspace, run),
        "recordings": lambda: api.check_recordings(workspace, run),
        "maps": lambda: api.projections(workspace, run),
        "inventory": lambda: api.inventory(workspace, run.record["data"]["name"]),
        "neighbours": lambda: api.neighbours(workspace, run, clip_id),
        "deleting": lambda: api.belongings(workspace, run),
    }
