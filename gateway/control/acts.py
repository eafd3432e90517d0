"""Carries out what operators ask for: read, decide by core's rules, store under compare-and-set, audit.

Owns the order of these steps. It must not know HTTP; who may ask at all was checked by then, except where the role
depends on what is stored: forward needs more than back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from gateway.control.auth import WAYS_TO_KILL, Caller, require
from gateway.control.bodies import ApplyBody, ChangeBody, KillBody, RearmBody
from gateway.control.ports import Feed, Store, StoreUnavailableError
from gateway.control.problems import Code, Refused, from_rule, unavailable
from gateway.control.wishes import check_wishes, complete_wishes, wishes_of
from gateway.core.audit import AuditEntry
from gateway.core.changes import (
    Change,
    Changed,
    Delta,
    RuleViolation,
    apply_file,
    change_group,
    change_operation,
    kill_is_lossless,
    rearm,
    scope_exists,
)
from gateway.core.feed_status import FeedState
from gateway.core.model import Definition, Epoch, Latch, LatchKind, Policy, Scope
from gateway.core.percent import percent_of
from gateway.core.roles import Role
from gateway.core.snapshot import Snapshot, compile_snapshot, covers, is_bound, settled_policies
from gateway.core.stages import rank
from gateway.errors import PolicyAbsentError, RestoreRefusedError, StaleEpochError

_TRIES: Final = 5
"""How often a change without `If-Match` is decided anew when somebody else was faster."""

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
class _Step:
    """A decided change that is not stored yet."""

    after: Policy
    fields: dict[str, Delta]
    entry: AuditEntry


class Acts:
    """Everything that changes the policy.

    Every method raises `Refused`; then nothing was changed, except where a 503 says that it is not known.
    """

    def __init__(self, store: Store, feed: Feed, now: Now = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._feed = feed
        self._now = now

    def snapshot(self) -> Snapshot:
        """The policy in force.

        Raises:
            Refused: 503, there is none.
        """
        current = self._feed.current
        if current is None:
            raise unavailable(self._feed.status().why or "no policy is known yet")
        return current

    async def change_operation(self, order: Order, name: str, body: ChangeBody) -> Outcome:
        """Moves one operation."""
        definition = self.snapshot().definition
        if name not in definition.operations:
            raise Refused(Code.UNKNOWN_OPERATION, f"there is no operation {name[:80]!r}; crossfade status lists them")
        return await self._change(order, name, [name], body, change_operation)

    async def change_group(self, order: Order, name: str, body: ChangeBody) -> Outcome:
        """Moves every operation of a group."""
        definition = self.snapshot().definition
        if name not in definition.groups or definition.groups[name].implicit:
            raise Refused(Code.UNKNOWN_GROUP, f"there is no group {name[:80]!r}; crossfade status lists them")
        return await self._change(order, name, definition.groups[name].operations, body, change_group)

    async def _change(
        self,
        order: Order,
        target: str,
        members: Iterable[str],
        body: ChangeBody,
        rule: Callable[[Definition, Policy, str, Change], Changed],
    ) -> Outcome:
        change = Change(body.stage, body.percent, body.mirror_percent, body.dual_percent, body.skip)
        action = "stage" if body.stage is not None else "share" if body.percent is not None else "mirror"

        async def decide(definition: Definition, policy: Policy) -> _Step:
            entry = self.entry(order, action, target, body.reason or "")
            await self._require(order, _role_for(definition, policy, members, change), entry)
            changed = rule(definition, policy, target, change)
            await self._require(order, changed.role, entry)
            return _Step(changed.policy, dict(changed.fields), entry)

        return await self._swap(order, decide)

    async def kill(self, order: Order, body: KillBody) -> tuple[Outcome, Latch]:
        """Latches a scope. Needs no epoch and repeats without effect. Returns the latch in force."""
        snapshot = self.snapshot()
        scope = body.scope
        if not scope_exists(snapshot.definition, scope):
            raise Refused(Code.UNKNOWN_SCOPE, f"there is nothing named {str(scope)[:80]!r}; crossfade status lists all")
        if not body.accept_data_loss and not kill_is_lossless(snapshot.definition, snapshot.policy, scope):
            raise Refused(
                Code.RULE_VIOLATION,
                f"{scope} holds an operation in stage complete: old lacks what new has written since",
                rule="accept_data_loss",
                legal=f"crossfade kill {scope} --accept-data-loss --reason …",
            )
        latch = Latch(scope, LatchKind.KILL, body.reason, order.caller.name, self._now())
        entry = self.entry(order, "kill", str(scope), body.reason, {"killed": (False, True)})
        try:
            epoch = await self._store.kill(latch, entry)
        except StoreUnavailableError as exc:
            # Never lost: this process keeps it and stores it as soon as it can.
            self._feed.kill_locally(latch)
            raise unavailable(
                f"the kill of {scope} is not in force everywhere yet: {exc}; it is kept and stored as soon as "
                f"possible; {WAYS_TO_KILL}"
            ) from exc
        if epoch is None:
            raise unavailable(f"no policy is known that could take the kill of {scope}; {WAYS_TO_KILL}")
        return await self._after_kill(snapshot, latch, epoch)

    async def _after_kill(self, snapshot: Snapshot, latch: Latch, epoch: Epoch) -> tuple[Outcome, Latch]:
        """What is in force now: the latch that was there before, if there was one."""
        try:
            stored = await self._store.read()
        except StoreUnavailableError:
            stored = None
        policy = stored or replace(
            snapshot.policy, epoch=epoch, latches={latch.scope: latch, **snapshot.policy.latches}
        )
        in_force = policy.latches.get(latch.scope, latch)
        is_new = in_force.at == latch.at and in_force.by == latch.by
        fields: dict[str, Delta] = {"killed": (False, True)} if is_new else {}
        return Outcome(self._compile(snapshot, policy), fields), in_force

    async def rearm(self, order: Order, scope: Scope, body: RearmBody) -> Outcome:
        """Removes exactly one latch."""
        definition = self.snapshot().definition
        if not scope_exists(definition, scope) and scope not in self.snapshot().latches:
            raise Refused(Code.UNKNOWN_SCOPE, f"there is nothing named {str(scope)[:80]!r}; crossfade status lists all")
        if scope in self._feed.held_break_glass:
            raise Refused(
                Code.RULE_VIOLATION,
                f"the break-glass key or file of {scope} is still there and would kill it again",
                rule="break_glass_present",
                legal=f"redis-cli DEL cf:{definition.migration}:kill:{scope}, or remove <data-dir>/KILL",
            )

        async def decide(definition: Definition, policy: Policy) -> _Step:
            after, _ = rearm(definition, policy, scope, percent=body.percent, now=self._now())
            fields: dict[str, Delta] = {"killed": (True, False), **_moved_percents(definition, policy, after)}
            return _Step(after, fields, self.entry(order, "rearm", str(scope), body.reason))

        return await self._swap(order, decide)

    async def apply(self, order: Order, body: ApplyBody) -> Outcome:
        """Makes a file's policy current, or tells what that would change."""
        assert body.policy is not None
        wished = body.policy

        async def decide(definition: Definition, policy: Policy) -> _Step:
            wishes = complete_wishes(definition, policy, wishes_of(definition, wished))
            check_wishes(definition, policy, wishes)
            changed = apply_file(definition, policy, wishes, skip=body.skip)
            entry = self.entry(order, "apply", definition.migration, body.reason or "")
            return _Step(changed.policy, dict(changed.fields), entry)

        return await self._swap(order, decide, dry_run=body.dry_run)

    async def restore(self, order: Order, reason: str) -> Outcome:
        """Puts back what this process has in force."""
        snapshot = self.snapshot()
        entry = self.entry(order, "restore", snapshot.definition.migration, reason)
        try:
            policy = await self._store.restore(entry)
        except RestoreRefusedError as exc:
            raise Refused(Code.RULE_VIOLATION, str(exc), rule="nothing_to_restore", legal=None) from exc
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc
        return Outcome(self._compile(snapshot, policy), {"restored": (False, True)})

    async def record_refusal(self, caller: Caller, request_id: str, what: str, code: Code) -> None:
        """Notes that somebody asked for more than the role allows. Best effort: the refusal stands anyway."""
        entry = self.entry(Order(caller, request_id), "refused", what, "")
        try:
            await self._store.record(replace(entry, outcome=code.value))
        except StoreUnavailableError:
            return

    async def note(self, order: Order, action: str, target: str) -> None:
        """Notes an act that changes no policy.

        Raises:
            StoreUnavailableError: It cannot be noted.
        """
        await self._store.record(self.entry(order, action, target, ""))

    async def _swap(
        self, order: Order, decide: Callable[[Definition, Policy], Awaitable[_Step]], *, dry_run: bool = False
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
                return Outcome(self._compile(snapshot, policy), step.fields)
            try:
                stored = await self._store.change(policy, step.after, _with_changes(step.entry, step.fields))
            except StaleEpochError as exc:
                if order.if_match is not None:
                    raise _stale(exc.current) from exc
                continue
            except (StoreUnavailableError, PolicyAbsentError) as exc:
                raise unavailable(f"{exc}; look at the status before you try again") from exc
            self._feed.refresh_soon()
            return Outcome(self._compile(snapshot, stored), step.fields)
        raise _stale((await self._read_to_change()).epoch)

    async def _read_to_change(self) -> Policy:
        status = self._feed.status()
        if status.state is FeedState.DEGRADED:
            # What Redis holds is not what is in force: changing it would change nothing, or the wrong thing.
            raise unavailable(f"nothing can be changed: {status.why}")
        try:
            policy = await self._store.read()
        except StoreUnavailableError as exc:
            raise unavailable(f"nothing was changed: {exc}") from exc
        if policy is None:
            raise unavailable("nothing was changed: Redis holds no policy")
        return policy

    def _compile(self, snapshot: Snapshot, policy: Policy) -> Snapshot:
        held = {scope: latch for scope, latch in snapshot.latches.items() if scope not in snapshot.policy.latches}
        return compile_snapshot(snapshot.definition, policy, external=held, router=snapshot.router)

    async def _require(self, order: Order, role: Role, entry: AuditEntry) -> None:
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
            at=self._now().isoformat(timespec="milliseconds"),
            changed={},
        )
        return _with_changes(entry, fields or {})


