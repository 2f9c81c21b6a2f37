"""The statistics of the reports: thin names over statsmodels and scipy, in the units of a grid table.

Fractions are fractions of 1, differences are in the unit of what goes in, and an interval is (low, high).
A test that finds nothing says how large a difference it could have missed; it never says "no difference".
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportOptionalMemberAccess=false
# (pandas' own annotations make every df[...] a union)

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import (
    confint_proportions_2indep,
    power_proportions_2indep,
    proportion_confint,
    samplesize_proportions_2indep_onetail,
)

Interval = tuple[float, float]
LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """Two configurations on the same problems: a is the baseline, the difference is b - a."""

    n: int
    lost: int  # right in a, wrong in b
    gained: int  # wrong in a, right in b
    difference: float
    low: float
    high: float
    p: float  # exact McNemar, two-sided


def wilson(correct: int, n: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion; ValueError unless 0 <= correct <= n and n > 0."""
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"correct={correct}, n={n}; allowed: 0 <= correct <= n and n > 0")
    low, high = proportion_confint(correct, n, alpha=1 - level, method="wilson")
    return float(low), float(high)


def simultaneous(count: int, level: float = LEVEL) -> float:
    """The level of each of `count` intervals that together hold at `level` (Bonferroni)."""
    return 1 - (1 - level) / max(1, count)


@lru_cache
def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided McNemar p of two counts of discordant pairs (the binomial test of lost in lost + gained)."""
    if lost < 0 or gained < 0:
        raise ValueError(f"lost={lost}, gained={gained}; allowed: counts from 0 up")
    return float(_mcnemar([[0, lost], [gained, 0]], exact=True).pvalue)


def resamples(n: int, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Bootstrap weights [draws, n]: how often each of n problems is drawn, divided by n. One matrix serves a grid."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return counts.astype(np.float32) / n


def percentile(values: np.ndarray, level: float = LEVEL) -> Interval:
    """Percentile interval over bootstrap draws (the first axis)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap(a: ArrayLike, b: ArrayLike, *, level: float = LEVEL, draws: int = 2000, seed: int = 0,
                     weights: np.ndarray | None = None) -> tuple[float, float, float]:
    """Mean of b - a over the same problems with its percentile bootstrap interval (Efron 1979)."""
    x, y = _same_length(a, b)
    drawn = resamples(len(x), draws, seed) if weights is None else weights
    return (float((y - x).mean()), *percentile(drawn @ (y - x), level))


def ratio_bootstrap(tokens_a: ArrayLike, seconds_a: ArrayLike, tokens_b: ArrayLike, seconds_b: ArrayLike, *,
                    level: float = LEVEL, draws: int = 2000, seed: int = 0,
                    weights: np.ndarray | None = None) -> tuple[float, float, float]:
    """Throughput of b over throughput of a, (sum tokens / sum seconds) each, problems drawn in pairs."""
    ta, tb = _same_length(tokens_a, tokens_b)
    sa, sb = _same_length(seconds_a, seconds_b)
    if min(sa.sum(), sb.sum(), ta.sum()) <= 0:
        raise ValueError("tokens and seconds; allowed: sums above 0")
    drawn = resamples(len(ta), draws, seed) if weights is None else weights
    sums = drawn @ np.stack([ta, sa, tb, sb], axis=1)  # [draws, 4]
    ratio = (sums[:, 2] / sums[:, 3]) / (sums[:, 0] / sums[:, 1])
    return (float(tb.sum() / sb.sum() / (ta.sum() / sa.sum())), *percentile(ratio, level))


def compare_paired(a: ArrayLike, b: ArrayLike, *, level: float = LEVEL, draws: int = 2000, seed: int = 0,
                   weights: np.ndarray | None = None) -> Paired:
    """Everything about two configurations' correctness on the same problems.

    The bootstrap draws from the pairs and two more, one lost and one gained (Agresti and Min 2005, Statistics in
    Medicine 24:729-740): with few discordant pairs the plain percentile interval is too narrow. `weights` are
    `resamples(n + 2)`.
    """
    x, y = _same_length(a, b)
    lost, gained = int(((x == 1) & (y == 0)).sum()), int(((x == 0) & (y == 1)).sum())
    _, low, high = paired_bootstrap([*x, 1, 0], [*y, 0, 1], level=level, draws=draws, seed=seed, weights=weights)
    return Paired(len(x), lost, gained, float((y - x).mean()), low, high, mcnemar(lost, gained))


