"""Totals of several workers never fall, and windows begin where they should."""

from __future__ import annotations

from typing import Any

from gateway.telemetry.counters import RequestCounters
from gateway.telemetry.ledger import Ledger


def blob(worker: str, incarnation: str, count: int) -> dict[str, Any]:
    return {
        "worker": worker,
        "incarnation": incarnation,
        "epoch": 3,
        "operations": {"get": {"old": {"outcomes": {"ok": count}}}},
        "forged": count,
    }


def total(ledger: Ledger) -> int:
    return int(ledger.totals().get("forged", 0))


def test_reports_are_cumulative_and_workers_add_up() -> None:
    ledger = Ledger()
    for report in (blob("a", "1", 5), blob("a", "1", 7), blob("b", "9", 10)):
        ledger.take(report)
    assert total(ledger) == 17
    assert ledger.totals()["operations"]["get"]["old"]["outcomes"]["ok"] == 17


def test_what_a_dead_worker_counted_stays() -> None:
    ledger = Ledger()
    ledger.take(blob("a", "1", 5))
    ledger.take(blob("a", "2", 0))
    ledger.take(blob("a", "2", 3))
    assert total(ledger) == 8
    ledger.forget("a")
    assert total(ledger) == 8
    assert ledger.live == {}


def test_a_predecessor_that_still_drains_is_counted_once() -> None:
    ledger = Ledger()
    for report in (blob("a", "1", 5), blob("a", "2", 1), blob("a", "1", 6), blob("a", "2", 2), blob("a", "1", 7)):
        ledger.take(report)
    assert total(ledger) == 9
    assert ledger.live["a"]["incarnation"] == "2"


def test_totals_never_fall_over_many_restarts() -> None:
    ledger = Ledger()
    seen = 0
    for number in range(50):
        ledger.take(blob("a", str(number), 0))
        ledger.take(blob("a", str(number), 2))
        assert total(ledger) >= seen
        seen = total(ledger)
    assert seen == 100


def test_reports_without_a_name_are_ignored() -> None:
    ledger = Ledger()
    ledger.take({"forged": 5})
    ledger.take({"worker": 7, "incarnation": "1", "forged": 5})
    assert ledger.totals() == {}


def test_a_window_holds_what_was_counted_since_its_beginning() -> None:
    ledger = Ledger(window_s=60, sample_s=1)
    for now in range(200):
        ledger.take(blob("a", "1", now))
        ledger.sample(float(now))
    counts, seconds = ledger.window(199.0)
    assert seconds == 60
    assert counts["forged"] == 60


def test_a_young_window_says_how_young_it_is() -> None:
    ledger = Ledger()
    assert ledger.window(5.0) == ({}, 0.0)
    ledger.sample(10.0)
    ledger.take(blob("a", "1", 4))
    counts, seconds = ledger.window(15.0)
    assert (counts["forged"], seconds) == (4, 5.0)


def test_a_worker_that_dies_in_the_window_does_not_make_it_negative() -> None:
    ledger = Ledger()
    ledger.take(blob("a", "1", 100))
    ledger.sample(1.0)
    ledger.take(blob("a", "2", 1))
    assert ledger.window(2.0)[0]["forged"] == 1


def compared(worker: str, incarnation: str, at: float, *results: str) -> dict[str, Any]:
    counters = RequestCounters(wall=lambda: at)
    for result in results:
        counters.compared("get", result)
    return {"worker": worker, "incarnation": incarnation, "at": at, **counters.blob()}


def test_what_a_killed_worker_suspected_is_suspected_no_more() -> None:
    ledger = Ledger()
    ledger.take(compared("a", "1", 1000.0, "suspected", "suspected", "settled", "mismatch"))
    ledger.take(compared("b", "9", 1000.0, "suspected"))
    assert ledger.suspected("get") == 2
    # It was killed, and another one has taken its place; or none has.
    ledger.take(compared("a", "2", 1030.0, "suspected"))
    assert ledger.suspected("get") == 1
    ledger.take(compared("b", "9", 1031.0, "suspected", "settled", "match"))
    assert ledger.suspected("get") == 1
    assert ledger.suspected("put") == 0


def test_a_predecessor_that_drains_still_reads_again() -> None:
    ledger = Ledger()
    ledger.take(compared("a", "1", 1000.0, "suspected"))
    ledger.take(compared("a", "2", 1001.0, "suspected"))
    assert ledger.suspected("get") == 2


def test_silence_of_all_is_no_death_of_one() -> None:
    ledger = Ledger()
    assert ledger.suspected("get") == 0
    ledger.take(compared("a", "1", 1000.0, "suspected"))
    assert ledger.suspected("get") == 1


def test_read_agreement_outlives_the_workers_that_counted_it() -> None:
    ledger = Ledger()
    for number in range(20):
        ledger.take(compared("a", str(number), 3_600_000.0 + number, "match", "suspected", "settled", "mismatch"))
    found = ledger.agreement(3_600_100.0)["get"]
    assert (found.results, found.since) == ({"match": 20, "mismatch": 20}, 3_600_000.0)
    ledger.forget("a")
    assert ledger.agreement(3_600_100.0)["get"].matches == 20
    assert not ledger.agreement(3_600_100.0 + 90_000)["get"].results
