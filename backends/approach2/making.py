"""Making sandboxes: noted before they are there, so that whatever happens in between is found."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping

from backends.approach2.leaks import LeakSweep
from backends.approach2.table import SandboxTable
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.sandbox import SandboxProvider


class PoolFullError(ServiceError):
    """There are as many sandboxes as there may be."""

    def __init__(self) -> None:
        super().__init__(Code.SANDBOX_UNAVAILABLE, "there are as many sandboxes as there may be")


class SandboxMaker:
    """Makes sandboxes with their rows."""

    def __init__(self, provider: SandboxProvider, table: SandboxTable, leaks: LeakSweep, total: int) -> None:
        """Makes none yet.

        Args:
            provider: Of sandboxes.
            table: Of their rows.
            leaks: Removes what was made half.
            total: Of all sandboxes of all instances, at most.
        """
        self._provider = provider
        self._table = table
        self._leaks = leaks
        self._total = total

    async def make(self, labels: Mapping[str, str]) -> str:
        """A sandbox that belongs to the caller until it is put among the warm or assigned; its name.

        Raises:
            PoolFullError: There are as many as there may be.
            ServiceError: `sandbox_unavailable`, `rate_limited`.
        """
        name = secrets.token_hex(16)
        try:
            is_noted = await self._table.add(name, self._total)
            if is_noted:
                await self._provider.create(name, labels)
        except BaseException:
            # Nobody would ever use it, and each attempt would leave one.
            with contextlib.suppress(ServiceError):
                await to_the_end(self._leaks.remove(name))
            raise
        if not is_noted:
            raise PoolFullError
        return name
