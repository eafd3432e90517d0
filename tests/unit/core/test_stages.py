from __future__ import annotations

import pytest

from gateway.core.model import PPM_ALL, PPM_NONE, Ppm, Stage, Writes
from gateway.core.stages import (
    DUAL_WRITES_BUILT,
    ORDER,
    TABLE,
    Route,
    next_stages,
    previous_stages,
    rank,
    route,
    share_in,
    stages_of,
)
from tests.unit.core.migrations import READ, WRITE

OFF, SHADOW_READ, DUAL_WRITE, SHADOW, LIVE, RAMPDOWN, COMPLETE = Stage

FORWARD = {
    Writes.DUAL: {
        OFF: (SHADOW_READ, LIVE),
        SHADOW_READ: (DUAL_WRITE,),
        DUAL_WRITE: (SHADOW,),
        SHADOW: (LIVE,),
        LIVE: (RAMPDOWN,),
        RAMPDOWN: (COMPLETE,),
        COMPLETE: (),
    },
    Writes.SHARED: {
        OFF: (SHADOW_READ, LIVE),
        SHADOW_READ: (LIVE,),
        DUAL_WRITE: (),
        SHADOW: (),
        LIVE: (RAMPDOWN,),
        RAMPDOWN: (COMPLETE,),
        COMPLETE: (),
    },
}
FORWARD[Writes.NONE] = FORWARD[Writes.SHARED]

BACK = {
    Writes.DUAL: {
        OFF: (),
        SHADOW_READ: (OFF,),
        DUAL_WRITE: (OFF, SHADOW_READ),
        SHADOW: (OFF, SHADOW_READ, DUAL_WRITE),
        LIVE: (OFF, SHADOW),
        RAMPDOWN: (OFF, SHADOW),
        COMPLETE: (),
    },
    Writes.SHARED: {
        OFF: (),
        SHADOW_READ: (OFF,),
        DUAL_WRITE: (OFF, SHADOW_READ),
        SHADOW: (OFF, SHADOW_READ),
        LIVE: (OFF, SHADOW_READ),
        RAMPDOWN: (OFF, SHADOW_READ),
        COMPLETE: (),
    },
}
BACK[Writes.NONE] = BACK[Writes.SHARED]


def test_the_stages_stand_in_the_order_of_a_rollout() -> None:
    assert tuple(Stage) == ORDER
    assert [rank(stage) for stage in Stage] == list(range(7))


def test_this_version_carries_out_what_needs_no_copied_writes() -> None:
    assert [stage for stage in Stage if TABLE[stage].available] == [OFF, SHADOW_READ, LIVE]
    assert not DUAL_WRITES_BUILT


@pytest.mark.parametrize(
    ("stage", "authority", "mirrors", "copies", "dual_only"),
    [
        (OFF, Route.OLD, False, False, False),
        (SHADOW_READ, Route.OLD, True, False, False),
        (DUAL_WRITE, Route.OLD, False, True, True),
        (SHADOW, Route.OLD, True, True, True),
        (LIVE, Route.COHORT, True, True, False),
        (RAMPDOWN, Route.NEW, True, True, False),
        (COMPLETE, Route.NEW, False, False, False),
    ],
)
def test_a_stage_does_what_the_product_says(
    stage: Stage, authority: Route, mirrors: bool, copies: bool, dual_only: bool
) -> None:
    row = TABLE[stage]
    assert (row.reads, row.writes, row.mirrors, row.copies, row.dual_only) == (
        authority,
        authority,
        mirrors,
        copies,
        dual_only,
    )
    assert route(stage, READ) is route(stage, WRITE) is authority


@pytest.mark.parametrize("writes", Writes)
@pytest.mark.parametrize("stage", Stage)
def test_the_legal_steps_are_exactly_these(writes: Writes, stage: Stage) -> None:
    assert next_stages(writes, stage) == FORWARD[writes][stage]
    assert previous_stages(writes, stage) == BACK[writes][stage]


def test_only_dual_groups_have_the_stages_of_copied_writes() -> None:
    assert stages_of(Writes.DUAL) == ORDER
    for writes in (Writes.SHARED, Writes.NONE):
        assert stages_of(writes) == (OFF, SHADOW_READ, LIVE, RAMPDOWN, COMPLETE)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("percent", [PPM_NONE, Ppm(10_000), PPM_ALL])
def test_percent_acts_in_live_only(stage: Stage, percent: Ppm) -> None:
    if stage is LIVE:
        assert share_in(stage, percent) == percent
    else:
        assert share_in(stage, percent) == (PPM_NONE if rank(stage) < rank(LIVE) else PPM_ALL)
