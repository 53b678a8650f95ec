"""How cost grows with the clips of a machine: ``python -m tests.bench_growth [--plot assets/growth.png]``.

Every stage at 250, 1000 and 4000 clips of 10 s, each in a process of its own, after its libraries are loaded and tried.
Seconds of the processor, of all threads together, compare on a machine that does other things too. Of memory two
numbers are told: the peak of all that is resident, parts of files that the system keeps for us included, which it can
take back; and by how much the process's own memory grew, which it cannot.

At 4000 clips the files need 6 GB for a while.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# This process stays small, and what the stages need is imported by theirs: Linux counts the memory of a process among
# the peak of those that it starts.

SIZES = (250, 1000, 4000)
LARGER = {"knn": (16_000,), "ivf": (16_000,)}  # where searching in cells might begin to pay
TEST = 200  # clips that are judged, however many were learnt from
SECONDS, RATE, DIMENSIONS = 10, 16_000, 768
DISTINCT = 16  # recordings; the others are further names of these
BACKBONE = {  # as of the quick profile
    "name": "beats",
    "architecture": {"layers": 4, "width": 128, "heads": 4, "ffn": 512, "patch_width": 128},
    "pooling": {"name": "mean"},
}
Work = Callable[[], str]  # does what is measured; returns what else is to be told


# ---------------------------------------------------------------- embed


def prepare_embed(folder: Path, clips: int) -> None:
    """Noise, and an encoder with random weights as a train task leaves it."""
    import numpy as np

    from asd_core.backbones import BACKBONES
    from asd_core.data import audio
    from asd_core.files import write_json
    from asd_core.training import checkpoint

    rng = np.random.default_rng(0)
    for number in range(clips):
        path = _recording(folder, number)
        if number < DISTINCT:
            audio.write(path, 0.1 * rng.standard_normal((1, SECONDS * RATE)).astype(np.float32))
        else:
            os.link(_recording(folder, number % DISTINCT), path)
    checkpoint.save_weights(folder / "encoder" / "model.safetensors", BACKBONES.create(BACKBONE))
    write_json(folder / "encoder" / "meta.json", {"backbone": BACKBONE})


def _recording(folder: Path, number: int) -> Path:
    return folder / "fan" / "train" / f"section_00_source_train_normal_{number:04d}_speed_1.wav"


def embed(folder: Path, clips: int) -> Work:
    from asd_core.artifacts import write_embeddings
    from asd_core.pipeline.embedding import embed_parts
    from asd_core.pipeline.tasks import embeddings_file
    from asd_core.types import TRAIN, Clip

    paths = [_recording(folder, number) for number in range(clips)]
    every = [Clip(f"fan/train/{path.name}", path, "fan", TRAIN, "00", "source") for path in paths]
    outputs = ["clip", "patches"]

    def made(some: list[Clip], place: Path) -> int:
        found = embed_parts(
            {TRAIN: some}, {"name": "waveform"}, folder / "encoder", outputs, device="cpu", folder=place
        )[TRAIN]
        for output, own in found.items():
            write_embeddings(embeddings_file(place, TRAIN, output), own, with_rows=False)
        return found["patches"].x.nbytes

    made(every[:32], folder / "tried")
    return lambda: f"{made(every, folder / 'task') / 1e9:.2f} GB of patches written"


# ---------------------------------------------------------------- nearest neighbours, maps


def _states(clips: int, seed: int) -> Any:
    """(N, D) float32: 50 states of a machine, each a cloud of 20 dimensions, and noise."""
    import numpy as np

    common, own = np.random.default_rng(0), np.random.default_rng(seed)
    centres = common.normal(size=(50, DIMENSIONS))
    axes = 0.5 * common.normal(size=(20, DIMENSIONS))
    x = centres[own.integers(50, size=clips)] + own.normal(size=(clips, 20)) @ axes
    return (x + 0.1 * own.normal(size=x.shape)).astype(np.float32)


def _set(x: Any) -> Any:
    import numpy as np

    from asd_core.types import EmbeddingSet

    domains = np.where(np.arange(len(x)) < len(x) - 10, "source", "target")
    return EmbeddingSet(x, np.arange(len(x)).astype(str), np.full(len(x), "00"), domains)


def _neighbours(clips: int, **options: Any) -> Work:
    from asd_core.scorers.knn import KNN

    train, test = _set(_states(clips, 1)), _set(_states(TEST, 2))
    KNN(**options).fit(train[:200]).score(test)

    def work() -> str:
        scorer = KNN(**options).fit(train)
        scorer.training_scores()
        scorer.score(test)
        return " ".join(scorer.notices_)

    return work


def knn(folder: Path, clips: int) -> Work:
    return _neighbours(clips)


def knn_ivf(folder: Path, clips: int) -> Work:
    return _neighbours(clips, index="ivf")


def umap(folder: Path, clips: int) -> Work:
    from asd_core.pipeline import projection

    options = {"neighbours": 20, "min_dist": 0.15, "metric": "cosine", "seed": 0}
    x = _states(clips, 1)
    projection._umap(x[:100], options)  # compiles
    return lambda: str(projection._umap(x, options).shape[1]) + " dimensions"


# ---------------------------------------------------------------- patches


def prepare_localized(folder: Path, clips: int) -> None:
    from tests.bench import write_patches

    write_patches(folder / "train.npy", clips, 1)
    write_patches(folder / "test.npy", TEST, 2)


def localized(folder: Path, clips: int) -> Work:
    from asd_core.scorers.localized import Localized
    from tests.bench import stored

    train, test = stored(folder / "train.npy", clips), stored(folder / "test.npy", TEST)
    Localized().fit(train[:20]).judge(test[:5])

    def work() -> str:
        scorer = Localized().fit(train)
        scorer.judge(test)
        scorer.training_scores()
        return f"{train.x.nbytes / 1e9:.2f} GB of patches {' × '.join(map(str, train.x.shape[1:]))}"

    return work


# ---------------------------------------------------------------- pages


def prepare_pages(folder: Path, clips: int) -> None:
    from asd_core import api
    from asd_core.pipeline import projection
    from tests import fullscale

    workspace = fullscale.build(folder, 1.0, ("fan", "valve"), source=clips - 10, per_group=max(5, clips // 20))
    run = api.runs(workspace)[0]
    projection.project(workspace, projection.plan_projection(workspace, run, ["fan"], method="pca"))


def pages(folder: Path, clips: int) -> Work:
    """What Results and Explore ask for when they are opened on one of two machines, nothing remembered."""
    from asd_core import api
    from asd_core.artifacts import Workspace

    workspace = Workspace(folder / "workspace")
    api.leaderboard(workspace)
    run = next(one for one in api.runs(workspace) if api.projections(workspace, one))

    def work() -> str:
        api.leaderboard(workspace)
        api.machine_matrix(run)
        table = api.clip_table(workspace, run)
        own = table[table["machine"] == "fan"]
        shown = api.select_clips(own, "Worst false alarms")
        api.histogram(own)
        api.roc_curves(own)
        clip_id = (own if shown.empty else shown)["clip_id"].iloc[0]
        api.heat(workspace, run, clip_id)
        api.neighbours(workspace, run, clip_id)
        api.check_recordings(workspace, run)
        points = api.sampled(api.mapped_clips(workspace, run, api.projections(workspace, run)[0].key))
        api.crowding(points["x"].to_numpy(), points["y"].to_numpy())
        api.enriched(points, (points["x"] > points["x"].median()).to_numpy())
        return f"{len(table):,} test clips in the table, {len(points):,} on the map"

    return work


STAGES: dict[str, tuple[str, Callable[[Path, int], Work], Callable[[Path, int], None] | None]] = {
    "embed": ("embedding, small BEATs", embed, prepare_embed),
    "knn": ("kNN, exact", knn, None),
    "ivf": ("kNN, IVF", knn_ivf, None),
    "localized": ("localized", localized, prepare_localized),
    "umap": ("UMAP", umap, None),
    "pages": ("readers of two pages", pages, prepare_pages),
}


# ---------------------------------------------------------------- measuring


@contextmanager
def own_memory() -> Iterator[list[float]]:
    """[GB at the beginning, at most meanwhile] of memory that is no file's."""
    now = lambda: int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) / 1e6  # noqa: E731
    seen, over = [now()] * 2, threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            seen[1] = max(seen[1], now())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def measure(stage: str, folder: Path, clips: int) -> dict[str, float | str]:
    work = STAGES[stage][1](folder, clips)
    with own_memory() as memory:
        wall, cpu = time.perf_counter(), time.process_time()
        remark = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"cpu": cpu, "wall": wall, "peak": peak, "grown": memory[1] - memory[0], "remark": remark}


