"""Means with their 95 % intervals.

Intervals are bootstrap: percentile for many cases (Efron and Tibshirani 1993), bias-corrected and accelerated for
few (BCa, Efron 1987); disjoint blocks for series whose neighbours depend on each other (Carlstein 1986); training seeds
and cases drawn together where networks are compared (the pigeonhole bootstrap, Owen 2007; all sources of variance,
Bouthillier et al. 2021). Every resampling takes its seed as an argument.
"""

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
NORMAL = NormalDist().inv_cdf(
    (1 + LEVEL) / 2
)  # half the width of an interval in standard deviations
FEW = 200  # resampled units below which the percentile ends are corrected


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
    low, high = _ends(means, block_values, block_weights)
    return Interval(
        mean=float(values.sum() / weights.sum()),
        low=float(low),
        high=float(high),
        n=len(values),
        sd=float(np.std(values / weights, ddof=1)),
    )


def _ends(means: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The ends of the interval of a resampled weighted mean; for few units (M,) those of BCa.

    BCa moves the percentiles by the share of resampled means below the mean (bias) and by the skewness of the means
    that leave one unit out (acceleration).
    """
    outside = (1 - LEVEL) / 2
    shares = np.array([outside, 1 - outside])
    if len(values) < FEW:
        mean = values.sum() / weights.sum()
        below = (np.sum(means < mean) + np.sum(means <= mean)) / (2 * len(means))
        if 0 < below < 1:
            shares = _corrected_shares(shares, below, values, weights)
    low, high = np.quantile(means, shares)
    return float(low), float(high)


def _corrected_shares(
    shares: np.ndarray, below: float, values: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The percentiles of BCa (Efron 1987, equation 6.6) in place of `shares`."""
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    without = (values.sum() - values) / (weights.sum() - weights)  # (M,) means without a unit
    distance = without.mean() - without
    spread = np.sum(distance**2)
    acceleration = np.sum(distance**3) / (6 * spread**1.5) if spread > 0 else 0.0
    moved = []
    for share in shares:
        shifted = bias + normal.inv_cdf(share)
        moved.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    return np.array(moved)


def crossed_mean(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    block: int = 1,
    seed: int = 0,
    n_boot: int = 2000,
) -> Interval:
    """Mean over training seeds and cases, with an interval for another seed and other cases.

    Seeds and cases are drawn with replacement, each for itself, and every drawn seed meets every drawn case (the
    pigeonhole bootstrap, Owen 2007), since one network prices all cases and one case is priced by all networks. With S seeds
    the spread between them is underestimated by a factor of (S - 1) / S; it is not corrected.

    Args:
        values: (S, N), S >= 2; a difference of two networks of the same seed, for a comparison.
        weights: (N,), positive; of each case in the mean, one each without it. The values are then sums, as in
            `block_bootstrap`.
        block: cases that are drawn together.

    Returns:
        n is the number of cases, sd that of the seeds' means.

    Raises:
        ValueError: one seed only, or anything that `block_bootstrap` refuses.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(f"(S, N) with at least two seeds is needed, found {values.shape}")
    weights = np.ones(values.shape[1]) if weights is None else np.asarray(weights, float)
    for row in values:
        _check_series(row, weights, block)
    starts = np.arange(0, values.shape[1], block)
    block_values = np.add.reduceat(values, starts, axis=1)  # (S, M)
    block_weights = np.add.reduceat(weights, starts)  # (M,)
    rng = np.random.default_rng(seed)
    means = np.empty(n_boot)
    for i in range(n_boot):
        seeds = rng.integers(len(values), size=len(values))
        blocks = rng.integers(len(starts), size=len(starts))
        drawn = block_values[seeds].mean(axis=0)[blocks]
        means[i] = drawn.sum() / block_weights[blocks].sum()
    outside = (1 - LEVEL) / 2
    low, high = np.quantile(means, [outside, 1 - outside])
    by_seed = values.sum(axis=1) / weights.sum()
    return Interval(
        mean=float(by_seed.mean()),
        low=float(low),
        high=float(high),
        n=values.shape[1],
        sd=float(by_seed.std(ddof=1)),
    )


def bootstrap_of(
    statistic: Callable[[np.ndarray], float], cases: int, seed: int = 0, n_boot: int = 2000
) -> Interval:
    """Any statistic of N cases with its percentile interval, where it is no mean: a ratio of means, a quantile.

    Args:
        statistic: gets the indices (N,) of the cases that it is to use, and returns one number.
        cases: N, at least two.

    Returns:
        sd is that of the resampled statistics.

    Raises:
        ValueError: fewer than two cases, or a statistic that is not finite.
    """
    if cases < 2:
        raise ValueError(f"at least two cases are needed, found {cases}")
    rng = np.random.default_rng(seed)
    everyone = np.arange(cases)
    value = float(statistic(everyone))
    drawn = np.array([statistic(rng.integers(cases, size=cases)) for _ in range(n_boot)])
    if not (np.isfinite(value) and np.isfinite(drawn).all()):
        raise ValueError("the statistic is not finite for every draw of cases")
    outside = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return Interval(value, float(low), float(high), cases, float(drawn.std(ddof=1)))


def student_mean(values: Sequence[float]) -> Interval:
    """Mean of a handful of independent runs (N,), N >= 2, with Student's interval: too few for a bootstrap.

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    series = np.asarray(values, float)
    _check_series(series, np.ones(len(series)), block=1)
    mean, sd = series.mean(), series.std(ddof=1)
    half = stats.t.ppf((1 + LEVEL) / 2, len(series) - 1) * sd / np.sqrt(len(series))
    return Interval(float(mean), float(mean - half), float(mean + half), len(series), float(sd))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values (1979): each stays below 0.05 only if the whole family errs in at most 5 %."""
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        corrected[index] = min(1.0, float(largest))
    return corrected


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
