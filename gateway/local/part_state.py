"""The life of a part as a table: what happens to it, and what is then done.

Pure; `part` performs the effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

FIRST_DELAY_S: Final = 0.1
LAST_DELAY_S: Final = 10.0


class PartState(StrEnum):
    """Where a part stands."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    """It ended by itself; another attempt follows after a delay."""
    STOPPING = "stopping"


class PartEvent(StrEnum):
    """What happens to a part."""

    START = "start"
    SAID_READY = "said_ready"
    ENDED = "ended"
    LATE = "late"
    """It did not become ready, or did not end, in time."""
    DELAY_OVER = "delay_over"
    STOP = "stop"


class PartEffect(StrEnum):
    """What is done about it."""

    NOTHING = "nothing"
    SPAWN = "spawn"
    ANNOUNCE = "announce"
    DELAY = "delay"
    ASK_TO_END = "ask_to_end"
    KILL = "kill"


TABLE: Final[Mapping[tuple[PartState, PartEvent], tuple[PartState, PartEffect]]] = {
    (PartState.STOPPED, PartEvent.START): (PartState.STARTING, PartEffect.SPAWN),
    (PartState.STARTING, PartEvent.SAID_READY): (PartState.READY, PartEffect.ANNOUNCE),
    (PartState.STARTING, PartEvent.ENDED): (PartState.BACKING_OFF, PartEffect.DELAY),
    (PartState.STARTING, PartEvent.LATE): (PartState.STARTING, PartEffect.KILL),
    (PartState.STARTING, PartEvent.STOP): (PartState.STOPPING, PartEffect.ASK_TO_END),
    (PartState.READY, PartEvent.ENDED): (PartState.BACKING_OFF, PartEffect.DELAY),
    (PartState.READY, PartEvent.STOP): (PartState.STOPPING, PartEffect.ASK_TO_END),
    (PartState.BACKING_OFF, PartEvent.DELAY_OVER): (PartState.STARTING, PartEffect.SPAWN),
    (PartState.BACKING_OFF, PartEvent.STOP): (PartState.STOPPED, PartEffect.NOTHING),
    (PartState.STOPPING, PartEvent.ENDED): (PartState.STOPPED, PartEffect.NOTHING),
    (PartState.STOPPING, PartEvent.LATE): (PartState.STOPPING, PartEffect.KILL),
}
"""What is not in the table changes nothing: an event that came too late to matter."""


def step(state: PartState, event: PartEvent) -> tuple[PartState, PartEffect]:
    """The state after an event, and what to do."""
    return TABLE.get((state, event), (state, PartEffect.NOTHING))


def delay_before(attempt: int) -> float:
    """Seconds before the n-th attempt in a row, from 1: doubling, bounded."""
    return float(min(FIRST_DELAY_S * 2 ** min(attempt - 1, 16), LAST_DELAY_S))
