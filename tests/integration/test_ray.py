"""The Ray engine on two nodes of one computer, on loopback: what the local engine gives, whatever happens to a node."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from asd_core import config, engine, pipeline
from asd_core.artifacts import Workspace, is_done, list_runs
from asd_core.data.manifest import scan
from asd_core.engine.cluster import Cluster, Share
from asd_core.files import read_json
from asd_core.pipeline import Task
from asd_core.types import AsdError, Cancelled
from tests.conftest import ENVIRONMENT, SYSTEMS, asd
from tests.integration.test_street import contents

pytest.importorskip("ray", reason="Ray is not installed; requirements-cluster.txt")

SYSTEM_NAMES = (str(SYSTEMS / "tiny-autoencoder.yaml"), "logmel-knn")
SMALL = {"num_cpus": 1, "memory": 8e9, "object_store_memory": 80 * 2**20}


class Nodes:
    """Two nodes. Not 127.0.0.1, for which Ray takes the address of the computer."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Nodes

        own = {"node_ip_address": "127.0.0.2", "env_vars": {"NODE": "first"}, "include_dashboard": False}
        self.nodes = Nodes(initialize_head=True, head_node_args=SMALL | own)
        self.address = self.nodes.address
        self.second = self.add()

    def add(self):
        return self.nodes.add_node(node_ip_address="127.0.0.3", env_vars={"NODE": "second"}, **SMALL)

    def cluster(self, **options) -> Cluster:
        return Cluster(address=self.address, **options)


@pytest.fixture(scope="module")
def nodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")  # on a computer that does much else
        patch.setenv("OMP_NUM_THREADS", "1")
        started = Nodes()
        yield started
        started.nodes.shutdown()


@pytest.fixture(scope="module")
def machines(tiny_data) -> list[str]:
    return scan(tiny_data).machines[:2]


@pytest.fixture(scope="module")
def expected(tiny_data, machines, tmp_path_factory) -> dict[str, bytes]:
    """What the local engine makes."""
    return local(tiny_data, tmp_path_factory.mktemp("local"), machines, *SYSTEM_NAMES)


def plan(data: Path, workspace: Path, machines: list[str], *names: str) -> tuple[list[Task], pipeline.Context]:
    context = pipeline.Context(Workspace(workspace), scan(data), "cpu", checkpoint_seconds=0)
    systems = [config.load_system(name) for name in names or SYSTEM_NAMES]
    return pipeline.plan(systems, config.load_profile("full"), context, machines), context


def command(data: Path, workspace: Path, machines: list[str], *names: str) -> list[object]:
    chosen = [word for machine in machines for word in ("--machines", machine)]
    return ["run", *names, "--data", data, "--device", "cpu", "--workspace", workspace, *chosen]


def local(data: Path, workspace: Path, machines: list[str], *names: str) -> dict[str, bytes]:
    """What the local engine makes, on one thread as on the nodes: sums of several threads differ in the last digit."""
    result = asd(*command(data, workspace, machines, *names))
    assert result.returncode == 0, result.stderr
    return contents(workspace)


def test_results_are_those_of_the_local_engine(nodes, tiny_data, machines, expected, tmp_path):
    """From the command line; the second time there is nothing to do, and no cluster is needed."""
    words = [*command(tiny_data, tmp_path, machines, *SYSTEM_NAMES), "--engine", "ray"]
    result = asd(*words, "--address", nodes.address)
    assert result.returncode == 0, result.stderr
    tasks, _ = plan(tiny_data, tmp_path, machines)
    assert f"{len(tasks)} tasks computed, 0 reused." in result.stderr
    assert contents(tmp_path) == expected
    assert most_at_once(tmp_path) <= 2, "one task per CPU"
    assert not list((tmp_path / "cache").glob("*cluster*"))
    again = asd(*words, env=ENVIRONMENT | {"RAY_ADDRESS": "127.0.0.9:1"})
    assert f"0 tasks computed, {len(tasks)} reused." in again.stderr


