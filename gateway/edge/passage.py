"""One request on its way: facts, decision, what goes to the side, what goes to the client, the count.

Both lanes are a way to move bytes around this; every rule of a request stands here, in its parts or in core, once. The
parts own what they are about: `deciding` what is known and decided, `side_time` how long the side takes, `verdict` what
its answer says of it. Here is how they act together: who is asked, who is asked next, and what is counted. Nothing in
any of them waits, reads a socket or writes to one. It must not know ASGI, connections or tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.core.drill import PREFIX as DRILL_PREFIX
from gateway.core.headers import Hop, announced_trailers, to_client, to_side
from gateway.core.model import Headers, OperationClass, Side
from gateway.core.outcome import Outcome
from gateway.core.refusal import Refusal
from gateway.edge.arrival import Arrival
from gateway.edge.deciding import Deciding
from gateway.edge.fields import single_length, write_fields
from gateway.edge.mirrored import served_read, why_unmirrored
from gateway.edge.plane import Plane
from gateway.edge.problem import Problem, problem_of_fault, problem_of_refusal
from gateway.edge.side_time import Waiting
from gateway.edge.verdict import Verdict, is_absence
from gateway.errors import Phase, UpstreamError
from gateway.ports import StreamedBody, Upstream, UpstreamRequest, Witness

_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304
_ANSWERED: Final = (Outcome.OK, Outcome.CLIENT_ERROR)


class Passage(Waiting):
    """One request. Call `deciding.decide`, then `request`, then `answer_fields`; `ended` in any case, once.

    Attributes:
        deciding: What is known and decided of it.
        taker: Takes the request back from new where its answer has not begun; whoever carries it sets it.
        verdict: What the answer says of the side.
    """

    __slots__ = (
        "_arrival",
        "_is_mirror_told",
        "_plane",
        "deciding",
        "taker",
        "verdict",
    )

    def __init__(self, plane: Plane, arrival: Arrival) -> None:
        super().__init__(plane.clock.monotonic())
        self._plane = plane
        self._arrival = arrival
        self.deciding = deciding = Deciding(plane, arrival)
        self.verdict = Verdict(deciding)
        self._is_mirror_told = False
        self.taker: Callable[[], None] | None = None
        plane.in_flight += 1

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
        deciding, plane = self.deciding, self._plane
        plan = deciding.plan
        if deciding.side is not Side.NEW or not is_repeatable or plan is None or not deciding.has_safety_net:
            return False
        now = plane.clock.monotonic()
        if self.is_used_up(now, deciding.deadlines):
            return False
        self.verdict.give_up(error, status)
        self._observe(Outcome.FAILURE, now)
        self.verdict.pass_on()
        plane.observer.saved(plan.operation.name)
        plane.on_new.discard(self)
        # New has just failed it: there is nothing to compare old's answer with.
        self._is_mirror_told = True
        self.pass_on(now)
        deciding.fall_back()
        return True

    def take_back(self) -> None:
        """New was taken out while this request still waits for it: asks old, where that can be."""
        if self.taker is not None and self.deciding.is_taken_out:
            self.taker()

    # --- what goes to the side ---

    @property
    def upstream(self) -> Upstream:
        """The side that was decided for."""
        deciding = self.deciding
        assert deciding.side is not None
        upstream = self._plane.sides[deciding.side]
        drill = self._plane.drill
        if drill is None or deciding.side is not Side.NEW or deciding.plan is None:
            return upstream
        return drill.instead(deciding.plan.operation.name, deciding.key, upstream)

    def request(self, body: bytes | StreamedBody | None) -> UpstreamRequest:
        """What goes to the side."""
        arrival, deciding, plane = self._arrival, self.deciding, self._plane
        side, plan, snapshot, incoming = deciding.side, deciding.plan, deciding.snapshot, deciding.incoming
        assert snapshot is not None
        assert incoming is not None
        assert side is not None
        op_class = plan.operation.op_class if plan is not None else snapshot.definition.default.op_class
        is_read = op_class is OperationClass.READ
        self.given(plane.clock.monotonic())
        on_new, on_old = plane.on_new, plane.on_old
        if side is Side.NEW:
            on_new.add(self)
            if on_old:
                # It may have been decided for the other side before.
                on_old.discard(self)
        else:
            on_old.add(self)
            if on_new:
                on_new.discard(self)
        host, fallback_host = snapshot.hosts[side]
        hop = Hop(
            peer=arrival.peer.encode() or b"unknown",
            scheme=arrival.scheme.encode(),
            version=arrival.version.encode(),
            pseudonym=snapshot.pseudonym,
            trusted_peer=deciding.is_trusted,
            host=host,
            fallback_host=fallback_host,
            # Operations alone: it opens the services' own calls, and those are for nobody who comes through here.
            auth=plane.settings.auth if plan is not None else None,
        )
        if is_read and deciding.is_told_by_header:
            deciding.confirm(body)
        extra = write_fields(incoming.headers, plane.clock) if plan is not None and not is_read else []
        return UpstreamRequest(
            method=arrival.method.encode("latin-1"),
            target=arrival.target,
            headers=to_side(incoming, hop, deciding.request_id, extra, entropy=plane.clock.entropy(192)),
            body=body,
            deadlines=self.left_of(deciding.deadlines),
            may_retry=is_read and deciding.is_read_for_sure,
            holds=deciding.holds,
            upgrade=arrival.upgrade,
        )

    def witness(self, request: UpstreamRequest) -> Witness | None:
        """Who hears of the answer, for a read that is mirrored. Call it before each attempt; counts once.

        Args:
            request: As it goes to the side that was decided for.
        """
        deciding, shadow = self.deciding, self._plane.shadow
        plan = deciding.plan
        if shadow is None or plan is None or plan.operation.op_class is not OperationClass.READ:
            return None
        if self._is_mirror_told:
            # Of an attempt before this one.
            return None
        why = plan.unmirrored or why_unmirrored(deciding, plan, request)
        if why is not None:
            self._is_mirror_told = True
            shadow.unmirrored(plan.operation.name, why)
            return None
        assert deciding.side is not None
        witness = shadow.witness(served_read(deciding, plan, deciding.side, request))
        self._is_mirror_told = witness is None
        return witness

    # --- what goes to the client ---

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
            fields.extend(single_length(headers))
        elif length is not None and status != _NO_CONTENT:
            fields.append((b"content-length", b"%d" % length))
        elif length is None and self._arrival.version == "1.1":
            fields += announced_trailers(headers)
        return fields

    def switch_fields(self, headers: Headers) -> Headers:
        """The fields of a 101 for the client."""
        upgrade = b", ".join(value for name, value in headers if name == b"upgrade")
        fields = to_client(headers, self._own_fields(), date=self._plane.clock.date())
        return [*fields, (b"connection", b"upgrade"), (b"upgrade", upgrade)]

    def hear(self, data: bytes) -> None:
        """Takes a piece of an answer that comes in pieces, as it goes to the client."""
        listener = self.verdict.listener
        if listener is not None:
            listener.hear(data)
        if self.awaits_event:
            self.first_event_came(self.now())
            self._plane.on_new.discard(self)
            self._plane.on_old.discard(self)

    def refusal(self, refusal: Refusal) -> Problem:
        """The answer to a request that is not carried."""
        self._plane.observer.refused(refusal.code)
        return self._own_answer(problem_of_refusal(refusal, self.deciding.rpc_shape()))

    def fault(self, error: UpstreamError) -> Problem:
        """The answer where a side gave none."""
        self._plane.observer.refused(error.code)
        self.verdict.fault(error)
        deciding = self.deciding
        is_write = deciding.plan is None or deciding.plan.operation.op_class is OperationClass.WRITE
        return self._own_answer(problem_of_fault(error, deciding.side, deciding.rpc_shape(), is_write=is_write))

    def _own_answer(self, answer: Problem) -> Problem:
        length = (b"content-length", b"%d" % len(answer.body))
        fields = [*answer.headers, (b"date", self._plane.clock.date()), *self._own_fields(), length]
        return Problem(answer.status, fields, answer.body)

    def _own_fields(self) -> Headers:
        settings, deciding = self._plane.settings, self.deciding
        fields: Headers = []
        if settings.says_side and deciding.side is not None:
            fields.append((b"crossfade-side", deciding.side.value.encode()))
        if settings.says_request_id and deciding.request_id:
            fields.append((b"x-request-id", deciding.request_id))
        return fields

    # --- who waits for a side, as the guard sees it ---

    @property
    def request_id(self) -> bytes:
        """Its name; empty until it is known."""
        return self.deciding.request_id

    @property
    def operation(self) -> str | None:
        """Its operation's name, or None: none matched, or it is not known yet."""
        plan = self.deciding.plan
        return plan.operation.name if plan is not None else None

    # --- the count ---

    def now(self) -> float:
        """Monotonic seconds."""
        return self._plane.clock.monotonic()

    def tell_absence(self, error: UpstreamError) -> None:
        """Tells the floor that new was not there, where that is what a failure says."""
        floor = self._plane.floor
        if floor is not None and self.deciding.side is Side.NEW and is_absence(error):
            floor.absent()

    def ended(self, outcome: Outcome) -> None:
        """The request is over. Call it once."""
        plane, deciding = self._plane, self.deciding
        # It would hold whoever carries the request, who holds this.
        self.taker = None
        plane.in_flight -= 1
        for doubt in deciding.doubts:
            plane.observer.doubted(doubt)
        if deciding.side is Side.NEW:
            plane.on_new.discard(self)
            if outcome in _ANSWERED and plane.floor is not None:
                plane.floor.answered()
        else:
            plane.on_old.discard(self)
        self._observe(outcome, plane.clock.monotonic())

    def _observe(self, outcome: Outcome, now: float) -> None:
        deciding = self.deciding
        plan, key = deciding.plan, deciding.key
        self._plane.observer.answered(
            plan.operation.name if plan is not None else None,
            deciding.side,
            outcome,
            self.taken_s(now),
            is_late=self.is_late,
            blamed=self.verdict.blamed if outcome is Outcome.FAILURE else None,
            request_id=deciding.request_id,
            is_rehearsal=key is not None and key.startswith(DRILL_PREFIX),
        )
