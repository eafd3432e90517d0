"""One request on its way: facts, decision, what goes to the side, what goes to the client, the count.

Both lanes are a way to move bytes around this; every rule of a request stands here or in core, once. Nothing in here
waits, reads a socket or writes to one. It must not know ASGI, connections or tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from gateway.core import force
from gateway.core.blame import Listener, is_listened_to
from gateway.core.classify import (
    COMMON_METHODS,
    Classified,
    Facts,
    UnreadableBodyError,
    arguments_of,
    parse_body,
    tool_of,
)
from gateway.core.decide import Decision, Doubt, decide, decide_default, decide_unknown, may_force
from gateway.core.drill import PREFIX as DRILL_PREFIX
from gateway.core.headers import (
    Hop,
    Incoming,
    announced_trailers,
    client_address,
    is_trusted,
    receive,
    request_id,
    to_client,
    to_side,
)
from gateway.core.keys import KeyInputs, body_needed, read_key
from gateway.core.mirroring import Unmirrored, is_conditional, is_sampled
from gateway.core.model import Deadlines, ErrorCode, Headers, OperationClass, Side, Stage, Writes
from gateway.core.outcome import Outcome
from gateway.core.refusal import JSONRPC_PARSE_ERROR, Refusal
from gateway.core.snapshot import Plan, Snapshot
from gateway.core.stages import Route
from gateway.edge.arrival import Arrival, too_large
from gateway.edge.plane import Plane
from gateway.edge.problem import STATUS, Problem, RpcShape, problem
from gateway.errors import Phase, UpstreamError
from gateway.ports import ServedRead, StreamedBody, Upstream, UpstreamRequest, Witness

SERVER_ERROR: Final = 500
_CLIENT_ERROR: Final = 400
_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304
_ANSWERED: Final = (Outcome.OK, Outcome.CLIENT_ERROR)
_ABSENT: Final = (ErrorCode.UPSTREAM_REFUSED, ErrorCode.UPSTREAM_TIMEOUT, ErrorCode.NO_UPSTREAM)
_TAKEN_BACK: Final = "hung"
_BROKEN_OFF: Final = "broken_off"
_MAX_FORWARDS_DIGITS: Final = 9
# RFC 9110 §7.6.2: a larger value may be lowered to the largest that the recipient supports.
_MAX_FORWARDS: Final = 10**_MAX_FORWARDS_DIGITS


class Passage:
    """One request. Call `decide`, then `request`, then `answer_fields`; `ended` in any case, once.

    Attributes:
        body_limit: Largest body that is forwarded; None: any.
        side: Who answers; None until decided.
        key: The request's key, or None.
        began: Monotonic seconds, when it was given to its side; before that, when its head was complete.
        has_begun: Whether its answer comes already, in pieces.
        is_late: It was counted as too slow while it waited.
        taker: Takes the request back from new where its answer has not begun; whoever carries it sets it.
    """

    __slots__ = (
        "_arrival",
        "_blamed",
        "_body",
        "_client_s",
        "_doubts",
        "_facts",
        "_first_at",
        "_has_fallen_back",
        "_incoming",
        "_is_confirmed",
        "_is_failed",
        "_is_mcp",
        "_is_mirror_told",
        "_is_stream",
        "_is_told_by_header",
        "_listener",
        "_plan",
        "_plane",
        "_request_id",
        "_rpc",
        "_snapshot",
        "_spent_s",
        "_status",
        "_trusted",
        "began",
        "body_limit",
        "has_begun",
        "is_late",
        "key",
        "side",
        "taker",
    )

    def __init__(self, plane: Plane, arrival: Arrival) -> None:
        self._plane = plane
        self._arrival = arrival
        self.began = plane.clock.monotonic()
        self.is_late = False
        self._plan: Plan | None = None
        self._rpc: RpcShape | None = None
        self._request_id = b""
        self._is_told_by_header = False
        self._is_mcp = False
        self._is_mirror_told = False
        self._has_fallen_back = False
        self._is_confirmed = False
        self._listener: Listener | None = None
        self._blamed: str | None = None
        self._client_s = 0.0
        self._first_at: float | None = None
        self._is_failed = False
        self._is_stream = False
        self._spent_s = 0.0
        self._status = 0
        self.has_begun = False
        self._trusted = False
        self._snapshot: Snapshot | None = None
        self._incoming: Incoming | None = None
        self._facts: Facts | None = None
        self._body: bytes | None = None
        self._doubts: list[Doubt] = []
        self.body_limit: int | None = None
        self.side: Side | None = None
        self.key: str | None = None
        self.taker: Callable[[], None] | None = None
        plane.in_flight += 1

    # --- facts and decision ---

    def decide(self, body: bytes | None = None) -> int | None:
        """Finds the side. Call it again with the body where it asks for it, and when the policy has changed meanwhile.

        Args:
            body: The whole body, once it is there.

        Returns:
            None when the side is found; else the largest body that is read in order to find it.

        Raises:
            Refusal: The request is not carried.
        """
        self._body = body
        snapshot = self._snapshot = self._plane.source.current
        if snapshot is None:
            raise Refusal(ErrorCode.POLICY_UNAVAILABLE, "no policy is known yet; try again in a moment")
        facts = self._facts
        if facts is None:
            facts = self._facts = self._gather(snapshot)
        decision = self._judge(snapshot, facts, body)
        if isinstance(decision, int):
            return decision
        # What new has failed once is not asked of it again.
        self.side = Side.OLD if self._has_fallen_back else decision.side
        return None

    @property
    def is_outdated(self) -> bool:
        """Whether the policy has changed since the decision: what has not been sent yet must be decided again."""
        return self._plane.source.current is not self._snapshot

    def _holds(self) -> bool:
        """Whether the side that was decided for is still the one: a kill must not be outrun by who waits in a queue."""
        if not self.is_outdated:
            return True
        before = self.side
        try:
            self.decide(self._body)
        except Refusal:
            return False
        return self.side is before

    def decide_again(self) -> None:
        """Decides anew after a `RevokedError`.

        Raises:
            Refusal: The request is not carried.
        """
        self.decide(self._body)

    @property
    def body_read_s(self) -> float:
        """Longest time for a body that is awaited whole."""
        longest = self._plane.settings.body_read_s
        total_s = self._deadlines.total_s
        return longest if total_s is None else min(longest, total_s)

    @property
    def _deadlines(self) -> Deadlines:
        if self._plan is not None:
            return self._plan.operation.deadlines
        assert self._snapshot is not None
        return self._snapshot.definition.default.deadlines

    def _gather(self, snapshot: Snapshot) -> Facts:
        plane, arrival = self._plane, self._arrival
        if plane.in_flight > plane.settings.in_flight:
            raise Refusal(ErrorCode.OVERLOADED, "too many requests are in flight")
        proxies = snapshot.definition.trusted_proxies
        self._trusted = trusted = is_trusted(arrival.peer, proxies)
        incoming = self._incoming = receive(
            arrival.headers, trusted_peer=trusted, guarded=snapshot.guarded_headers, pseudonym=snapshot.pseudonym
        )
        if incoming.forged:
            plane.observer.forged(incoming.forged)
        self._request_id = request_id(incoming.headers, entropy=plane.clock.entropy(128))
        if incoming.looping:
            raise Refusal(ErrorCode.BAD_REQUEST, "the request has come through this gateway before: routing loop")
        path, _, query = arrival.target.partition(b"?")
        address = client_address(arrival.peer, incoming.forwarded_for, proxies) if trusted else arrival.peer
        facts = Facts(arrival.method, path, query, incoming.headers, address)
        self._refuse_what_is_not_carried(facts)
        return facts

    def _refuse_what_is_not_carried(self, facts: Facts) -> None:
        if facts.method == "OPTIONS":
            _count_down_max_forwards(facts.headers)

    def _judge(self, snapshot: Snapshot, facts: Facts, body: bytes | None) -> Decision | int:
        """The decision, or how much of the body it needs."""
        self._doubts = []
        self._plan = None
        self.key = None
        classified = snapshot.router.classify(facts)
        message: object = None
        self._is_mcp = classified.is_mcp
        self._is_told_by_header = classified.is_mcp and classified.operation is not None
        if classified.body_names_operation:
            limit = self._bounded(snapshot.mcp_body_limit_bytes)
            if body is None:
                return limit
            message = self._parse(body, is_mcp=True)
            classified = Classified(snapshot.router.classify_mcp_body(message), is_mcp=True)
        if classified.operation is None:
            default_limit = snapshot.definition.default.body_limit_bytes
            self.body_limit = None if default_limit is None else self._bounded(default_limit)
            if isinstance(message, dict) and message.get("method") == "tools/call" and tool_of(message) is None:
                self._doubts.append(Doubt.UNKNOWN_OPERATION)
                return decide_unknown(snapshot)
            return decide_default(snapshot)
        plan = self._plan = snapshot.plans[classified.operation]
        limit = self.body_limit = self._bounded(plan.operation.body_limit_bytes)
        recipes = plan.group.recipes
        inputs = KeyInputs(facts.headers, classified.params, facts.query, facts.client_address)
        if plan.body_decides:
            if message is None and body_needed(recipes, inputs):
                if body is None:
                    return limit
                try:
                    message = self._parse(body, is_mcp=classified.is_mcp)
                except UnreadableBodyError:
                    self._doubts.append(Doubt.UNREADABLE_BODY)
            inputs.arguments = arguments_of(message, is_mcp=classified.is_mcp)
        key = self.key = read_key(recipes, inputs)
        if key is None and plan.route is not Route.OLD:
            self._doubts.append(Doubt.NO_KEY)
        return decide(plan, key, force=self._forced(snapshot, plan))

    def _bounded(self, limit: int) -> int:
        """The limit, held against the declared length.

        Raises:
            Refusal: The body is declared to be larger.
        """
        length = self._arrival.length
        if length is not None and length > limit:
            raise too_large(limit)
        return limit

    def _parse(self, body: bytes, *, is_mcp: bool) -> object:
        """The JSON message in a body.

        Raises:
            Refusal: Ambiguous; on the MCP path also what is no JSON.
            UnreadableBodyError: No JSON, elsewhere.
        """
        try:
            message = parse_body(body)
        except UnreadableBodyError as exc:
            if is_mcp:
                raise Refusal(ErrorCode.BAD_REQUEST, f"parse error: {exc}", rpc_code=JSONRPC_PARSE_ERROR) from exc
            raise
        if is_mcp and isinstance(message, dict):
            self._rpc = RpcShape(_rpc_id(message))
        return message

    def _forced(self, snapshot: Snapshot, plan: Plan) -> Side | None:
        incoming = self._incoming
        if incoming is None or incoming.force is None:
            return None
        plane = self._plane
        secret = plane.settings.force_secret
        migration = snapshot.definition.migration
        side = force.verify(secret, migration, incoming.force, plane.clock.unix()) if secret else None
        if side is None or not may_force(plan):
            plane.observer.force_ignored()
            return None
        return side

    # --- the safety net ---

    def falls_back(
        self, error: UpstreamError | None = None, *, status: int | None = None, is_repeatable: bool = True
    ) -> bool:
        """Takes a read that new has failed to old, once, where both work on one store; new is counted as failed.

        Call it before the answer began. True: send the request again.

        Args:
            error: What ended the exchange, or None.
            status: In which new answered that it failed, or None: it is still waited for.
            is_repeatable: Whether the request's body can be sent a second time.
        """
        if error is not None and error.phase is Phase.TOTAL:
            # The loop's clock may lag behind ours, so that a little time seems to be left.
            return False
        plan = self._plan
        if (
            self.side is not Side.NEW
            or self._has_fallen_back
            or not is_repeatable
            or plan is None
            or plan.operation.op_class is not OperationClass.READ
            # Elsewhere old does not know what new was told, unless new is out: then old is asked anyway. In `complete`
            # it knows nothing any more.
            or (plan.group.writes is not Writes.SHARED and not self._is_taken_out)
            or plan.stage is Stage.COMPLETE
            or not self._plane.settings.safety_net
            or not plan.operation.safety_net
            or not self._is_read_for_sure
        ):
            return False
        now = self._plane.clock.monotonic()
        left_s = self._left_s(now)
        if left_s is not None and left_s <= 0:
            return False
        if error is not None:
            self._blamed = error.code.value
        elif self._blamed is None:
            self._blamed = _TAKEN_BACK if status is None else f"status {status}"
        self._observe(Outcome.FAILURE, now)
        self._blamed = None
        self._plane.observer.saved(plan.operation.name)
        self._plane.on_new.discard(self)
        self._has_fallen_back = True
        # New has just failed it: there is nothing to compare old's answer with.
        self._is_mirror_told = True
        # What new took is no time of old's.
        self._spent_s, self.began, self.is_late = now - self.began, now, False
        self.side = Side.OLD
        return True

    def take_back(self) -> None:
        """New was taken out while this request still waits for it: asks old, where that can be."""
        if self.taker is not None and self._is_taken_out:
            self.taker()

    @property
    def _is_taken_out(self) -> bool:
        """Whether a kill is in force by now."""
        snapshot = self._plane.source.current
        plan = self._plan
        if snapshot is None or plan is None:
            return False
        now = snapshot.plans.get(plan.operation.name)
        return now is not None and now.latch is not None

    @property
    def _is_read_for_sure(self) -> bool:
        return not self._is_told_by_header or self._is_confirmed

    def _left_s(self, now: float) -> float | None:
        total_s = self._deadlines.total_s
        return None if total_s is None else total_s - (now - self.began)

    # --- the exchange ---

    @property
    def upstream(self) -> Upstream:
        """The side that was decided for."""
        assert self.side is not None
        side = self._plane.sides[self.side]
        drill = self._plane.drill
        if drill is None or self.side is not Side.NEW or self._plan is None:
            return side
        return drill.instead(self._plan.operation.name, self.key, side)

    def request(self, body: bytes | StreamedBody | None) -> UpstreamRequest:
        """What goes to the side."""
        arrival, plan, snapshot, incoming = self._arrival, self._plan, self._snapshot, self._incoming
        assert snapshot is not None
        assert incoming is not None
        assert self.side is not None
        op_class = plan.operation.op_class if plan is not None else snapshot.definition.default.op_class
        is_read = op_class is OperationClass.READ
        on_new, on_old = self._plane.on_new, self._plane.on_old
        # From here on it is the side's time; what a client took to send its body was its own.
        self.began = self._plane.clock.monotonic()
        self._client_s, self._first_at, self.has_begun = 0.0, None, False
        self._status, self._is_failed, self._is_stream = 0, False, False
        if self.side is Side.NEW:
            on_new.add(self)
            if on_old:
                # It may have been decided for the other side before.
                on_old.discard(self)
        else:
            on_old.add(self)
            if on_new:
                on_new.discard(self)
        host, fallback_host = snapshot.hosts[self.side]
        hop = Hop(
            peer=arrival.peer.encode() or b"unknown",
            scheme=arrival.scheme.encode(),
            version=arrival.version.encode(),
            pseudonym=snapshot.pseudonym,
            trusted_peer=self._trusted,
            host=host,
            fallback_host=fallback_host,
            # Operations alone: it opens the services' own calls, and those are for nobody who comes through here.
            auth=self._plane.settings.auth if plan is not None else None,
        )
        if is_read and self._is_told_by_header:
            self._is_confirmed = self._is_confirmed_by(body, snapshot)
        extra = self._write_fields(incoming.headers)
        return UpstreamRequest(
            method=arrival.method.encode("latin-1"),
            target=arrival.target,
            headers=to_side(incoming, hop, self._request_id, extra, entropy=self._plane.clock.entropy(192)),
            body=body,
            deadlines=self._bounded_deadlines(),
            may_retry=is_read and self._is_read_for_sure,
            holds=self._holds,
            upgrade=arrival.upgrade,
        )

    def _bounded_deadlines(self) -> Deadlines:
        """The operation's, less what a first attempt took."""
        deadlines = self._deadlines
        if not self._spent_s or deadlines.total_s is None:
            return deadlines
        return replace(deadlines, total_s=max(deadlines.total_s - self._spent_s, 0.001))

    def witness(self, request: UpstreamRequest) -> Witness | None:
        """Who hears of the answer, for a read that is mirrored. Call it before each attempt; counts once.

        Args:
            request: As it goes to the side that was decided for.
        """
        plan, shadow = self._plan, self._plane.shadow
        if shadow is None or plan is None or plan.operation.op_class is not OperationClass.READ:
            return None
        if self._is_mirror_told:
            # Of an attempt before this one.
            return None
        why = plan.unmirrored or self._why_unmirrored(plan, request)
        if why is not None:
            self._is_mirror_told = True
            shadow.unmirrored(plan.operation.name, why)
            return None
        assert self._snapshot is not None
        assert self._incoming is not None
        assert self.side is not None
        client_host = next((value for name, value in self._incoming.headers if name == b"host"), None)
        witness = shadow.witness(
            ServedRead(
                plan=plan,
                side=self.side,
                key=self.key,
                request_id=self._request_id,
                is_mcp=self._is_mcp,
                request=request,
                hosts=self._snapshot.hosts,
                client_host=client_host,
            )
        )
        self._is_mirror_told = witness is None
        return witness

    def _why_unmirrored(self, plan: Plan, request: UpstreamRequest) -> Unmirrored | None:
        assert self._snapshot is not None
        if not plan.mirror_limit or not is_sampled(
            self._snapshot.definition.migration, self._request_id, plan.mirror_limit
        ):
            return Unmirrored.NOT_SAMPLED
        if request.upgrade is not None:
            return Unmirrored.UPGRADE
        if isinstance(request.body, StreamedBody):
            return Unmirrored.STREAMING
        if not request.may_retry:
            return Unmirrored.UNCONFIRMED
        if any(is_conditional(name) for name, _ in request.headers):
            return Unmirrored.CONDITIONAL
        return None

    def _write_fields(self, headers: Headers) -> Headers:
        if self._plan is None or self._plan.operation.op_class is not OperationClass.WRITE:
            return []
        clock = self._plane.clock
        now = datetime.fromtimestamp(clock.unix(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: Headers = [(b"crossfade-request-time", now.encode())]
        if not any(name == b"idempotency-key" and value.strip(b" \t") for name, value in headers):
            fields.append((b"idempotency-key", b"%032x" % clock.entropy(128)))
        return fields

    def _is_confirmed_by(self, body: bytes | StreamedBody | None, snapshot: Snapshot) -> bool:
        """Whether the body calls the operation that the MCP headers named.

        They may lie, and a write that passes for a read must not be sent twice.
        """
        if not isinstance(body, bytes) or self._plan is None:
            return False
        try:
            return snapshot.router.classify_mcp_body(parse_body(body)) == self._plan.operation.name
        except (Refusal, UnreadableBodyError):
            return False

    def answer_fields(self, status: int, headers: Headers, length: int | None) -> Headers:
        """The fields of the side's answer for the client, `Content-Length` among them where the answer has one.

        Args:
            status: Of the answer.
            headers: As the side sent them.
            length: As `UpstreamResponse.length`.
        """
        fields = to_client(headers, self._own_fields(), date=self._plane.clock.date())
        if self._arrival.method == "HEAD" or status == _NOT_MODIFIED:
            # The length of the body that a GET would have had; RFC 9110 §8.6.
            fields.extend(_single_length(headers))
        elif length is not None and status != _NO_CONTENT:
            fields.append((b"content-length", b"%d" % length))
        elif length is None and self._arrival.version == "1.1":
            fields += announced_trailers(headers)
        return fields

    def listen(self, status: int, headers: Headers) -> None:
        """Begins to listen to an answer: whether it says a failure, and, of a stream, when its first event comes."""
        self._listener = None
        self._status = status
        plan = self._plan
        if self.blames(status):
            self._blamed = f"status {status}"
            self._is_failed = True
            return
        if plan is not None and plan.operation.failure_codes and is_listened_to(status, is_mcp=self._is_mcp):
            self._listener = Listener(status, headers, plan.operation.failure_codes, is_mcp=self._is_mcp)

    def begin_answer(self, headers: Headers) -> None:
        """The answer comes in pieces: new is not silent, and a stream is as fast as its first event."""
        self.has_begun = True
        self._is_stream = any(
            name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers
        )

    def hear(self, data: bytes) -> None:
        """Takes a piece of the answer's body, as it goes to the client."""
        if self._listener is not None:
            self._listener.hear(data)
        if self._is_stream and self._first_at is None:
            self._first_at = self._plane.clock.monotonic()
            # How long it goes on says nothing about the side.
            self._plane.on_new.discard(self)
            self._plane.on_old.discard(self)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._plane.clock.monotonic()

    def client_waited(self, seconds: float) -> None:
        """The exchange stood still because of the client, who sends or reads slowly: no time of the side's."""
        self._client_s += seconds

    def has_failed(self) -> bool:
        """Whether the answer, which is complete, is a failure of the side's."""
        if self._listener is not None:
            code, self._listener = self._listener.failure(), None
            if code is not None:
                self._blamed = code
                self._is_failed = True
        return self._is_failed

    def outcome(self) -> Outcome:
        """How the request ended, now that its answer is complete."""
        if self.has_failed():
            return Outcome.FAILURE
        return Outcome.CLIENT_ERROR if self._status >= _CLIENT_ERROR else Outcome.OK

    def blames(self, status: int) -> bool:
        """Whether an answer's status blames the side."""
        plan = self._plan
        return status in plan.operation.failure_statuses if plan is not None else status >= SERVER_ERROR

    def interim_fields(self, headers: Headers) -> Headers:
        """The fields of an interim answer for the client."""
        return to_client(headers, [], date=None)

    def switch_fields(self, headers: Headers) -> Headers:
        """The fields of a 101 for the client."""
        upgrade = b", ".join(value for name, value in headers if name == b"upgrade")
        fields = to_client(headers, self._own_fields(), date=self._plane.clock.date())
        return [*fields, (b"connection", b"upgrade"), (b"upgrade", upgrade)]

    # --- own answers ---

    def refusal(self, refusal: Refusal) -> Problem:
        """The answer to a request that is not carried."""
        self._plane.observer.refused(refusal.code)
        rpc = self._shape()
        if rpc is not None and refusal.rpc_code is not None:
            rpc = RpcShape(rpc.request_id, refusal.rpc_code)
        return self._own_answer(problem(refusal.code, refusal.message, rpc=rpc, allow=refusal.allow))

    def fault(self, error: UpstreamError) -> Problem:
        """The answer where a side gave none."""
        self._plane.observer.refused(error.code)
        self._blamed = error.code.value
        if STATUS[error.code] < SERVER_ERROR:
            message = "the request did not arrive whole and in time"
            return self._own_answer(problem(error.code, message, rpc=self._shape()))
        message = f"the {self.side} side gave no usable answer ({error.code}, phase {error.phase})"
        # Whoever sent a write that may have arrived cannot know whether it took effect.
        is_write = self._plan is None or self._plan.operation.op_class is OperationClass.WRITE
        retryable = False if is_write and error.sent else None
        return self._own_answer(problem(error.code, message, rpc=self._shape(), retryable=retryable))

    def tell_absence(self, error: UpstreamError) -> None:
        """Tells the floor that new was not there, where that is what a failure says."""
        floor = self._plane.floor
        if floor is not None and self.side is Side.NEW and error.code in _ABSENT:
            floor.absent()

    def _own_answer(self, answer: Problem) -> Problem:
        length = (b"content-length", b"%d" % len(answer.body))
        fields = [*answer.headers, (b"date", self._plane.clock.date()), *self._own_fields(), length]
        return Problem(answer.status, fields, answer.body)

    def _own_fields(self) -> Headers:
        settings = self._plane.settings
        fields: Headers = []
        if settings.says_side and self.side is not None:
            fields.append((b"crossfade-side", self.side.value.encode()))
        if settings.says_request_id and self._request_id:
            fields.append((b"x-request-id", self._request_id))
        return fields

    def _shape(self) -> RpcShape | None:
        if self._rpc is not None:
            return self._rpc
        snapshot = self._plane.source.current
        if snapshot is None or not snapshot.router.is_mcp_path(self._arrival.target.partition(b"?")[0]):
            return None
        return RpcShape()

    # --- the count ---

    @property
    def request_id(self) -> bytes:
        """Its name; empty until it is known."""
        return self._request_id

    @property
    def operation(self) -> str | None:
        """Its operation's name, or None: none matched, or it is not known yet."""
        return self._plan.operation.name if self._plan is not None else None

    def ended(self, outcome: Outcome) -> None:
        """The request is over. Call it once."""
        plane = self._plane
        # It would hold whoever carries the request, who holds this.
        self.taker = None
        plane.in_flight -= 1
        for doubt in self._doubts:
            plane.observer.doubted(doubt)
        if self.side is Side.NEW:
            plane.on_new.discard(self)
            if outcome in _ANSWERED and plane.floor is not None:
                plane.floor.answered()
        else:
            plane.on_old.discard(self)
        self._observe(outcome, plane.clock.monotonic())

    def _observe(self, outcome: Outcome, now: float) -> None:
        blamed = (self._blamed or _BROKEN_OFF) if outcome is Outcome.FAILURE else None
        if self._first_at is not None:
            now = self._first_at
        self._plane.observer.answered(
            self.operation,
            self.side,
            outcome,
            max(0.0, now - self.began - self._client_s),
            is_late=self.is_late,
            blamed=blamed,
            request_id=self._request_id,
            is_rehearsal=self.key is not None and self.key.startswith(DRILL_PREFIX),
        )


def outcome_of_fault(error: BaseException, *, started: bool) -> Outcome:
    """How a request ended that a side did not answer, or not to the end.

    Args:
        error: What ended the exchange.
        started: Whether the answer had begun.
    """
    if not isinstance(error, UpstreamError) or STATUS[error.code] >= SERVER_ERROR:
        return Outcome.FAILURE
    # Else the client: one that does not take its answer is the same as one that left.
    return Outcome.CLIENT_GONE if started else Outcome.REFUSED


def _rpc_id(message: dict[str, object]) -> str | int | None:
    request = message.get("id")
    return request if isinstance(request, (str, int)) and not isinstance(request, bool) else None


def _single_length(headers: Headers) -> Headers:
    lengths = {value.strip(b" \t") for name, value in headers if name == b"content-length"}
    return [(b"content-length", length) for length in lengths if len(lengths) == 1 and length.isdigit()]


def _count_down_max_forwards(headers: Headers) -> None:
    """RFC 9110 §7.6.2: an OPTIONS request says how many more intermediaries it may pass.

    Raises:
        Refusal: It may pass none: the gateway is who was asked.
    """
    for at, (name, value) in enumerate(headers):
        digits = value.strip(b" \t").lstrip(b"0") or b"0"
        if name == b"max-forwards" and value.strip(b" \t").isdigit():
            left = int(digits) if len(digits) <= _MAX_FORWARDS_DIGITS else _MAX_FORWARDS
            if left == 0:
                raise Refusal(ErrorCode.METHOD_NOT_ALLOWED, "Max-Forwards ends here", allow=COMMON_METHODS)
            headers[at] = (name, b"%d" % (left - 1))
