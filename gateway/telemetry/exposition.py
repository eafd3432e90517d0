"""Metrics in the Prometheus text format, from the ledger of all workers.

Labels are names from the configuration and closed sets; never a key, a path or an id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.core.compare.agreement import agreement, agreement_at_least
from gateway.core.counts import Counts, share_of_new
from gateway.core.histogram import bucket_of
from gateway.telemetry.ledger import Ledger

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LADDER_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RUNGS: Final = tuple((str(bound), bucket_of(bound)) for bound in _LADDER_S)


class Metrics:
    """Renders the metrics of a ledger."""

    def __init__(
        self,
        ledger: Ledger,
        is_drill_due: Callable[[], bool] | None = None,
        notices: Callable[[], Mapping[tuple[str, str], int]] | None = None,
    ) -> None:
        """Renders nothing yet.

        Args:
            ledger: What was counted.
            is_drill_due: Whether a drill failed or is overdue; None: somebody else tells.
            notices: Attempts to tell targets, by kind of target and result; None: somebody else tells.
        """
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(ledger, is_drill_due, notices))

    def render(self) -> bytes:
        """The metrics as they stand now."""
        return generate_latest(self._registry)


class _Collector(Collector):
    def __init__(
        self,
        ledger: Ledger,
        is_drill_due: Callable[[], bool] | None,
        notices: Callable[[], Mapping[tuple[str, str], int]] | None,
    ) -> None:
        self._ledger = ledger
        self._is_drill_due = is_drill_due
        self._notices = notices

    def collect(self) -> Iterator[Metric]:
        totals = self._ledger.totals()
        yield from _requests(totals.get("operations", {}))
        yield from _plain(totals)
        yield from _saved(totals)
        yield from _shadow(totals, self._ledger)
        yield from _agreement(self._ledger)
        yield from _upstream_counts(totals.get("upstream", {}))
        yield from _upstream_state(self._ledger)
        yield from _policy(self._ledger)
        if self._is_drill_due is not None:
            yield GaugeMetricFamily(
                "crossfade_drill_due", "1 when the last drill failed or is overdue.", int(self._is_drill_due())
            )
        if self._notices is not None:
            told = CounterMetricFamily(
                "crossfade_notifications",
                "Notices delivered, attempts that failed, and notices given up.",
                labels=["target", "result"],
            )
            for (target, result), count in sorted(self._notices().items()):
                told.add_metric([target, result], count)
            yield told


def _requests(operations: Mapping[str, Any]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "crossfade_requests", "Requests by how they ended.", labels=["operation", "side", "outcome"]
    )
    seconds = HistogramMetricFamily(
        "crossfade_request_seconds",
        "What the side took to the end of its answer, or to a stream's first event; bucket bounds hold within 4 %.",
        labels=["operation", "side"],
    )
    for operation, sides in sorted(operations.items()):
        for side, cell in sorted(sides.items()):
            for outcome, count in sorted(cell.get("outcomes", {}).items()):
                requests.add_metric([operation, side, outcome], count)
            histogram = {int(bucket): count for bucket, count in cell.get("histogram", {}).items()}
            if histogram:
                buckets: list[tuple[str, float]] = [
                    (bound, sum(count for bucket, count in histogram.items() if bucket <= last))
                    for bound, last in _RUNGS
                ]
                buckets.append(("+Inf", sum(histogram.values())))
                seconds.add_metric([operation, side], buckets, cell.get("sum_s", 0.0))
    yield requests
    yield seconds


def _plain(totals: Counts) -> Iterator[Metric]:
    refused = CounterMetricFamily("crossfade_refused", "Requests that the gateway answered itself.", labels=["code"])
    for code, count in sorted(totals.get("refused", {}).items()):
        refused.add_metric([code], count)
    yield refused
    doubts = CounterMetricFamily(
        "crossfade_doubt", "Requests about which something could not be told.", labels=["reason"]
    )
    for reason, count in sorted(totals.get("doubts", {}).items()):
        doubts.add_metric([reason], count)
    yield doubts
    yield CounterMetricFamily(
        "crossfade_forged_headers", "Header fields removed because clients may not send them.", totals.get("forged", 0)
    )
    yield CounterMetricFamily(
        "crossfade_force_ignored",
        "Crossfade-Force fields that were invalid or not allowed.",
        totals.get("force_ignored", 0),
    )


def _saved(totals: Counts) -> Iterator[Metric]:
    saved = CounterMetricFamily("crossfade_saved", "Reads that new failed and old was asked.", labels=["operation"])
    for operation, count in sorted(totals.get("saved", {}).items()):
        saved.add_metric([operation], count)
    yield saved


def _shadow(totals: Counts, ledger: Ledger) -> Iterator[Metric]:
    mirror = CounterMetricFamily(
        "crossfade_mirror", "Reads that were mirrored (sent), or why they were not.", labels=["operation", "result"]
    )
    for operation, counts in sorted(totals.get("mirror", {}).items()):
        for result, count in sorted(counts.items()):
            mirror.add_metric([operation, result], count)
    yield mirror
    compared = CounterMetricFamily(
        "crossfade_comparisons",
        "Pairs of answers by what came of them; suspected ones are read again, and then settled.",
        labels=["operation", "result"],
    )
    for operation, counts in sorted(totals.get("comparisons", {}).items()):
        for result, count in sorted(counts.items()):
            compared.add_metric([operation, result], count)
    yield compared
    yield CounterMetricFamily(
        "crossfade_evidence_dropped",
        "Differences that are counted and not kept: too many others waited to be written.",
        totals.get("evidence_dropped", 0),
    )
    copies = CounterMetricFamily(
        "crossfade_copies", "Copies of reads by how they ended.", labels=["operation", "side", "outcome"]
    )
    for operation, sides in sorted(totals.get("copies", {}).items()):
        for side, cell in sorted(sides.items()):
            for outcome, count in sorted(cell.get("outcomes", {}).items()):
                copies.add_metric([operation, side, outcome], count)
    yield copies
    state = GaugeMetricFamily(
        "crossfade_shadow", "What a worker's shadow holds, and how much it may.", labels=["worker", "what"]
    )
    for worker, blob in sorted(ledger.live.items()):
        for what, count in sorted(blob.get("shadow", {}).items()):
            state.add_metric([worker, what], count)
    yield state


def _agreement(ledger: Ledger) -> Iterator[Metric]:
    share = GaugeMetricFamily(
        "crossfade_read_agreement",
        "Share of compared reads that agreed, 0-1, in 24 hours and since the rules are these.",
        labels=["operation"],
    )
    bound = GaugeMetricFamily(
        "crossfade_read_agreement_lower_bound", "Its one-sided 95 % lower bound, 0-1.", labels=["operation"]
    )
    for operation, found in sorted(ledger.agreement(time.time()).items()):
        agreed = agreement(found.matches, found.mismatches)
        at_least = agreement_at_least(found.matches, found.mismatches)
        if agreed is not None and at_least is not None:
            share.add_metric([operation], agreed)
            bound.add_metric([operation], at_least)
    yield share
    yield bound


def _upstream_counts(sides: Mapping[str, Any]) -> Iterator[Metric]:
    retries = CounterMetricFamily(
        "crossfade_upstream_retries",
        "Requests sent a second time, because a connection that had been idle was closed.",
        labels=["side"],
    )
    ejections = CounterMetricFamily(
        "crossfade_upstream_ejections",
        "Times that an instance was taken out of the choice after failures.",
        labels=["side"],
    )
    closed = CounterMetricFamily(
        "crossfade_upstream_connections_closed", "Connections to a side closed, by why.", labels=["side", "reason"]
    )
    for side, counts in sorted(sides.items()):
        retries.add_metric([side], counts.get("retries", 0))
        ejections.add_metric([side], counts.get("ejections", 0))
        for reason, count in sorted(counts.get("drops", {}).items()):
            closed.add_metric([side, reason], count)
    yield retries
    yield ejections
    yield closed


def _upstream_state(ledger: Ledger) -> Iterator[Metric]:
    connections = GaugeMetricFamily(
        "crossfade_upstream_connections", "Connections to a side.", labels=["worker", "side", "state"]
    )
    waiting = GaugeMetricFamily(
        "crossfade_upstream_waiting", "Requests that wait for a connection to a side.", labels=["worker", "side"]
    )
    out = GaugeMetricFamily(
        "crossfade_upstream_instances_out",
        "Instances that a worker does not choose: ejected after failures, or unwell by their health checks.",
        labels=["worker", "side", "reason"],
    )
    for worker, blob in sorted(ledger.live.items()):
        for side, state in sorted(blob.get("sides", {}).items()):
            for name, count in sorted(state.get("connections", {}).items()):
                connections.add_metric([worker, side, name], count)
            waiting.add_metric([worker, side], state.get("waiting", 0))
            for reason, count in sorted(state.get("out", {}).items()):
                out.add_metric([worker, side, reason], count)
    yield connections
    yield waiting
    yield out


def _policy(ledger: Ledger) -> Iterator[Metric]:
    epoch = GaugeMetricFamily("crossfade_policy_epoch", "Epoch that a worker decides by.", labels=["worker"])
    age = GaugeMetricFamily("crossfade_policy_age_seconds", "Since a worker last read the policy.", labels=["worker"])
    said = GaugeMetricFamily("crossfade_worker_age_seconds", "Since a worker last reported.", labels=["worker"])
    now = time.time()
    newest: Mapping[str, Any] = {}
    killed: dict[str, int] = {}
    for worker, blob in sorted(ledger.live.items()):
        if blob.get("epoch") is not None:
            epoch.add_metric([worker], blob["epoch"])
            if blob["epoch"] >= newest.get("epoch", 0):
                newest = blob
        if blob.get("age_s") is not None:
            age.add_metric([worker], blob["age_s"])
        said.add_metric([worker], max(0.0, now - blob.get("at", now)))
        killed.update(dict.fromkeys(blob.get("killed", ()), 1))
    yield epoch
    yield age
    yield said
    gauge = GaugeMetricFamily("crossfade_killed", "Scopes whose kill is in force on some worker.", labels=["scope"])
    for scope in sorted(killed):
        gauge.add_metric([scope], 1)
    yield gauge
    target = GaugeMetricFamily(
        "crossfade_share_target", "Share of keys that new should answer, 0-1.", labels=["operation"]
    )
    for operation, share in sorted(newest.get("targets", {}).items()):
        target.add_metric([operation], share)
    yield target
    actual = GaugeMetricFamily(
        "crossfade_share_actual", "Share of requests that new answered lately, 0-1.", labels=["operation"]
    )
    window, _ = ledger.window(time.monotonic())
    for operation, sides in sorted(window.get("operations", {}).items()):
        share = share_of_new(sides)
        if share is not None:
            actual.add_metric([operation], share)
    yield actual
