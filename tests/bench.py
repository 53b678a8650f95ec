"""Speed and memory of the hot paths: ``make bench``. Ratios within one run, never in a test.

Not a benchmark of machines: what matters is each line's ratio to the plain operation beside it.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from asd_core import config, metrics, pipeline
from asd_core.artifacts import Workspace
from asd_core.backbones.autoencoder import Autoencoder
from asd_core.backbones.multiresnet import MultiResNet
from asd_core.data.manifest import scan
from asd_core.data.simulate import simulate
from asd_core.engine import local
from asd_core.scorers.knn import KNN
from asd_core.terminal import out, print_table
from asd_core.tuning import Labelled, triples, tune
from asd_core.types import EmbeddingSet
from asd_core.views import VIEWS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The best of several runs, after one to warm up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def embeddings(n: int, dim: int, seed: int) -> EmbeddingSet:
    x = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    domains = np.where(np.arange(n) < n - 10, "source", "target")
    return EmbeddingSet(x, np.arange(n).astype(str), np.full(n, "00"), domains)


def nearest_neighbours() -> list[object]:
    train, test = embeddings(1000, 768, 0), embeddings(200, 768, 1)
    scorer = KNN("euclidean").fit(train)
    ours = seconds(lambda: scorer.score(test))
    product = seconds(lambda: test.x @ train.x.T)
    return ["kNN, 200 clips × 1000 × 768", f"{1e3 * ours:.1f} ms", f"{ours / product:.1f}× the matrix product"]


def views() -> list[list[object]]:
    wave = np.random.default_rng(0).normal(size=(2, 160_000)).astype(np.float32) * 0.1
    rows = []
    for name in ("logmel", "logmel_statistics", "wiener"):
        view = VIEWS.create({"name": name})
        took = seconds(lambda view=view: view(wave))
        rows.append([f"view {name}, one 10 s clip", f"{1e3 * took:.1f} ms", f"{10 / took:.0f}× real time"])
    return rows


def training_step(
    name: str, net: torch.nn.Module, batch: torch.Tensor, precision: torch.dtype | None = None
) -> list[object]:
    net, batch = net.to(DEVICE).train(), batch.to(DEVICE)
    optimiser = torch.optim.AdamW(net.parameters())

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(DEVICE.type, precision, enabled=precision is not None):
            loss = net(batch).square().mean()
        loss.backward()
        optimiser.step()

    took = seconds(step, 3)
    n = len(batch)
    return [f"training step, {name}, batch {n}", f"{1e3 * took:.0f} ms", f"{n / took:,.0f} examples/s on {DEVICE.type}"]


def evaluation() -> list[object]:
    rng = np.random.default_rng(0)
    n = 7 * 200
    table = pd.DataFrame(
        {
            "machine": np.repeat([f"m{i}" for i in range(7)], 200),
            "section": "00",
            "clip_id": [f"c{i}" for i in range(n)],
            "score": rng.normal(size=n),
            "label": np.tile(np.repeat([0, 1], 100), 7),
            "domain": np.tile(["source", "target"], n // 2),
        }
    )
    with_intervals = seconds(lambda: metrics.evaluate(table, bootstrap=1000), 2)
    without = seconds(lambda: metrics.evaluate(table, bootstrap=0), 2)
    return [
        "metrics, 7 × 200 clips, 1000 resamples",
        f"{with_intervals:.2f} s",
        f"{with_intervals / without:.0f}× without",
    ]


def fusion_tuning() -> list[object]:
    """All of it: the search, one more per left-out machine, contributions and 1000 resamples."""
    rng = np.random.default_rng(0)
    label, domain = np.tile(np.repeat([0, 1], 50), 2), np.repeat(["source", "target"], 100)
    parts = [
        Labelled(f"m{i}", "00", rng.normal(size=(1000, 20)), rng.normal(size=(200, 20)), label, domain)
        for i in range(7)
    ]
    names = [f"s{i}" for i in range(20)]
    took = seconds(lambda: tune(parts, names), 2)
    one = parts[0]
    columns = np.ascontiguousarray(one.scores.T).T  # 20 candidates
    each = seconds(lambda: triples(columns, label, domain)) / len(names)
    return [
        "weights of 20 streams, 7 × 200 clips",
        f"{took:.2f} s",
        f"{1e6 * each:.0f} µs per candidate and machine",
    ]


def second_run() -> list[object]:
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder) / "data", "tiny")
        data = scan(Path(folder) / "data")
        systems = [config.load_system(name) for name in ("logmel-knn", "logmel-maha")]

        def run() -> float:
            start = time.perf_counter()
            context = pipeline.Context(Workspace(Path(folder) / "ws"), data, "cpu")
            local.run(pipeline.plan(systems, config.load_profile("quick"), context), context)
            return time.perf_counter() - start

        first, again = run(), run()
    return ["run of a finished system", f"{again:.2f} s", f"{again / first:.2f}× the first run"]


def main() -> None:
    rows = [nearest_neighbours(), *views(), evaluation(), fusion_tuning(), second_run()]
    frames = torch.randn(256, 640)
    rows.append(training_step("autoencoder", Autoencoder(), frames))
    quick = {"spectrograms": [[1024, 512]], "base_channels": 8, "branch_dim": 64}
    rows.append(training_step("MultiResNet quick, 10 s", MultiResNet(seconds=10, **quick), torch.randn(16, 160_000)))
    rows.append(training_step("MultiResNet full, 10 s", MultiResNet(seconds=10), torch.randn(16, 160_000)))
    if DEVICE.type == "cuda":
        full = MultiResNet(seconds=12)
        rows.append(training_step("MultiResNet full, 12 s", full, torch.randn(64, 192_000)))
        rows.append(training_step("MultiResNet full, 12 s, bf16", full, torch.randn(64, 192_000), torch.bfloat16))
        rows.append(["peak memory on the device", f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB", ""])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rows.append(["peak memory of this process", f"{peak:.1f} GB", ""])
    print_table(
        pd.DataFrame(rows, columns=["what", "measured", "beside"]), f"{torch.get_num_threads()} threads, {DEVICE.type}"
    )
    out.print("Best of several runs after one to warm up.")


if __name__ == "__main__":
    main()
