"""The statistics against published worked examples (each cited) and against scipy."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from fastdllm import power, stats


@pytest.mark.parametrize(("correct", "n", "low", "high"), [
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3 (score, no continuity correction)
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718),
])
def test_wilson_reproduces_newcombe(correct: int, n: int, low: float, high: float) -> None:
    assert stats.wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="allowed: 0 <= correct <= n"):
        stats.wilson(correct, n)


def test_mcnemar_reproduces_fagerland() -> None:
    # Fagerland, Lydersen, Laake 2013, BMC Med Res Methodol 13:91: airway hyper-responsiveness, 1 and 7 discordant
    assert stats.mcnemar(7, 1) == pytest.approx(0.0703, abs=5e-5)
    assert stats.mcnemar(0, 0) == 1.0


def test_unpaired_difference_reproduces_newcombe() -> None:
    # Newcombe 1998, Statistics in Medicine 17:873-890, example (a), method 10: 56/70 - 48/80
    assert stats.difference_unpaired(48, 80, 56, 70) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_holm_reproduces_the_worked_example() -> None:
    # the four p-values of the worked example in "Holm-Bonferroni method", Wikipedia: the first and the last stand
    adjusted = stats.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert len(stats.holm([])) == 0


def test_power_of_two_proportions_reproduces_r_and_fleiss() -> None:
    # the examples of R's help page of power.prop.test
    assert power.approximate(0.50, 0.75, 50) == pytest.approx(0.740, abs=5e-4)
    assert power.n_needed(0.50, 0.75, power=0.90) == 77  # 76.7 there
    # Fleiss, Levin, Paik 2003, Statistical Methods for Rates and Proportions: 0.60 against 0.70, 80 %: 356 each
    assert power.n_needed(0.60, 0.70) == 356


def exact_by_enumeration(p_a: float, p_b: float, n: int) -> float:
    counts = range(n + 1)
    return sum(scipy_stats.binom.pmf(x, n, p_a) * scipy_stats.binom.pmf(y, n, p_b) for x in counts for y in counts
               if scipy_stats.fisher_exact([[x, n - x], [y, n - y]])[1] <= 0.05)


@pytest.mark.parametrize(("p_a", "p_b", "n"), [(0.7, 0.1, 10), (0.7, 0.6, 10), (0.3, 0.9, 7), (0.5, 0.5, 12)])
def test_exact_power_is_that_of_fishers_test(p_a: float, p_b: float, n: int) -> None:
    assert power.exact(p_a, p_b, n) == pytest.approx(exact_by_enumeration(p_a, p_b, n), abs=1e-9)


def test_exact_power_grows_to_the_normal_approximation() -> None:
    assert power.approximate(0.7, 0.1, 10) - power.exact(0.7, 0.1, 10) > 0.1      # why ten problems need the exact one
    assert power.exact(0.8, 0.7, 400) == pytest.approx(power.approximate(0.8, 0.7, 400), abs=0.02)
    with pytest.raises(ValueError, match="n=0; allowed"):
        power.exact(0.7, 0.1, 0)


def test_nested_f_is_the_textbook_ratio_of_mean_squares() -> None:
    # plant weights, one-way: Annette Dobson 1990, An Introduction to Generalized Linear Models, R's ?lm: F = 1.419
    weights = [4.17, 5.58, 5.18, 6.11, 4.50, 4.61, 5.17, 4.53, 5.33, 5.14,
               4.81, 4.17, 4.41, 3.59, 5.87, 3.83, 6.03, 4.89, 4.32, 4.69]
    table = pd.DataFrame({"weight": weights, "group": ["control"] * 10 + ["treated"] * 10})
    p, share = stats.nested_f(table, "weight ~ 1", "weight ~ C(group)")
    assert p == pytest.approx(0.249, abs=5e-4)
    assert share == pytest.approx(0.07308, abs=5e-5)      # R-squared there
    assert stats.nested_f(table, "weight ~ C(group)", "weight ~ C(group)") is None


def test_paired_bounds_agree_with_scipy() -> None:
    # Student's sleep data (Student 1908, Biometrika 6:1-25): mean difference 1.58
    a = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    b = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    assert np.mean(b - a) == pytest.approx(1.58)
    low, high = stats.paired_bounds(a, b, draws=20_000)
    reference = scipy_stats.bootstrap((np.array([*(b - a), -1, 1]),), np.mean, method="percentile", n_resamples=20_000,
                                      rng=2)
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval), abs=0.04)


def test_ratio_bootstrap_knows_a_constant_ratio_and_widens_with_noise() -> None:
    rng = np.random.default_rng(3)
    tokens, seconds = rng.integers(50, 200, 100), rng.uniform(1, 3, 100)
    assert stats.ratio_bootstrap(tokens, seconds, tokens, seconds / 1.25) == pytest.approx((1.25,) * 3, rel=1e-5)
    ratio, low, high = stats.ratio_bootstrap(tokens, seconds, tokens, seconds * rng.uniform(0.5, 1.1, 100))
    assert low < ratio < high and high - low > 0.02


def test_compare_paired_counts_and_never_claims_certainty() -> None:
    a, b = [1, 1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 1, 0, 1, 1, 1]
    pair = stats.compare_paired(a, b)
    assert (pair.lost, pair.gained, pair.n) == (2, 1, 8)
    assert pair.low < pair.difference < pair.high
    same = stats.compare_paired(a, a)
    assert same.p == 1.0 and same.low < 0 < same.high  # eight equal answers do not prove equality


def test_repeats_ratio_is_welch_on_logs() -> None:
    ratio, low, high = stats.repeats_ratio([10, 11, 10.5], [12, 13, 12.4])
    welch = scipy_stats.ttest_ind(np.log([12, 13, 12.4]), np.log([10, 11, 10.5]), equal_var=False)
    assert math.log(low) == pytest.approx(welch.confidence_interval().low)
    assert low < ratio < high
    with pytest.raises(ValueError, match="2 or more"):
        stats.repeats_ratio([10], [12, 13])


def test_smallest_loss_inverts_power() -> None:
    loss = power.smallest_loss(0.8, 1319)
    assert power.approximate(0.8, 0.8 - loss, 1319) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(power.smallest_loss(0.1, 4))


def test_no_difference_found_is_never_no_difference() -> None:
    text = stats.say_difference(-1.0, -6.0, 4.0, 100)
    assert "no difference found" in text and "6.0 points down or 4.0 up are not excluded" in text
    assert "up to 5.0 points either way are not excluded" in stats.say_difference(0.0, -5.0, 5.0, 100)
    assert stats.say_difference(-8.0, -11.0, -5.0, 100).startswith("-8.0 points (95 %")
    assert "not measured" in stats.say_difference(-8.0, math.nan, math.nan, 100)


@pytest.mark.parametrize("zero", [0.0, -0.0, -0.01, 0.04])
def test_a_difference_of_zero_has_no_sign(zero: float) -> None:
    said = [stats.say_difference(zero, *ends, 2) for ends in ((-5.0, 6.0), (zero, zero), (math.nan, math.nan))]
    assert not re.search(r"[+-]0\.0", " ".join(said)) and all("0.0 points" in text for text in said)


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        stats.paired_bounds([1, 0], [1])


def test_a_share_lies_in_its_wilson_interval():
    """Also none and all of them, where the formula's rounding would leave it outside."""
    for n in (1, 3, 10, 64, 200, 1319):
        for correct in {0, 1, n // 2, n - 1, n}:
            low, high = stats.wilson(correct, n)
            assert 0 <= low <= correct / n <= high <= 1, (correct, n)


def test_a_share_over_clusters_draws_whole_clusters() -> None:
    alike = stats.share_by_cluster([10, 0, 10, 0, 10, 0], [10] * 6)
    apart = stats.share_by_cluster([1, 0] * 30, [1] * 60)
    assert alike[0] == apart[0] == 0.5
    assert alike[2] - alike[1] > 2 * (apart[2] - apart[1])      # 60 units, but 6 observations
    share, low, high = stats.share_by_cluster([2, 1, 0, 4], [4, 2, 8, 5])
    assert share == pytest.approx(7 / 19)
    assert 0 <= low < share < high <= 1


@pytest.mark.parametrize("clusters", [1, 5, 40])
def test_a_share_of_none_or_all_is_bounded_by_the_number_of_clusters(clusters: int) -> None:
    none, every = (stats.share_by_cluster([hits] * clusters, [20] * clusters) for hits in (0, 20))
    exact = 1 - 0.05 ** (1 / clusters)      # Clopper-Pearson, one-sided, 0 of so many
    assert none == pytest.approx((0.0, 0.0, exact))
    assert every == pytest.approx((1.0, 1 - exact, 1.0))


@pytest.mark.parametrize(("hits", "sizes"), [([3], [2]), ([-1], [2]), ([0, 0], [0, 0])])
def test_a_share_over_clusters_refuses_impossible_counts(hits: list[int], sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="allowed: 0 <= hits <= sizes"):
        stats.share_by_cluster(hits, sizes)
