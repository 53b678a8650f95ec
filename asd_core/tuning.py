"""Weights of a fusion that maximise Ω on labelled machines, and what they are worth on others.

Streams of scores are brought to one scale by training normals, machine by machine; then one set of weights w ≥ 0,
Σ w = 1, serves every machine. Weights that were chosen by Ω of some clips look better on these clips than they are:
twenty streams of noise can be weighted to well above chance. So each machine is also scored with weights that were
tuned on the other machines only, and that figure is the one to believe.

All values are fractions, never percent, but for the sentences, which are read beside tables in percent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from asd_core import metrics
from asd_core.fusion.normalise import NORMALISATIONS, Normalise
from asd_core.fusion.weighted import Search
from asd_core.types import ANOMALY, NORMAL, SOURCE, TARGET, AsdError

TUNING_VERSION = 1  # raise it when a search gives other weights
GRID_STEP = 0.05
GRID_STREAMS = 3  # with one more the grid has 1771 points, with ten 10 million
GREEDY_ROUNDS = 50
SIMPLEX_STEPS = (0.5, 0.25, 0.12, 0.06, 0.03, 0.015)
DIGITS = 3  # of weights
GAIN = 1e-6  # less is rounding: one pair of clips in another order changes Ω by more
EQUAL = "equal"  # where no search found better
LOMO = ("omega_lomo", "omega_lomo_single", "over_equal", "over_single")

Verdict = Literal["shown", "not shown", "not real", "unknown"]
Objective = Callable[[np.ndarray], np.ndarray]  # weights (K, S) → Ω (K,)


@dataclass(frozen=True)
class Labelled:
    """What S streams say about one machine and section whose truth is known."""

    machine: str
    section: str
    training: np.ndarray  # (N, S) scores of training normals
    scores: np.ndarray  # (M, S) scores of test clips
    label: np.ndarray  # (M,) NORMAL or ANOMALY
    domain: np.ndarray  # (M,) SOURCE or TARGET

    @property
    def lack(self) -> str:
        """Which clips are missing for the official figures, or ''."""
        normal = self.label == NORMAL
        for domain in (SOURCE, TARGET):
            if not (normal & (self.domain == domain)).any():
                return f"{domain} normal clips"
        return "" if (self.label == ANOMALY).any() else "anomalous clips"


@dataclass(frozen=True)
class Stream:
    """One stream's part in a tuned fusion."""

    name: str
    weight: float
    alone: float | None = None  # Ω of this stream by itself
    contribution: float | None = None  # tuned Ω minus Ω without this stream; None where no other has weight
    lowest: float | None = None  # weight over the folds, each tuned without one machine
    highest: float | None = None


@dataclass(frozen=True)
class Gain:
    """How much better machines are scored with weights tuned on the others than by what it is compared with.

    The interval (95 %) is of a paired bootstrap that draws machines with replacement, and clips inside them. To draw
    clips alone is not enough for a claim about other machines: of 60 fusions of noise it called 3 gains over equal
    weights and 7 over a single stream real, this one 0 and 1.
    """

    difference: float
    interval: tuple[float, float] | None  # None: fewer than two clips of a kind


@dataclass(frozen=True)
class Tuning:
    """Tuned weights with every figure needed to judge them. What could not be measured is None; `said` tells why."""

    streams: tuple[Stream, ...]
    normalise: Normalise
    search: str  # which search the weights come from; "equal" where none found better than equal weights
    candidates: int  # weight vectors that were tried on all machines together
    machines: tuple[str, ...]  # tuned on
    left_out: tuple[str, ...]  # a sentence each: labelled machines that had no part in it
    verdict: Verdict  # on over_equal
    said: str
    omega_tuned: float | None = None  # on the clips the weights were tuned on
    omega_equal: float | None = None
    omega_single: float | None = None  # of the best single stream
    single: str | None = None
    omega_lomo: float | None = None  # leave-one-machine-out: each machine with weights tuned on the others
    omega_lomo_single: float | None = None  # each machine with the stream that is best on the others
    over_equal: Gain | None = None  # omega_lomo − omega_equal
    over_single: Gain | None = None  # omega_lomo − omega_lomo_single

    @property
    def weights(self) -> list[float]:
        return [stream.weight for stream in self.streams]

    def record(self) -> dict[str, Any]:
        """What run.json holds under ``tuning``: the fields, with ``weights`` and further columns by stream name."""
        facts = asdict(self)
        streams = facts.pop("streams")
        for key, name in (
            ("weights", "weight"),
            ("alone", "alone"),
            ("contributions", "contribution"),
            ("lowest", "lowest"),
            ("highest", "highest"),
        ):
            facts[key] = {stream["name"]: stream[name] for stream in streams}
        return facts


