"""How studio-1 and studio-2 were chosen (docs/studio.md): ``python -m tests.studio RUN --workspace PATH``.

RUN scored docs/studio-candidates.yaml on several machines. Every combination of up to three candidates with equal
weights is rated; and each machine is left out in turn, to see what would have been chosen without it and how that does
on it. Copies of a machine with noise (<machine>-<noise>) are left out together with it.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from asd_core import metrics
from asd_core.analysis import labelled_scores
from asd_core.artifacts import Workspace, load_run
from asd_core.config import System, validate
from asd_core.fusion.normalise import ZTrain
from asd_core.pipeline.tuned import labelled
from asd_core.tuning import triples
from asd_core.types import Truth

MOST = 3  # candidates in a combination


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    options = parser.parse_args()
    run = load_run(Workspace(options.workspace), options.run)
    system = validate(System, run.record["config"], options.run)
    truth = {row.clip_id: Truth(row.clip_id, row.label, row.domain) for row in labelled_scores(run).itertuples()}
    parts = labelled(system, run.scores, truth, run.record["labelled"])
    names = [name for name, _ in system.streams]
    chosen = [subset for size in range(1, MOST + 1) for subset in combinations(range(len(names)), size)]
    weights = np.array([[(i in subset) / len(subset) for i in range(len(names))] for subset in chosen])  # (K, S)
    values = []
    for part in parts:
        fused = ZTrain().fit(part.training)(part.scores) @ weights.T
        values.append(triples(fused, part.label, part.domain))
    table = np.array(values)  # (machines, K, 3)
    groups = np.array([part.machine.partition("-")[0] for part in parts])

    def omega(rows: np.ndarray, columns: np.ndarray | slice = slice(None)) -> np.ndarray:
        own = table[rows][:, columns]
        return 100 * metrics.hmean(own.swapaxes(0, 1).reshape(own.shape[1], -1))

    sizes = np.array([len(subset) for subset in chosen])
    label = np.array([" + ".join(names[i] for i in subset) for subset in chosen])
    everything = np.ones(len(parts), dtype=bool)
    per_group = {group: omega(groups == group) for group in dict.fromkeys(groups)}
    board = pd.DataFrame({"all": omega(everything), **per_group}, index=label).round(1)
    print(board[sizes == 1].sort_values("all", ascending=False).to_string(), "\n")
    print(board[sizes > 1].sort_values("all", ascending=False).head(15).to_string(), "\n")
    for size in range(1, MOST + 1):
        allowed = np.flatnonzero(sizes <= size)
        found, picks = np.empty((len(parts), 3)), {}
        for group in per_group:
            rest = groups != group
            best = allowed[omega(rest, allowed).argmax()]
            found[~rest] = table[~rest, best]
            picks[group] = label[best]
        left_out = 100 * metrics.hmean(found.reshape(1, -1))[0]
        print(f"up to {size}: best on all {omega(everything, allowed).max():.1f}, left out {left_out:.1f}")
        for group, pick in picks.items():
            print(f"  without {group}: {pick}")


if __name__ == "__main__":
    main()
