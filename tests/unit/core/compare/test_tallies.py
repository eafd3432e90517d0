"""Read agreement is of the last 24 hours and of the rules in force, over any number of processes."""

from __future__ import annotations

import json
from collections.abc import Iterator

from gateway.core.compare.tallies import WINDOW_S, Recent, Tallies, recent, together

HOUR_S = 3600
BEGIN = 500_000 * HOUR_S + 120.0


def counted(rules: str, *moments: tuple[float, str]) -> Tallies:
    found = Tallies()
    found.use({"get": rules})
    for now, result in moments:
        found.note("get", result, now)
    return found


def figure(now: float, *found: Tallies) -> Recent:
    return recent([json.loads(json.dumps(one.blob())) for one in found], now)["get"]


def test_a_fault_that_was_mended_is_out_after_a_day() -> None:
    found = counted("v1", (BEGIN, "mismatch"))
    for hour in range(1, 30):
        found.note("get", "match", BEGIN + hour * HOUR_S)
        now = figure(BEGIN + hour * HOUR_S, found)
        assert now.mismatches == (1 if hour < 24 else 0)
        assert now.matches == min(hour, 24)


def test_a_figure_of_long_ago_is_none() -> None:
    found = counted("v1", (BEGIN, "match"))
    assert figure(BEGIN + WINDOW_S + HOUR_S, found) == Recent({}, None, "v1")


def test_since_is_the_first_comparison_or_the_beginning_of_the_window() -> None:
    found = counted("v1", (BEGIN, "match"), (BEGIN + 40 * HOUR_S, "match"))
    assert figure(BEGIN + 5, found).since == BEGIN
    assert figure(BEGIN + 40 * HOUR_S, found).since == BEGIN - 120 + 17 * HOUR_S


def test_other_rules_begin_the_figure_anew_and_the_same_ones_go_on() -> None:
    found = counted("v1", (BEGIN, "mismatch"))
    found.use({"get": "v2"})
    assert figure(BEGIN + 1, found) == Recent({}, None, "v2")
    found.note("get", "match", BEGIN + 10)
    assert figure(BEGIN + 11, found) == Recent({"match": 1}, BEGIN + 10, "v2")
    found.use({"get": "v1"})
    assert figure(BEGIN + 12, found) == Recent({"mismatch": 1}, BEGIN, "v1")


def test_processes_add_up_and_the_last_one_says_which_rules_are_in_force() -> None:
    one = counted("v1", (BEGIN, "match"), (BEGIN + 1, "mismatch"))
    other = counted("v1", (BEGIN - 50, "match"))
    assert figure(BEGIN + 2, one, other) == Recent({"match": 2, "mismatch": 1}, BEGIN - 50, "v1")
    newer = counted("v2", (BEGIN + 1, "match"))
    assert figure(BEGIN + 2, one, other, newer) == Recent({"match": 1}, BEGIN + 1, "v2")


def test_what_is_kept_as_one_counts_as_before() -> None:
    reports = [counted("v1", (BEGIN + n, "match"), (BEGIN - 7 * n * HOUR_S, "mismatch")).blob() for n in range(9)]
    assert recent([together(reports)], BEGIN)["get"] == recent(reports, BEGIN)["get"]


def test_adding_up_changes_nothing_that_was_reported() -> None:
    reports = [counted("v1", (BEGIN + n * HOUR_S, "match")).blob() for n in range(40)]
    before = json.dumps(reports)
    together(reports)
    assert json.dumps(reports) == before


def test_a_process_that_has_just_begun_does_not_say_which_rules_are_in_force() -> None:
    old = counted("v2", (BEGIN, "match"))
    # It has not read yet what operators have accepted; what it compares counts under the rules that it compares by.
    young = Tallies()
    young.use({"get": "v1"}, is_sure=False)
    young.note("get", "match", BEGIN + 1)
    assert figure(BEGIN + 2, old, young) == Recent({"match": 1}, BEGIN, "v2")
    young.use({"get": "v2"})
    young.note("get", "match", BEGIN + 3)
    assert figure(BEGIN + 4, old, young) == Recent({"match": 2}, BEGIN, "v2")


def test_reasons_are_kept_apart() -> None:
    found = counted("v1", (BEGIN, "match"), (BEGIN, "incomparable:unknown_workspace"))
    now = figure(BEGIN, found)
    assert (now.matches, now.results["incomparable:unknown_workspace"]) == (1, 1)


def test_what_is_held_is_bounded() -> None:
    found = Tallies()
    for n in range(300):
        found.use({"get": f"v{n // 20}"})
        found.note("get", "match", BEGIN + n * HOUR_S)
    assert numbers(found.blob()) <= 2 * (24 + 1)
    total = together(counted(f"v{n // 20}", (BEGIN + n * HOUR_S, "match")).blob() for n in range(300))
    assert numbers(total) <= 2 * (24 + 1)
    assert recent([total], BEGIN + 299 * HOUR_S)["get"].matches == 20


def numbers(value: object) -> int:
    def each(part: object) -> Iterator[int]:
        if isinstance(part, dict):
            for inner in part.values():
                yield from each(inner)
        elif isinstance(part, (int, float)):
            yield 1

    return sum(each(value))


def test_operations_together_have_begun_with_the_first() -> None:
    both = Recent({"match": 1}, 20.0, "a") + Recent({"match": 2, "mismatch": 1}, 10.0, "b")
    assert both == Recent({"match": 3, "mismatch": 1}, 10.0, None)
    assert Recent() + Recent({"match": 1}, 5.0, "a") == Recent({"match": 1}, 5.0, None)