def triples(scores: np.ndarray, label: np.ndarray, domain: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """The official AUC_source, AUC_target and pAUC of many score columns at once, ties counted exactly.

    Args:
        scores: (M, K) scores of the clips of one machine and section, a column per candidate; fastest as the
            transpose of a contiguous (K, M)
        label, domain: (M,)
        counts: (K, M) how often each candidate's clips count; default: once

    Returns:
        (K, 3); as `metrics.evaluate` gives for each column
    """
    group = np.where(label == ANOMALY, 2, np.where(domain == SOURCE, 0, 1))
    rows = np.ascontiguousarray(scores.T)
    K, M = rows.shape
    order = np.argsort(-rows, axis=1)
    ordered = np.take_along_axis(rows, order, axis=1)
    place = np.zeros((K, M), dtype=np.int64)  # equal scores share a place, the highest have place 0
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=place[:, 1:])
    cells = (group[order] * K + np.arange(K)[:, None]) * M + place
    weights = None if counts is None else np.take_along_axis(counts, order, axis=1).ravel()
    source, target, anomaly = np.bincount(cells.ravel(), weights, minlength=3 * K * M).reshape(3, K, M)
    areas = [metrics.auc(source, anomaly), metrics.auc(target, anomaly), metrics.pauc(source + target, anomaly)]
    return np.stack(areas, axis=1)


def tune(
    parts: Sequence[Labelled],
    names: Sequence[str],
    *,
    normalise: Normalise = "ztrain",
    search: Search = "auto",
    bootstrap: int = 1000,
    seed: int = 0,
) -> Tuning:
    """Find the weights that maximise Ω over all machines and sections of `parts`, and measure what they are worth.

    Args:
        parts: machines with truth; sections without all kinds of clips have no part in it, and none is an answer too
        names: of the S streams
        search: "grid" every multiple of 0.05, for up to 3 streams; "greedy" one stream after the other is added, the
            same as often as it helps; "simplex" moves weight towards and away from single streams in shrinking steps,
            from three starts; "auto" the grid for up to 3 streams, else the better of the other two. Equal weights
            stay unless something better is found.
        bootstrap, seed: number of resamples for the intervals, and of their random numbers

    Raises:
        AsdError: a search that this many streams cannot have, or columns that do not fit the names.
    """
    check_search(search, len(names))
    for part in parts:
        if part.scores.shape[1:] != (len(names),) or part.training.shape[1:] != (len(names),):
            raise AsdError(
                f"{part.machine}: scores of {part.scores.shape[1]} streams (test) and {part.training.shape[1]} "
                f"(training) came for {len(names)} names ({', '.join(names)}). Give one column per stream."
            )
    usable = [_Scaled(part, normalise) for part in parts if not part.lack]
    left_out = tuple(
        f"{part.machine}, section {part.section}, had no part in the tuning: it has no {part.lack}."
        for part in parts
        if part.lack
    )
    machines = tuple(dict.fromkeys(part.machine for part in usable))
    S = len(names)
    equal = np.full(S, 1 / S)
    if not usable:
        said = "The weights could not be tuned, as no machine has the labels for it: all streams count alike."
        alike = tuple(Stream(name, 1 / S) for name in names)
        return Tuning(alike, normalise, EQUAL, 0, (), left_out, "unknown", said)

    alone = _omega(usable, np.eye(S))
    weights, used, candidates = _best(usable, search, S)
    best = _first_best(alone)
    tuned, plain = (float(value) for value in _omega(usable, np.stack([weights, equal])))
    lomo = _leave_one_out(usable, machines, search, S, bootstrap, seed) if len(machines) > 1 else None
    lowest, highest = (None, None) if lomo is None else (lomo.weights.min(axis=0), lomo.weights.max(axis=0))
    streams = tuple(
        Stream(
            name,
            float(weights[i]),
            float(alone[i]),
            _contribution(usable, weights, i, tuned),
            None if lowest is None else float(lowest[i]),
            None if highest is None else float(highest[i]),
        )
        for i, name in enumerate(names)
    )
    verdict = "unknown" if lomo is None else _verdict(lomo.over_equal)
    figures = {} if lomo is None else {name: getattr(lomo, name) for name in LOMO}
    return Tuning(
        streams=streams,
        normalise=normalise,
        search=used,
        candidates=candidates,
        machines=machines,
        left_out=left_out,
        verdict=verdict,
        said=_said(tuned, plain, lomo, verdict, used, S),
        omega_tuned=tuned,
        omega_equal=plain,
        omega_single=float(alone[best]),
        single=names[best],
        **figures,
    )


