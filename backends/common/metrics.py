"""What a service counts, for Prometheus. Operations and codes are the only labels: never ids, keys or paths."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 240.0)

_REGISTRY: Final = CollectorRegistry()

OPERATIONS: Final = Counter(
    "crossfade_service_operations", "Operations by how they ended.", ["operation", "code"], registry=_REGISTRY
)
OPERATION_SECONDS: Final = Histogram(
    "crossfade_service_operation_seconds", "Of an operation.", ["operation"], buckets=_SECONDS, registry=_REGISTRY
)
COMMAND_SECONDS: Final = Histogram(
    "crossfade_service_command_seconds", "Of a command in a sandbox.", buckets=_SECONDS, registry=_REGISTRY
)
LOCK_WAIT_SECONDS: Final = Histogram(
    "crossfade_service_lock_wait_seconds",
    "Until a workspace was held, or was not.",
    buckets=_SECONDS,
    registry=_REGISTRY,
)
LOCKS_LOST: Final = Counter(
    "crossfade_service_locks_lost", "Locks that were lost while they were held.", registry=_REGISTRY
)
POOL_WARM: Final = Gauge("crossfade_service_pool_warm", "Sandboxes that wait for a workspace.", registry=_REGISTRY)
POOL_IN_USE: Final = Gauge(
    "crossfade_service_pool_in_use", "Sandboxes that serve a workspace, of all instances.", registry=_REGISTRY
)
POOL_CREATING: Final = Gauge(
    "crossfade_service_pool_creating", "Sandboxes that are being made, by all instances.", registry=_REGISTRY
)
POOL_TASK_FAILURES: Final = Counter(
    "crossfade_service_pool_task_failures", "Failures of what keeps the pool.", ["task"], registry=_REGISTRY
)
CHECKOUT_SECONDS: Final = Histogram(
    "crossfade_service_checkout_seconds", "Until a workspace had a sandbox.", buckets=_SECONDS, registry=_REGISTRY
)
POOL_DROPPED: Final = Counter(
    "crossfade_service_pool_dropped", "Sandboxes that were not well when they were wanted.", registry=_REGISTRY
)
LEAKS_REMOVED: Final = Counter(
    "crossfade_service_leaks_removed", "Sandboxes without a row or without use, removed.", registry=_REGISTRY
)
SURVEYS_FAILED: Final = Counter(
    "crossfade_service_surveys_failed", "Workspaces that could not be surveyed.", registry=_REGISTRY
)
WRITES_NOT_NOTED: Final = Counter(
    "crossfade_service_writes_not_noted", "Writes that the inventory was told of later.", registry=_REGISTRY
)


def render() -> bytes:
    """All of it."""
    return generate_latest(_REGISTRY)
