"""Break-glass keys that name nothing: somebody meant a kill, and none happened.

Feeds ask Redis for the scopes that exist, so a slip in a name is seen by nobody on the way of a request. Control looks
for such keys now and then, and says what it finds: in its log once, in the status as long as the key is there.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

import structlog

from gateway.core.plain_text import one_line
from gateway.state.connect import REDIS_ERRORS
from gateway.state.feed import PolicyFeed
from gateway.state.policy_store import PolicyStore

_LOOK_S: Final = 3.0
_SHARE_OF_TIME: Final = 10
"""Redis knows no index of names: a look at a large one takes long, and may take a tenth of the time at most."""
_SHOWN_CHARACTERS: Final = 100

_log = structlog.get_logger("crossfade.control")


class StrayKeys:
    """The break-glass keys that kill nothing.

    Attributes:
        names: Of the keys, as they may be shown.
    """

    def __init__(self, store: PolicyStore, feed: PolicyFeed) -> None:
        self.names: tuple[str, ...] = ()
        self._store = store
        self._feed = feed

    @property
    def notes(self) -> list[str]:
        """What an operator should know of them."""
        return [
            f"the key {name} kills nothing: no such scope; delete it, and name all, group:NAME or operation:NAME"
            for name in self.names
        ]

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            begun = time.monotonic()
            with suppress(*REDIS_ERRORS):
                await self.look()
            await asyncio.sleep(max(_LOOK_S, _SHARE_OF_TIME * (time.monotonic() - begun)))

    async def look(self) -> None:
        """Looks once.

        Raises one of `connect.REDIS_ERRORS` when Redis cannot be asked; what was found before stays.
        """
        found = await asyncio.shield(self._store.stray_break_glass(self._feed.break_glass_scopes))
        names = tuple(one_line(key.decode(errors="replace"))[:_SHOWN_CHARACTERS] for key in found)
        new = [name for name in names if name not in self.names]
        self.names = names
        if new:
            _log.warning("break_glass_unknown", keys=new, why="no such scope: nothing is killed")