def check_search(search: Search, streams: int) -> None:
    """Refuse a search that would not end."""
    if search == "grid" and streams > GRID_STREAMS:
        raise AsdError(
            f"fusion: the search grid is for up to {GRID_STREAMS} streams, here are {streams}. "
            f"Use auto, greedy or simplex."
        )


class _Scaled:
    """A machine and section on the common scale, in both forms the search needs."""

    def __init__(self, part: Labelled, normalise: Normalise) -> None:
        self.machine, self.section = part.machine, part.section
        self.label, self.domain = part.label, part.domain
        self.z = NORMALISATIONS[normalise]().fit(part.training)(part.scores)  # (M, S)
        self.rows = np.ascontiguousarray(self.z.T)

        labels = [(domain, label) for domain in (SOURCE, TARGET) for label in (NORMAL, ANOMALY)]
        members = [np.flatnonzero((part.domain == domain) & (part.label == label)) for domain, label in labels]
        self.groups = [rows for rows in members if len(rows)]
        normals, anomalies = [len(members[0]), len(members[2])], len(members[1]) + len(members[3])
        self.has_pairs = min(*normals, anomalies) > 1  # an interval takes two clips of a kind

    def fuse(self, weights: np.ndarray) -> np.ndarray:
        """(M,) exactly what `Weighted` gives for these weights."""
        return self.z @ (weights / weights.sum())


@dataclass(frozen=True)
class _LeftOut:
    """Every machine scored by what was tuned on the others."""

    omega_lomo: float
    omega_lomo_single: float
    over_equal: Gain
    over_single: Gain
    weights: np.ndarray  # (machines, S)


def _omega(parts: Sequence[_Scaled], weights: np.ndarray) -> np.ndarray:
    """(K,) Ω of weights (K, S), from scores that equal those of a run to the last bit."""
    values = [triples(np.stack([part.fuse(w) for w in weights], axis=1), part.label, part.domain) for part in parts]
    return metrics.hmean(np.concatenate(values, axis=1))


def _best(parts: Sequence[_Scaled], search: Search, streams: int) -> tuple[np.ndarray, str, int]:
    """The best weights (S,) on these machines, the search that found them, and how many were tried."""
    tried = 0

    def omega(weights: np.ndarray) -> np.ndarray:
        nonlocal tried
        tried += len(weights)
        values = [triples((weights @ part.rows).T, part.label, part.domain) for part in parts]
        return metrics.hmean(np.concatenate(values, axis=1))

    auto = ["grid"] if streams <= GRID_STREAMS else ["greedy", "simplex"]
    names = auto if search == "auto" else [search]
    found = {EQUAL: np.full(streams, 1 / streams)}
    if streams > 1:
        found |= {name: _rounded(SEARCHES[name](omega, streams)) for name in names}
    values = _omega(parts, np.stack(list(found.values())))
    best = list(found)[_first_best(values)]
    return found[best], best, tried + len(found)


