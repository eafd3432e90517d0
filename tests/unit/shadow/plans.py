"""A plan in force of a read that is mirrored."""

from __future__ import annotations

from gateway.core.model import Stage, Writes
from gateway.core.snapshot import Plan, compile_snapshot
from tests.unit.core.migrations import at, everywhere, workspace


def plan_of_a_read() -> Plan:
    """Of `git.status`, in `shadow_read`, every request mirrored."""
    definition = workspace(Writes.SHARED)
    return compile_snapshot(definition, everywhere(at(Stage.SHADOW_READ, mirror=100), definition)).plans["git.status"]
