"""Learning, acceptance and comparison together: no false alarm, and nothing that means something is missed.

The long form, with 100 000 pairs, is `python -m bench.shadow`.
"""

from __future__ import annotations

import random
from functools import cache

from gateway.core.compare.rules import ComparisonRules, Relax
from tests.unit.core.compare.services import Change, Document, Judge, accept_all, change, document

PAIRS = 300
WITHIN = 1000


@cache
def learnt() -> dict[str, Relax]:
    accepted, found = accept_all(document, random.Random(5))
    assert not found.is_too_noisy
    return accepted


def judge() -> Judge:
    return Judge(ComparisonRules(relaxed=learnt()))


def test_what_is_learnt_is_the_noise_and_nothing_else() -> None:
    assert learnt() == {
        "$.id": Relax.SHAPE,
        "$.digest": Relax.SHAPE,
        "$.at": Relax.SHAPE,
        "$.hint": Relax.PRESENCE,
        "$.labels": Relax.ORDER,
        "$.items": Relax.ORDER,
        "$.items[*].seen_at": Relax.SHAPE,
        "$.items[*].tags": Relax.ORDER,
        "$.items[*].offer": Relax.PRESENCE,
    }


def test_two_identical_services_never_differ() -> None:
    rng, judged = random.Random(6), judge()
    for _ in range(PAIRS):
        verdict = judged.judge(document(rng), document(rng))
        assert verdict.differences == ()


def test_every_change_that_means_something_is_found_beside_noise() -> None:
    rng, judged = random.Random(20261124), judge()
    changes = [change(rng) for _ in range(200)]
    assert len({(found.kind, found.place) for found in changes}) > 40
    for made in changes:
        assert any(judged.differ(document(rng), changed(made, rng)) for _ in range(WITHIN)), made


def changed(made: Change, rng: random.Random) -> Document:
    answer = document(rng)
    made.apply(answer)
    return answer