def _grid(omega: Objective, streams: int) -> np.ndarray:
    """The best of all weights that are multiples of the step."""
    steps = round(1 / GRID_STEP)
    shares = np.stack(np.meshgrid(*[np.arange(steps + 1)] * (streams - 1), indexing="ij"), axis=-1)
    shares = shares.reshape(-1, streams - 1)
    shares = shares[shares.sum(axis=1) <= steps]
    weights = np.column_stack([shares, steps - shares.sum(axis=1)]) / steps
    return weights[_first_best(omega(weights))]


def _greedy(omega: Objective, streams: int) -> np.ndarray:
    """Forward selection with replacement [Caruana et al. 2004]: add the stream that helps most until none helps."""
    counts = np.zeros(streams)
    best = -np.inf
    for _ in range(GREEDY_ROUNDS):
        more = counts + np.eye(streams)
        values = omega(more / more[0].sum())
        chosen = _first_best(values)
        if values[chosen] < best + GAIN:
            break
        counts, best = more[chosen], values[chosen]
    return counts / counts.sum()


def _simplex(omega: Objective, streams: int) -> np.ndarray:
    """Steepest ascent along the lines to and from the corners, in shrinking steps, from equal weights, from the best
    stream alone and from weights in proportion to how far each stream is above the worst."""
    corners = np.eye(streams)
    alone = omega(corners)
    above = alone - alone.min()
    starts = [np.ones(streams), corners[_first_best(alone)], *([above] if above.any() else [])]
    ends, values = [], []
    for start in starts:
        weights = start / start.sum()
        best = omega(weights[None])[0]
        for step in SIMPLEX_STEPS:
            while True:
                moves = _moves(weights, step)
                reached = omega(moves)
                chosen = _first_best(reached)
                if reached[chosen] < best + GAIN:
                    break
                weights, best = moves[chosen], reached[chosen]
        ends.append(weights)
        values.append(best)
    return ends[_first_best(np.array(values))]


def _moves(weights: np.ndarray, step: float) -> np.ndarray:
    """(K, S) weights one step nearer to each corner, then one step further from each that has weight."""
    corners = np.eye(len(weights))
    nearer = (1 - step) * weights + step * corners
    further = np.maximum(weights - step * corners, 0)[weights > 0]
    further = further[further.any(axis=1)]
    return np.concatenate([nearer, further / further.sum(axis=1, keepdims=True)])


SEARCHES: Mapping[str, Callable[[Objective, int], np.ndarray]] = {"grid": _grid, "greedy": _greedy, "simplex": _simplex}


def _first_best(values: np.ndarray) -> int:
    """The first of those that are best but for rounding."""
    return int(np.argmax(values >= values.max() - GAIN))


def _rounded(weights: np.ndarray) -> np.ndarray:
    """Weights of a few digits that still sum to 1: largest remainders are rounded up."""
    units = 10**DIGITS * weights
    whole = np.floor(units)
    missing = round(10**DIGITS - whole.sum())
    whole[np.argsort(whole - units, kind="stable")[:missing]] += 1
    return whole / 10**DIGITS


def _contribution(parts: Sequence[_Scaled], weights: np.ndarray, stream: int, tuned: float) -> float | None:
    if weights[stream] == 0:
        return 0.0
    rest = weights.copy()
    rest[stream] = 0
    return tuned - float(_omega(parts, rest[None])[0]) if rest.any() else None


