"""Speed and memory of the hot paths: ``make bench``. Ratios within one run, never in a test.

Not a benchmark of machines: what matters is each line's ratio to the plain operation beside it. Against all patches
an eighth of the clips is matched; ``python -m tests.bench --patches`` measures patches alone and matches all (minutes).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from asd_core import config, metrics, pipeline
from asd_core.artifacts import Workspace
from asd_core.backbones.autoencoder import Autoencoder
from asd_core.backbones.multiresnet import MultiResNet
from asd_core.data.manifest import scan
from asd_core.data.simulate import simulate
from asd_core.engine import local
from asd_core.scorers.knn import KNN
from asd_core.scorers.localized import Localized
from asd_core.scorers.subband import Subband
from asd_core.scorers.units import UnitBank
from asd_core.synthesis.diffusion import Denoising
from asd_core.synthesis.network import Denoiser
from asd_core.synthesis.representation import BANDS as BANDS_OF_STFT
from asd_core.synthesis.representation import HOP, frames_of
from asd_core.terminal import out, print_table
from asd_core.training.loop import use_bf16
from asd_core.tuning import Labelled, triples, tune
from asd_core.types import EmbeddingSet
from asd_core.views import VIEWS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRAINING, TEST = 1000, 200  # clips of one machine
STEPS, BANDS, WIDTH = 62, 8, 768  # patches of a 10 s clip
RATES = ("numpy", "torch", "oneDNN")
SHORT = 8  # 1/8 of the clips, 1/64 of the work


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


# ---------------------------------------------------------------- patches


def matmul_rates() -> dict[str, float]:
    """GFLOP/s of single-precision products of 2048 × 768 with 768 × 4096, by who makes them."""
    q, y = (np.random.default_rng(0).normal(size=(n, WIDTH)).astype(np.float32) for n in (2048, 4096))
    rows, weights = torch.from_numpy(q), torch.from_numpy(y)
    pixels = rows.reshape(1, -1, 1, WIDTH).permute(0, 3, 1, 2)
    works = {
        "numpy": lambda: q @ y.T,
        "torch": lambda: rows @ weights.T,
        "oneDNN": lambda: F.conv2d(pixels, weights[:, :, None, None]),  # as in backbones/linear.py
    }
    return {name: 2e-9 * len(q) * len(y) * WIDTH / seconds(work, 3) for name, work in works.items()}


def write_patches(path: Path, clips: int, seed: int) -> None:
    """Patches (clips, 62, 8, 768) in half precision around one centre per band: what a clip is, what it does over time,
    both of few dimensions, and noise."""
    common, own = np.random.default_rng(0), np.random.default_rng(seed)
    centre, axes = common.normal(size=(BANDS, WIDTH)), common.normal(size=(BANDS, WIDTH, 32)) / 32**0.5
    centre, axes = centre.astype(np.float32), axes.astype(np.float32)
    x = np.lib.format.open_memmap(path, "w+", np.float16, (clips, STEPS, BANDS, WIDTH))
    for row in x:
        place = own.standard_normal((BANDS, 1, 32), dtype=np.float32)
        place = place + 0.7 * own.standard_normal((BANDS, STEPS, 32), dtype=np.float32)
        noise = 0.3 * own.standard_normal((STEPS, BANDS, WIDTH), dtype=np.float32)
        row[:] = centre + (place @ axes.swapaxes(1, 2)).swapaxes(0, 1) + noise


def stored(path: Path, clips: int) -> EmbeddingSet:
    """The first `clips` of a file, read as the pipeline reads them."""
    x = np.load(path, mmap_mode="r")[:clips]
    domains = np.where(np.arange(clips) < clips - 10, "source", "target")
    return EmbeddingSet(x, np.arange(clips).astype(str), np.full(clips, "00"), domains)


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Totals of what memories of units do meanwhile: seconds of their searches and of measuring again what these found,
    operations of the products searched, and pairs measured."""
    totals = dict.fromkeys(("search", "exact", "operations", "pairs"), 0.0)
    search, measured = UnitBank._search, UnitBank._measured

    def timed_search(bank: UnitBank, x: np.ndarray, k: int) -> np.ndarray:
        start = time.perf_counter()
        index = search(bank, x, k)
        totals["search"] += time.perf_counter() - start
        totals["operations"] += 2 * x.size * len(bank.units)
        return index

    def timed_measured(bank: UnitBank, x: np.ndarray, index: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        distance = measured(bank, x, index)
        totals["exact"] += time.perf_counter() - start
        totals["pairs"] += index.size
        return distance

    with patch.object(UnitBank, "_search", timed_search), patch.object(UnitBank, "_measured", timed_measured):
        yield totals


def memory_now(field: str) -> float:
    """GB of this process: "VmRSS" now, "VmHWM" at most so far, mapped pages of files included."""
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0]) / 1e6


