"""What an answer, or its absence, says of the side: whether the side is to blame, and for what.

By its status, by the failure that it says in words (`core.blame`), or by the fault that ended the exchange. It must not
know what is done about it.
"""

from __future__ import annotations

from typing import Final

from gateway.core.blame import Listener, is_listened_to
from gateway.core.model import ErrorCode, Headers
from gateway.core.outcome import Outcome
from gateway.edge.deciding import Deciding
from gateway.edge.problem import SERVER_ERROR, STATUS
from gateway.errors import UpstreamError

_CLIENT_ERROR: Final = 400
_ABSENT: Final = (ErrorCode.UPSTREAM_REFUSED, ErrorCode.UPSTREAM_TIMEOUT, ErrorCode.NO_UPSTREAM)
_TAKEN_BACK: Final = "hung"
_BROKEN_OFF: Final = "broken_off"


class Verdict:
    """On one request. Call `listen`, then `hear`, and at the answer's end `has_failed` or `outcome`.

    Args:
        deciding: The request's: its operation declares what blames a side.

    Attributes:
        listener: Hears the body where it may say a failure in words, else None.
    """

    __slots__ = ("_blamed", "_deciding", "_is_failed", "_status", "listener")

    def __init__(self, deciding: Deciding) -> None:
        self._deciding = deciding
        self._blamed: str | None = None
        self._is_failed = False
        self.listener: Listener | None = None
        self._status = 0

    # --- the answer ---

    def blames(self, status: int) -> bool:
        """Whether an answer's status blames the side."""
        plan = self._deciding.plan
        return status in plan.operation.failure_statuses if plan is not None else status >= SERVER_ERROR

    def listen(self, status: int, headers: Headers) -> None:
        """Begins to listen to an answer; what another one said before is forgotten."""
        self.listener = None
        self._status = status
        self._is_failed = self.blames(status)
        if self._is_failed:
            self._blamed = f"status {status}"
            return
        deciding = self._deciding
        plan, is_mcp = deciding.plan, deciding.is_mcp
        if plan is not None and plan.operation.failure_codes and is_listened_to(status, is_mcp=is_mcp):
            self.listener = Listener(status, headers, plan.operation.failure_codes, is_mcp=is_mcp)

    def hear(self, data: bytes) -> None:
        """Takes a piece of the answer's body."""
        if self.listener is not None:
            self.listener.hear(data)

    def has_failed(self) -> bool:
        """Whether the answer, which is complete, is a failure of the side's."""
        if self.listener is not None:
            code, self.listener = self.listener.failure(), None
            if code is not None:
                self._blamed = code
                self._is_failed = True
        return self._is_failed

    def outcome(self) -> Outcome:
        """How the request ended, now that its answer is complete."""
        if self.has_failed():
            return Outcome.FAILURE
        return Outcome.CLIENT_ERROR if self._status >= _CLIENT_ERROR else Outcome.OK

    # --- no answer ---

    def fault(self, error: UpstreamError) -> None:
        """The side gave no answer."""
        self._blamed = error.code.value

    def give_up(self, error: UpstreamError | None, status: int | None) -> None:
        """The side is not heard to the end.

        Args:
            error: What ended the exchange, or None.
            status: In which it said that it failed, or None: it is still waited for.
        """
        if error is not None:
            self._blamed = error.code.value
        elif self._blamed is None:
            self._blamed = _TAKEN_BACK if status is None else f"status {status}"

    # --- what it is blamed for ---

    @property
    def blamed(self) -> str:
        """What a side that has failed is blamed for: one of a closed set of words."""
        return self._blamed or _BROKEN_OFF

    def pass_on(self) -> None:
        """Another side is asked: nothing is known of that one."""
        self._blamed = None


def is_absence(error: UpstreamError) -> bool:
    """Whether a failure says that the side is not there."""
    return error.code in _ABSENT


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
