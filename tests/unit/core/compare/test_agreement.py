"""The lower bound of read agreement, beside exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.compare.agreement import agreement_at_least

ALPHA = Fraction(1, 20)


def at_most(hits: int, trials: int, rate: Fraction) -> Fraction:
    """P(X <= hits) of a binomial distribution, exactly."""
    return Fraction(sum(comb(trials, n) * rate**n * (1 - rate) ** (trials - n) for n in range(hits + 1)))


@given(st.integers(1, 12), st.integers(1, 60))
def test_the_bound_is_never_above_the_exact_one_and_hardly_below(mismatches: int, matches: int) -> None:
    bound = agreement_at_least(matches, mismatches)
    assert bound is not None
    total = matches + mismatches
    assert at_most(mismatches, total, 1 - Fraction(bound)) <= ALPHA
    assert at_most(mismatches, total, (1 - Fraction(bound)) * (1 - Fraction(1, 10**6))) > ALPHA


@pytest.mark.parametrize(
    ("matches", "mismatches", "bound"),
    [
        (47_436, 1, 0.9999),
        # Upper ends of the Clopper-Pearson interval, from exact sums of fractions.
        (999_999, 1, 1 - 4.743856e-06),
        (19_000, 1000, 1 - 0.05260873),
        (4600, 400, 1 - 0.08659418),
        (999_999_980, 20, 1 - 2.906202e-08),
    ],
)
def test_bounds_of_large_counts(matches: int, mismatches: int, bound: float) -> None:
    assert agreement_at_least(matches, mismatches) == pytest.approx(bound, rel=0, abs=(1 - bound) * 1e-5)


def test_more_mismatches_than_anybody_sums_up_still_have_a_bound() -> None:
    bounds = [agreement_at_least(10**8 - n, n) for n in (0, 1, 10, 1000, 100_000, 10_000_000)]
    shares = [1 - n / 10**8 for n in (0, 1, 10, 1000, 100_000, 10_000_000)]
    assert all(bound is not None and 0 < bound < share for bound, share in zip(bounds, shares, strict=True))
    assert bounds == sorted(bounds, key=lambda bound: -(bound or 0))


def test_nothing_compared_has_no_bound_and_nothing_agreed_has_none_above_zero() -> None:
    assert agreement_at_least(0, 0) is None
    assert agreement_at_least(0, 1) == agreement_at_least(0, 5000) == 0.0
