"""What each call of the API does, once the caller is known and the body is read. One method for each endpoint."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse, Response

from gateway.control import answers
from gateway.control.acts import Acts, Order, Outcome
from gateway.control.bodies import (
    KEY_LIMIT,
    ApplyBody,
    ChangeBody,
    DrillBody,
    IncidentBody,
    KillBody,
    NoiseBody,
    NoticeBody,
    RearmBody,
    TokenBody,
)
from gateway.control.comparisons import changed_noise, consistency_items, noise_items
from gateway.control.drill.desk import DrillDesk
from gateway.control.endpoints import PAGE_DEFAULT, PAGE_LIMIT, Endpoint
from gateway.control.explain import explain
from gateway.control.gather import gather
from gateway.control.incidents import reason_of
from gateway.control.kills import kill_scope, rearm_scope, still_killed_by
from gateway.control.moves import apply_wishes, move_group, move_operation, restore
from gateway.control.ports import (
    Bootstrap,
    Counters,
    Evidence,
    Feed,
    Files,
    Noise,
    Relaxed,
    Store,
    StoreUnavailableError,
    Tokens,
)
from gateway.control.problems import Code, Refused, invalid, unavailable
from gateway.control.status import (
    Measured,
    group_state,
    holds_of,
    kill_state,
    operation_state,
    status_of,
    worker_states,
)
from gateway.control.wishes import complete_wishes
from gateway.core.file_changes import difference
from gateway.core.model import OperationClass, Scope
from gateway.core.roles import Role, TokenInfo
from gateway.core.rules import Delta
from gateway.core.snapshot import effective_scope
from gateway.errors import TokenExistsError

_CURSOR: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_OFFSET: Final = re.compile(r"[0-9]{1,9}")
_GROUPS_BEHIND: Final = {
    "last_seen": re.compile(r"[0-9]{1,12}\.[0-9]{1,9}-[0-9a-f]{16}"),
    "signature": re.compile(r"[0-9a-f]{16}"),
}
"""What a cursor between groups of differences looks like, by their order."""
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Body = TypeVar("Body", bound=BaseModel)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the API works with.

    Attributes:
        store: The policy where it is stored.
        feed: The policy in force.
        tokens: Of operators.
        counters: Of the workers.
        files: What the migration file says.
        evidence: Kept differences.
        noise: Relaxations that were accepted.
        drills: The one that runs, and those that ended.
        bootstrap: This machine's own token, or None.
        metrics: Renders the metrics.
        notes: What an operator should know now; shown in the status.
    """

    store: Store
    feed: Feed
    tokens: Tokens
    counters: Counters
    files: Files
    evidence: Evidence
    noise: Noise
    drills: DrillDesk
    bootstrap: Bootstrap | None
    metrics: Callable[[], bytes]
    notes: Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be carried out.

    Attributes:
        endpoint: Which.
        order: Who asks.
        path: Parameters in the path.
        query: Parameters of the query.
        body: Read, or None.
    """

    endpoint: Endpoint
    order: Order
    path: dict[str, Any] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    body: BaseModel | None = None

    def read(self, model: type[Body]) -> Body:
        """The body, of the model that the endpoint names."""
        assert isinstance(self.body, model)
        return self.body


class Handlers:
    """Every call of the API. All raise `Refused`."""

    def __init__(self, parts: Parts, openapi: dict[str, Any]) -> None:
        self.acts = Acts(parts.store, parts.feed)
        self._parts = parts
        self._openapi = openapi

    # --- looking ---------------------------------------------------------------------------------------------------

    async def status(self, call: Call) -> Response:
        """The state of everything."""
        parts = self._parts
        snapshot = self.acts.snapshot()
        workers = worker_states(parts.counters.live, time.time())
        status = status_of(snapshot, parts.feed.status(), self._measured(), parts.feed.held_break_glass, workers)
        return _answer(call, status.model_copy(update={"notes": [*parts.notes(), *status.notes]}), snapshot.epoch)

    async def explain(self, call: Call) -> Response:
        """Which side a key goes to."""
        key = call.query.get("key")
        if key is not None and not 1 <= len(key.encode(errors="replace")) <= KEY_LIMIT:
            raise invalid(f"key: must be 1-{KEY_LIMIT} bytes")
        snapshot = self.acts.snapshot()
        return _answer(call, explain(snapshot, call.query.get("operation"), key), snapshot.epoch)

    async def audit(self, call: Call) -> Response:
        """Who did what."""
        limit, cursor = _page_of(call.query)
        try:
            items, following = await self._parts.store.audit(limit, cursor)
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc
        page = answers.AuditPage(items=[answers.AuditItem(**item) for item in items], next=following)
        return _answer(call, page)

    async def trips(self, call: Call) -> Response:
        """What detectors saw."""
        items = await self._trip_records()
        part, following = _part_of(items, call.query)
        return _answer(call, answers.TripPage(items=part, next=following))

    async def trip(self, call: Call) -> Response:
        """One trip."""
        wanted = call.path["trip"]
        for record in await self._trip_records():
            if record.id == wanted:
                return _answer(call, record)
        raise Refused(Code.UNKNOWN_TRIP, f"no record of a trip {wanted[:80]!r} is kept; crossfade trips lists them")

    async def _trip_records(self) -> list[answers.TripRecord]:
        try:
            stored = await self._parts.store.trips()
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc
        records = []
        for record in stored:
            # One of another version is left out; it must not hide the others.
            with suppress(ValidationError):
                records.append(answers.TripRecord.model_validate(record))
        return records

    async def notify(self, call: Call) -> Response:
        """Tells everybody that this is a test."""
        targets = len(self.acts.snapshot().definition.notifications)
        if not targets:
            raise Refused(
                Code.RULE_VIOLATION,
                "the migration file names nobody to tell; write notifications: [{slack: {url_file: …}}]",
                rule="no_notifications",
            )
        try:
            await self.acts.note(call.order, "notify_test", "notifications", call.read(NoticeBody).reason)
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc
        return _answer(call, answers.NoticeSent(targets=targets))

    async def difference(self, call: Call) -> Response:
        """Where the stored policy differs from the file's."""
        snapshot = self.acts.snapshot()
        wishes = complete_wishes(snapshot.definition, snapshot.policy, self._parts.files.wishes)
        found = gather(snapshot.definition, difference(snapshot.definition, snapshot.policy, wishes))
        answer = answers.Difference(
            epoch=snapshot.epoch,
            definition=snapshot.definition.digest,
            differences={target: _deltas(fields) for target, fields in found.items()},
        )
        return _answer(call, answer, snapshot.epoch)

    async def health(self, call: Call) -> Response:
        """The process lives."""
        return _answer(call, answers.Health())

    async def ready(self, call: Call) -> Response:
        """A policy is known."""
        self.acts.snapshot()
        return _answer(call, answers.Health())

    async def metrics(self, call: Call) -> Response:
        """Metrics of all workers."""
        return Response(self._parts.metrics(), call.endpoint.status, media_type=METRICS_TYPE)

    async def openapi(self, call: Call) -> Response:
        """The API's description."""
        return JSONResponse(self._openapi, call.endpoint.status)

    # --- changing --------------------------------------------------------------------------------------------------

    async def change_operation(self, call: Call) -> Response:
        """Moves one operation."""
        name = call.path["operation"]
        outcome = await move_operation(self.acts, call.order, name, call.read(ChangeBody), self._holds())
        state = operation_state(outcome.snapshot, name, self._measured()).document()
        return _changed(call, answers.ChangedOperation, outcome, {**state, "name": name})

    async def change_group(self, call: Call) -> Response:
        """Moves a group."""
        name = call.path["group"]
        outcome = await move_group(self.acts, call.order, name, call.read(ChangeBody), self._holds())
        state = group_state(outcome.snapshot, name).document()
        return _changed(call, answers.ChangedGroup, outcome, {**state, "name": name})

    async def kill(self, call: Call) -> Response:
        """Kills a scope."""
        outcome, latch = await kill_scope(self.acts, call.order, call.read(KillBody))
        return _changed(call, answers.Killed, outcome, kill_state(outcome.snapshot, latch).document())

    async def rearm(self, call: Call) -> Response:
        """Removes a kill."""
        try:
            scope = Scope.parse(call.path["scope"])
        except ValueError as exc:
            raise Refused(Code.UNKNOWN_SCOPE, str(exc)[:200]) from exc
        outcome = await rearm_scope(self.acts, call.order, scope, call.read(RearmBody))
        state = {
            "scope": str(scope),
            "effective_scope": str(effective_scope(outcome.snapshot.definition, scope)),
            "still_killed_by": still_killed_by(outcome.snapshot, scope),
        }
        return _changed(call, answers.Rearmed, outcome, state)

    async def apply(self, call: Call) -> Response:
        """Makes a file's policy current, or puts a lost policy back."""
        body = call.read(ApplyBody)
        if body.restore:
            outcome = await restore(self.acts, call.order, body.reason or "")
        else:
            outcome = await apply_wishes(self.acts, call.order, body, self._holds())
        return _changed(call, answers.Applied, outcome, {"dry_run": body.dry_run})

    # --- comparisons -----------------------------------------------------------------------------------------------

    async def comparisons(self, call: Call) -> Response:
        """Differences between the answers of both sides."""
        order = call.query.get("order", "last_seen")
        if order not in _GROUPS_BEHIND:
            raise invalid("order: write last_seen or signature")
        limit, cursor = _page_of(call.query, _GROUPS_BEHIND[order])
        try:
            items, following = await self._parts.evidence.page(limit, cursor, call.query.get("operation"), order)
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc
        page = answers.ComparisonPage.model_validate({"items": items, "next": following})
        return _answer(call, page)

    async def consistency(self, call: Call) -> Response:
        """How far both sides hold the same."""
        items = consistency_items(self.acts.snapshot(), self._parts.counters.agreement(time.time()))
        part, following = _part_of(items, call.query)
        return _answer(call, answers.ConsistencyList(items=part, next=following))

    async def noise(self, call: Call) -> Response:
        """What differs between two answers of one side."""
        version, relaxed = await self._accepted()
        items = noise_items(self.acts.snapshot(), self._parts.counters.totals(), relaxed, version)
        part, following = _part_of(items, call.query)
        return _answer(call, answers.NoiseList(items=part, next=following))

    async def change_noise(self, call: Call) -> Response:
        """Accepts proposals, or takes accepted ones back."""
        name, body = call.path["operation"], call.read(NoiseBody)
        snapshot = self.acts.snapshot()
        if name not in snapshot.plans:
            raise Refused(Code.UNKNOWN_OPERATION, f"there is no operation {name[:80]!r}")
        if snapshot.plans[name].operation.op_class is OperationClass.WRITE:
            raise Refused(Code.RULE_VIOLATION, f"{name} is a write; only reads are compared", rule="mirror_reads_only")
        version, relaxed = await self._accepted()
        await self._check_frozen()
        after = changed_noise(snapshot.plans[name].operation, body, relaxed, self._parts.counters.totals())
        try:
            await self.acts.note(call.order, "noise", f"{name}: {body.reason}")
            if not await self._parts.noise.replace(version, {**relaxed, name: after}):
                raise unavailable("somebody else changed it at the same time; look at it and try again")
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc
        version, relaxed = await self._accepted()
        items = noise_items(snapshot, self._parts.counters.totals(), relaxed, version)
        return _answer(call, next(item for item in items if item.operation == name))

    async def _check_frozen(self) -> None:
        """Looked at after the version was read: who freezes later makes that version an old one."""
        try:
            by = await self._parts.noise.frozen_by()
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc
        if by is not None:
            raise Refused(
                Code.RULE_VIOLATION,
                f"noise is frozen while {by} reads it: its figures are of one set of rules; try again when it is done",
                rule="noise_frozen",
            )

    async def _accepted(self) -> tuple[int, Relaxed]:
        try:
            return await self._parts.noise.read()
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc

    # --- tokens ----------------------------------------------------------------------------------------------------

    async def list_tokens(self, call: Call) -> Response:
        """All tokens."""
        return _answer(call, answers.TokenList(items=[_token_state(info) for info in await self._tokens()]))

    async def create_token(self, call: Call) -> Response:
        """Makes a token."""
        body = call.read(TokenBody)
        expires_at = None if body.ttl_s is None else datetime.now(UTC) + timedelta(seconds=body.ttl_s)
        try:
            # Noted first: a token that nobody can trace must not exist.
            await self.acts.note(call.order, "token create", f"{body.name} ({body.role})")
            secret = await self._parts.tokens.create(body.name, body.role, expires_at)
        except TokenExistsError as exc:
            raise Refused(Code.TOKEN_EXISTS, str(exc)) from exc
        except ValueError as exc:
            raise invalid(f"name: {exc}") from exc
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc
        made = answers.TokenMade(name=body.name, role=str(body.role), expires_at=_iso(expires_at), token=secret)
        return _answer(call, made)

    async def revoke_token(self, call: Call) -> Response:
        """Ends a token."""
        name = call.path["name"]
        known = await self._tokens()
        if name not in {info.name for info in known}:
            raise Refused(Code.UNKNOWN_TOKEN, f"there is no token named {name[:80]!r}")
        if not any(info.role is Role.APPROVER and info.name != name for info in _unexpired(known)):
            raise Refused(
                Code.RULE_VIOLATION,
                f"{name} is the last approver's token; without it nobody could make another",
                rule="last_approver",
                legal="crossfade token create NAME --role approver",
            )
        try:
            await self._parts.tokens.revoke(name)
            if self._parts.bootstrap is not None:
                await self._parts.bootstrap.revoked(name)
            await self.acts.note(call.order, "token revoke", name)
        except StoreUnavailableError as exc:
            raise unavailable(f"{exc}; look whether the token is still listed") from exc
        return _answer(call, answers.TokenRevoked(name=name))

    async def _tokens(self) -> list[TokenInfo]:
        try:
            return list(await self._parts.tokens.list())
        except StoreUnavailableError as exc:
            raise unavailable(str(exc)) from exc

    # --- drills ----------------------------------------------------------------------------------------------------

    async def begin_drill(self, call: Call) -> Response:
        """Begins a drill."""
        report = await self._parts.drills.begin(self.acts, call.order, call.read(DrillBody))
        return _answer(call, answers.DrillReport.model_validate(report))

    async def drills(self, call: Call) -> Response:
        """Drills, newest first."""
        items = [answers.DrillReport.model_validate(report) for report in await self._parts.drills.all()]
        part, following = _part_of(items, call.query)
        return _answer(call, answers.DrillList(items=part, next=following))

    async def drill(self, call: Call) -> Response:
        """One drill."""
        return _answer(call, answers.DrillReport.model_validate(await self._parts.drills.one(call.path["drill"])))

    async def end_drill(self, call: Call) -> Response:
        """Ends a drill."""
        report = await self._parts.drills.abort(call.path["drill"])
        return _answer(call, answers.DrillReport.model_validate(report))

    # --- later -----------------------------------------------------------------------------------------------------

    async def writes(self, call: Call) -> Response:
        """Not yet."""
        raise _later(call)

    async def incidents(self, call: Call) -> Response:
        """Kills what the migration file names for incidents."""
        snapshot = self.acts.snapshot()
        rules = snapshot.definition.incidents
        if rules is None:
            raise Refused(
                Code.RULE_VIOLATION,
                "the migration file names no scope for incidents; write incidents: {scope: all}",
                rule="no_incidents",
            )
        reason = reason_of(call.read(IncidentBody).model_dump())
        if reason is None:
            over = answers.Incident(epoch=snapshot.epoch, killed=False, scope=rules.scope, reason=None)
            return _answer(call, over, snapshot.epoch)
        wanted = KillBody.model_validate({"scope": rules.scope, "reason": reason})
        outcome, latch = await kill_scope(self.acts, call.order, wanted)
        epoch = outcome.snapshot.epoch
        done = answers.Incident(epoch=epoch, killed=True, scope=rules.scope, reason=latch.reason)
        return _answer(call, done, epoch)

    def _holds(self) -> Mapping[str, str]:
        return holds_of(self._parts.counters.live, time.time())

    def _measured(self) -> Measured:
        counters = self._parts.counters
        return Measured.of(counters, time.monotonic(), time.time())


