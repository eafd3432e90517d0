"""Small real definitions, policies and latches for the tests of core."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from gateway.core.model import (
    SCOPE_ALL,
    Definition,
    Epoch,
    Group,
    GroupPolicy,
    Instance,
    KeyRecipe,
    KeySource,
    KeySourceKind,
    Latch,
    LatchKind,
    Operation,
    OperationClass,
    OperationPolicy,
    Policy,
    Ppm,
    RestMatch,
    Scope,
    Side,
    SideDefinition,
    Stage,
    Writes,
)

READ, WRITE = OperationClass.READ, OperationClass.WRITE
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

AGENT_AND_TASK: KeyRecipe = (
    KeySource(KeySourceKind.HEADER, "x-agent-id"),
    KeySource(KeySourceKind.HEADER, "x-task-id"),
)
ARGUMENTS: KeyRecipe = (
    KeySource(KeySourceKind.ARGUMENT, "agent_id"),
    KeySource(KeySourceKind.ARGUMENT, "task_id"),
)
RECIPES = (AGENT_AND_TASK, ARGUMENTS)


def operation(
    name: str, op_class: OperationClass = READ, *routes: str, group: str | None = None, mcp: str | None = None
) -> Operation:
    """An operation; each route is `METHOD /path`. Without a group it is its own."""
    rest = tuple(RestMatch(*route.split(" ", 1)) for route in routes)
    return Operation(name, op_class, group or name, rest=rest, mcp=mcp)


def group(
    name: str, writes: Writes, operations: Iterable[str], *, independent: bool = False, implicit: bool = False
) -> Group:
    """A group keyed by agent and task."""
    return Group(name, writes, RECIPES, f"git:{name}", tuple(operations), independent=independent, implicit=implicit)


def definition(
    operations: Iterable[Operation],
    writes: Writes = Writes.NONE,
    *,
    independent: bool = False,
    mcp_path: str | None = "/mcp",
    **more: Any,
) -> Definition:
    """A migration `git`: named groups share `writes`; an operation that is its own group gets an implicit one."""
    by_name = {op.name: op for op in operations}
    groups = {}
    for op in by_name.values():
        members = [other.name for other in by_name.values() if other.group == op.group]
        if op.group == op.name:
            groups[op.name] = group(op.name, Writes.SHARED, members, implicit=True)
        else:
            groups[op.group] = group(op.group, writes, members, independent=independent)
    sides = {
        side: SideDefinition(side, (Instance(f"http://{side}:80", str(side), 80),)) for side in (Side.OLD, Side.NEW)
    }
    return Definition("git", mcp_path, sides, groups, by_name, **more)


def workspace(writes: Writes, *, independent: bool = False, **more: Any) -> Definition:
    """The group `workspace` of two reads and two writes, and `ping`, which has no group."""
    return definition(
        [
            operation("git.status", READ, "POST /v1/git/status", group="workspace", mcp="git_status"),
            operation("git.log", READ, "POST /v1/git/log", group="workspace", mcp="git_log"),
            operation("git.push", WRITE, "POST /v1/git/push", group="workspace", mcp="git_push"),
            operation("git.commit", WRITE, "POST /v1/git/commit", group="workspace", mcp="git_commit"),
            operation("ping", READ, "GET /ping"),
        ],
        writes,
        independent=independent,
        **more,
    )


def at(stage: Stage, percent: float = 0, mirror: float = 0) -> OperationPolicy:
    """A stage and shares in percent."""
    return OperationPolicy(stage, Ppm(round(percent * 10_000)), Ppm(round(mirror * 10_000)))


def policy(
    operations: dict[str, OperationPolicy] | None = None,
    *latches: Latch,
    groups: dict[str, GroupPolicy] | None = None,
    epoch: int = 7,
) -> Policy:
    """A policy of the migration `git`."""
    return Policy(
        "git", "lineage", Epoch(epoch), operations or {}, groups or {}, {latch.scope: latch for latch in latches}
    )


def everywhere(what: OperationPolicy, over: Definition, *latches: Latch, **more: Any) -> Policy:
    """A policy that has every operation of a definition at the same place."""
    return policy(dict.fromkeys(over.operations, what), *latches, **more)


def latch(scope: str | Scope = SCOPE_ALL, kind: LatchKind = LatchKind.KILL, at: datetime = NOON) -> Latch:
    """A kill by hand, or a trip."""
    return Latch(scope if isinstance(scope, Scope) else Scope.parse(scope), kind, "it burns", "alice", at)
