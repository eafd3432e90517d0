"""Metrics as Prometheus reads them."""

from __future__ import annotations

import time

from prometheus_client.parser import text_string_to_metric_families

from gateway.core.decide import Doubt
from gateway.core.model import ErrorCode, Side
from gateway.core.outcome import Outcome
from gateway.telemetry.counters import NO_SIDE, UNMATCHED, RequestCounters
from gateway.telemetry.exposition import Metrics
from gateway.telemetry.ledger import Ledger
from gateway.upstream.stats import DropReason, UpstreamStats

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(ledger: Ledger) -> Samples:
    text = Metrics(ledger).render().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def report(counters: RequestCounters, worker: str = "gateway-0", **more: object) -> Ledger:
    ledger = Ledger()
    ledger.take({"worker": worker, "incarnation": "1", "at": time.time(), **more, **counters.blob()})
    return ledger


def labels(**given: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(given.items()))


def test_requests_are_counted_by_operation_side_and_outcome() -> None:
    counters = RequestCounters()
    for _ in range(3):
        counters.answered("git.status", Side.NEW, Outcome.OK, 0.01)
    counters.answered("git.status", Side.OLD, Outcome.FAILURE, 0.5)
    counters.answered(None, None, Outcome.REFUSED, 0.0)
    found = samples(report(counters))
    name = "crossfade_requests_total"
    assert found[name, labels(operation="git.status", side="new", outcome="ok")] == 3
    assert found[name, labels(operation="git.status", side="old", outcome="failure")] == 1
    assert found[name, labels(operation=UNMATCHED, side=NO_SIDE, outcome="refused")] == 1


def test_durations_make_a_cumulative_histogram() -> None:
    counters = RequestCounters()
    for seconds in (0.0005, 0.02, 0.02, 3.0, 500.0):
        counters.answered("git.push", Side.OLD, Outcome.OK, seconds)
    found = samples(report(counters))
    where = {"operation": "git.push", "side": "old"}
    assert found["crossfade_request_seconds_bucket", labels(**where, le="0.001")] == 1
    assert found["crossfade_request_seconds_bucket", labels(**where, le="0.025")] == 3
    assert found["crossfade_request_seconds_bucket", labels(**where, le="5.0")] == 4
    assert found["crossfade_request_seconds_bucket", labels(**where, le="+Inf")] == 5
    assert found["crossfade_request_seconds_count", labels(**where)] == 5
    assert abs(found["crossfade_request_seconds_sum", labels(**where)] - 503.0405) < 1e-6


def test_a_client_that_left_says_nothing_about_the_side() -> None:
    counters = RequestCounters()
    counters.answered("git.push", Side.OLD, Outcome.CLIENT_GONE, 90.0)
    assert not any(name.startswith("crossfade_request_seconds") for name, _ in samples(report(counters)))


def test_the_rest_is_counted_too() -> None:
    counters = RequestCounters()
    counters.refused(ErrorCode.KEY_REQUIRED)
    counters.doubted(Doubt.NO_KEY)
    counters.forged(2)
    counters.force_ignored()
    found = samples(report(counters))
    assert found["crossfade_refused_total", labels(code="key_required")] == 1
    assert found["crossfade_doubt_total", labels(reason="no_key")] == 1
    assert found["crossfade_forged_headers_total", ()] == 2
    assert found["crossfade_force_ignored_total", ()] == 1


def test_evidence_that_found_no_place_is_counted_over_all_workers() -> None:
    ledger = report(RequestCounters(), evidence_dropped=3)
    ledger.take({"worker": "gateway-1", "incarnation": "2", "at": time.time(), "evidence_dropped": 4})
    assert samples(ledger)["crossfade_evidence_dropped_total", ()] == 7


def test_read_agreement_is_shown_with_its_lower_bound_where_anything_was_compared() -> None:
    counters = RequestCounters()
    for _ in range(999):
        counters.compared("git.status", "match")
    counters.compared("git.status", "mismatch")
    counters.compared("git.log", "incomparable:unknown_workspace")
    found = samples(report(counters))
    assert found["crossfade_read_agreement", labels(operation="git.status")] == 0.999
    bound = found["crossfade_read_agreement_lower_bound", labels(operation="git.status")]
    assert 0.99526 < bound < 0.99527
    assert ("crossfade_read_agreement", labels(operation="git.log")) not in found


def test_what_a_drill_compares_is_no_figure() -> None:
    counters = RequestCounters()
    counters.compared("git.status", "mismatch", is_rehearsed=True)
    assert ("crossfade_read_agreement", labels(operation="git.status")) not in samples(report(counters))


def test_the_policy_is_shown_by_worker_and_targets_come_from_the_newest() -> None:
    counters = RequestCounters()
    ledger = report(counters, epoch=4, age_s=0.2, killed=["all"], targets={"git.status": 0.1})
    newer = {"worker": "gateway-1", "incarnation": "2", "at": time.time(), "epoch": 5, "targets": {"git.status": 0.5}}
    ledger.take(newer)
    found = samples(ledger)
    assert found["crossfade_policy_epoch", labels(worker="gateway-0")] == 4
    assert found["crossfade_policy_epoch", labels(worker="gateway-1")] == 5
    assert found["crossfade_policy_age_seconds", labels(worker="gateway-0")] == 0.2
    assert found["crossfade_killed", labels(scope="all")] == 1
    assert found["crossfade_share_target", labels(operation="git.status")] == 0.5


def test_the_actual_share_is_that_of_the_window() -> None:
    counters = RequestCounters()
    ledger = report(counters)
    ledger.sample(time.monotonic() - 5)
    for side in (Side.OLD, Side.OLD, Side.OLD, Side.NEW):
        counters.answered("git.status", side, Outcome.OK, 0.01)
    ledger.take({"worker": "gateway-0", "incarnation": "1", **counters.blob()})
    assert samples(ledger)["crossfade_share_actual", labels(operation="git.status")] == 0.25


def test_names_that_would_break_the_format_are_escaped() -> None:
    counters = RequestCounters()
    odd = 'a"b\\c\nd'
    counters.answered(odd, Side.OLD, Outcome.OK, 0.01)
    found = samples(report(counters))
    assert found["crossfade_requests_total", labels(operation=odd, side="old", outcome="ok")] == 1


def test_nothing_reported_is_no_error() -> None:
    assert isinstance(samples(Ledger()), dict)


def test_instances_out_of_the_choice_and_connections_are_shown_by_worker() -> None:
    stats = UpstreamStats(
        connecting=1,
        idle=4,
        in_use=2,
        waiting=3,
        retries=5,
        ejected=1,
        ejections=7,
        unwell=2,
        drops={DropReason.STALE: 6},
    )
    ledger = report(RequestCounters(), sides={"new": stats.state_blob()}, upstream={"new": stats.count_blob()})
    found = samples(ledger)
    here = {"worker": "gateway-0", "side": "new"}
    assert found["crossfade_upstream_connections", labels(**here, state="in_use")] == 2
    assert found["crossfade_upstream_waiting", labels(**here)] == 3
    assert found["crossfade_upstream_instances_out", labels(**here, reason="ejected")] == 1
    assert found["crossfade_upstream_instances_out", labels(**here, reason="unwell")] == 2
    assert found["crossfade_upstream_retries_total", labels(side="new")] == 5
    assert found["crossfade_upstream_ejections_total", labels(side="new")] == 7
    assert found["crossfade_upstream_connections_closed_total", labels(side="new", reason="stale")] == 6
