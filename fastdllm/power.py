"""What a number of problems can show: the power of the reports' tests, and how many problems a difference needs.

Fractions are fractions of 1, n is problems per configuration, and power the chance that a test finds a difference that
is there.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOperatorIssue=false
# (the annotations of statsmodels and scipy)

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import power_proportions_2indep, samplesize_proportions_2indep_onetail

EXACT = 200      # problems up to which power is exact; the normal approximation is good beyond


def independent(p_a: float, p_b: float, n: int) -> float:
    """Power to tell two proportions apart: Fisher's exact test, its normal approximation for many problems."""
    return exact(p_a, p_b, n) if n <= EXACT else approximate(p_a, p_b, n)


def approximate(p_a: float, p_b: float, n: int, alpha: float = 0.05) -> float:
    """Power of the two-sided test of two independent proportions, n problems each (pooled normal approximation)."""
    return float(power_proportions_2indep(p_a - p_b, p_b, n, alpha=alpha).power)


@lru_cache
def _fisher_critical(n: int, alpha: float) -> list[tuple[int, int]]:
    """For each number m = 0..2n of right answers in both groups: the counts (low, high) of the first group strictly
    between which Fisher's exact test does not reject. Two-sided by likelihood, as in scipy.stats.fisher_exact.
    """
    bounds, log_factorial = [], special.gammaln(np.arange(1, 2 * n + 2))
    choose = log_factorial[n] - log_factorial[:n + 1] - log_factorial[n::-1]     # log of n over x
    for m in range(2 * n + 1):
        x = np.arange(max(0, m - n), min(n, m) + 1)
        logs = choose[x] + choose[m - x]                # hypergeometric, up to a factor
        chance = np.exp(logs - logs.max())
        chance /= chance.sum()
        order = np.argsort(chance, kind="stable")
        upto = np.searchsorted(chance[order], chance * (1 + 1e-7), side="right")
        kept = x[np.cumsum(chance[order])[upto - 1] > alpha]      # p = sum of all tables that are no likelier
        bounds.append((int(kept.min()) - 1, int(kept.max()) + 1))
    return bounds


@lru_cache
def exact(p_a: float, p_b: float, n: int, alpha: float = 0.05) -> float:
    """Exact power of Fisher's two-sided test of two independent proportions, n problems each.

    The chance that the test rejects, summed over all pairs of counts. At n = 10 the normal of `approximate`
    is several points off, in either direction.
    """
    if n < 1 or not (0 <= p_a <= 1 and 0 <= p_b <= 1):
        raise ValueError(f"p_a={p_a}, p_b={p_b}, n={n}; allowed: fractions from 0 to 1 and n from 1 up")
    a, b = (stats.binom.pmf(np.arange(n + 1), n, p) for p in (p_a, p_b))
    accepted = 0.0
    for m, (low, high) in enumerate(_fisher_critical(n, alpha)):
        x = np.arange(low + 1, high)
        accepted += float(a[x] @ b[m - x])
    return max(0.0, 1.0 - accepted)


@lru_cache      # the tables of a large grid ask the same again and again
def n_needed(p_a: float, p_b: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Problems per configuration to tell two independent proportions apart with this power."""
    if p_a == p_b:
        raise ValueError(f"p_a=p_b={p_a}; allowed: two different proportions")
    return math.ceil(samplesize_proportions_2indep_onetail(p_a - p_b, p_b, power, alpha=alpha))


def n_needed_paired(lost: int, gained: int, n: int, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Problems that show a paired difference like this one, (gained - lost) / n, with this power.

    The t test of the single differences, whose spread is that of lost and gained (near Connor 1987, Biometrics
    43:207-211, for McNemar's test). None where nothing points either way: as many lost as gained.
    """
    if lost < 0 or gained < 0 or lost + gained > n or n < 1:
        raise ValueError(f"lost={lost}, gained={gained}, n={n}; allowed: counts from 0 up, together at most n")
    if lost == gained:
        return None
    share, mean = (lost + gained) / n, abs(gained - lost) / n
    spread = math.sqrt(max(share - mean**2, 0.0))
    effect = min(mean / spread, 2.0) if spread else 2.0       # beyond 2 the fewest decide, see below
    fewest = 1 + math.log2(1 / alpha)                         # problems that turn, all one way: exact McNemar p < alpha
    return max(math.ceil(fewest / share), math.ceil(TTestPower().solve_power(effect, power=power, alpha=alpha)))


@lru_cache
def smallest_loss(p: float, n: int, power_wanted: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest loss from p that n problems per configuration show with this power; nan where none can."""
    worst = p - 1e-6
    if worst <= 0 or approximate(p, p - worst, n, alpha) < power_wanted:
        return math.nan
    return float(optimize.brentq(lambda d: approximate(p, p - d, n, alpha) - power_wanted, 1e-6, worst))
