"""The general lane: a plain ASGI callable, correct for every exchange.

Reads like the life of a request: facts, decision, exchange with the chosen side, observation. It must not know Redis,
disk or DNS, and awaits nothing but its client and its side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from gateway.core import force
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
from gateway.core.headers import Hop, Incoming, client_address, is_trusted, receive, request_id, to_client, to_side
from gateway.core.keys import KeyInputs, body_needed, read_key
from gateway.core.model import Deadlines, ErrorCode, Headers, OperationClass, Side
from gateway.core.outcome import Outcome
from gateway.core.refusal import JSONRPC_PARSE_ERROR, Refusal
from gateway.core.snapshot import Plan, Snapshot
from gateway.core.stages import Route
from gateway.edge.exchange import Exchange
from gateway.edge.problem import STATUS, RpcShape, problem
from gateway.edge.watch import ClientGoneError, watched
from gateway.errors import UpstreamError
from gateway.ports import Observer, StreamedBody, Upstream, UpstreamRequest, UpstreamResponse

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_SERVER_ERROR: Final = 500
_CLIENT_ERROR: Final = 400
_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304
_MAX_FORWARDS_DIGITS: Final = 9
# RFC 9110 §7.6.2: a larger value may be lowered to the largest that the recipient supports.
_MAX_FORWARDS: Final = 10**_MAX_FORWARDS_DIGITS
_BODY_END: Final = {"type": "http.response.body", "body": b"", "more_body": False}


class SnapshotSource(Protocol):
    """Where the current snapshot is read from."""

    @property
    def current(self) -> Snapshot | None:
        """The snapshot in force, or None before there is one."""
        ...


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What the lane needs besides the snapshot.

    Attributes:
        auth: The internal token, or None.
        force_secret: Signs `Crossfade-Force`, or None: then none is valid.
        in_flight: Requests carried at once; more are shed.
        says_side: Whether answers carry `Crossfade-Side`.
        says_request_id: Whether answers carry `X-Request-Id`.
        body_read_s: Longest time for the whole of a body that is read to find an operation or a key in it. The silence
            between two bytes is bounded by the connection; this bounds a client that drips.
    """

    auth: bytes | None = None
    force_secret: bytes | None = None
    in_flight: int = 4096
    says_side: bool = True
    says_request_id: bool = True
    body_read_s: float = 120.0


@dataclass(frozen=True, slots=True)
class LaneClock:
    """Time and entropy, which core takes as arguments.

    Attributes:
        monotonic: Seconds for durations.
        unix: Seconds since the epoch.
        date: The current `Date`, kept by a timer.
        entropy: Random bits; `entropy(n)` gives n of them.
    """

    monotonic: Callable[[], float]
    unix: Callable[[], float]
    date: Callable[[], bytes]
    entropy: Callable[[int], int]


class GeneralLane:
    """The data plane as an ASGI application.

    Args:
        source: Gives the snapshot.
        sides: The two upstreams.
        observer: Is told what happened.
        settings: Fixed for the life of the process.
        clock: Time and entropy.
    """

    def __init__(
        self,
        source: SnapshotSource,
        sides: Mapping[Side, Upstream],
        observer: Observer,
        settings: LaneSettings,
        clock: LaneClock,
    ) -> None:
        self.source = source
        self.sides = sides
        self.observer = observer
        self.settings = settings
        self.clock = clock
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carries one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the data plane speaks HTTP, not {scope['type']}")
        exchange = scope.get("extensions", {}).get("crossfade")
        self.in_flight += 1
        try:
            if isinstance(exchange, Exchange):
                # Our own connection cancels this task when its client leaves.
                await Passage(self, scope, receive, send, exchange).run()
            else:
                await watched(lambda r: Passage(self, scope, r, send, None).run(), receive)
        finally:
            self.in_flight -= 1