def _answer(call: Call, answer: answers.Answer, epoch: int | None = None) -> Response:
    headers = {} if epoch is None else {"ETag": f'"{epoch}"'}
    return JSONResponse(answer.document(), call.endpoint.status, headers)


def _changed(call: Call, model: type[answers.Answer], outcome: Outcome, state: dict[str, Any]) -> Response:
    epoch = outcome.snapshot.epoch
    answer = model.model_validate({"epoch": epoch, "changed": _deltas(outcome.fields), **state})
    return _answer(call, answer, epoch)


def _deltas(fields: dict[str, Delta]) -> dict[str, answers.Delta]:
    return {name: answers.Delta(before=before, after=after) for name, (before, after) in fields.items()}


def _page_of(query: dict[str, str], cursors: re.Pattern[str] | None = None) -> tuple[int, str | None]:
    text, cursor = query.get("limit", str(PAGE_DEFAULT)), query.get("cursor")
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= PAGE_LIMIT:
        raise invalid(f"limit: write a whole number from 1 to {PAGE_LIMIT}")
    if cursor is not None and not (cursors.fullmatch(cursor) if cursors is not None else _is_cursor(cursor)):
        raise invalid("cursor: write what the page before gave as next")
    return int(text), cursor


def _part_of(items: list[Item], query: dict[str, str]) -> tuple[list[Item], str | None]:
    """A page of a list that is known as a whole, and the cursor of the next one."""
    limit, cursor = _page_of(query, _OFFSET)
    start = int(cursor or 0)
    return items[start : start + limit], str(start + limit) if len(items) > start + limit else None


def _is_cursor(text: str) -> bool:
    """Whether Redis takes it as the id of an entry that others came before: two numbers of 64 bits, not both 0."""
    return bool(_CURSOR.fullmatch(text)) and 0 < max(map(int, text.split("-"))) < 1 << 64


def _later(call: Call) -> Refused:
    return Refused(Code.NOT_YET_AVAILABLE, f"{call.endpoint.path} is not available yet in this version")


def _token_state(info: TokenInfo) -> answers.TokenState:
    return answers.TokenState(
        name=info.name,
        role=str(info.role),
        created_at=info.created_at.isoformat(),
        expires_at=_iso(info.expires_at),
        digest_prefix=info.digest_prefix,
    )


def _unexpired(known: list[TokenInfo]) -> list[TokenInfo]:
    now = datetime.now(UTC)
    return [info for info in known if info.expires_at is None or info.expires_at > now]


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
