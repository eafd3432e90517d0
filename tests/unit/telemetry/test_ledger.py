"""Totals of several workers never fall, and windows begin where they should."""

from __future__ import annotations

from typing import Any

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
