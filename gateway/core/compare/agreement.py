"""Read agreement: which share of compared answers agreed, and how much less it may be in truth."""

from __future__ import annotations

from math import exp, inf, lgamma, log, log1p, sqrt
from typing import Final

_ALPHA: Final = 0.05
_ROUNDS: Final = 60
_EXACT_UP_TO: Final = 1000
_Z: Final = 1.6448536269514722
"""One-sided 95 % of the normal distribution."""


def agreement(matches: int, mismatches: int) -> float | None:
    """The share that agreed, 0-1; None when nothing was compared."""
    total = matches + mismatches
    return matches / total if total else None


def agreement_at_least(matches: int, mismatches: int) -> float | None:
    """The one-sided 95 % lower bound of the agreement (Clopper, Pearson 1934); None when nothing was compared.

    29 957 comparisons without a mismatch give 0.9999; with one, 47 437.
    """
    total = matches + mismatches
    if not total:
        return None
    if mismatches == 0:
        return exp(log(_ALPHA) / total)
    if mismatches > _EXACT_UP_TO:
        return 1 - _wilson_upper(mismatches, total)
    low, high = mismatches / total, 1.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if _at_most(mismatches, total, middle) > _ALPHA:
            low = middle
        else:
            high = middle
    return 1 - high


def wilson_lower(hits: int, trials: int, z: float = 1.96) -> float:
    """The lower bound of a rate (Wilson 1927), 0 when nothing was tried."""
    if not trials:
        return 0.0
    rate = hits / trials
    middle = rate + z * z / (2 * trials)
    spread = z * sqrt((rate * (1 - rate) + z * z / (4 * trials)) / trials)
    return max(0.0, (middle - spread) / (1 + z * z / trials))


def exceeds(hits: int, trials: int, base_hits: int, base_trials: int) -> float:
    """How many standard errors a rate lies above another one (pooled two-proportion z)."""
    if not trials or not base_trials:
        return 0.0
    rate, base = hits / trials, base_hits / base_trials
    pooled = (hits + base_hits) / (trials + base_trials)
    error = sqrt(pooled * (1 - pooled) * (1 / trials + 1 / base_trials))
    if error == 0:
        return 0.0
    return (rate - base) / error


def _wilson_upper(hits: int, trials: int) -> float:
    rate = hits / trials
    middle = rate + _Z * _Z / (2 * trials)
    spread = _Z * sqrt((rate * (1 - rate) + _Z * _Z / (4 * trials)) / trials)
    return min(1.0, (middle + spread) / (1 + _Z * _Z / trials))


def _at_most(hits: int, trials: int, rate: float) -> float:
    """P(X <= hits) of a binomial distribution."""
    if rate >= 1:
        return 0.0 if hits < trials else 1.0
    log_rate = log(rate) if rate > 0 else -inf
    log_rest = log1p(-rate)
    whole = lgamma(trials + 1)
    return sum(
        exp(whole - lgamma(n + 1) - lgamma(trials - n + 1) + n * log_rate + (trials - n) * log_rest)
        for n in range(hits + 1)
    )
