"""What is learnt of noise, and what agreement is worth."""

from __future__ import annotations

import pytest

from gateway.core.compare.agreement import agreement, agreement_at_least, exceeds, wilson_lower
from gateway.core.compare.noise import NoiseCounts, is_relaxed_by, learn
from gateway.core.compare.rules import Relax
from gateway.core.compare.tree import Difference, Kind
from gateway.core.counts import add

AT = Difference("$.at", Kind.VALUE, "string:time", "string:time")
LEAVES = [f"$.leaf{n}" for n in range(20)]


def counts(noisy: int = 0, raw: int = 0, pairs: int = 100, difference: Difference = AT) -> NoiseCounts:
    found = NoiseCounts()
    for n in range(pairs):
        found.note_pair([difference] if n < noisy else [], LEAVES)
        found.note_raw([difference] if n < raw else [])
    return found


def test_what_differs_within_one_side_is_proposed() -> None:
    [proposal] = learn(counts(noisy=40, raw=40).blob(), {}).proposals
    assert (proposal.path, proposal.relax, proposal.seen, proposal.pairs) == ("$.at", Relax.SHAPE, 40, 100)
    assert not proposal.is_held


def test_once_is_not_enough() -> None:
    assert learn(counts(noisy=1, raw=1).blob(), {}).proposals == ()


def test_what_was_accepted_is_not_proposed_again() -> None:
    assert learn(counts(noisy=40, raw=40).blob(), {"$.at": Relax.SHAPE}).proposals == ()


def test_what_differs_more_between_the_sides_than_within_one_is_held() -> None:
    [proposal] = learn(counts(noisy=5, raw=60).blob(), {}).proposals
    assert proposal.is_held


@pytest.mark.parametrize(
    ("difference", "relax"),
    [
        (Difference("$.a", Kind.ORDER), Relax.ORDER),
        (Difference("$.a", Kind.MISSING, "integer"), Relax.PRESENCE),
        (Difference("$.a", Kind.TYPE, "integer", "string"), None),
        (Difference("$.a", Kind.VALUE, "string:uuid", "string"), None),
        (Difference("body", Kind.BODY), None),
        (Difference("header:location", Kind.HEADER), None),
    ],
)
def test_what_can_be_relaxed(difference: Difference, relax: Relax | None) -> None:
    [proposal] = learn(counts(noisy=40, raw=40, difference=difference).blob(), {}).proposals
    assert proposal.relax is relax


def test_counts_of_processes_add_up() -> None:
    one, other = counts(noisy=1, raw=1).blob(), counts(noisy=1, raw=1).blob()
    learnt = learn(add(one, other), {})
    assert learnt.pairs == 200
    assert [proposal.seen for proposal in learnt.proposals] == [2]


def test_too_much_noise_makes_an_operation_not_comparable() -> None:
    found = NoiseCounts()
    noisy = [Difference(f"$.leaf{n}", Kind.VALUE, "integer", "integer") for n in range(5)]
    for _ in range(10):
        found.note_pair(noisy, LEAVES)
    assert learn(found.blob(), {}).is_too_noisy
    assert not learn(counts(noisy=10).blob(), {}).is_too_noisy


def test_evidence_can_be_judged_by_other_rules() -> None:
    assert is_relaxed_by(AT, {"$.at": Relax.SHAPE})
    assert not is_relaxed_by(AT, {"$.at": Relax.ORDER})
    assert not is_relaxed_by(AT, {})
    assert not is_relaxed_by(Difference("$.at", Kind.VALUE, "string:time", "string"), {"$.at": Relax.SHAPE})


@pytest.mark.parametrize(("mismatches", "needed"), [(0, 29_957), (1, 47_437), (2, 62_955), (5, 105_125)])
def test_how_many_comparisons_prove_four_nines(mismatches: int, needed: int) -> None:
    """As `qbeta(0.05, n - k, k + 1)` has it."""
    enough = agreement_at_least(needed - mismatches, mismatches)
    less = agreement_at_least(needed - mismatches - 40, mismatches)
    assert enough is not None
    assert less is not None
    assert less < 0.9999 <= enough + 2e-8


def test_agreement() -> None:
    assert agreement(0, 0) is None
    assert agreement_at_least(0, 0) is None
    assert agreement(999, 1) == 0.999
    assert agreement_at_least(0, 5) == pytest.approx(0.0, abs=1e-9)
    large = agreement_at_least(998_000, 2000)
    assert large is not None
    assert 0.9979 < large < 0.998
    assert exceeds(10, 100, 10, 100) == 0
    assert exceeds(0, 0, 1, 1) == 0
    assert exceeds(1, 1, 1, 1) == 0
    assert wilson_lower(0, 0) == 0
    assert wilson_lower(50, 100) == pytest.approx(0.404, abs=0.001)
