"""Which lane carries a request. Pure; decided once, when its head is complete."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

EXPRESS_BODY_BYTES: Final = 16 * 1024
"""Largest declared body that is awaited whole before the express lane begins."""


class Lane(StrEnum):
    """How a request is carried."""

    EXPRESS = "express"
    """Callback to callback: no task, no ASGI."""
    GENERAL = "general"
    """By a task under ASGI: whatever may have to be waited for."""


def choose_lane(*, express: bool, length: int | None, expects_continue: bool, upgrade: bool = False) -> Lane:
    """The lane for a request.

    Args:
        express: Whether the express lane is on.
        length: Declared length of the body; None when it is chunked.
        expects_continue: The client waits for a 100 before it sends the body.
        upgrade: It asks to switch protocols: ASGI knows no raw tunnels, so that is for callbacks in any case.
    """
    if upgrade:
        return Lane.EXPRESS
    if not express or length is None or length > EXPRESS_BODY_BYTES or expects_continue:
        return Lane.GENERAL
    return Lane.EXPRESS
