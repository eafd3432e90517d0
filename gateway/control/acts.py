"""How a change is made: read, decide by core's rules, store under compare-and-set, audit, let it be seen.

Owns the order of these steps; what is decided is the business of moves.py and kills.py. It must not know HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from gateway.control.auth import Caller, require
from gateway.control.ports import Feed, Store, StoreUnavailableError
from gateway.control.problems import Code, Refused, from_rule, unavailable
from gateway.core.audit import AuditEntry
from gateway.core.feed_status import FeedState
from gateway.core.model import Definition, Policy
from gateway.core.roles import Role
from gateway.core.rules import Delta, RuleViolation
from gateway.core.snapshot import Snapshot, compile_snapshot
from gateway.errors import PolicyAbsentError, StaleEpochError

_TRIES: Final = 5
"""How often a change without `If-Match` is decided anew when somebody else was faster."""

_SEEN_S: Final = 0.5
"""How long an answer waits for this process to decide by what it just stored."""

Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks, and under which condition.

    Attributes:
        caller: Who.
        request_id: Of the request.
        if_match: Act only at this epoch; None = at any.
    """

    caller: Caller
    request_id: str
    if_match: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an order.

    Attributes:
        snapshot: Compiled from the policy after it.
        fields: What changed; empty when nothing did.
    """

    snapshot: Snapshot
    fields: dict[str, Delta]


@dataclass(frozen=True, slots=True)
class Step:
    """A decided change that is not stored yet.

    Attributes:
        after: The policy after it.
        fields: What changes.
        entry: For the audit.
    """

    after: Policy
    fields: dict[str, Delta]
    entry: AuditEntry


class Acts:
    """The steps that every change takes.

    Every method raises `Refused`; then nothing was changed, except where a 503 says that it is not known.

    Attributes:
        store: The policy where it is stored.
        feed: The policy in force.
        now: Aware UTC.
    """

    def __init__(self, store: Store, feed: Feed, now: Now = lambda: datetime.now(UTC)) -> None:
        self.store = store
        self.feed = feed
        self.now = now
        self._moved = asyncio.Event()
        feed.subscribe(self._moved.set)

    def snapshot(self) -> Snapshot:
        """The policy in force.

        Raises:
            Refused: 503, there is none.
        """
        current = self.feed.current
        if current is None:
            raise unavailable(self.feed.status().why or "no policy is known yet")
        return current

    async def record_refusal(self, caller: Caller, request_id: str, what: str, code: Code) -> None:
        """Notes that somebody asked for more than the role allows. Best effort: the refusal stands anyway."""
        entry = self.entry(Order(caller, request_id), "refused", what, "")
        try:
            await self.store.record(replace(entry, outcome=code.value))
        except StoreUnavailableError:
            return

    async def note(self, order: Order, action: str, target: str, reason: str = "") -> None:
        """Notes an act that changes no policy.

        Raises:
            StoreUnavailableError: It cannot be noted.
        """
        await self.store.record(self.entry(order, action, target, reason))

    async def swap(
        self, order: Order, decide: Callable[[Definition, Policy], Awaitable[Step]], *, dry_run: bool = False
    ) -> Outcome:
        """Reads, decides, stores; again when somebody was faster, unless the order named its epoch."""
        for _ in range(_TRIES):
            snapshot = self.snapshot()
            policy = await self._read_to_change()
            if order.if_match is not None and order.if_match != policy.epoch:
                raise _stale(policy.epoch)
            try:
                step = await decide(snapshot.definition, policy)
            except RuleViolation as violation:
                raise from_rule(violation) from violation
            if dry_run or not step.fields:
                return Outcome(self.compile(snapshot, policy), step.fields)
            try:
                stored = await self.store.change(policy, step.after, _with_changes(step.entry, step.fields))
            except StaleEpochError as exc:
                if order.if_match is not None:
                    raise _stale(exc.current) from exc
                continue
            except (StoreUnavailableError, PolicyAbsentError) as exc:
                raise unavailable(f"{exc}; look at the status before you try again") from exc
            await self.until_seen(stored.epoch)
            return Outcome(self.compile(snapshot, stored), step.fields)
        raise _stale((await self._read_to_change()).epoch)

    async def _read_to_change(self) -> Policy:
        status = self.feed.status()
        if status.state is FeedState.DEGRADED:
            # What Redis holds is not what is in force: changing it would change nothing, or the wrong thing.
            raise unavailable(f"nothing can be changed: {status.why}")
        try:
            policy = await self.store.read()
        except StoreUnavailableError as exc:
            raise unavailable(f"nothing was changed: {exc}") from exc
        if policy is None:
            raise unavailable("nothing was changed: Redis holds no policy")
        return policy

    async def until_seen(self, epoch: int) -> None:
        """Lets the status that somebody asks for next show what was just done; gives up soon."""
        self.feed.refresh_soon()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SEEN_S):
                while (current := self.feed.current) is None or current.epoch < epoch:
                    self._moved.clear()
                    await self._moved.wait()

    def compile(self, snapshot: Snapshot, policy: Policy) -> Snapshot:
        """What is in force by a policy, with the kills that stand outside it."""
        held = {scope: latch for scope, latch in snapshot.latches.items() if scope not in snapshot.policy.latches}
        return compile_snapshot(snapshot.definition, policy, external=held, router=snapshot.router)

    async def require_role(self, order: Order, role: Role, entry: AuditEntry) -> None:
        """Lets pass who may; a refusal is audited."""
        try:
            require(order.caller, role)
        except Refused as refused:
            await self.record_refusal(order.caller, order.request_id, f"{entry.action} {entry.target}", refused.code)
            raise

    def entry(
        self, order: Order, action: str, target: str, reason: str, fields: dict[str, Delta] | None = None
    ) -> AuditEntry:
        """An entry for the audit."""
        entry = AuditEntry(
            by=order.caller.name,
            role=str(order.caller.role),
            action=action,
            target=target,
            reason=reason,
            request_id=order.request_id,
            at=self.now().isoformat(timespec="milliseconds"),
            changed={},
        )
        return _with_changes(entry, fields or {})


def _with_changes(entry: AuditEntry, fields: dict[str, Delta]) -> AuditEntry:
    return replace(entry, changed={name: list(delta) for name, delta in fields.items()})


def _stale(current: int) -> Refused:
    return Refused(
        Code.STALE_EPOCH, f"the policy is at epoch {current} by now; look at it and decide again", current=current
    )
