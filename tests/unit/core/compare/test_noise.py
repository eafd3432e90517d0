"""What is learnt of noise, and what agreement is worth."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gateway.core.compare.agreement import agreement, agreement_at_least, exceeds, wilson_lower
from gateway.core.compare.json_value import parse
from gateway.core.compare.noise import Learnt, NoiseCounts, is_relaxed_by, learn
from gateway.core.compare.rules import Relax
from gateway.core.compare.tree import Difference, Kind, leaf_paths
from gateway.core.counts import add
from tests.unit.core.compare.walking import found, walked

AT = Difference("$.at", Kind.VALUE, "string:time", "string:time")
LEAVES = [f"$.leaf{n}" for n in range(20)]


def counts(noisy: int = 0, raw: int = 0, pairs: int = 100, difference: Difference = AT) -> NoiseCounts:
    counted = NoiseCounts()
    for n in range(pairs):
        counted.note_pair([difference] if n < noisy else [], LEAVES)
        counted.note_raw([difference] if n < raw else [])
    return counted


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
        (Difference("$.a", Kind.LENGTH, "array", "array"), Relax.LENGTH),
        (Difference("$.a", Kind.TYPE, "null", "string"), Relax.NULL),
        (Difference("$.a", Kind.TYPE, "integer", "number"), Relax.NUMBER),
        (Difference("$.a", Kind.VALUE, "integer", "integer", is_alike=False), None),
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
    counted = NoiseCounts()
    noisy = [Difference(f"$.leaf{n}", Kind.VALUE, "integer", "integer") for n in range(5)]
    for _ in range(10):
        counted.note_pair(noisy, LEAVES)
    assert learn(counted.blob(), {}).is_too_noisy
    assert not learn(counts(noisy=10).blob(), {}).is_too_noisy


# --- what moves, and what stands behind noise ----------------------------------------------------------------------


def learnt(make: Callable[[random.Random], Any], accepted: Mapping[str, Relax], pairs: int = 40) -> Learnt:
    """What is learnt of two equal services whose answers `make` makes."""
    rng = random.Random(20261130)
    counted = NoiseCounts()
    for _ in range(pairs):
        left, right = make(rng), make(rng)
        counted.note_pair(walked(left, right, is_learning=True, relaxed=accepted).noted, leaf_paths(left))
        counted.note_raw(walked(make(rng), make(rng), relaxed=accepted).noted)
    return learn(counted.blob(), accepted)


def accepted_all(make: Callable[[random.Random], Any], rounds: int = 5) -> tuple[dict[str, Relax], list[list[str]]]:
    """Accepts whatever is proposed until nothing is; with what was proposed in each round."""
    accepted: dict[str, Relax] = {}
    said: list[list[str]] = []
    for _ in range(rounds):
        proposals = learnt(make, accepted).proposals
        if not proposals:
            return accepted, said
        said.append([f"{part.path} {part.relax.words[0] if part.relax else None}" for part in proposals])
        assert not any(part.is_held or part.relax is None for part in proposals), said
        for part in proposals:
            accepted[part.path] = accepted.get(part.path, Relax(0)) | (part.relax or Relax(0))
    raise AssertionError(f"something is proposed again and again: {said}")


def clock(rng: random.Random) -> str:
    return f"2026-01-01T00:{rng.randrange(60):02}:{rng.randrange(60):02}Z"


def goods(rng: random.Random) -> list[dict[str, Any]]:
    return [{"sku": f"sku-{n}", "count": n, "size": n % 2, "seen_at": clock(rng)} for n in range(5)]


def test_of_items_that_move_the_order_is_proposed_first_and_stable_members_never() -> None:
    def make(rng: random.Random) -> Any:
        return {"items": rng.sample(goods(rng), 5), "total": 5}

    accepted, said = accepted_all(make)
    assert said == [["$.items order"], ["$.items[*].seen_at shape"]]
    rng = random.Random(1)
    for name, value in (("count", 9), ("sku", "other"), ("size", 5)):
        left, right = make(rng), make(rng)
        assert found(left, right, relaxed=accepted) == []
        right["items"][3][name] = value
        assert found(left, right, relaxed=accepted) == [(f"$.items[*].{name}", "value")]


def test_items_that_stay_are_not_taken_for_moved_by_a_flag_that_changes() -> None:
    def make(rng: random.Random) -> Any:
        return [{"sku": f"sku-{n}", "hot": rng.random() < 0.5} for n in range(4)]

    assert accepted_all(make)[1] == [["$[*].hot shape"]]


def test_a_member_that_holds_the_same_values_by_chance_does_not_pair_items() -> None:
    """What tells items apart is not known from one answer: `grade` may be as good as `key`, in one of a few."""

    def make(rng: random.Random) -> Any:
        return rng.sample([{"key": f"k{n}", "grade": rng.choice([1, 2, 3]), "at": clock(rng)} for n in range(3)], 3)

    accepted, said = accepted_all(make)
    assert said == [["$ order"], ["$[*].at shape", "$[*].grade shape"]]
    assert found([{"key": "a"}, {"key": "b"}], [{"key": "b"}, {"key": "c"}], relaxed=accepted) == [
        ("$[*].key", "value")
    ]


def test_arrays_in_items_that_move_are_learnt_one_after_the_other() -> None:
    def make(rng: random.Random) -> Any:
        items = [{"id": n, "tags": rng.sample([f"t{n}", "a", "b", "c"], 4), "at": clock(rng)} for n in range(4)]
        return {"items": rng.sample(items, 4), "owner": "ada"}

    accepted, said = accepted_all(make)
    assert accepted == {"$.items": Relax.ORDER, "$.items[*].tags": Relax.ORDER, "$.items[*].at": Relax.SHAPE}
    assert said[0] == ["$.items order"]


def test_a_part_may_be_noisy_in_several_ways() -> None:
    def make(rng: random.Random) -> Any:
        answer: dict[str, Any] = {"total": 1, "took": rng.choice([1, parse("1.5"), parse("0.7"), 3])}
        answer["eta"] = rng.choice([None, clock(rng)])
        if rng.random() < 0.5:
            answer["at"] = clock(rng)
        return answer

    accepted, _ = accepted_all(make)
    assert accepted == {
        "$.at": Relax.PRESENCE | Relax.SHAPE,
        "$.eta": Relax.NULL | Relax.SHAPE,
        "$.took": Relax.NUMBER | Relax.SHAPE,
    }
    answer = {"at": clock(random.Random(1)), "eta": None, "took": 1}
    assert found(answer, {**answer, "at": 5, "took": "1"}, relaxed=accepted) == [("$.at", "type"), ("$.took", "type")]
    assert found({**answer, "eta": answer["at"]}, {**answer, "eta": "soon"}, relaxed=accepted) == [("$.eta", "value")]


def test_the_length_of_an_array_may_be_noisy() -> None:
    def make(rng: random.Random) -> Any:
        return {"log": [f"line {n}" for n in range(rng.randrange(3, 6))], "total": 1}

    accepted, said = accepted_all(make)
    assert said == [["$.log length"]]
    assert found({"log": ["line 0", "line 1"]}, {"log": ["line 0"]}, relaxed=accepted) == []
    assert found({"log": ["line 0", "line 1"]}, {"log": ["line 5"]}, relaxed=accepted) != []


def test_a_name_that_is_data_is_learnt_for_such_names_alone() -> None:
    def make(rng: random.Random) -> Any:
        return {"ada@example.org": clock(rng), "count": 1}

    accepted, _ = accepted_all(make)
    assert accepted == {"$.{}": Relax.SHAPE}
    assert found({"count": 1, "x y": "a1"}, {"count": 2, "x y": "a2"}, relaxed=accepted) == [("$.count", "value")]


def test_a_secret_that_is_a_name_is_in_no_path() -> None:
    said = str(learnt(lambda rng: {"ghp_AbCdEf": rng.random() < 0.5}, {}))
    assert "$.{}" in said
    assert "ghp" not in said


def test_with_new_rules_learning_begins_anew() -> None:
    counted = NoiseCounts()
    counted.note_pair([AT], LEAVES, "first")
    counted.note_pair([AT], LEAVES, "first")
    counted.note_raw([AT], "first")
    assert counted.pairs == 2
    other = Difference("$.behind", Kind.TYPE, "null", "string")
    counted.note_pair([other], LEAVES, "second")
    counted.note_pair([other], LEAVES)
    assert counted.pairs == 2
    [proposal] = learn(counted.blob(), {}, "second").proposals
    assert (proposal.path, proposal.relax) == ("$.behind", Relax.NULL)


def test_counts_under_several_rules_are_told_apart() -> None:
    one, other = NoiseCounts(), NoiseCounts()
    for _ in range(5):
        one.note_pair([AT], LEAVES, "first")
    other.note_pair([], LEAVES, "second")
    both = add(one.blob(), other.blob())
    assert learn(both, {}, "first").pairs == 5
    assert learn(both, {}, "second").pairs == 1
    assert learn(both, {}, "third").pairs == 0
    assert learn(both, {}).pairs == 5


def test_what_was_accepted_still_makes_an_operation_noisy() -> None:
    counted = NoiseCounts()
    counted.note_pair([], LEAVES)
    assert learn(counted.blob(), {"$.*": Relax.SHAPE}).is_too_noisy
    assert not learn(counted.blob(), {"$.leaf1": Relax.SHAPE}).is_too_noisy


def test_evidence_is_judged_by_rules_that_name_many_parts() -> None:
    at = Difference("$.items[*].{}.at", Kind.VALUE, "string:time", "string:time")
    for path in ("$..at", "$.items[*].{}.at", "$.*[*].*.*"):
        assert is_relaxed_by(at, {path: Relax.SHAPE}), path
    for path in ("$.items[*].name.at", "$.{}[*].*.at", "$..items"):
        assert not is_relaxed_by(at, {path: Relax.SHAPE}), path
    assert not is_relaxed_by(Difference("header:etag", Kind.HEADER), {"$..etag": Relax.SHAPE})
    far = Difference("$.at", Kind.VALUE, "string:time", "string:time", is_alike=False)
    assert not is_relaxed_by(far, {"$.at": Relax.SHAPE})
    several = Relax.NULL | Relax.PRESENCE
    assert is_relaxed_by(Difference("$.a", Kind.TYPE, "null", "string"), {"$.a": several})
    assert is_relaxed_by(Difference("$.a", Kind.MISSING, "string"), {"$.a": several})


def test_words_name_relaxations() -> None:
    assert Relax("shape") is Relax.SHAPE
    assert Relax("order+length") == Relax.ORDER | Relax.LENGTH
    assert (Relax.NULL | Relax.SHAPE).words == ["shape", "null"]
    for wrong in ("", "SHAPE", "everything", "shape,order"):
        with pytest.raises(ValueError, match="is no relaxation"):
            Relax(wrong)


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
