"""What a part of the clips has more or less of than all of them, and where clips crowd on a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

SMOOTHING = 1.5  # cells, deviation of the Gaussian that a density is smoothed with


def enrichment(clips: pd.DataFrame, chosen: np.ndarray, columns: Sequence[str]) -> pd.DataFrame:
    """Values of `columns` that are more or less frequent among the chosen clips than among all.

    Args:
        chosen: (N,) bool, rows of `clips`
        columns: with values as text; "" means unknown, and such clips do not count for that column

    Returns:
        one row per column and value, the most surprising first, of equals what is more frequent here: column, value,
        here and everywhere (clips with that value), share_here, share (percent of the chosen and of all clips whose
        value is known), p. Columns with one value only are left out.

        p is the two-sided p value of Fisher's exact test, twice the smaller tail of the hypergeometric distribution,
        multiplied for the number of values looked at (Holm 1979). It tells how surprising a selection drawn at random
        would be; one that was drawn while looking at the colours is not.
    """
    from scipy.stats import hypergeom

    parts = []
    for column in columns:
        known = (clips[column] != "").to_numpy()
        everywhere = clips.loc[known, column].value_counts()
        here = clips.loc[known & chosen, column].value_counts().reindex(everywhere.index, fill_value=0)
        picked = int((known & chosen).sum())
        if len(everywhere) < 2 or not picked:
            continue
        drawn = hypergeom(int(known.sum()), everywhere.to_numpy(), picked)
        tails = np.minimum(drawn.cdf(here.to_numpy()), drawn.sf(here.to_numpy() - 1))
        facts = {"value": everywhere.index, "here": here.to_numpy(), "everywhere": everywhere.to_numpy()}
        shares = {"share_here": 100 * facts["here"] / picked, "share": 100 * facts["everywhere"] / known.sum()}
        parts.append(pd.DataFrame({"column": column, **facts, **shares, "p": np.minimum(2 * tails, 1)}))
    if not parts:
        return pd.DataFrame(columns=["column", "value", "here", "everywhere", "share_here", "share", "p"])
    table = pd.concat(parts, ignore_index=True)
    table = table.iloc[np.lexsort([table["share"] - table["share_here"], table["p"]])].reset_index(drop=True)
    remaining = np.arange(len(table), 0, -1)
    table["p"] = np.minimum(np.maximum.accumulate(table["p"] * remaining), 1)
    return table


def shares(values: np.ndarray, chosen: np.ndarray, bins: int = 20, low: float = 0, high: float = 100) -> pd.DataFrame:
    """How `values` (N,) are distributed among the chosen clips and among the rest: low, high, here, rest.

    Percent of the chosen, and of the rest, in each of `bins` equal bins from `low` to `high`; the last bin includes
    its end. Values that are NaN do not count.
    """
    edges = np.linspace(low, high, bins + 1)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:]})
    for name, part in (("here", values[chosen]), ("rest", values[~chosen])):
        counts, _ = np.histogram(part[np.isfinite(part)], edges)
        table[name] = 100 * counts / max(counts.sum(), 1)
    return table


def density(x: np.ndarray, y: np.ndarray, cells: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where points (N,) crowd: middles of the columns (cells,), of the rows (cells,), and smoothed counts
    (cells, cells), rows by y, as a fraction of the largest."""
    from scipy.ndimage import gaussian_filter

    margins = [0.05 * max(float(np.ptp(values)), 1e-9) for values in (x, y)]
    reach = [(values.min() - margin, values.max() + margin) for values, margin in zip((x, y), margins, strict=True)]
    counts, columns, rows = np.histogram2d(x, y, bins=cells, range=reach)
    smooth = gaussian_filter(counts.T, SMOOTHING)
    return (columns[1:] + columns[:-1]) / 2, (rows[1:] + rows[:-1]) / 2, smooth / smooth.max()


def stratified(strata: pd.DataFrame, size: int) -> np.ndarray:
    """Rows (M,), in order, of a sample of at most `size` in which every stratum has its share, and none is lost as long
    as there are fewer strata than rows; the same rows each time.

    Args:
        strata: (N, K) columns whose combinations are the strata
    """
    if len(strata) <= size:
        return np.arange(len(strata))
    order = np.random.default_rng(0).permutation(len(strata))
    codes = strata.groupby(list(strata), sort=True, dropna=False).ngroup().to_numpy()[order]
    place = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    sizes = np.bincount(codes)
    # in every stratum at the same pace: the i-th of n comes at i / n, the first of all strata first
    first = np.argsort(place / sizes[codes], kind="stable")[:size]
    return np.sort(order[first])
