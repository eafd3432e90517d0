"""Read agreement: which share of compared answers agreed, and how much less it may be in truth."""

from __future__ import annotations

from functools import lru_cache
from math import exp, lgamma, log, log1p, pi, sqrt
from typing import Final

_ALPHA: Final = 0.05
_ROUNDS: Final = 100
_CLOSE: Final = 1e-12
"""How near the bound is found, relative to the share of mismatches."""
_SAFE: Final = 1e-7
"""How far the bound is kept from where rounding might have put it, relative to the same."""
_NOTHING: Final = 1e-18
"""A term that adds nothing to a sum of doubles near 0.05."""
_KNOWN: Final = 1024
_SERIES_FROM: Final = 16


def agreement(matches: int, mismatches: int) -> float | None:
    """The share that agreed, 0-1; None when nothing was compared."""
    total = matches + mismatches
    return matches / total if total else None


def agreement_at_least(matches: int, mismatches: int) -> float | None:
    """The one-sided 95 % lower bound of the agreement (Clopper, Pearson 1934); None when nothing was compared.

    29 957 comparisons without a mismatch give 0.9999; with one, 47 437. Exact for any counts, and never above the
    exact bound; asked again for the same counts it costs nothing.
    """
    total = matches + mismatches
    if not total:
        return None
    if matches == 0:
        return 0.0
    if mismatches == 0:
        return exp(log(_ALPHA) / total)
    return max(0.0, 1 - _mismatches_at_most(mismatches, total) * (1 + _SAFE))


@lru_cache(maxsize=_KNOWN)
def _mismatches_at_most(hits: int, trials: int) -> float:
    """The rate at which so few hits have a probability of 5 %: Newton's method, inside a bracket that closes.

    Returns:
        The upper end of the bracket.
    """
    low, high = hits / trials, 1.0
    # Wilson and Hilferty's approximation of the gamma quantile: a first step that is near.
    shape = hits + 1
    rate = min(shape * (1 - 1 / (9 * shape) + 1.6448536269514722 / (3 * sqrt(shape))) ** 3 / trials, (low + high) / 2)
    for _ in range(_ROUNDS):
        excess, slope = _tail(hits, trials, rate)
        if excess > _ALPHA:
            low = rate
        else:
            high = rate
        if high - low <= _CLOSE * high:
            break
        # Beyond the root, so that both ends of the bracket close.
        rate += (excess - _ALPHA) / slope * (1 + _CLOSE) + (_CLOSE * rate if excess > _ALPHA else -_CLOSE * rate)
        if not low < rate < high:
            rate = (low + high) / 2
    return high


def _tail(hits: int, trials: int, rate: float) -> tuple[float, float]:
    """P(X <= hits) of a binomial distribution whose mean lies above `hits`, and how fast it falls with the rate."""
    first = term = total = _probability(hits, trials, rate)
    odds = (1 - rate) / rate
    for n in range(hits, 0, -1):
        term *= n / (trials - n + 1) * odds
        total += term
        if term <= _NOTHING:
            break
    return total, first * (trials - hits) / (1 - rate)


def _probability(hits: int, trials: int, rate: float) -> float:
    """P(X = hits); hits and misses at least 1. By deviances (Loader 2000): logarithms of factorials lose the digits."""
    rest = trials - hits
    over = trials * rate - hits
    deviance = hits * log(hits / (trials * rate)) - rest * log1p(-over / rest)
    stirling = _stirling(trials) - _stirling(hits) - _stirling(rest)
    return exp(stirling - deviance) * sqrt(trials / (2 * pi * hits * rest))


def _stirling(n: int) -> float:
    """What Stirling's formula leaves of the logarithm of a factorial."""
    if n < _SERIES_FROM:
        return lgamma(n + 1) - (n + 0.5) * log(n) + n - 0.5 * log(2 * pi)
    return (1 / 12 - (1 / 360 - 1 / (1260 * n * n)) / (n * n)) / n


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
