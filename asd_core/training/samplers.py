"""Which examples an epoch draws, in which order; and weights that make some of them come more often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asd_core.types import TARGET


def order(count: int, batch_size: int, seed: int, epoch: int, weights: np.ndarray | None = None) -> list[np.ndarray]:
    """The batches of one epoch as index arrays: a function of its arguments.

    Without `weights` every example comes once, else `count` are drawn with replacement in proportion to their
    weights (count,). A last batch of one example is left out (batch norm).
    """
    rng = np.random.default_rng([seed, epoch])
    if weights is None:
        drawn = rng.permutation(count)
    else:
        drawn = rng.choice(count, size=count, p=_probabilities(weights, count))
    batches = [drawn[i : i + batch_size] for i in range(0, count, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def class_balance(labels: Sequence[object] | np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """(N,) weights n_c^−exponent for examples of a class of n_c: 0 leaves classes as frequent as they are, 1 makes
    them equally frequent, values between are a compromise. The weights sum to 1.
    """
    if not 0 <= exponent <= 1:
        raise ValueError(f"exponent must lie between 0 and 1, got {exponent}")
    _, members, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    weights = counts[members] ** -float(exponent)
    return weights / weights.sum()


def target_share(domains: Sequence[str] | np.ndarray, share: float, weights: np.ndarray | None = None) -> np.ndarray:
    """(N,) weights under which a fraction `share` of the draws is of the target domain (oversampling).

    `domains` are "source" and "target", or booleans: is it the target domain? `weights` (default: equal) are kept
    in proportion within each domain, so that this goes with `class_balance`. Where one domain is missing there is
    nothing to shift. The weights sum to 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    domain = np.asarray(domains)
    target = domain if domain.dtype == bool else domain == TARGET
    result = np.ones(len(target)) if weights is None else np.array(weights, float)
    mine, others = result[target].sum(), result[~target].sum()
    if mine > 0 and others > 0:
        result[target] *= share / mine
        result[~target] *= (1 - share) / others
    return result / result.sum()


def _probabilities(weights: np.ndarray, count: int) -> np.ndarray:
    values = np.asarray(weights, float)
    if values.shape != (count,) or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ValueError(f"weights must be {count} finite numbers, none negative and not all 0")
    return values / values.sum()
