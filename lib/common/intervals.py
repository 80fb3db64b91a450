"""Means with their 95 % intervals.

Intervals are percentile bootstrap (Efron and Tibshirani 1993); disjoint blocks for series whose neighbours depend on
each other (Carlstein 1986). Every resampling takes its seed as an argument.
"""

from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean with its 95 % interval [low, high], number of cases n and their standard deviation sd."""

    mean: float
    low: float
    high: float
    n: int
    sd: float


def bootstrap_mean(values: np.ndarray, seed: int = 0, n_boot: int = 2000) -> Interval:
    """Mean of independent cases (one number per image, per seed ...) with its bootstrap interval.

    Args:
        values: (N,) finite numbers, N >= 2.

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    return block_bootstrap(values, np.ones(len(values)), block=1, seed=seed, n_boot=n_boot)


def paired_difference(a: np.ndarray, b: np.ndarray, seed: int = 0, n_boot: int = 2000) -> Interval:
    """Mean of a - b over the same cases, (N,) each, with its bootstrap interval.

    Raises:
        ValueError: a and b differ in shape, or their difference is nothing that `bootstrap_mean` takes.
    """
    a = np.asarray(a, float)
    b = np.asarray(b, float)
    if a.shape != b.shape:
        raise ValueError(f"paired values must have equal shapes, found {a.shape} and {b.shape}")
    return bootstrap_mean(a - b, seed, n_boot)


def block_bootstrap(
    values: np.ndarray, weights: np.ndarray, block: int, seed: int = 0, n_boot: int = 2000
) -> Interval:
    """Weighted mean sum(values) / sum(weights) of a series, resampled in contiguous blocks.

    Args:
        values, weights: (N,); with unit weights and block 1 this is the ordinary bootstrap of the mean. For bits
            per character: bits of each token, and its characters. Weights are positive.
        block: length of a block in cases, less than N; the last one may be shorter.

    Raises:
        ValueError: fewer than two values or blocks, one that is not finite, or a weight that is not positive.
    """
    values = np.asarray(values, float)
    weights = np.asarray(weights, float)
    _check_series(values, weights, block)
    starts = np.arange(0, len(values), block)
    block_values = np.add.reduceat(values, starts)  # (M,), M blocks
    block_weights = np.add.reduceat(weights, starts)  # (M,)
    rng = np.random.default_rng(seed)
    means = np.empty(n_boot)
    for i in range(n_boot):
        drawn = rng.integers(len(starts), size=len(starts))
        means[i] = block_values[drawn].sum() / block_weights[drawn].sum()
    outside = (1 - LEVEL) / 2
    low, high = np.quantile(means, [outside, 1 - outside])
    return Interval(
        mean=float(values.sum() / weights.sum()),
        low=float(low),
        high=float(high),
        n=len(values),
        sd=float(np.std(values / weights, ddof=1)),
    )


def _check_series(values: np.ndarray, weights: np.ndarray, block: int) -> None:
    if values.ndim != 1 or values.shape != weights.shape or len(values) < 2:
        raise ValueError(
            f"at least two values are needed, (N,) and (N,); found {values.shape}, {weights.shape}"
        )
    finite = np.isfinite(values)
    if not finite.all():
        raise ValueError(f"values must be finite; {np.sum(~finite)} of {len(values)} are not")
    if not np.isfinite(weights).all() or weights.min() <= 0:
        raise ValueError("weights must be positive and finite")
    if not 1 <= block < len(values):
        raise ValueError(
            f"block must lie in 1 to {len(values) - 1} for {len(values)} values, found {block}"
        )