def difference_unpaired(correct_a: int, n_a: int, correct_b: int, n_b: int, level: float = LEVEL) -> Interval:
    """Newcombe's hybrid score interval (his method 10) of p_b - p_a, for rows whose single answers are lost.

    On the same problems it is wider than a paired interval would be.
    """
    low, high = confint_proportions_2indep(correct_b, n_b, correct_a, n_a, method="newcomb", compare="diff",
                                           alpha=1 - level)
    return float(low), float(high)


def repeats_ratio(a: ArrayLike, b: ArrayLike, level: float = LEVEL) -> tuple[float, float, float]:
    """Ratio of two throughputs from repeated runs: Welch's interval of the difference of logs; needs 2 runs each."""
    x, y = np.log(np.asarray(a, float)), np.log(np.asarray(b, float))
    if min(len(x), len(y)) < 2:
        raise ValueError(f"runs={len(x)} and {len(y)}; allowed: 2 or more of each")
    if x.var() + y.var() == 0:
        return (float(np.exp(y.mean() - x.mean())),) * 3
    interval = stats.ttest_ind(y, x, equal_var=False).confidence_interval(level)
    return float(np.exp(y.mean() - x.mean())), float(np.exp(interval.low)), float(np.exp(interval.high))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given; an empty list stays empty."""
    p = np.asarray(p_values, float)
    return multipletests(p, method="holm")[1] if len(p) else p


def power(p_a: float, p_b: float, n: int, alpha: float = 0.05) -> float:
    """Power of the two-sided test of two independent proportions, n problems each (pooled normal approximation)."""
    return float(power_proportions_2indep(p_a - p_b, p_b, n, alpha=alpha).power)


@lru_cache      # the tables of a large grid ask the same again and again
def n_needed(p_a: float, p_b: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Problems per configuration to tell two independent proportions apart with this power."""
    if p_a == p_b:
        raise ValueError(f"p_a=p_b={p_a}; allowed: two different proportions")
    return math.ceil(samplesize_proportions_2indep_onetail(p_a - p_b, p_b, power, alpha=alpha))


def power_paired(lost: float, gained: float, n: int, alpha: float = 0.05, sides: int = 2) -> float:
    """Exact power of the exact McNemar test: `lost`, `gained` are the true shares of discordant pairs of n.

    Sums over the number of discordant pairs (binomial) the chance that the conditional test rejects.
    """
    discordant = lost + gained
    if not 0 < discordant <= 1 or min(lost, gained) < 0:
        raise ValueError(f"lost={lost}, gained={gained}; allowed: shares from 0 to 1 with a sum above 0")
    share = max(lost, gained) / discordant
    pairs = np.arange(1, n + 1)
    upper = stats.binom.isf(alpha / sides, pairs, 0.5) + 1  # smallest count with P(X >= count) <= alpha / sides
    rejects = stats.binom.sf(upper - 1, pairs, share)
    if sides == 2:
        rejects = rejects + stats.binom.cdf(pairs - upper, pairs, share)
    return float(stats.binom.pmf(pairs, n, discordant) @ rejects)


def n_needed_paired(lost: float, gained: float, power: float = 0.8, alpha: float = 0.05, most: int = 200_000) -> int:
    """Smallest n (to within the test's saw-tooth) whose exact McNemar power reaches `power`."""
    if lost == gained:
        raise ValueError(f"lost=gained={lost}; allowed: two different shares")
    low, high = 1, 16
    while power_paired(lost, gained, high, alpha) < power:
        low, high = high, high * 2
        if high > most:
            raise ValueError(f"lost={lost}, gained={gained}; allowed: a difference that {most} problems can show")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_paired(lost, gained, middle, alpha) >= power else (middle, high)
    return high


@lru_cache
def smallest_loss(p: float, n: int, power_wanted: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest loss from p that n problems per configuration show with this power; nan where none can."""
    worst = p - 1e-6
    if worst <= 0 or power(p, p - worst, n, alpha) < power_wanted:
        return math.nan
    return float(optimize.brentq(lambda d: power(p, p - d, n, alpha) - power_wanted, 1e-6, worst))


def say_difference(difference: float, low: float, high: float, n: int, unit: str = "points") -> str:
    """One honest sentence about a difference with its interval, all three in `unit`."""
    if math.isnan(low) or math.isnan(high):
        return f"difference {difference:+.1f} {unit} at n = {n}; its interval is not measured"
    if low <= 0 <= high:
        return (f"no difference found at n = {n}: {difference:+.1f} {unit} (95 % interval {low:+.1f} to {high:+.1f}); "
                f"up to {max(abs(low), abs(high)):.1f} {unit} either way are not excluded")
    return f"{difference:+.1f} {unit} (95 % interval {low:+.1f} to {high:+.1f}, n = {n})"


def _same_length(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"paired values of shapes {x.shape} and {y.shape}; allowed: two equally long, non-empty lists")
    return x, y
