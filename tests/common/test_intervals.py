"""lib/common/intervals.py: intervals that cover as often as they say, and refuse what cannot be resampled."""

import numpy as np
import pytest
from scipy.stats import binom
from scipy.stats import bootstrap as scipy_bootstrap

from lib.common import intervals
from lib.common.intervals import Interval


def series(n=400, memory=0.9, seed=0):
    """An autoregressive series: neighbours depend on each other when memory > 0."""
    rng = np.random.default_rng(seed)
    values = np.zeros(n)
    for i in range(1, n):
        values[i] = memory * values[i - 1] + rng.standard_normal()
    return values


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_the_interval_covers_the_true_mean_in_95_of_100_sets():
    repeats, hits = 300, 0
    for seed in range(repeats):
        values = np.random.default_rng(seed).gamma(4.0, 0.5, size=80)  # skewed, mean 2
        interval = intervals.bootstrap_mean(values, seed=seed, n_boot=400)
        hits += interval.low <= 2.0 <= interval.high
    low, high = binom.ppf(
        [0.0005, 0.9995], repeats, 0.94
    )  # a percentile interval of 80 cases covers a little less
    assert low <= hits <= high


def test_fields_by_hand():
    interval = intervals.bootstrap_mean(np.array([1.0, 2.0, 3.0, 6.0]))
    assert interval.mean == 3.0 and interval.n == 4
    assert interval.sd == pytest.approx(np.sqrt(14 / 3))
    assert 1.0 <= interval.low < 3.0 < interval.high <= 6.0
    assert all(
        type(value) is float for value in (interval.mean, interval.low, interval.high, interval.sd)
    )


def test_the_width_is_that_of_the_normal_theory():
    values = np.random.default_rng(0).standard_normal(1000)
    wanted = 2 * 1.96 * values.std(ddof=1) / np.sqrt(1000)
    assert width(intervals.bootstrap_mean(values)) == pytest.approx(wanted, rel=0.06)


def test_equal_values_have_an_interval_of_no_width():
    assert intervals.bootstrap_mean(np.full(5, 2.5)) == Interval(2.5, 2.5, 2.5, 5, 0.0)


def test_a_seed_decides_everything():
    values = series(50)
    assert intervals.bootstrap_mean(values, seed=1) == intervals.bootstrap_mean(values, seed=1)
    assert intervals.bootstrap_mean(values, seed=1) != intervals.bootstrap_mean(values, seed=2)


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    hard = rng.normal(20, 5, 200)  # what both systems share
    a, b = hard + rng.normal(0.5, 0.2, 200), hard + rng.normal(0, 0.2, 200)
    paired = intervals.paired_difference(a, b)
    assert paired.low > 0.4 and paired.high < 0.6
    assert paired.mean == pytest.approx(a.mean() - b.mean())
    assert width(paired) < 0.1 * width(intervals.bootstrap_mean(a))
    flipped = intervals.paired_difference(b, a)
    np.testing.assert_allclose([flipped.low, flipped.high], [-paired.high, -paired.low], atol=0.01)


def test_blocks_widen_the_interval_of_a_series_with_memory_only():
    ones = np.ones(400)

    def ratio(values):
        return width(intervals.block_bootstrap(values, ones, 20)) / width(
            intervals.block_bootstrap(values, ones, 1)
        )

    assert ratio(series(memory=0.9)) > 2
    assert 0.7 < np.mean([ratio(series(memory=0.0, seed=seed)) for seed in range(5)]) < 1.2


def test_weights_make_a_weighted_mean():
    bits, characters = np.array([4.0, 1.0, 9.0]), np.array([2.0, 1.0, 3.0])
    assert intervals.block_bootstrap(bits, characters, 1).mean == pytest.approx(14 / 6)
    assert intervals.block_bootstrap(3 * characters, characters, 2).low == pytest.approx(3.0)


def test_unit_weights_and_block_one_are_the_plain_bootstrap():
    values = series(30)
    assert intervals.block_bootstrap(values, np.ones(30), 1, seed=4) == intervals.bootstrap_mean(
        values, seed=4
    )


def test_a_shorter_last_block_counts():
    values = np.array([0.0, 0.0, 0.0, 0.0, 10.0])  # blocks of 2: the last one holds the 10 alone
    interval = intervals.block_bootstrap(values, np.ones(5), 2)
    assert interval.mean == 2.0 and interval.high > 2.0


@pytest.mark.parametrize(
    "values, weights, block, text",
    [
        ([1.0], [1.0], 1, "at least two values"),
        ([], [], 1, "at least two values"),
        ([1.0, 2.0], [1.0], 1, "at least two values"),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]], 1, "at least two values"),
        ([1.0, np.nan, np.inf], [1.0, 1.0, 1.0], 1, "values must be finite; 2 of 3 are not"),
        ([1.0, 2.0], [1.0, 0.0], 1, "weights must be positive"),
        ([1.0, 2.0], [1.0, np.nan], 1, "weights must be positive"),
        ([1.0, 2.0], [1.0, 1.0], 0, "block"),
        ([1.0, 2.0], [1.0, 1.0], 2, "block"),
    ],
)
def test_what_cannot_be_resampled_is_refused(values, weights, block, text):
    with pytest.raises(ValueError, match=text):
        intervals.block_bootstrap(np.array(values), np.array(weights), block)