def in_own_process(what: str, stage: str, folder: Path, clips: int) -> dict[str, Any]:
    words = [sys.executable, "-W", "ignore", "-m", "tests.bench_growth", what, stage, str(folder), str(clips)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(
    stages: list[str], sizes: list[int] | None, scratch: Path | None, kept: Path | None
) -> list[dict[str, Any]]:
    """One row per stage and size; those that the file `kept` has are not measured again, new ones are added to it."""
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.is_file() else []
    for stage, clips in [(name, size) for name in stages for size in sizes or (*SIZES, *LARGER.get(name, ()))]:
        if any((row["stage"], row["clips"]) == (stage, clips) for row in rows):
            continue
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            folder = Path(place)
            if STAGES[stage][2] is not None:
                in_own_process("--prepare", stage, folder, clips)
            rows.append({"stage": stage, "clips": clips} | in_own_process("--measure", stage, folder, clips))
        if kept:
            kept.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    rows.sort(key=lambda row: (list(STAGES).index(row["stage"]), row["clips"]))
    for before, row in zip([None, *rows], rows, strict=False):
        row["exponent"] = _exponent(before, row) if before and before["stage"] == row["stage"] else None
    return rows


def _exponent(before: dict[str, Any], after: dict[str, Any]) -> float:
    """a in cost ∝ clips^a between two sizes: 1 is linear, 2 quadratic."""
    return math.log(after["cpu"] / before["cpu"]) / math.log(after["clips"] / before["clips"])


# ---------------------------------------------------------------- showing


def show(rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    from asd_core.terminal import print_table

    shown = [
        {
            "stage": STAGES[row["stage"]][0],
            "clips": f"{row['clips']:,}",
            "CPU s": f"{row['cpu']:.2f}",
            "exponent": "" if row["exponent"] is None else f"{row['exponent']:.2f}",
            "wall s": f"{row['wall']:.2f}",
            "peak GB": f"{row['peak']:.2f}",
            "own memory grew by GB": f"{row['grown']:.2f}",
            "": row["remark"],
        }
        for row in rows
    ]
    caption = f"{os.environ.get('OMP_NUM_THREADS') or os.cpu_count()} threads; exponent: CPU s grow as clips^a"
    print_table(pd.DataFrame(shown), caption)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Processor time and memory against clips, both axes logarithmic: a straight line at 45° is linear growth."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure((11, 4.4), facecolor="white", layout="constrained")
    panels = figure.subplots(1, 2)
    sizes = sorted({row["clips"] for row in rows})
    values = {"cpu": "seconds of processor time", "grown": "GB by which own memory grew"}
    for axes, (name, title) in zip(panels, values.items(), strict=True):
        for stage, (label, _, _) in STAGES.items():
            own = [(row["clips"], max(row[name], 1e-3)) for row in rows if row["stage"] == stage]
            if own:
                axes.loglog(*zip(*own, strict=True), marker="o", label=label)
        low, high = axes.get_ylim()
        for start in [10**e for e in range(-6, 4)]:
            axes.plot(sizes, [start * size / sizes[0] for size in sizes], color="0.85", lw=0.8, zorder=0)
        axes.set(title=title, xlabel="clips of 10 s", ylim=(low, high), xticks=sizes)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    panels[0].text(0.97, 0.03, "grey: linear growth", color="0.5", transform=panels[0].transAxes, ha="right")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", help="default: 250 1000 4000, and 16000 for kNN")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--plot", type=Path, help="draw the table as a PNG")
    parser.add_argument("--scratch", type=Path, help="folder for files that are deleted again")
    parser.add_argument("--keep", type=Path, help="file for what is measured, to go on with later")
    for name in ("--prepare", "--measure"):
        parser.add_argument(name, nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.prepare:
        stage, folder, clips = asked.prepare
        prepare = STAGES[stage][2]
        assert prepare is not None
        prepare(Path(folder), int(clips))
        print(json.dumps({}))
    elif asked.measure:
        stage, folder, clips = asked.measure
        print(json.dumps(measure(stage, Path(folder), int(clips))))
    else:
        rows = measured(asked.stages, asked.sizes, asked.scratch, asked.keep)
        show(rows)
        if asked.plot:
            plot(rows, asked.plot)


if __name__ == "__main__":
    main()
