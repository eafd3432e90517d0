"""The stage table: what each stage does, and which stage may follow which.

The state machine of a migration, after LaunchDarkly's migration flags, with `shadow_read` put in before the first write
is copied. docs/stages.md is generated from this table and checked by a test. Pure data and look-ups.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.model import PPM_ALL, PPM_NONE, OperationClass, Ppm, Stage, Writes


class Route(StrEnum):
    """Which side has authority over a key in a stage."""

    OLD = "old"
    COHORT = "cohort"
    """New for the keys inside the share, old for the rest."""
    NEW = "new"


@dataclass(frozen=True, slots=True)
class StageRow:
    """What a stage does.

    Attributes:
        stage: Which.
        reads: Who answers reads.
        writes: Who answers writes.
        mirrors: Whether reads are mirrored to the other side.
        copies: Whether writes of the dual cohort are applied to the other side.
        dual_only: Exists for groups with `writes: dual` alone.
        available: Whether this version can carry it out.
        kill: What a kill does, in words.
    """

    stage: Stage
    reads: Route
    writes: Route
    mirrors: bool
    copies: bool
    dual_only: bool
    available: bool
    kill: str


TABLE: Final[dict[Stage, StageRow]] = {
    row.stage: row
    for row in (
        StageRow(Stage.OFF, Route.OLD, Route.OLD, False, False, False, True, "nothing"),
        StageRow(Stage.SHADOW_READ, Route.OLD, Route.OLD, True, False, False, True, "stops mirroring"),
        StageRow(Stage.DUAL_WRITE, Route.OLD, Route.OLD, False, True, True, False, "stops applying, keeps logging"),
        StageRow(
            Stage.SHADOW, Route.OLD, Route.OLD, True, True, True, False, "stops applying and mirroring, keeps logging"
        ),
        StageRow(
            Stage.LIVE, Route.COHORT, Route.COHORT, True, True, False, True, "everything to old; reverse backlog drains"
        ),
        StageRow(
            Stage.RAMPDOWN, Route.NEW, Route.NEW, True, True, False, False, "everything to old; reverse backlog drains"
        ),
        StageRow(
            Stage.COMPLETE,
            Route.NEW,
            Route.NEW,
            False,
            False,
            False,
            False,
            "by hand only, with accept_data_loss; a detector pages instead",
        ),
    )
}

ORDER: Final[tuple[Stage, ...]] = tuple(TABLE)

DUAL_WRITES_BUILT: Final = TABLE[Stage.DUAL_WRITE].available
"""Until then a dual group may go off <-> live in one step, and is `unprotected` there."""


def rank(stage: Stage) -> int:
    """Position in the rollout, 0 for `off`."""
    return ORDER.index(stage)


def route(stage: Stage, op_class: OperationClass) -> Route:
    """Who has authority over an operation of `op_class` in `stage`."""
    row = TABLE[stage]
    return row.reads if op_class is OperationClass.READ else row.writes


def share_in(stage: Stage, percent: Ppm) -> Ppm:
    """The share that a stage gives: the stored one in `live`, none before, all after."""
    match TABLE[stage].reads:
        case Route.OLD:
            return PPM_NONE
        case Route.COHORT:
            return percent
        case Route.NEW:
            return PPM_ALL


def stages_of(writes: Writes) -> tuple[Stage, ...]:
    """The stages that exist for a group, in order."""
    return tuple(stage for stage in ORDER if writes is Writes.DUAL or not TABLE[stage].dual_only)


def next_stages(writes: Writes, stage: Stage) -> tuple[Stage, ...]:
    """The legal steps forward without `skip`.

    One stage at a time. While dual writes are not built, `live` follows `off` for every group.
    """
    ladder = stages_of(writes)
    if stage not in ladder:
        # The group's `writes` changed under a stage it no longer has: only the way back is open.
        return ()
    at = ladder.index(stage)
    following = ladder[at + 1 : at + 2]
    if stage is Stage.OFF and not DUAL_WRITES_BUILT:
        return (*following, Stage.LIVE)
    return following


def previous_stages(writes: Writes, stage: Stage) -> tuple[Stage, ...]:
    """The legal steps back.

    Any earlier stage up to `shadow`. From `live` and `rampdown` a group falls back to where old still has everything:
    `shadow` for dual groups; the others have no such stage and go to any stage before `live`. While dual writes are not
    built `off` is legal for all. From `complete`: none without `accept_data_loss`.
    """
    match stage:
        case Stage.COMPLETE:
            return ()
        case Stage.LIVE | Stage.RAMPDOWN if writes is Writes.DUAL:
            return (Stage.SHADOW,) if DUAL_WRITES_BUILT else (Stage.OFF, Stage.SHADOW)
        case Stage.LIVE | Stage.RAMPDOWN:
            return tuple(s for s in stages_of(writes) if rank(s) < rank(Stage.LIVE))
        case Stage.OFF | Stage.SHADOW_READ | Stage.DUAL_WRITE | Stage.SHADOW:
            return tuple(s for s in stages_of(writes) if rank(s) < rank(stage))