class Passage:
    """One request on its way through the lane. Holds its state; the lane holds none."""

    __slots__ = (
        "_body",
        "_exchange",
        "_headers",
        "_is_told_by_header",
        "_lane",
        "_plan",
        "_receive",
        "_request_id",
        "_rpc",
        "_scope",
        "_send",
        "_side",
        "_started",
        "_target",
    )

    def __init__(
        self, lane: GeneralLane, scope: Scope, receive: Receive, send: Send, exchange: Exchange | None
    ) -> None:
        self._lane = lane
        self._scope = scope
        self._receive = receive
        self._send = send
        self._exchange = exchange
        self._headers: Headers = scope["headers"]
        self._target: bytes = exchange.target if exchange is not None else _target_of(scope)
        self._plan: Plan | None = None
        self._side: Side | None = None
        self._rpc: RpcShape | None = None
        self._body: bytes | None = None
        self._request_id = b""
        self._is_told_by_header = False
        self._started = False

    async def run(self) -> None:
        """Carries the request and reports how it ended."""
        lane = self._lane
        began = lane.clock.monotonic()
        outcome = Outcome.CLIENT_GONE
        try:
            outcome = await self._carry()
        except Refusal as refusal:
            outcome = Outcome.REFUSED
            await self._answer(refusal.code, refusal.message, refusal)
        except UpstreamError as error:
            if STATUS[error.code] >= _SERVER_ERROR:
                outcome = Outcome.FAILURE
            elif not self._started:
                outcome = Outcome.REFUSED
            # Else a client that does not take its answer: the same as one that left.
            await self._answer_fault(error)
        except ClientGoneError:
            pass
        except asyncio.CancelledError:
            # By the connection, which can read no more of the request; here it is known what shape the answer has.
            told = self._exchange.refusal if self._exchange is not None else None
            if told is not None and not self._started:
                outcome = Outcome.REFUSED
                await self._answer(told.code, told.message, told)
            raise
        finally:
            operation = self._plan.operation.name if self._plan is not None else None
            lane.observer.answered(operation, self._side, outcome, lane.clock.monotonic() - began)

    async def _carry(self) -> Outcome:
        lane = self._lane
        snapshot = lane.source.current
        if snapshot is None:
            raise Refusal(ErrorCode.POLICY_UNAVAILABLE, "no policy is known yet; try again in a moment")
        if lane.in_flight > lane.settings.in_flight:
            raise Refusal(ErrorCode.OVERLOADED, "too many requests are in flight")
        peer = (self._scope.get("client") or ("", 0))[0]
        trusted = is_trusted(peer, snapshot.definition.trusted_proxies)
        incoming = receive(
            self._headers, trusted_peer=trusted, guarded=snapshot.guarded_headers, pseudonym=snapshot.pseudonym
        )
        if incoming.forged:
            lane.observer.forged(incoming.forged)
        self._request_id = request_id(incoming.headers, entropy=lane.clock.entropy(128))
        if incoming.looping:
            raise Refusal(ErrorCode.BAD_REQUEST, "the request has come through this gateway before: routing loop")
        path, _, query = self._target.partition(b"?")
        facts = Facts(
            method=self._scope["method"],
            path=path,
            query=query,
            headers=incoming.headers,
            client_address=client_address(peer, incoming.forwarded_for, snapshot.definition.trusted_proxies)
            if trusted
            else peer,
        )
        self._refuse_what_is_not_carried(facts)
        decision, key = await self._decide(snapshot, facts, incoming)
        self._side = decision.side
        hop = self._hop(snapshot, decision.side, peer, trusted=trusted)
        return await self._exchange_with(
            snapshot,
            decision.side,
            key,
            to_side(
                incoming, hop, self._request_id, self._write_fields(incoming.headers), entropy=lane.clock.entropy(192)
            ),
        )

    # --- facts and decision ---

    def _refuse_what_is_not_carried(self, facts: Facts) -> None:
        upgrade = [value.strip(b" \t").lower() for name, value in self._headers if name == b"upgrade"]
        if b"websocket" in upgrade:
            raise Refusal(ErrorCode.NOT_IMPLEMENTED, "WebSocket tunnels are not carried yet")
        if facts.method == "OPTIONS":
            _count_down_max_forwards(facts.headers)

    async def _decide(self, snapshot: Snapshot, facts: Facts, incoming: Incoming) -> tuple[Decision, str | None]:
        classified = snapshot.router.classify(facts)
        message: object = None
        self._is_told_by_header = classified.is_mcp and classified.operation is not None
        if classified.body_names_operation:
            message = await self._read_message(snapshot.mcp_body_limit_bytes, is_mcp=True)
            classified = Classified(snapshot.router.classify_mcp_body(message), is_mcp=True)
        if classified.operation is None:
            if isinstance(message, dict) and message.get("method") == "tools/call" and tool_of(message) is None:
                self._lane.observer.doubted(Doubt.UNKNOWN_OPERATION)
                return decide_unknown(snapshot), None
            return decide_default(snapshot), None
        plan = self._plan = snapshot.plans[classified.operation]
        self._refuse_declared_length(plan.operation.body_limit_bytes)
        key = await self._read_key(plan, facts, classified, message)
        if key is None and plan.route is not Route.OLD:
            self._lane.observer.doubted(Doubt.NO_KEY)
        return decide(plan, key, force=self._forced(snapshot, plan, incoming)), key

    async def _read_key(self, plan: Plan, facts: Facts, classified: Classified, message: object) -> str | None:
        recipes = plan.group.recipes
        inputs = KeyInputs(facts.headers, classified.params, facts.query, facts.client_address)
        if plan.body_decides:
            if message is None and body_needed(recipes, inputs):
                try:
                    message = await self._read_message(plan.operation.body_limit_bytes, is_mcp=classified.is_mcp)
                except UnreadableBodyError:
                    self._lane.observer.doubted(Doubt.UNREADABLE_BODY)
            inputs.arguments = arguments_of(message, is_mcp=classified.is_mcp)
        return read_key(recipes, inputs)

    async def _read_message(self, limit: int, *, is_mcp: bool) -> object:
        """Reads the body and parses it as JSON.

        Raises:
            Refusal: Too large, or ambiguous; on the MCP path also what is no JSON.
            UnreadableBodyError: No JSON, elsewhere.
        """
        body = await self._read_body(limit)
        try:
            message = parse_body(body)
        except UnreadableBodyError as exc:
            if is_mcp:
                raise Refusal(ErrorCode.BAD_REQUEST, f"parse error: {exc}", rpc_code=JSONRPC_PARSE_ERROR) from exc
            raise
        if is_mcp and isinstance(message, dict):
            self._rpc = RpcShape(_rpc_id(message))
        return message

    def _forced(self, snapshot: Snapshot, plan: Plan, incoming: Incoming) -> Side | None:
        if incoming.force is None:
            return None
        secret = self._lane.settings.force_secret
        now = self._lane.clock.unix()
        side = force.verify(secret, snapshot.definition.migration, incoming.force, now) if secret else None
        if side is None or not may_force(plan):
            self._lane.observer.force_ignored()
            return None
        return side

    # --- the request's body ---

    def _refuse_declared_length(self, limit: int | None) -> None:
        length = self._declared_length()
        if limit is not None and length is not None and length > limit:
            raise _too_large(limit)

    def _declared_length(self) -> int | None:
        if self._exchange is not None:
            return self._exchange.length
        lengths = [value for name, value in self._headers if name == b"content-length"]
        if lengths:
            return int(lengths[0])
        return None if any(name == b"transfer-encoding" for name, _ in self._headers) else 0

    def _declares_body(self) -> bool:
        if self._exchange is not None:
            return self._exchange.has_body
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)

    async def _read_body(self, limit: int) -> bytes:
        self._refuse_declared_length(limit)
        whole = self._exchange.take_whole_body() if self._exchange is not None and self._body is None else None
        if whole is not None:
            if len(whole) > limit:
                raise _too_large(limit)
            self._body = whole
        if self._body is None:
            try:
                async with asyncio.timeout(self._lane.settings.body_read_s):
                    self._body = await self._collect(limit)
            except TimeoutError as exc:
                message = "the body did not arrive in time"
                raise Refusal(ErrorCode.REQUEST_TIMEOUT, message, close=True) from exc
        return self._body

    async def _collect(self, limit: int) -> bytes:
        pieces = bytearray()
        async for piece in self._pieces():
            pieces += piece
            if len(pieces) > limit:
                raise _too_large(limit)
        return bytes(pieces)

    async def _pieces(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]

    async def _bounded_pieces(self, limit: int) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._pieces():
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            yield piece

    def _body_to_send(self, limit: int | None) -> bytes | StreamedBody | None:
        if self._body is not None:
            return self._body if self._declares_body() else None
        if not self._declares_body():
            return None
        whole = self._exchange.take_whole_body() if self._exchange is not None else None
        if whole is not None:
            if limit is not None and len(whole) > limit:
                raise _too_large(limit)
            return whole
        self._refuse_declared_length(limit)
        pieces = self._pieces() if limit is None else self._bounded_pieces(limit)
        return StreamedBody(self._declared_length(), pieces)

    # --- exchange and answer ---

    def _hop(self, snapshot: Snapshot, side: Side, peer: str, *, trusted: bool) -> Hop:
        definition = snapshot.definition.sides[side]
        return Hop(
            peer=peer.encode() or b"unknown",
            scheme=self._scope["scheme"].encode(),
            version=self._scope["http_version"].encode(),
            pseudonym=snapshot.pseudonym,
            trusted_peer=trusted,
            host=definition.host.encode() if definition.host else None,
            fallback_host=definition.instances[0].authority.encode(),
            auth=self._lane.settings.auth,
        )

    def _write_fields(self, headers: Headers) -> Headers:
        if self._plan is None or self._plan.operation.op_class is not OperationClass.WRITE:
            return []
        clock = self._lane.clock
        now = datetime.fromtimestamp(clock.unix(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: Headers = [(b"crossfade-request-time", now.encode())]
        if not any(name == b"idempotency-key" and value.strip(b" \t") for name, value in headers):
            fields.append((b"idempotency-key", b"%032x" % clock.entropy(128)))
        return fields

    async def _exchange_with(self, snapshot: Snapshot, side: Side, key: str | None, headers: Headers) -> Outcome:
        plan = self._plan
        if plan is not None:
            deadlines: Deadlines = plan.operation.deadlines
            limit: int | None = plan.operation.body_limit_bytes
            is_read = plan.operation.op_class is OperationClass.READ
        else:
            deadlines = snapshot.definition.default.deadlines
            limit = snapshot.definition.default.body_limit_bytes
            is_read = snapshot.definition.default.op_class is OperationClass.READ
        body = self._body_to_send(limit)
        request = UpstreamRequest(
            method=self._scope["method"].encode("latin-1"),
            target=self._target,
            headers=headers,
            body=body,
            deadlines=deadlines,
            may_retry=is_read and (not self._is_told_by_header or self._is_confirmed_by(body, snapshot)),
        )
        response = await self._lane.sides[side].exchange(request, key)
        try:
            await self._relay(response)
        finally:
            response.close()
        if response.status >= _SERVER_ERROR:
            return Outcome.FAILURE
        return Outcome.CLIENT_ERROR if response.status >= _CLIENT_ERROR else Outcome.OK

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

    async def _relay(self, response: UpstreamResponse) -> None:
        headers = to_client(response.headers, self._gateway_fields(), date=self._lane.clock.date())
        length = response.length
        if self._scope["method"] == "HEAD" or response.status == _NOT_MODIFIED:
            # The length of the body that a GET would have had; RFC 9110 §8.6. Other servers take that of a 304 at its
            # word, miss the body and drop the connection.
            if self._exchange is not None or response.status != _NOT_MODIFIED:
                headers.extend(_single_length(response.headers))
        elif length is not None and response.status != _NO_CONTENT:
            headers.append((b"content-length", b"%d" % length))
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})
        self._started = True
        while piece := await response.read():
            if length is not None:
                length -= len(piece)
            await self._send({"type": "http.response.body", "body": piece, "more_body": length != 0})
            if length == 0:
                # Learn that the side's message is really over before its connection is used again.
                await response.read()
                return
        await self._send(_BODY_END)

    def _gateway_fields(self) -> Headers:
        settings = self._lane.settings
        fields: Headers = []
        if settings.says_side and self._side is not None:
            fields.append((b"crossfade-side", self._side.value.encode()))
        if settings.says_request_id and self._request_id:
            fields.append((b"x-request-id", self._request_id))
        return fields

    async def _answer_fault(self, error: UpstreamError) -> None:
        if self._started:
            self._abort()
            return
        if STATUS[error.code] < _SERVER_ERROR:
            await self._answer(error.code, "the request did not arrive whole and in time", None)
            return
        message = f"the {self._side} side gave no usable answer ({error.code}, phase {error.phase})"
        # Whoever sent a write that may have arrived cannot know whether it took effect.
        is_write = self._plan is None or self._plan.operation.op_class is OperationClass.WRITE
        await self._answer(error.code, message, None, retryable=False if is_write and error.sent else None)

    async def _answer(
        self, code: ErrorCode, message: str, refusal: Refusal | None, *, retryable: bool | None = None
    ) -> None:
        """Answers with an own error, or aborts when an answer has begun: never a clean-looking end."""
        self._lane.observer.refused(code)
        if self._started:
            self._abort()
            return
        rpc = self._rpc or self._shape_by_path()
        if rpc is not None and refusal is not None and refusal.rpc_code is not None:
            rpc = RpcShape(rpc.request_id, refusal.rpc_code)
        allow = refusal.allow if refusal is not None else None
        answer = problem(code, message, rpc=rpc, allow=allow, retryable=retryable)
        if refusal is not None and refusal.close and self._exchange is not None:
            self._exchange.keep_alive = False
        headers = [
            *answer.headers,
            (b"date", self._lane.clock.date()),
            *self._gateway_fields(),
            (b"content-length", b"%d" % len(answer.body)),
        ]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": answer.body, "more_body": False})

    def _shape_by_path(self) -> RpcShape | None:
        snapshot = self._lane.source.current
        if snapshot is None or not snapshot.router.is_mcp_path(self._target.partition(b"?")[0]):
            return None
        return RpcShape()

    def _abort(self) -> None:
        if self._exchange is not None:
            self._exchange.abort()
        else:
            raise AnswerCutError("the answer cannot be completed")


class AnswerCutError(Exception):
    """Tells a foreign ASGI server to cut the connection in mid-answer."""


def _target_of(scope: Scope) -> bytes:
    """The target as far as ASGI can tell; a bare trailing `?` is lost."""
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return raw_path + b"?" + query if query else raw_path


def _too_large(limit: int) -> Refusal:
    return Refusal(ErrorCode.BODY_TOO_LARGE, f"the body is larger than {limit} bytes", close=True)


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