def measure_patches(case: str, folder: Path, share: int) -> dict[str, float]:
    """Seconds, operations and GB of one run of a case, in a process of its own, and the best rates of matrix products
    before, between and after its stages."""
    train, test = stored(folder / "train.npy", TRAINING // share), stored(folder / "test.npy", TEST // share)
    rates = [matmul_rates()]
    before = memory_now("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    took = {}

    def timed(stage: str, work: Callable[[], object]) -> None:
        with watched() as totals:
            start = time.perf_counter()
            work()
            took[stage] = time.perf_counter() - start
        took.update({f"{stage} {name}": value for name, value in totals.items()})
        took["memory"] = memory_now("VmHWM") - before
        rates.append(matmul_rates())

    if case == "whole matrix":
        timed("judge", lambda: whole_matrix(train, test))
    else:
        scorer = Localized() if case == "default" else Localized(window=1, stride=1, memory=None)
        timed("fit", lambda: scorer.fit(train))
        timed("judge", lambda: scorer.judge(test))
        if case == "default":
            timed("training", scorer.training_scores)
    return took | {name: max(rate[name] for rate in rates) for name in RATES}


def whole_matrix(train: EmbeddingSet, test: EmbeddingSet) -> np.ndarray:
    """What `Localized(window=1, stride=1, memory=None)` does, with all distances of a band in two matrices: (N, T, F)."""
    values = np.empty(test.x.shape[:3])
    owner = np.repeat(np.arange(len(train)), STEPS)
    for band in range(BANDS):
        q, y = (part.x[:, :, band].reshape(-1, WIDTH).astype(np.float32) for part in (test, train))
        q, y = q / np.linalg.norm(q, axis=1, keepdims=True), y / np.linalg.norm(y, axis=1, keepdims=True)
        own = (1 - y @ y.T) / 2
        own[owner[:, None] == owner] = np.inf
        density = np.partition(own, 3, axis=1)[:, :4].mean(axis=1)
        distance = (1 - q @ y.T) / 2
        match = distance.argmin(axis=1)
        values[:, :, band] = (distance[np.arange(len(q)), match] / density[match]).reshape(len(test), STEPS)
    return values


def patches(full: bool) -> list[list[object]]:
    rows: list[list[object]] = []
    share = 1 if full else SHORT
    with tempfile.TemporaryDirectory() as folder:
        write_patches(Path(folder) / "train.npy", TRAINING, 1)
        write_patches(Path(folder) / "test.npy", TEST, 2)

        def measured(case: str, share: int) -> dict[str, float]:
            arguments = ["-m", "tests.bench", "--measure-patches", case, folder, str(share)]
            done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=True)
            return json.loads(done.stdout.splitlines()[-1])

        for case, own_share in (("default", 1), ("all patches", share)):
            took = measured(case, own_share)
            name = f"localized, {case}, {TEST // own_share} × {TRAINING // own_share} clips"
            rows.append([f"{name}: memory", f"{took['memory']:.2f} GB", "at most, mapped files included"])
            stages = [stage for stage in ("fit", "judge", "training") if stage in took]
            rows += [[f"{name}: {stage}", f"{took[stage]:.1f} s", beside(took, stage)] for stage in stages]
        plain = measured("whole matrix", SHORT)["judge"] * (SHORT / share) ** 2
        how = "" if share == SHORT else f", extrapolated from 1/{SHORT**2} of the work"
        ratio = f"{plain / (took['fit'] + took['judge']):.1f}× localized, all patches"
    return [*rows, [f"the same with whole matrices in numpy{how}", f"{plain:.1f} s", ratio]]


def beside(took: dict[str, float], stage: str) -> str:
    rate = took[f"{stage} operations"] / 1e9 / took[stage]
    of = ", ".join(f"{rate / took[who]:.0%} of {who}'s {took[who]:.0f}" for who in RATES)
    exact, search = took[f"{stage} exact"], took[f"{stage} search"]
    return f"{rate:.0f} GFLOP/s: {of}; pairs measured again: {exact / search:.1%} of the search"


def subband() -> list[object]:
    """Three views of eight bands, each distance over the local density."""
    rng = np.random.default_rng(0)
    train, test = embeddings(TRAINING, 1, 0), embeddings(TEST, 1, 1)
    for part in (train, test):
        x = rng.normal(size=(len(part), 3, BANDS, WIDTH)).astype(np.float32)
        object.__setattr__(part, "x", x)
    took = seconds(lambda: Subband(["mean", "max", "attention"], density="matched").fit(train).judge(test), 2)
    q, y = test.x[:, 0, 0], train.x[:, 0, 0]
    product = 3 * BANDS * seconds(lambda: (y @ y.T, q @ y.T))
    return ["sub-band, three views, 200 × 1000 clips", f"{took:.2f} s", f"{took / product:.1f}× the matrix products"]


def generator(profile: str) -> list[list[object]]:
    """A training step and the drawing of clips, operations counted by torch, beside one large matrix product."""
    options = config.resolve_generator(config.load_generator("diffusion"), config.load_profile(profile))
    denoiser = Denoiser(options.network, words=60, channels=2).to(DEVICE)
    learner = Denoising(denoiser, options.untold)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-4, fused=True)
    bf16 = use_bf16(options.train.precision, DEVICE)
    size = options.train.batch_size if DEVICE.type == "cuda" or profile == "quick" else 2
    facts, spectrum = torch.zeros(size, 61, device=DEVICE), torch.zeros(size, 2, BANDS_OF_STFT, device=DEVICE)

    def looked(samples: int, learn: bool) -> tuple[Callable[[], None], float]:
        x = torch.randn(size, 2, samples, device=DEVICE)

        def work() -> None:
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16), torch.set_grad_enabled(learn):
                found = learner(x, facts, spectrum) if learn else denoiser(x, x.new_full((size,), 500), facts, spectrum)
            if learn:
                found.backward()
                optimiser.step()
                optimiser.zero_grad()
            synchronise()

        with FlopCounterMode(display=False) as counter:
            work()
        return work, float(counter.get_total_flops())

    a = torch.randn(4096, 4096, device=DEVICE, dtype=torch.bfloat16 if bf16 else torch.float32)
    product = seconds(lambda: (a @ a, synchronise()))
    peak = 2 * 4096**3 / product
    frames = denoiser.frames * (frames_of(int(options.crop_seconds * 16_000)) // denoiser.frames)
    rows: list[list[object]] = []
    for samples, learn in (((frames - 1) * HOP, True), (denoiser.samples(160_000), False)):
        work, operations = looked(samples, learn)
        took = seconds(work, 3)
        share = f"{operations / took / peak:.0%} of a matrix product's {peak / 1e9:.0f} GFLOP/s" + " in bf16" * bf16
        if learn:
            title = f"generator {profile}, training step, {size} × {samples / 16_000:.1f} s"
            rows.append([title, f"{took:.3f} s", f"{size / took:.1f} excerpts/s; {share}"])
        else:
            passes = options.sampling.steps * (1 if options.sampling.guidance in (0, 1) else 2)
            rate = size * samples / 16_000 / (took * passes)
            title = f"generator {profile}, drawing {size} clips of 10 s, {passes} passes"
            rows.append([title, f"{took * passes:.1f} s", f"{rate:.1f} s of sound per s; {share}"])
    return rows


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--patches", action="store_true", help="only the matching of patches, of all clips")
    parser.add_argument("--measure-patches", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--generator", action="store_true", help="only the generator of clips, both profiles")
    options = parser.parse_args()
    if options.generator:
        show([*generator("quick"), *generator("full")])
    elif options.measure_patches:
        case, folder, share = options.measure_patches
        print(json.dumps(measure_patches(case, Path(folder), int(share))))
    elif options.patches:
        show([*patches(full=True), subband()])
    else:
        everything()


def show(rows: list[list[object]]) -> None:
    print_table(
        pd.DataFrame(rows, columns=["what", "measured", "beside"]), f"{torch.get_num_threads()} threads, {DEVICE.type}"
    )


def everything() -> None:
    rows = [
        nearest_neighbours(),
        *views(),
        evaluation(),
        fusion_tuning(),
        second_run(),
        *patches(full=False),
        subband(),
        *generator("quick"),
    ]
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
    show(rows)
    out.print("Best of several runs after one to warm up; localized scoring: a single run.")


if __name__ == "__main__":
    main()
