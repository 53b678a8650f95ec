"""Streams of scores → one score, a threshold and a decision per clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from asd_core.config import System
from asd_core.data.manifest import DataSet
from asd_core.decision import DECISIONS, Decision
from asd_core.fusion import FUSIONS
from asd_core.types import TEST, TRAIN


def decide(
    system: System, table: pd.DataFrame, batch: np.ndarray | None = None
) -> tuple[pd.DataFrame, dict[str, float], list[str]]:
    """Fuse the branch columns of one machine and decide, section by section, knowing training clips only.

    Returns:
        The table with score, threshold and decision (0 or 1; −1 for training clips), thresholds by section,
        and what the user should know about them.
    """
    parts, thresholds, notices = [], {}, []
    for section, rows in table.groupby("section"):
        training = (rows["split"] == TRAIN).to_numpy()
        streams = stream_scores(system, rows)
        fused = np.empty(len(rows))
        fused[training], fused[~training], decision = verdict(system, streams[training], streams[~training], batch)
        thresholds[str(section)] = decision.threshold_
        notices += [decision.notice_] if decision.notice_ else []
        called = np.where(training, -1, decision.decide(fused).astype(int))
        parts.append(rows.assign(score=fused, threshold=decision.threshold_, decision=called))
    return pd.concat(parts), thresholds, notices


def stream_scores(system: System, table: pd.DataFrame) -> np.ndarray:
    """(N, streams): the mean of the branch columns that make up each stream."""
    members = [[f"branch:{name}" for name in names] for _, names in system.streams]
    return np.stack([table[columns].mean(axis=1).to_numpy() for columns in members], axis=1)


def verdict(
    system: System, training: np.ndarray, test: np.ndarray, batch: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Decision]:
    """Fused scores (N,) of training-normal and (M,) of test clips of one machine and section, from their streams
    (N, S) and (M, S), and the fitted threshold. Only what is marked transductive looks at more than one test clip."""
    fusion = FUSIONS.create(system.fusion.spec).fit(training)
    decision = DECISIONS.create(system.decision.spec)
    known, asked = fusion.fuse(training), fusion.fuse(test)
    decision.fit(
        known,
        batch=None if batch is None else fusion.fuse(batch[:, None]),
        test=(asked if len(asked) else known) if decision.transductive else None,  # known: there is nothing to decide
    )
    return known, asked, decision


def is_transductive(system: System) -> bool:
    """Whether a clip's score or verdict depends on the other test clips."""
    fusion, decision = FUSIONS.create(system.fusion.spec), DECISIONS.create(system.decision.spec)
    return fusion.transductive or decision.transductive


def with_truth(scores: pd.DataFrame, data: DataSet, machines: Sequence[str]) -> pd.DataFrame:
    """Test rows of labelled machines with label and domain. Only metrics and analysis may ask for this."""
    rows = scores[(scores["split"] == TEST) & scores["machine"].isin(machines)]
    truth = [data.truth[clip_id] for clip_id in rows["clip_id"]]
    return rows.assign(label=[t.label for t in truth], domain=[t.domain for t in truth])
