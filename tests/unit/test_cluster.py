"""The cluster's configuration, what is asked of its nodes, and the store between them; all without a cluster."""

import sys

import pytest

from asd_core import engine
from asd_core.artifacts import Workspace, begin, finish, is_done
from asd_core.engine import cluster
from asd_core.engine.cluster import Cluster, load_cluster
from asd_core.engine.store import Store
from asd_core.pipeline import KINDS, Task
from asd_core.types import AsdError


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write configs/cluster.yaml anew."""
    monkeypatch.setattr(cluster, "CONFIGS", tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return (tmp_path / "cluster.yaml").write_text


def test_the_file_that_is_there_names_no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = load_cluster()
    assert found.address is None
    assert set(found.tasks) <= set(KINDS)
    assert found.share("run") == found.others


def test_an_address_comes_from_the_option_the_file_or_the_environment(written, monkeypatch):
    written("{}")
    monkeypatch.setenv("RAY_ADDRESS", "environment:1")
    assert load_cluster().address == "environment:1"
    written("address: file:1")
    assert load_cluster().address == "file:1"
    assert load_cluster("option:1").address == "option:1"


@pytest.mark.parametrize("address", ["local", "auto", "ray://head:10001", "head", "head:1:2", "head:1; rm"])
def test_nothing_but_host_and_port_is_an_address(written, address):
    """Ray would start a cluster of its own for some of them."""
    written("{}")
    with pytest.raises(AsdError, match=r"--address is not a valid cluster:\n  address: .*HOST:PORT"):
        load_cluster(address)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: {trian: {gpus: 1}}", 'no task is of kind "trian".* train'),
        ("tasks: {train: {gpu: 1}}", 'unknown key "gpu"'),
        ("others: {cpus: 0}", "greater than 0"),
        ("retries: -1", "greater than or equal to 0"),
    ],
)
def test_mistakes_are_named(written, text, message):
    written(text)
    with pytest.raises(AsdError, match=message):
        load_cluster()


def test_the_command_line_asks_for_what_it_lacks(cli, tmp_path, tiny_data, written):
    written("{}")
    command = ["run", "logmel-knn", "--data", tiny_data, "--workspace", tmp_path / "ws"]
    assert cli(*command, "--engine", "slurm")[0] == 2
    code, _, said = cli(*command, "--address", "head:6379")
    assert (code, "add --engine ray" in said) == (2, True)
    code, _, said = cli(*command, "--engine", "ray")
    assert (code, "Which Ray cluster?" in said) == (1, True)
    assert not (tmp_path / "ws").exists()


def test_without_ray_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "asd_core.engine.ray", raising=False)
    monkeypatch.delattr(engine, "ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AsdError, match=r"pip install -r requirements-cluster\.txt"):
        engine.run([], None, cluster=Cluster(address="head:6379"))


def test_processes_that_train_together_use_no_cluster(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AsdError, match="Leave one of them out"):
        engine.run([], None, cluster=Cluster(address="head:6379"))


def test_what_a_node_may_lack(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed; requirements-cluster.txt")
    from asd_core.engine.nodes import installed, unfit

    workspace = Workspace(tmp_path / "ws")
    marker = workspace.cache / "marker"
    marker.parent.mkdir(parents=True)
    marker.touch()
    with workspace.locked(marker):
        assert unfit(installed(), [tmp_path], marker, None) == []
        (said,) = unfit(installed() | {"torch": "1.0"}, [tmp_path], marker, None)
        assert said.startswith("torch is ")
        assert said.endswith(", not 1.0")
        (said,) = unfit(installed(), [tmp_path / "fan" / "clip.wav"], marker, None)
        assert "clip.wav is missing there" in said
    (said,) = unfit(installed(), [], marker, None)
    assert "locks" in said, "nobody holds it, as on storage whose locks stay on one node"
    (said,) = unfit(installed(), [], marker.with_name("elsewhere"), None)
    assert "does not share" in said
    assert unfit(installed(), [], marker.with_name("elsewhere"), str(tmp_path / "own")) == []
    (said,) = unfit(installed(), [], marker, str(marker / "own"))
    assert "cannot be made" in said


@pytest.fixture
def task(tmp_path) -> Task:
    """A task that is done in the workspace `here`."""
    embedded = Task("embed", "e0", "embed", {})
    scored = Task("score", "s0", "score", {}, (embedded,))
    for one in (embedded, scored):
        folder = one.folder(Workspace(tmp_path / "here"))
        begin(folder)
        (folder / "numbers.npz").write_bytes(one.key.encode())
        finish(folder, key=one.key)
    return scored


@pytest.fixture
def url(tmp_path) -> str:
    return f"memory://{tmp_path}"  # the paths of one test


def test_a_store_hands_finished_tasks_on(task, url, tmp_path):
    here, there = (Store(url, Workspace(tmp_path / name)) for name in ("here", "there"))
    assert not there.has(task)
    for one in (*task.inputs, task):
        here.push(one)
    assert there.has(task)
    after = Task("run", "r0", "run", {"run_id": "r"}, (task,))
    there.pull_inputs(after)
    folders = [one.folder(there.workspace) for one in (task, *task.inputs)]
    assert (folders[0] / "numbers.npz").read_bytes() == b"s0"
    assert [path.name for path in folders[1].iterdir()] == ["meta.json"], "embeddings stay where nobody reads them"
    there.pull_inputs(task)
    assert all(map(is_done, folders))
    assert not there.has(Task("run", "other", "run", {"run_id": "r"}))


def test_what_was_sent_by_half_is_not_there(task, url, tmp_path, monkeypatch):
    here, there = (Store(url, Workspace(tmp_path / name)) for name in ("here", "there"))
    send = here.files.put_file
    monkeypatch.setattr(
        here.files, "put_file", lambda source, target: None if "meta" in target else send(source, target)
    )
    here.push(task)
    assert not there.has(task)
    monkeypatch.undo()
    here.push(task)
    here.files.rm(f"{here.root}/tasks/score/s0/numbers.npz")
    with pytest.raises(AsdError, match=r"holds of “score” is not whole\. Delete .*/tasks/score/s0 there"):
        there.pull(task)
    assert not is_done(task.folder(there.workspace))


def test_an_unknown_kind_of_store_is_refused(tmp_path):
    with pytest.raises(AsdError, match="The store nowhere://bucket cannot be used"):
        Store("nowhere://bucket", Workspace(tmp_path))
