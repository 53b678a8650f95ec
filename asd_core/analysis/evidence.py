"""What stands behind one clip's score: its nearest normal clips, and the sound of the places that raised it.

Only numbers go in and come out; where they are kept is the business of `asd_core.api.inspection`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from asd_core.types import AsdError

METRICS = ("cosine", "euclidean", "chord")
WHOLE_CLIP = frozenset({"gmm", "kmeans", "mahalanobis", "prototype", "reconstruction"})
"""Scorers that judge a clip as a whole. Kept here because the app must not import the scorers to ask them."""
SCALE = (1.0, 99.5)  # percentiles of local scores that a map's colours run between
RARE = 99.0  # percentile of local scores above which a place is called rare
CALM = 5  # clips at least that a scale is taken from, where only some are
WINDOW, HOP = 1024, 256  # samples, Hann, of the masked sound


def pooled(x: np.ndarray, steps: np.ndarray | None = None) -> np.ndarray:
    """(N, D) float32: one vector per clip. Patches (N, T, F, D), of which the first `steps` (N,) time steps count, and
    bands (N, V, F, D) are averaged over all but the last axis; clip by clip, for patches are large."""
    if x.ndim == 2:
        return np.asarray(x, dtype=np.float32)
    vectors = np.empty((len(x), x.shape[-1]), dtype=np.float32)
    for row, one in enumerate(x):
        counted = one if steps is None else one[: steps[row]]
        vectors[row] = counted.reshape(-1, x.shape[-1]).mean(axis=0, dtype=np.float32)
    return vectors


def scale_of(values: np.ndarray, unflagged: np.ndarray) -> tuple[float, float, float, bool]:
    """Marks of a map's colours: the percentiles `SCALE` and `RARE` of local scores, and whether they are those of the
    unflagged clips alone. Where these are fewer than `CALM`, all clips are taken.

    Args:
        values: (N, U, F) local scores, a row per clip
        unflagged: (N,) bool
    """
    is_calm = bool(unflagged.sum() >= CALM)
    low, high, rare = np.nanpercentile(values[unflagged] if is_calm else values, (*SCALE, RARE))
    return float(low), float(high), float(rare), is_calm


def distances(train: np.ndarray, query: np.ndarray, scorer: Mapping[str, Any]) -> tuple[np.ndarray, str]:
    """(N,) distances of `query` (D,) to the rows of `train` (N, D), and what they are called.

    Measured as the scorer measures, where its options tell: `metric` ("cosine" is half of one less the cosine, "chord"
    half the length between the ends), `standardise` and `clip_zscore` as of `scorers.knn`. A Mahalanobis scorer that
    standardises is measured by Euclidean distance, any other that names no metric by cosine, as is their default.
    """
    standardised = scorer.get("standardise") and scorer.get("name") == "mahalanobis"
    metric = scorer.get("metric") or ("euclidean" if standardised else "cosine")
    if metric not in METRICS:
        raise AsdError(f'Distances of metric "{metric}" are not known here; known are {", ".join(METRICS)}.')
    both = np.concatenate([train, query[None]]).astype(np.float64)
    name = "Euclidean distance" if metric == "euclidean" else f"{metric} distance"
    if scorer.get("clip_zscore"):
        both = (both - both.mean(axis=1, keepdims=True)) / (both.std(axis=1, keepdims=True) + 1e-6)
    if scorer.get("standardise"):
        deviation = both[:-1].std(axis=0)
        both = (both - both[:-1].mean(axis=0)) / np.where(deviation == 0, 1.0, deviation)
        name += " of standardised features"
    if metric == "euclidean":
        return np.linalg.norm(both[:-1] - both[-1], axis=1), name
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)
    if metric == "cosine":
        return (1 - both[:-1] @ both[-1]) / 2, name
    return np.linalg.norm(both[:-1] - both[-1], axis=1) / 2, name


def mask(
    values: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    edges: np.ndarray,
    scale: tuple[float, float],
    hertz: np.ndarray,
    seconds: np.ndarray,
) -> np.ndarray:
    """(B, T) gains in 0…1 for every frequency and moment: 0 at the low end of the scale, 1 at its high end.

    Between the middles of stretches and bands values are interpolated, and the way from 0 to 1 is bent (3v² − 2v³), so
    that nothing clicks and what lies low is well damped.

    Args:
        values: (U, F) local scores
        start, stop: (U,) s; infinite: to the end of the clip
        edges: (F + 1,) Hz
        hertz, seconds: (B,) and (T,) where gains are wanted
    """
    low, high = scale
    middle = (start + np.minimum(stop, max(seconds[-1], start[-1]))) / 2
    in_time, in_band = _hats(middle, seconds), _hats((edges[:-1] + edges[1:]) / 2, hertz)
    spread = in_band.T @ np.where(np.isfinite(values), values, low).T @ in_time
    share = np.clip((spread - low) / max(high - low, 1e-12), 0.0, 1.0)
    return share**2 * (3 - 2 * share)


def _hats(knots: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(K, W) weights of linear interpolation between K knots, constant beyond the first and the last."""
    return np.stack([np.interp(where, knots, row) for row in np.eye(len(knots))])


class Masking:
    """A sound, taken apart and put together again under gains over frequency and time; gains of 1 give it back.

    Args:
        wave: (C, T) in any unit
        rate: Hz
    """

    def __init__(self, wave: np.ndarray, rate: int) -> None:
        from scipy.signal import ShortTimeFFT
        from scipy.signal.windows import hann

        self._transform = ShortTimeFFT(hann(WINDOW, sym=False), HOP, rate)
        self._length = wave.shape[1]
        padded = np.pad(wave.astype(np.float64), [(0, 0), (0, max(0, WINDOW - self._length))])
        self._parts = self._transform.stft(padded)  # (C, B, T')
        self.hertz = self._transform.f
        self.seconds = np.maximum(self._transform.t(padded.shape[1]), 0.0)

    def sound(self, gains: np.ndarray) -> np.ndarray:
        """(C, T) under gains (B, T')."""
        long = max(self._length, WINDOW)
        return np.asarray(self._transform.istft(self._parts * gains, k1=long))[:, : self._length].real
