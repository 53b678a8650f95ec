"""Clips of a run: their scores, outcomes, histograms and ROC curves."""

from __future__ import annotations

import numpy as np
import pandas as pd

from asd_core.artifacts import Run
from asd_core.data.manifest import DataSet, attribute_text
from asd_core.types import ANOMALY, NORMAL, TEST, TRAIN, AsdError


def clip_table(run: Run, dataset: DataSet) -> pd.DataFrame:
    """Every test clip of a run with its truth, where it is known.

    Columns: clip_id, machine, section, domain, label (0, 1 or None), attributes, score, threshold, margin
    (score − threshold), decision, outcome ("TP", "FP", "TN", "FN" or "" without truth), percentile (share of the
    machine's training normals that score at most this, in percent; NaN of a transductive run, whose scores of training
    clips are of another kind), and the run's ``branch:`` columns.
    """
    scores = run.scores
    is_test = (scores["split"] == TEST).to_numpy()
    test, below = scores[is_test], percentiles(scores, bool(run.record.get("transductive")))[is_test]
    truths = [dataset.truth.get(clip_id) for clip_id in test["clip_id"]]
    labels = [None if truth is None else truth.label for truth in truths]
    facts = {
        "clip_id": test["clip_id"].to_numpy(),
        "machine": test["machine"].to_numpy(),
        "section": test["section"].to_numpy(),
        "domain": ["" if truth is None else truth.domain for truth in truths],
        "label": pd.array(labels, dtype="Int64"),
        "attributes": ["" if truth is None else attribute_text(truth.attributes) for truth in truths],
        "score": test["score"].to_numpy(),
        "threshold": test["threshold"].to_numpy(),
        "margin": (test["score"] - test["threshold"]).to_numpy(),
        "decision": test["decision"].to_numpy(),
        "outcome": [outcome(label, flagged) for label, flagged in zip(labels, test["decision"], strict=True)],
        "percentile": below,
    }
    facts |= {name: test[name].to_numpy() for name in test if name.startswith("branch:")}
    return pd.DataFrame(facts)


def percentiles(scores: pd.DataFrame, transductive: bool) -> np.ndarray:
    """(N,) `percentile` of every clip of a run among the training normals of its machine and section; NaN where there
    are none, and everywhere in a transductive run, whose scores of training clips are of another kind.

    Args:
        scores: machine, section, split and score, a row per clip
    """
    below = np.full(len(scores), np.nan)
    if transductive:
        return below
    score, is_train = scores["score"].to_numpy(), (scores["split"] == TRAIN).to_numpy()
    for rows in scores.groupby(["machine", "section"]).indices.values():
        normal = score[rows[is_train[rows]]]
        if len(normal):
            below[rows] = percentile(normal, score[rows])
    return below


def percentile(normal: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many percent of the training normals' scores (N,) lie at or below each of `scores` (M,)."""
    return 100 * np.searchsorted(np.sort(normal), scores, side="right") / len(normal)


def outcome(label: int | None, decision: int) -> str:
    """ "TP", "FP", "TN", "FN", or "" where the truth is unknown."""
    if label is None:
        return ""
    return ("T" if label == decision else "F") + ("P" if decision == 1 else "N")


def histogram(clips: pd.DataFrame, bins: int = 40) -> pd.DataFrame:
    """Counts of scores in `bins` equal bins that all groups share: domain, label, low, high, count.

    Rows come per (domain, label) present, label None where unknown; every clip is counted exactly once.
    """
    if clips.empty:
        return pd.DataFrame(columns=["domain", "label", "low", "high", "count"])
    edges = np.histogram_bin_edges(clips["score"], bins)
    parts = []
    for (domain, label), own in clips.groupby(["domain", "label"], dropna=False, sort=True):
        counts, _ = np.histogram(own["score"], edges)
        part = {"domain": domain, "label": None if pd.isna(label) else int(label)}
        parts.append(pd.DataFrame({**part, "low": edges[:-1], "high": edges[1:], "count": counts}))
    return pd.concat(parts, ignore_index=True)


def roc(scores: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """The ROC curve, one row per distinct operating point: threshold, fpr, tpr, from (0, 0) to (1, 1).

    ``score > threshold`` gives exactly the rates of its row, so a point picked on the curve can be used as it is.

    Raises:
        AsdError: there are no normal or no anomalous clips.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=int)
    normals, anomalies = int((labels == NORMAL).sum()), int((labels == ANOMALY).sum())
    if not normals or not anomalies:
        raise AsdError(f"A ROC curve needs normal and anomalous clips; here are {normals} and {anomalies}.")
    distinct, where = np.unique(-scores, return_inverse=True)  # highest score first
    false = np.cumsum(np.bincount(where, weights=labels == NORMAL))
    true = np.cumsum(np.bincount(where, weights=labels == ANOMALY))
    # with threshold = a score, exactly the scores before it in this order are flagged
    thresholds = np.append(-distinct, np.nextafter(-distinct[-1], -np.inf))
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "fpr": np.concatenate([[0], false]) / normals,
            "tpr": np.concatenate([[0], true]) / anomalies,
        }
    )
