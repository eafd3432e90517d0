"""What is known of one request, and which side is to answer it: facts, operation, key, decision and doubts.

Core has the rules; here stands what they are asked, in which order, and what they said. It must not know what is sent,
nor what a side answers.
"""

from __future__ import annotations

from contextlib import suppress

from gateway.core import force
from gateway.core.classify import (
    Classified,
    Facts,
    UnreadableBodyError,
    arguments_of,
    parse_body,
    tool_of,
)
from gateway.core.decide import Decision, Doubt, decide, decide_default, decide_unknown, may_force
from gateway.core.headers import Incoming, client_address, is_trusted, receive, request_id
from gateway.core.keys import KeyInputs, body_needed, read_key
from gateway.core.model import Deadlines, ErrorCode, OperationClass, Side, Stage, Writes
from gateway.core.refusal import JSONRPC_PARSE_ERROR, Refusal
from gateway.core.snapshot import Plan, Snapshot
from gateway.core.stages import Route
from gateway.edge.arrival import Arrival, too_large
from gateway.edge.fields import count_down_max_forwards
from gateway.edge.plane import Plane
from gateway.edge.problem import RpcShape
from gateway.ports import StreamedBody


class Deciding:
    """The decision on one request, made anew as often as the policy changes before the request is sent.

    Attributes:
        side: Who answers; None until decided.
        snapshot: By which it was decided last.
        incoming: The head, without what concerns its connection or was forged; None until the first decision.
        request_id: Its name; empty until it is known.
        is_trusted: Whether the peer is a trusted proxy.
        plan: Of its operation; None: none matched, or it is not known yet.
        key: Its key, or None.
        body_limit: Largest body that is forwarded; None: any.
        is_mcp: Whether it came to the MCP path.
        is_told_by_header: Whether its operation is known by MCP headers, which may lie.
        is_confirmed: Whether its body was seen to say the same.
        doubts: What could not be told about it.
    """

    __slots__ = (
        "_arrival",
        "_body",
        "_facts",
        "_has_fallen_back",
        "_plane",
        "_rpc",
        "body_limit",
        "doubts",
        "incoming",
        "is_confirmed",
        "is_mcp",
        "is_told_by_header",
        "is_trusted",
        "key",
        "plan",
        "request_id",
        "side",
        "snapshot",
    )

    def __init__(self, plane: Plane, arrival: Arrival) -> None:
        self._plane = plane
        self._arrival = arrival
        self._facts: Facts | None = None
        self._body: bytes | None = None
        self._has_fallen_back = False
        self._rpc: RpcShape | None = None
        self.side: Side | None = None
        self.snapshot: Snapshot | None = None
        self.incoming: Incoming | None = None
        self.request_id = b""
        self.is_trusted = False
        self.plan: Plan | None = None
        self.key: str | None = None
        self.body_limit: int | None = None
        self.is_mcp = False
        self.is_told_by_header = False
        self.is_confirmed = False
        self.doubts: list[Doubt] = []

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
        snapshot = self.snapshot = self._plane.source.current
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

    def decide_again(self) -> None:
        """Decides anew after a `RevokedError`.

        Raises:
            Refusal: The request is not carried.
        """
        self.decide(self._body)

    @property
    def is_outdated(self) -> bool:
        """Whether the policy has changed since: what has not been sent yet must be decided again."""
        return self._plane.source.current is not self.snapshot

    def holds(self) -> bool:
        """Whether the side that was decided for is still the one: a kill must not be outrun by who waits in a queue."""
        if not self.is_outdated:
            return True
        before = self.side
        try:
            self.decide(self._body)
        except Refusal:
            return False
        return self.side is before

    def fall_back(self) -> None:
        """New has failed it: old is asked, whatever the policy says from here on."""
        self.side = Side.OLD
        self._has_fallen_back = True

    # --- what follows from it ---

    @property
    def deadlines(self) -> Deadlines:
        """Of its operation, or of the default route."""
        if self.plan is not None:
            return self.plan.operation.deadlines
        assert self.snapshot is not None
        return self.snapshot.definition.default.deadlines

    @property
    def body_read_s(self) -> float:
        """Longest time for a body that is awaited whole."""
        longest = self._plane.settings.body_read_s
        total_s = self.deadlines.total_s
        return longest if total_s is None else min(longest, total_s)

    @property
    def is_read_for_sure(self) -> bool:
        """Whether a read is really one: a write that passes for a read must not be sent twice."""
        return not self.is_told_by_header or self.is_confirmed

    def confirm(self, body: bytes | StreamedBody | None) -> None:
        """Looks whether the body calls the operation that the MCP headers named."""
        self.is_confirmed = False
        if not isinstance(body, bytes) or self.plan is None or self.snapshot is None:
            return
        with suppress(Refusal, UnreadableBodyError):
            self.is_confirmed = self.snapshot.router.classify_mcp_body(parse_body(body)) == self.plan.operation.name

    @property
    def is_taken_out(self) -> bool:
        """Whether a kill of its operation is in force by now."""
        snapshot = self._plane.source.current
        plan = self.plan
        if snapshot is None or plan is None:
            return False
        now = snapshot.plans.get(plan.operation.name)
        return now is not None and now.latch is not None

    @property
    def has_safety_net(self) -> bool:
        """Whether old may answer it in place of new, once: a read, where both sides work on one store."""
        plan = self.plan
        return (
            plan is not None
            and not self._has_fallen_back
            and plan.operation.op_class is OperationClass.READ
            # Elsewhere old does not know what new was told, unless new is out: then old is asked anyway. In `complete`
            # it knows nothing any more.
            and (plan.group.writes is Writes.SHARED or self.is_taken_out)
            and plan.stage is not Stage.COMPLETE
            and self._plane.settings.safety_net
            and plan.operation.safety_net
            and self.is_read_for_sure
        )

    def rpc_shape(self) -> RpcShape | None:
        """The shape of the gateway's own answers to it; None: not that of JSON-RPC."""
        if self._rpc is not None:
            return self._rpc
        snapshot = self._plane.source.current
        if snapshot is None or not snapshot.router.is_mcp_path(self._arrival.target.partition(b"?")[0]):
            return None
        return RpcShape()

    # --- inside ---

    def _gather(self, snapshot: Snapshot) -> Facts:
        plane, arrival = self._plane, self._arrival
        if plane.in_flight > plane.settings.in_flight:
            raise Refusal(ErrorCode.OVERLOADED, "too many requests are in flight")
        proxies = snapshot.definition.trusted_proxies
        self.is_trusted = trusted = is_trusted(arrival.peer, proxies)
        incoming = self.incoming = receive(
            arrival.headers, trusted_peer=trusted, guarded=snapshot.guarded_headers, pseudonym=snapshot.pseudonym
        )
        if incoming.forged:
            plane.observer.forged(incoming.forged)
        self.request_id = request_id(incoming.headers, entropy=plane.clock.entropy(128))
        if incoming.looping:
            raise Refusal(ErrorCode.BAD_REQUEST, "the request has come through this gateway before: routing loop")
        path, _, query = arrival.target.partition(b"?")
        address = client_address(arrival.peer, incoming.forwarded_for, proxies) if trusted else arrival.peer
        facts = Facts(arrival.method, path, query, incoming.headers, address)
        if facts.method == "OPTIONS":
            count_down_max_forwards(facts.headers)
        return facts

    def _judge(self, snapshot: Snapshot, facts: Facts, body: bytes | None) -> Decision | int:
        """The decision, or how much of the body it needs."""
        if self.doubts:
            self.doubts = []
        self.plan = None
        self.key = None
        classified = snapshot.router.classify(facts)
        message: object = None
        self.is_mcp = classified.is_mcp
        self.is_told_by_header = classified.is_mcp and classified.operation is not None
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
                self.doubts.append(Doubt.UNKNOWN_OPERATION)
                return decide_unknown(snapshot)
            return decide_default(snapshot)
        plan = self.plan = snapshot.plans[classified.operation]
        limit, length = plan.operation.body_limit_bytes, self._arrival.length
        if length is not None and length > limit:
            raise too_large(limit)
        self.body_limit = limit
        recipes = plan.group.recipes
        inputs = KeyInputs(facts.headers, classified.params, facts.query, facts.client_address)
        if plan.body_decides:
            if message is None and body_needed(recipes, inputs):
                if body is None:
                    return limit
                try:
                    message = self._parse(body, is_mcp=classified.is_mcp)
                except UnreadableBodyError:
                    self.doubts.append(Doubt.UNREADABLE_BODY)
            inputs.arguments = arguments_of(message, is_mcp=classified.is_mcp)
        key = self.key = read_key(recipes, inputs)
        if key is None and plan.route is not Route.OLD:
            self.doubts.append(Doubt.NO_KEY)
        wish = self.incoming.force if self.incoming is not None else None
        forced = self._forced(snapshot, plan, wish) if wish is not None else None
        return decide(plan, key, force=forced)

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

    def _forced(self, snapshot: Snapshot, plan: Plan, wish: bytes) -> Side | None:
        """The side that a tester wishes for, where that is valid and heeded."""
        plane = self._plane
        secret = plane.settings.force_secret
        side = force.verify(secret, snapshot.definition.migration, wish, plane.clock.unix()) if secret else None
        if side is None or not may_force(plan):
            plane.observer.force_ignored()
            return None
        return side


def _rpc_id(message: dict[str, object]) -> str | int | None:
    request = message.get("id")
    return request if isinstance(request, (str, int)) and not isinstance(request, bool) else None