def test_pairs_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"equal shapes, found \(3,\) and \(1,\)"):
        intervals.paired_difference(np.ones(3), np.ones(1))


# --- few units: BCa --------------------------------------------------------------------------------------------------


def test_for_few_skewed_cases_the_corrected_ends_agree_with_scipys():
    values = np.random.default_rng(3).gamma(1.0, 1.0, size=25)
    ours = intervals.bootstrap_mean(values, n_boot=20_000)
    theirs = scipy_bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(5)
    ).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.02)
    percentile = np.quantile(
        [np.random.default_rng(i).choice(values, 25).mean() for i in range(4000)], [0.025, 0.975]
    )
    assert ours.low > percentile[0] + 0.005 and ours.high > percentile[1] + 0.02  # to the long tail


def test_for_many_cases_the_ends_are_percentiles():
    values = np.random.default_rng(3).gamma(1.0, 1.0, size=intervals.FEW)
    rng = np.random.default_rng(0)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(2000)]
    found = intervals.bootstrap_mean(values)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]))


# --- seeds and cases -------------------------------------------------------------------------------------------------


def test_seeds_that_differ_widen_the_interval_and_equal_seeds_do_not():
    rng = np.random.default_rng(0)
    cases = rng.normal(0, 1, 400)
    seeds = np.array([-0.3, -0.1, 0.0, 0.15, 0.25])
    alone = intervals.bootstrap_mean(cases)
    equal = intervals.crossed_mean(np.tile(cases, (5, 1)))
    crossed = intervals.crossed_mean(cases + seeds[:, None])
    assert equal.mean == pytest.approx(alone.mean)
    assert width(equal) == pytest.approx(width(alone), rel=0.1)
    wanted = 2 * 1.96 * np.sqrt(seeds.var() / 5 + cases.var() / 400)
    assert width(crossed) == pytest.approx(wanted, rel=0.1)
    assert crossed.sd == pytest.approx(seeds.std(ddof=1)) and crossed.n == 400


def test_an_interval_over_seeds_holds_at_least_one_of_them():
    rng = np.random.default_rng(1)
    many = rng.normal(0, 0.01, 10_000)  # so many images that they alone would decide nothing
    seeds = np.array([0.089, 0.054])
    crossed = intervals.crossed_mean(many + seeds[:, None])
    assert crossed.low < 0.055 and crossed.high > 0.088
    over_images = intervals.bootstrap_mean((many + seeds[:, None]).mean(axis=0))
    assert over_images.low > 0.055 and over_images.high < 0.088


def test_crossed_blocks_weigh_and_keep_neighbours_together():
    rows = np.stack([series(memory=0.9, seed=seed) for seed in (0, 1)])
    assert width(intervals.crossed_mean(rows, block=20)) > 1.5 * width(intervals.crossed_mean(rows))
    characters = np.full(400, 2.0)
    weighted = intervals.crossed_mean(rows, characters, block=20)
    assert weighted.mean == pytest.approx(rows.mean() / 2)


@pytest.mark.parametrize("values", [np.ones((1, 5)), np.ones(5)])
def test_one_seed_has_no_interval_over_seeds(values):
    with pytest.raises(ValueError, match="at least two seeds"):
        intervals.crossed_mean(values)


# --- a handful of runs -----------------------------------------------------------------------------------------------


def test_students_interval_by_hand():
    found = intervals.student_mean([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.n) == (2.0, 1.0, 3)
    assert found.high - 2.0 == pytest.approx(4.302653 / np.sqrt(3), abs=1e-6)
    assert 2.0 - found.low == pytest.approx(found.high - 2.0)
    with pytest.raises(ValueError, match="at least two"):
        intervals.student_mean([1.0])


def test_any_statistic_can_be_resampled():
    values = np.random.default_rng(0).standard_normal(300)
    mean = intervals.bootstrap_of(lambda chosen: values[chosen].mean(), len(values), seed=4)
    plain = intervals.bootstrap_mean(values, seed=4)
    assert (mean.mean, mean.n) == (pytest.approx(plain.mean), 300)
    assert [mean.low, mean.high] == pytest.approx([plain.low, plain.high])
    worst = intervals.bootstrap_of(lambda chosen: np.quantile(values[chosen], 0.1), len(values))
    assert worst.low < np.quantile(values, 0.1) < worst.high
    with pytest.raises(ValueError, match="not finite"):
        intervals.bootstrap_of(lambda chosen: np.nan, 5)
    with pytest.raises(ValueError, match="at least two cases"):
        intervals.bootstrap_of(lambda chosen: 1.0, 1)


# --- many tests ------------------------------------------------------------------------------------------------------


def test_holms_correction_by_hand():
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.9, 0.8]) == [1.0, 1.0]
    assert intervals.holm([]) == []