def test_all_systems_give_what_they_give_here(nodes, tiny_data, machines, tmp_path):
    """Networks, generators and fusions of the whole list, in the quick profile on one machine."""

    def everything(workspace: Path, *words: str) -> dict[str, bytes]:
        chosen = ["--data", tiny_data, "--machines", machines[0], "--device", "cpu", "--workspace", workspace]
        result = asd("run", "--all", "--profile", "quick", *chosen, *words, timeout=900)
        assert result.returncode == 0, result.stderr
        return contents(workspace)

    there = everything(tmp_path / "ray", "--engine", "ray", "--address", nodes.address)
    here = everything(tmp_path / "local")
    assert {run.record["system"] for run in list_runs(Workspace(tmp_path / "ray"))} == set(config.system_names())
    assert there == here


def test_nodes_without_common_storage_exchange_tasks_through_a_store(nodes, tiny_data, machines, expected, tmp_path):
    """Each node has a workspace of its own; in the end that of the one who asked is complete."""
    store, ours = f"file://{tmp_path / 'store'}", tmp_path / "ours"
    cluster = nodes.cluster(store=store, cache=str(tmp_path / "$NODE"))
    tasks, context = plan(tiny_data, ours, machines)
    embedded = [task for task in tasks if task.kind == "embed" and not task.inputs]
    engine.run(embedded, context)  # before there was a cluster
    assert engine.run(tasks, context, cluster=cluster).reused == len(embedded) == len(machines)
    assert contents(ours) == expected
    for node in ("first", "second"):
        assert 0 < len(finished(tmp_path / node)) < len(finished(ours)), "nobody but the one who asked needs everything"
    tasks, context = plan(tiny_data, tmp_path / "another", machines)
    assert engine.run(tasks, context, cluster=cluster).computed == 0, "the store has it all"
    assert contents(tmp_path / "another") == expected


def most_at_once(workspace: Path) -> int:
    """Tasks that were worked on at the same time."""
    records = [read_json(path) for path in workspace.glob("tasks/*/*/meta.json")]
    spans = [(record["created"] - record["seconds"], record["created"]) for record in records]
    return max(sum(start < one < stop for start, stop in spans) for one in np.array(spans).mean(axis=1))


def slow(folder: Path) -> str:
    """A training of seconds, in many steps."""
    values = yaml.safe_load((SYSTEMS / "tiny-autoencoder.yaml").read_text())
    values["encoders"]["autoencoder"]["train"]["epochs"] = 25
    path = folder / "slow.yaml"
    path.write_text(yaml.safe_dump(values | {"name": "slow"}))
    return str(path)


class Watcher:
    """A progress that acts once, when trainings of all machines have saved a position."""

    def __init__(self, workspace: Path, machines: list[str], act) -> None:
        self.workspace, self.machines, self.act, self.acted = workspace, machines, act, False
        self.steps: dict[bool, dict[str, list[float]]] = {False: {}, True: {}}

    def __call__(self, fraction: float, message: str, **values: float) -> None:
        assert 0 <= fraction <= 1
        if "step" in values:
            self.steps[self.acted].setdefault(message.partition(":")[0], []).append(values["step"])
        saved = list(self.workspace.glob("tasks/train/*/.checkpoint.safetensors"))
        if not self.acted and len(saved) == len(self.machines) == len(self.steps[False]):
            self.acted = True
            self.finished = finished(self.workspace)
            self.act()


def finished(workspace: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the records of finished tasks."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in workspace.glob("tasks/*/*/meta.json")
        if is_done(path.parent)
    }