def _leave_one_out(
    parts: Sequence[_Scaled], machines: Sequence[str], search: Search, streams: int, bootstrap: int, seed: int
) -> _LeftOut:
    """Tune without each machine in turn and score that machine; resample machines, and clips inside them."""
    rng = np.random.default_rng(seed)
    equal, alone = np.full(streams, 1 / streams), np.eye(streams)
    folds, inverse, sizes = [], [], []  # inverse: Σ 1/value of a machine under its fold's weights, equal, single
    for machine in machines:
        others = [part for part in parts if part.machine != machine]
        weights, _, _ = _best(others, search, streams)
        single = alone[_first_best(_omega(others, alone))]
        own = [part for part in parts if part.machine == machine]
        values = np.stack([_resampled(part, [weights, equal, single], bootstrap, rng) for part in own])
        inverse.append((1 / np.maximum(values, metrics.FLOOR)).sum(axis=(0, 3)))  # (3, 1 + B)
        sizes.append(len(own) * len(metrics.TRIPLE))
        folds.append(weights)
    n = len(machines)
    times = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), bootstrap)])  # each machine drawn
    omega = times @ np.array(sizes) / np.einsum("bm,mkb->kb", times, np.stack(inverse))  # (3, 1 + B)
    enough = bootstrap > 0 and all(part.has_pairs for part in parts)
    gains = [_gain(omega[0] - omega[other], enough) for other in (1, 2)]
    return _LeftOut(float(omega[0, 0]), float(omega[2, 0]), gains[0], gains[1], np.stack(folds))


def _resampled(part: _Scaled, weights: Sequence[np.ndarray], bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """(weights, 1 + B, 3) triples: as measured, then with clips drawn anew inside each domain and label."""
    counts = np.ones((1 + bootstrap, len(part.label)))
    for rows in part.groups:
        counts[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), bootstrap)
    scores = (np.broadcast_to(part.fuse(w), counts.shape).T for w in weights)
    return np.stack([triples(column, part.label, part.domain, counts) for column in scores])


def _gain(differences: np.ndarray, enough: bool) -> Gain:
    """From the measured difference and its resamples (1 + B,)."""
    if not enough:
        return Gain(float(differences[0]), None)
    low, high = np.quantile(differences[1:], [(1 - metrics.COVERAGE) / 2, (1 + metrics.COVERAGE) / 2])
    return Gain(float(differences[0]), (float(low), float(high)))


def _verdict(gain: Gain) -> Verdict:
    if gain.difference <= 0:
        return "not real"
    return "shown" if gain.interval is not None and gain.interval[0] > 0 else "not shown"


def _said(tuned: float, equal: float, lomo: _LeftOut | None, verdict: Verdict, search: str, streams: int) -> str:
    """What the figures mean, for somebody who reads nothing else."""
    if streams == 1:
        return "There is one stream of scores, so there was nothing to tune."
    if search == EQUAL:
        return f"No weights were found that are better than equal ones, which reach Ω {_percent(equal)}."
    said = f"Tuned Ω {_percent(tuned)} was found on the clips it is measured on."
    if lomo is None:
        return (
            f"{said} Whether the gain over equal weights ({_percent(equal)}) is real cannot be said: that takes a second "
            f"labelled machine, on which the weights are not tuned."
        )
    said += f" On machines it was not tuned on: {_percent(lomo.omega_lomo)}, equal weights {_percent(equal)}"
    difference = _difference(lomo.over_equal)
    said += {
        "not real": ": the gain is not real.",
        "not shown": f": the gain of {difference} is not shown, chance could give as much.",
        "shown": f": the gain of {difference} is real on machines like these.",
        "unknown": ".",
    }[verdict]
    if verdict != "not real" and _verdict(lomo.over_single) != "shown":
        said += (
            f" The best single stream, chosen in the same way, reaches {_percent(lomo.omega_lomo_single)} there: that this "
            f"fusion is better than one stream is not shown."
        )
    return said


def _difference(gain: Gain) -> str:
    points = f"{100 * gain.difference:.1f} points"
    if gain.interval is None:
        return f"{points} (too few clips for an interval)"
    low, high = gain.interval
    return f"{points} (95 %: {100 * low:.1f} to {100 * high:.1f})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
