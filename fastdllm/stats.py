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
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

Interval = tuple[float, float]
LEVEL = 0.95
SIGNIFICANT = 0.05      # a p below it, after Holm where there are several tests, says that two differ


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
    # Rounding must not put the share itself outside of its interval: 0 and 1 are the exact ends there.
    return 0.0 if correct == 0 else float(low), 1.0 if correct == n else float(high)


def simultaneous(count: int, level: float = LEVEL) -> float:
    """The level of each of `count` intervals that together hold at `level` (Bonferroni)."""
    return 1 - (1 - level) / max(1, count)


@lru_cache
def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided McNemar p of two counts of discordant pairs (the binomial test of lost in lost + gained)."""
    if lost < 0 or gained < 0:
        raise ValueError(f"lost={lost}, gained={gained}; allowed: counts from 0 up")
    return float(_mcnemar([[0, lost], [gained, 0]], exact=True).pvalue)


@lru_cache(maxsize=8)
def resamples(n: int, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Bootstrap weights [draws, n]: how often each of n problems is drawn, divided by n. One matrix serves a grid;
    it can't be written to."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    weights = counts.astype(np.float32) / n
    weights.setflags(write=False)
    return weights


def percentile(values: np.ndarray, level: float | Sequence[float] = LEVEL) -> tuple[float, ...]:
    """Percentile interval over bootstrap draws [draws] (Efron 1979): low, high; of several levels one after another."""
    levels = [level] if isinstance(level, float | int) else level
    ends = [end for one in levels for end in ((1 - one) / 2, (1 + one) / 2)]
    return tuple(map(float, np.quantile(values, ends)))


def ratio_bootstrap(tokens_a: ArrayLike, seconds_a: ArrayLike, tokens_b: ArrayLike, seconds_b: ArrayLike, *,
                    level: float | Sequence[float] = LEVEL, draws: int = 2000, seed: int = 0,
                    weights: np.ndarray | None = None) -> tuple[float, ...]:
    """Throughput of b over throughput of a, (sum tokens / sum seconds) each, problems drawn in pairs.

    The ratio, then low and high at `level` (at each of several levels in turn).
    """
    ta, tb = _same_length(tokens_a, tokens_b)
    sa, sb = _same_length(seconds_a, seconds_b)
    if min(sa.sum(), sb.sum(), ta.sum()) <= 0:
        raise ValueError("tokens and seconds; allowed: sums above 0")
    drawn = resamples(len(ta), draws, seed) if weights is None else weights
    sums = np.maximum(drawn @ np.stack([ta, sa, tb, sb], axis=1), 1e-30)  # [draws, 4]
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
    low, high = paired_bounds(x, y, level=level, draws=draws, seed=seed, weights=weights)
    return Paired(len(x), lost, gained, float((y - x).mean()), low, high, mcnemar(lost, gained))


def paired_bounds(a: ArrayLike, b: ArrayLike, *, level: float | Sequence[float] = LEVEL, draws: int = 2000,
                  seed: int = 0, weights: np.ndarray | None = None) -> tuple[float, ...]:
    """Low and high of the mean of b - a as in `compare_paired`, at `level` (at each of several levels in turn)."""
    x, y = _same_length(a, b)
    drawn = resamples(len(x) + 2, draws, seed) if weights is None else weights
    return percentile(drawn @ np.array([*(y - x), -1, 1], np.float32), level)


def difference_unpaired(correct_a: int, n_a: int, correct_b: int, n_b: int, level: float = LEVEL) -> Interval:
    """Newcombe's hybrid score interval (his method 10) of p_b - p_a, for rows whose single answers are lost.

    On the same problems it is wider than a paired interval would be.
    """
    low, high = confint_proportions_2indep(correct_b, n_b, correct_a, n_a, method="newcomb", compare="diff",
                                           alpha=1 - level)
    return float(low), float(high)


def share_by_cluster(hits: ArrayLike, sizes: ArrayLike, *, draws: int = 2000, seed: int = 0,
                     level: float = LEVEL) -> tuple[float, float, float]:
    """A share over units that come in clusters (forwards of prompts): hits and sizes [clusters]; share, low, high.

    Whole clusters are drawn, as the units of one are alike. Where no unit or every unit hits, no draw differs: the
    end that is then open is the exact (Clopper-Pearson, one-sided) one for as many observations as there are clusters.
    """
    x, size = _same_length(hits, sizes)
    if size.sum() <= 0 or (x > size).any() or (x < 0).any():
        raise ValueError(f"hits={x.tolist()}, sizes={size.tolist()}; allowed: 0 <= hits <= sizes, sizes not all 0")
    x, size = x[size > 0], size[size > 0]
    share, far = float(x.sum() / size.sum()), 1 - (1 - level) ** (1 / len(x))
    if share in (0.0, 1.0):
        return share, share and 1 - far, share or far
    sums = resamples(len(x), draws, seed) @ np.stack([x, size], axis=1)
    return (share, *percentile(sums[:, 0] / sums[:, 1], level))


def drawn(correct: int, n: int, size: int) -> np.ndarray:
    """Chance of 0, 1 ... `size` right answers among `size` problems drawn of n, `correct` of them solved [size + 1]."""
    return stats.hypergeom.pmf(np.arange(size + 1), n, correct, size)


def not_ahead(a: ArrayLike, b: ArrayLike, size: int) -> float:
    """Chance that among `size` problems, drawn of those that a and b answered [n], a has no more right than b. Exact:
    the problems that only a, only b, and both or neither solve are drawn without replacement.
    """
    x, y = _same_length(a, b)
    only = int(((x == 1) & (y == 0)).sum()), int(((x == 0) & (y == 1)).sum())
    if not 1 <= size <= len(x):
        raise ValueError(f"size={size}; allowed: 1 to n={len(x)}")
    pairs = [(i, j, size - i - j) for j in range(size + 1) for i in range(min(j, size - j) + 1)]
    return float(np.sum(stats.multivariate_hypergeom.pmf(pairs, [*only, len(x) - sum(only)], size)))


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


def nested_f(table: pd.DataFrame, reduced: str, full: str) -> tuple[float, float] | None:
    """F test of two nested least-squares models (statsmodels formulas): p, and the share of the variance that the
    reduced one leaves and the full one explains. None where the full one adds nothing or leaves no degree of freedom.
    """
    from statsmodels.formula.api import ols  # a second: only the audit of speeds needs it
    from statsmodels.stats.anova import anova_lm
    from statsmodels.tools.sm_exceptions import SingularMatrixWarning

    with warnings.catch_warnings():     # nested categories are rank-deficient: the residuals, all we use, are unique
        warnings.simplefilter("ignore", SingularMatrixWarning)
        small, large = (ols(formula, table).fit() for formula in (reduced, full))
    if large.df_resid < 1 or large.df_resid >= small.df_resid or small.ssr < 1e-12:
        return None
    if large.ssr < 1e-12 * small.ssr:       # a perfect fit: F has no finite value
        return 0.0, 1.0
    return float(anova_lm(small, large)["Pr(>F)"].iloc[1]), float(1 - large.ssr / small.ssr)


def span(low: float, high: float, form: str = "z.1f") -> str:
    """An interval in tables and sentences, `76.1 to 86.7`: the one way in which pages write it."""
    return f"{low:{form}} to {high:{form}}"


def signed(value: float) -> str:
    """A difference with its sign, `+1.5`; what is rounded to zero has none."""
    text = f"{value:+z.1f}"
    return "0.0" if text == "+0.0" else text


def number_of(n: int, noun: str) -> str:
    """`1 problem`, `2 problems`: a count and what is counted, in the singular (its plural takes an s)."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def least_to_most(counts: ArrayLike) -> str:
    """Counts as the least and the most of them, or the one that all are; "" for none."""
    values = np.asarray(counts, int)
    if not len(values):
        return ""
    low, high = values.min(), values.max()
    return str(low) if low == high else span(low, high, "d")


def say_difference(difference: float, low: float, high: float, n: int, unit: str = "points") -> str:
    """One honest sentence about a difference with its interval, all three in `unit`."""
    if math.isnan(low) or math.isnan(high):
        return f"difference {signed(difference)} {unit} at n = {n}; its interval is not measured"
    interval = f"{signed(low)} to {signed(high)}"
    if low <= 0 <= high:
        open_ends = (f"up to {high:z.1f} {unit} either way are not excluded" if f"{-low:z.1f}" == f"{high:z.1f}" else
                     f"{-low:z.1f} {unit} down or {high:z.1f} up are not excluded")
        return f"no difference found at n = {n}: {signed(difference)} {unit} (95 % interval {interval}); {open_ends}"
    return f"{signed(difference)} {unit} (95 % interval {interval}, n = {n})"


def _same_length(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, float), np.asarray(b, float)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"paired values of shapes {x.shape} and {y.shape}; allowed: two equally long, non-empty lists")
    return x, y