def _with_changes(entry: AuditEntry, fields: dict[str, Delta]) -> AuditEntry:
    return replace(entry, changed={name: list(delta) for name, delta in fields.items()})


def _role_for(definition: Definition, policy: Policy, members: Iterable[str], change: Change) -> Role:
    """The role that a change needs, told before its rules are: who may not ask learns nothing of them."""
    if change.skip:
        return Role.APPROVER
    if change.stage is None:
        return Role.OPERATOR
    settled = settled_policies(definition, policy)
    forward = any(rank(change.stage) > rank(settled[name].stage) for name in members)
    return Role.APPROVER if forward else Role.OPERATOR


def _moved_percents(definition: Definition, before: Policy, after: Policy) -> dict[str, Delta]:
    """Shares that differ; those that a group's operations have in common once, under the group's name."""
    old, new = settled_policies(definition, before), settled_policies(definition, after)
    moved: dict[str, Delta] = {}
    for name, operation in definition.operations.items():
        if old[name].percent != new[name].percent:
            is_shared = is_bound(definition.groups[operation.group], operation)
            target = f"group {operation.group}" if is_shared else f"operation {name}"
            moved[f"{target}: percent"] = (percent_of(old[name].percent), percent_of(new[name].percent))
    return moved


def still_killed_by(snapshot: Snapshot, scope: Scope) -> list[str]:
    """Other kills in force, as far as they cover something that `scope` covers."""
    return sorted(
        {
            str(plan.latch.scope)
            for plan in snapshot.plans.values()
            if plan.latch is not None and covers(snapshot.definition, scope, plan.operation)
        }
    )


def _stale(current: int) -> Refused:
    return Refused(
        Code.STALE_EPOCH, f"the policy is at epoch {current} by now; look at it and decide again", current=current
    )