@pytest.fixture(scope="module")
def slow_expected(tiny_data, machines, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("slow")
    return local(tiny_data, folder / "ws", machines, "logmel-knn", slow(folder))


def test_a_lost_node_costs_only_what_it_was_doing(nodes, tiny_data, machines, slow_expected, tmp_path, caplog):
    tasks, context = plan(tiny_data, tmp_path / "ws", machines, "logmel-knn", slow(tmp_path))
    watcher = Watcher(tmp_path / "ws", machines, lambda: nodes.nodes.remove_node(nodes.second, allow_graceful=False))
    try:
        engine.run(tasks, context, watcher, nodes.cluster(retries=1))
    finally:
        nodes.second = nodes.add()
    assert watcher.acted
    lost = [record.args[0] for record in caplog.records if "submitted again" in record.msg]
    assert sum(title.startswith("train") for title in lost) == 1
    assert contents(tmp_path / "ws") == slow_expected
    assert watcher.finished
    assert finished(tmp_path / "ws").items() >= watcher.finished.items(), "finished before, and not touched since"
    for title, steps in watcher.steps[False].items():
        assert min(watcher.steps[True][title]) > max(steps) / 2, "went on from its checkpoint"


def test_cancelled_trainings_save_their_position(nodes, tiny_data, machines, slow_expected, tmp_path):
    tasks, context = plan(tiny_data, tmp_path / "ws", machines, slow(tmp_path))

    def cancel() -> None:
        raise Cancelled

    started = time.time()
    watcher = Watcher(tmp_path / "ws", machines, cancel)
    with pytest.raises(Cancelled):
        engine.run(tasks, context, watcher, nodes.cluster())
    saved = list((tmp_path / "ws").glob("tasks/train/*/.checkpoint.safetensors"))
    assert len(saved) == len(machines)
    assert started < min(path.stat().st_mtime for path in saved)
    tasks, context = plan(tiny_data, tmp_path / "ws", machines, slow(tmp_path), "logmel-knn")
    engine.run(tasks, context, cluster=nodes.cluster())
    assert contents(tmp_path / "ws") == slow_expected


def test_a_problem_of_a_task_arrives_as_it_was(nodes, tiny_data, machines, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    tasks, context = plan(tmp_path / "data", tmp_path / "ws", machines, "logmel-knn")
    context.data.of(machines[0])[0].path.write_bytes(b"no sound")
    with pytest.raises(AsdError) as here:
        engine.run(tasks, context)
    with pytest.raises(AsdError) as there:
        engine.run(tasks, context, cluster=nodes.cluster())
    assert str(there.value) == str(here.value)
    broken = Task("score", "0", "a task without inputs", {})
    with pytest.raises(IndexError) as there:
        engine.run([broken], context, cluster=nodes.cluster())
    assert "in _score" in str(there.value.__cause__), "the traceback of the node"


def test_what_no_node_can_do_is_refused(nodes, tiny_data, machines, tmp_path):
    tasks, context = plan(tiny_data, tmp_path, machines, "logmel-knn")
    with pytest.raises(AsdError, match="kind embed asks for 1 CPUs, 2 GPUs and 2 GB, but no node"):
        engine.run(tasks, context, cluster=nodes.cluster(tasks={"embed": Share(gpus=2)}))
    assert not list(tmp_path.glob("tasks/*/*"))


def test_a_node_that_lacks_the_recordings_is_named(nodes, tiny_data, machines, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    tasks, context = plan(tmp_path / "data", tmp_path / "ws", machines, "logmel-knn")
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(
        AsdError, match=r"Node .* \(127\.0\.0\.\d\) of the cluster cannot take part: .*data is missing there"
    ):
        engine.run(tasks, context, cluster=nodes.cluster())


def test_where_nothing_listens_it_is_said_at_once(tiny_data, machines, tmp_path):
    tasks, context = plan(tiny_data, tmp_path, machines, "logmel-knn")
    with pytest.raises(AsdError, match=r"cluster at 127\.0\.0\.2:1 cannot be used from here .*Connection refused"):
        engine.run(tasks, context, cluster=Cluster(address="127.0.0.2:1"))
    assert "RAY_ADDRESS" not in os.environ
