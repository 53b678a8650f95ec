"""Tasks on the nodes of a Ray cluster that runs already, each as soon as its inputs are done.

A task works in the workspace that all nodes share, so what it finishes stays finished, and one that is lost with its
node goes on elsewhere from its last checkpoint. Or, with a `Store`, nodes have workspaces of their own and exchange
finished tasks by URL. The process that asked for the plan is the driver: it decides what runs when, and its end ends all.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from graphlib import TopologicalSorter
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util import get_node_ip_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from asd_core import weights
from asd_core.artifacts import Workspace
from asd_core.engine.cluster import Cluster
from asd_core.engine.local import Outcome
from asd_core.engine.nodes import LOST, check_nodes, differences, installed, own_folder
from asd_core.engine.store import Store
from asd_core.pipeline import Context, Task, all_inputs, execute, register
from asd_core.types import AsdError, Cancelled, Progress, no_progress

log = logging.getLogger(__name__)

REACH_SECONDS = 5.0  # for the head of the cluster to answer
TELL_SECONDS = 0.5  # between two reports of a task
HEAR_SECONDS = 0.25  # between two looks at the reports
STOP_SECONDS = 30.0  # for tasks to save their position once they are to stop; longer than a step takes
VISIBLE_SECONDS = 90.0  # until shared storage must show what another node wrote; NFS keeps names for up to 60


def run(tasks: Sequence[Task], context: Context, cluster: Cluster, progress: Progress = no_progress) -> Outcome:
    """Execute a plan on a cluster; `progress` sees one fraction over all of it.

    Raises:
        AsdError: a task's own; the cluster cannot be reached, a node is not fit, no node has what a task asks for, or a
            task was lost too often.
        Cancelled: `progress` asked for it; trainings have saved their position if they could within `STOP_SECONDS`.
    """
    register(context)
    store = Store(cluster.store, context.workspace) if cluster.store else None
    todo = [task for task in tasks if not task.done(context.workspace) and not (store and store.has(task))]
    if todo:
        with _connected(str(cluster.address)):
            check_nodes(context, cluster, progress)
            if store:
                progress(0.0, "sending what is done already")
                for needed in {needed for task in todo for needed in all_inputs(task)}:
                    if needed.done(context.workspace):
                        store.push(needed)
            _Plan(todo, context, cluster, progress).drive()
    for task in tasks:
        if store and not task.done(context.workspace):
            progress(1.0, f"{task.title}: fetching the result")
            store.pull(task)
    return Outcome(len(tasks) - len(todo), len(todo))


@contextmanager
def _connected(address: str) -> Iterator[None]:
    host, _, port = address.rpartition(":")
    on_stop = signal.getsignal(signal.SIGTERM)
    try:
        # Ray tries for minutes, and it takes localhost for the address that other nodes know this computer by
        local = host in ("localhost", "127.0.0.1")
        socket.create_connection((get_node_ip_address() if local else host, int(port)), REACH_SECONDS).close()
        ray.init(address, logging_level=logging.WARNING)  # with an address it starts nothing itself
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise AsdError(
            f"The Ray cluster at {address} cannot be used from here ({str(error).partition(chr(10))[0]}). Is it running, "
            f"and is this computer one of its nodes, with the same Python and Ray (`ray start --address={address}`)? "
            f"docs/cluster.md tells more."
        ) from error
    try:
        with suppress(ValueError):  # in a thread beside the main one, where Ray has not set it either
            signal.signal(signal.SIGTERM, on_stop)  # that of Ray would end a job without a word
        with redirect_stdout(sys.stderr):  # what nodes print comes through Ray, and is not among the results
            yield
    finally:
        ray.shutdown()  # ends what still runs for this driver


class _Plan:
    """The driver's side of a plan: what waits, what runs where, and how far it all is."""

    def __init__(self, tasks: Sequence[Task], context: Context, cluster: Cluster, progress: Progress) -> None:
        self.tasks = {(task.kind, task.key): task for task in tasks}
        inputs = {name: [(i.kind, i.key) for i in task.inputs] for name, task in self.tasks.items()}
        self.order = TopologicalSorter({name: [i for i in own if i in self.tasks] for name, own in inputs.items()})
        self.order.prepare()
        self.context, self.cluster, self.progress = context, cluster, progress
        self.total = sum(task.weight for task in tasks) or 1.0
        self.fractions: dict[tuple[str, str], float] = {}  # of tasks that have begun
        self.losses: dict[tuple[str, str], int] = {}
        self.last = "waiting for a free node"
        self.running: dict[ray.ObjectRef, Task] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board: Any = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self.work = ray.remote(_work)
        self.shared = ray.put((context, cluster, installed(), str(weights.folder())))

    def drive(self) -> None:
        self.check_room()
        try:
            while self.order.is_active():
                for name in self.order.get_ready():
                    self.submit(self.tasks[name])
                ended, _ = ray.wait([*self.running], timeout=HEAR_SECONDS)
                self.hear()
                for one in ended:
                    self.settle(one)
            self.tell(self.last)
        except RayActorError as error:  # the board, which is on this computer
            raise AsdError(
                "Ray has ended on this computer, so that nothing is heard of the tasks. Start it again (`ray start`) and "
                "repeat the command: what is finished is kept."
            ) from error
        except Exception:
            self.stop()
            raise

    def submit(self, task: Task) -> None:
        share = self.cluster.share(task.kind)
        asked = {"num_cpus": share.cpus, "num_gpus": share.gpus, "memory": int(share.memory * 1e9)}
        # lost tasks are submitted again here and not by Ray: so it is told, and the nodes are looked at again
        options = self.work.options(**asked, max_retries=0, name=task.title)
        self.running[options.remote(task, self.shared, self.board)] = task

    def settle(self, ended: ray.ObjectRef) -> None:
        task = self.running.pop(ended)
        name = (task.kind, task.key)
        try:
            ray.get(ended)
        except LOST as error:
            self.losses[name] = lost = self.losses.get(name, 0) + 1
            self.fractions.pop(name, None)
            why = str(error).strip().partition("\n")[0].partition(". ")[0]
            if lost > self.cluster.retries:
                raise AsdError(
                    f"{task.title}: lost {lost} times with its node or its process, the last time: {why}. Give it more "
                    f"memory in configs/cluster.yaml if that is why, and repeat the command: what is finished is kept."
                ) from error
            log.warning("%s: lost (%s); submitted again, %d of %d", task.title, why, lost, self.cluster.retries)
            self.check_room()
            self.submit(task)
        except RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from error  # the log shows both tracebacks
            raise
        else:
            if not self.cluster.store:
                _wait_for(task, self.context.workspace)
            self.fractions[name] = 1.0
            self.order.done(name)

    def hear(self) -> None:
        """Pass on what tasks have told; where they told nothing, the user may still want to stop."""
        for name, fraction, message, values in ray.get(self.board.take.remote()):
            if self.fractions.get(name) != 1.0:
                self.fractions[name] = min(fraction, 0.999)
                self.last = message
                self.tell(message, **values)
        self.tell(self.last)

    def tell(self, message: str, **values: float) -> None:
        done = sum(self.tasks[name].weight * fraction for name, fraction in self.fractions.items())
        others = sum(fraction < 1 for fraction in self.fractions.values()) - 1
        self.progress(done / self.total, f"{message} · {others} more at work" if others > 0 else message, **values)

    def stop(self) -> None:
        """Ask the tasks that have begun to save their position, and wait for them a while."""
        self.board.stop.remote()
        if begun := [one for one, task in self.running.items() if (task.kind, task.key) in self.fractions]:
            ray.wait(begun, num_returns=len(begun), timeout=STOP_SECONDS)

    def check_room(self) -> None:
        """Refuse to wait for what no node can ever give."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        left = {task.kind for name, task in self.tasks.items() if self.fractions.get(name) != 1.0}
        for kind in sorted(left):
            asked = self.cluster.share(kind)
            if not any(all(node.get(what, 0) >= much for what, much in asked.resources.items()) for node in nodes):
                there = "; ".join(f"{n.get('CPU', 0):g}, {n.get('GPU', 0):g}, {n['memory'] / 1e9:.1f}" for n in nodes)
                raise AsdError(
                    f"A task of kind {kind} asks for {asked}, but no node of the cluster has that (CPUs, GPUs and GB of "
                    f"its nodes: {there}). Ask for less in configs/cluster.yaml, or add a node."
                )
        has = any(node.get("GPU") for node in nodes)
        if has and not any(self.cluster.share(kind).gpus for kind in left):
            log.warning("The cluster has GPUs, but configs/cluster.yaml asks for none for these tasks.")


class _Board:
    """An actor beside the driver, on which tasks of all nodes write how far they are."""

    def __init__(self) -> None:
        self.reports: list[tuple[Any, ...]] = []
        self.over = False

    def write(self, *report: Any) -> bool:
        """Take a report; returns whether the task is to stop."""
        self.reports.append(report)
        return self.over

    def take(self) -> list[tuple[Any, ...]]:
        taken, self.reports = self.reports, []
        return taken

    def stop(self) -> None:
        self.over = True


# on the nodes


def _work(task: Task, shared: tuple[Context, Cluster, dict[str, str], str], board: Any) -> None:
    """Do one task in a process of a node."""
    context, cluster, expected, weights_folder = shared
    if problems := differences(expected):  # a node that has come since the others were looked at
        raise AsdError(f"Node {platform.node()} cannot take part: {'; '.join(problems)}.")
    os.environ["ASD_WEIGHTS"] = weights_folder
    told = 0.0
    answers: list[Any] = []

    def progress(fraction: float, message: str, **values: float) -> None:
        nonlocal told
        if time.monotonic() - told < TELL_SECONDS:
            return
        told = time.monotonic()
        # without waiting for an answer: while a task waits in Ray, another one is given its CPU
        if answers and ray.wait(answers, timeout=0)[0] and ray.get(answers.pop()):
            raise Cancelled(f"cancelled during: {message}")
        if not answers:
            answers.append(board.write.remote((task.kind, task.key), fraction, message, values))

    progress(0.0, task.title)
    workspace = Workspace(own_folder(cluster.cache)) if cluster.store else context.workspace
    own = context.elsewhere(workspace, context.device if cluster.share(task.kind).gpus else "cpu")
    store = Store(cluster.store, workspace) if cluster.store else None
    if store:
        store.pull_inputs(task)
    for needed in task.inputs:
        _wait_for(needed, workspace)
    execute(task, own, progress)
    if store:
        store.push(task)


def _wait_for(task: Task, workspace: Workspace) -> None:
    """Until what another node has finished can be seen here."""
    last = time.monotonic() + VISIBLE_SECONDS
    while not task.done(workspace):
        if time.monotonic() > last:
            raise AsdError(
                f"{task.title}: finished, but {task.folder(workspace)} is not to be seen on {platform.node()}. The workspace "
                f"must be on storage that all nodes share; without any, use a store (docs/cluster.md)."
            )
        time.sleep(0.2)
