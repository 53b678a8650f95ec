"""What the Ray engine costs per task: ``python -m tests.bench_ray``.

The same 200 score tasks on a few embeddings, so small that hardly anything but the engine is left, by the local engine and
on a Ray node of one CPU on loopback. Times are of this computer as it is, so compare them within one run only.
"""

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from asd_core import config, engine, pipeline
from asd_core.artifacts import Workspace
from asd_core.data.manifest import scan
from asd_core.data.simulate import simulate
from asd_core.engine.cluster import Cluster

TASKS = 200


def main() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster as Nodes

    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder) / "data", "tiny")
        data = scan(Path(folder) / "data")
        own = {"node_ip_address": "127.0.0.2", "num_cpus": 1, "memory": 8e9, "object_store_memory": 80 * 2**20}
        nodes = Nodes(initialize_head=True, head_node_args=own | {"include_dashboard": False})
        try:
            for name, cluster in (("local", None), ("ray", Cluster(address=nodes.address))):
                context = pipeline.Context(Workspace(Path(folder) / name), data, "cpu")
                system, profile = config.load_system("logmel-knn"), config.load_profile("full")
                tasks = pipeline.plan([system], profile, context, data.machines[:1])
                embed = next(task for task in tasks if task.kind == "embed")
                score = next(task for task in tasks if task.kind == "score")
                engine.run([embed], context)
                engine.run([replace(score, key="warm")], context)
                many = [replace(score, key=f"{number:016x}") for number in range(TASKS)]
                began, worked = time.monotonic(), time.process_time()
                engine.run(many, context, cluster=cluster)
                took, worked = time.monotonic() - began, time.process_time() - worked
                ended = [p.stat().st_mtime for p in (Path(folder) / name).glob("tasks/score/0*/meta.json")]
                sys.stdout.write(
                    f"{name:6s}{TASKS} tasks in {took:.1f} s; from the first that ended to the last "
                    f"{1000 * (max(ended) - min(ended)) / (TASKS - 1):.1f} ms each, this process {1000 * worked / TASKS:.1f} "
                    f"ms of CPU each\n"
                )
        finally:
            nodes.shutdown()


if __name__ == "__main__":
    main()
