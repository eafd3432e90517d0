"""What control needs from the rest of the process, as protocols; the composition root plugs the real parts in.

Control must not know Redis, files or how counters travel. Whoever implements a protocol here translates its own
exceptions for a store that cannot be asked into the one of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from gateway.core.audit import AuditEntry
from gateway.core.compare.rules import Relax
from gateway.core.compare.tallies import Recent
from gateway.core.feed_status import FeedStatus
from gateway.core.file_policy import FilePolicy
from gateway.core.model import Epoch, Latch, Policy, Scope
from gateway.core.roles import Role, TokenInfo
from gateway.core.snapshot import Snapshot
from gateway.errors import CrossfadeError

Relaxed = Mapping[str, Mapping[str, Relax]]
"""Accepted relaxations by operation and path."""

Document = dict[str, Any]
"""A JSON object."""


class StoreUnavailableError(CrossfadeError):
    """Redis cannot be asked, or what it holds cannot be read. Nothing is known about whether a change was made."""


class Store(Protocol):
    """The policy where it is stored. Every method may raise `StoreUnavailableError`."""

    async def read(self) -> Policy | None:
        """The stored policy, or None."""
        ...

    async def change(self, before: Policy, after: Policy, entry: AuditEntry) -> Policy:
        """Replaces `before` by `after`; returns it with its new epoch.

        Raises:
            StaleEpochError: `before` is not stored any more.
            PolicyAbsentError: There is none.
        """
        ...

    async def kill(self, latch: Latch, entry: AuditEntry) -> Epoch | None:
        """Latches a scope, where it is stored and wherever a policy is remembered. Repeats without effect.

        Returns:
            The epoch, or None when nobody knows a policy that could take it.
        """
        ...

    async def restore(self, entry: AuditEntry) -> Policy:
        """Puts back what this process has in force.

        Raises:
            RestoreRefusedError: There is nothing to put back, or nothing that may be.
        """
        ...

    async def record(self, entry: AuditEntry) -> None:
        """Notes an act that changed nothing."""
        ...

    async def audit(self, limit: int, cursor: str | None) -> tuple[list[Document], str | None]:
        """Acts, newest first, and the cursor of the next page or None."""
        ...

    async def is_first(self, signature: str) -> bool:
        """Whether nobody has seen a signature before, within twice the time for which one counts."""
        ...

    async def trips(self) -> list[Document]:
        """Records of trips, newest first; see `core.detect.record`."""
        ...


class Feed(Protocol):
    """The policy in force in this process."""

    @property
    def current(self) -> Snapshot | None:
        """The snapshot in force; None before the first."""
        ...

    @property
    def held_break_glass(self) -> frozenset[Scope]:
        """Scopes whose break-glass key or file is still there."""
        ...

    def status(self) -> FeedStatus:
        """How it stands now."""
        ...

    def refresh_soon(self) -> None:
        """Reads again without waiting."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Calls back, on the loop, after each replacement of `current`."""
        ...

    def kill_locally(self, latch: Latch) -> None:
        """Latches here at once, and in the store as soon as it takes it."""
        ...


class Tokens(Protocol):
    """Operator tokens. Every method may raise `StoreUnavailableError`."""

    async def find(self, secret: str) -> TokenInfo | None:
        """Who holds this secret, or None: unknown, revoked or expired."""
        ...

    async def create(self, name: str, role: Role, expires_at: datetime | None) -> str:
        """Makes a token and returns its secret.

        Raises:
            ValueError: The name is not valid.
            TokenExistsError: The name is taken.
        """
        ...

    async def list(self) -> Sequence[TokenInfo]:
        """Every token, by name."""
        ...

    async def revoke(self, name: str) -> bool:
        """Ends a token; False when there was none."""
        ...


class Bootstrap(Protocol):
    """The approver's token that was made on this machine, in a file beside the process."""

    def matches(self, secret: str) -> bool:
        """Whether this is that token, and it was still valid when the store last answered."""
        ...

    def note(self, secret: str, *, is_valid: bool) -> None:
        """Takes note of what the store just said about a secret."""
        ...

    async def revoked(self, name: str) -> None:
        """A token was revoked; when it is this one, it must not come back with the next start."""
        ...


class Counters(Protocol):
    """What the gateway workers counted."""

    @property
    def live(self) -> Mapping[str, Mapping[str, Any]]:
        """The latest report of each worker."""
        ...

    def fresh(self, within_s: float) -> Mapping[str, Mapping[str, Any]]:
        """Those of them that came within so many seconds, by the clock of whoever asks."""
        ...

    def totals(self) -> Document:
        """Everything that was counted."""
        ...

    def window(self, now: float) -> tuple[Document, float]:
        """What was counted lately, and over how many seconds; 0 seconds when nothing is known.

        Args:
            now: Monotonic seconds.
        """
        ...

    def suspected(self, operation: str) -> int:
        """How many differences of an operation wait to be read again."""
        ...

    def agreement(self, unix_now: float) -> Mapping[str, Recent]:
        """What came of comparisons in the last 24 hours, by operation.

        Args:
            unix_now: Unix seconds.
        """
        ...


class Evidence(Protocol):
    """Kept differences. Every method may raise `StoreUnavailableError`."""

    async def page(
        self, limit: int, cursor: str | None, operation: str | None, order: str
    ) -> tuple[list[Document], str | None]:
        """Groups and the cursor of the next page or None; `order` is `last_seen` or `signature`."""
        ...


class Noise(Protocol):
    """The relaxations that were accepted. Every method may raise `StoreUnavailableError`."""

    async def read(self) -> tuple[int, Relaxed]:
        """The version, and what is accepted."""
        ...

    async def replace(self, version: int, relaxed: Relaxed) -> bool:
        """Replaces what had this version; False when somebody was faster."""
        ...

    async def frozen_by(self) -> str | None:
        """Who reads it and must find no other; None: it may be changed."""
        ...


class Files(Protocol):
    """What the migration file says of the policy."""

    @property
    def wishes(self) -> FilePolicy:
        """The policy that the file asks for."""
        ...
