"""Keyed writes: the same `Idempotency-Key` gives the same answer and has one effect, for a day.

A call is noted as `started` before anything is done, and its answer after. So a service that dies in between knows
afterwards that it does not know: such a call is answered `outcome_unknown` and never done again.

    (none) --begin--> started --its answer is definite--> answered --a day--> (none)
                      started --it failed for now, before anything that writes was begun--> (none)
                      started --it failed for now, after that--> started
                      started --the service died, the deadline struck, the client left--> started

Keys are scoped to workspace and operation; a digest of the arguments, without secrets, tells another call with the same
key. Where the answers are kept is the service's business (`CallStore`).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from backends.common.contract import Arguments, Operation
from backends.common.errors import Code, ServiceError
from backends.common.workspace import WorkspaceId

KEPT: Final = timedelta(hours=24)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_NOT_THE_CALL: Final = frozenset({"agent_id", "task_id", "token"})
"""The scope, and the secret: who calls again may have got another token meanwhile."""

_UNDONE: Final = frozenset(
    {
        Code.WORKSPACE_BUSY,
        Code.RATE_LIMITED,
        Code.LOCKS_UNAVAILABLE,
        Code.SANDBOX_UNAVAILABLE,
        Code.UNKNOWN_WORKSPACE,
        Code.IDEMPOTENCY_IN_PROGRESS,
    }
)
"""Says that nothing was done, where nothing that writes was begun before it: the call may be made again."""
_UNKNOWN: Final = frozenset({Code.DEADLINE, Code.INTERNAL, Code.LOCK_LOST})
"""Says nothing of what was done."""


@dataclass(frozen=True, slots=True)
class CallId:
    """A keyed call.

    Attributes:
        workspace: Of the call.
        operation: Its name.
        key: What the client chose; 1-255 visible ASCII characters.
        digest: SHA-256 of the arguments, in hex.
    """

    workspace: WorkspaceId
    operation: str
    key: str
    digest: str

    @property
    def name(self) -> str:
        """Names the call among those of its workspace, whatever its arguments are."""
        return hashlib.sha256(f"{self.operation}\0{self.key}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Noted:
    """What is known of a call.

    Attributes:
        digest: Of the arguments that it came with.
        at: When it began; aware.
        answer: `{"result": …}` or `{"error": [code, message]}`; None while it is not known.
    """

    digest: str
    at: datetime
    answer: dict[str, Any] | None = None

    def is_kept(self, now: datetime) -> bool:
        """Whether it counts still."""
        return now - self.at < KEPT


class CallStore(Protocol):
    """Where calls are noted. What a method has noted is on disk when it returns. All raise `ServiceError`."""

    async def find(self, call: CallId) -> Noted | None:
        """What is known of a call, or None."""
        ...

    async def begin(self, call: CallId) -> None:
        """Notes a call as started."""
        ...

    async def answer(self, call: CallId, answer: dict[str, Any]) -> None:
        """Notes the answer of a call."""
        ...

    async def forget(self, call: CallId) -> None:
        """Nothing was done: the call may be made again."""
        ...


def identify(workspace: WorkspaceId, operation: Operation, arguments: Arguments, key: str | None) -> CallId | None:
    """Names a call by its key; None where it has none or is a read.

    Raises:
        ServiceError: `invalid_argument`: the key is not valid.
    """
    if key is None or not operation.is_write:
        return None
    if not _KEY.fullmatch(key):
        raise ServiceError(Code.INVALID_ARGUMENT, "idempotency-key must be 1-255 visible ASCII characters")
    given = {
        name: value
        for name, value in arguments.model_dump(exclude_unset=True).items()
        if value is not None and name not in _NOT_THE_CALL
    }
    text = json.dumps(given, sort_keys=True, separators=(",", ":"))
    return CallId(workspace, operation.name, key, hashlib.sha256(text.encode()).hexdigest())


class Holders(Protocol):
    """Who knows which workspaces are held (`WorkspaceLocks`)."""

    async def is_held(self, workspace: WorkspaceId) -> bool:
        """Whether a writer holds a workspace now."""
        ...


class Finder(Protocol):
    """What is asked of a `CallStore` before a call."""

    async def find(self, call: CallId) -> Noted | None:
        """What is known of a call, or None."""
        ...


async def noted_before(store: Finder, locks: Holders, call: CallId) -> dict[str, Any] | None:
    """The answer to a call that was made before, asked without holding its workspace; None = it was not made.

    Raises:
        ServiceError: As `replay`; `locks_unavailable`, `sandbox_unavailable`: nobody can say.
    """
    noted = await store.find(call)
    while noted is not None:
        is_open = noted.answer is None
        if not is_open or await locks.is_held(call.workspace):
            return replay(call, noted, is_running=is_open)
        # It may have ended between the two questions, and the workspace was let go of after that.
        again = await store.find(call)
        if again == noted:
            return replay(call, noted, is_running=False)
        noted = again
    return None


def replay(call: CallId, noted: Noted, *, is_running: bool) -> dict[str, Any]:
    """The answer to a call that was made before.

    Args:
        call: As it comes now.
        noted: What is known of it.
        is_running: Whether it may still be running.

    Raises:
        ServiceError: `idempotency_mismatch`, `idempotency_in_progress`, `outcome_unknown`, or what was answered then.
    """
    if noted.digest != call.digest:
        message = "this idempotency-key was used for a call with other arguments"
        raise ServiceError(Code.IDEMPOTENCY_MISMATCH, message)
    if noted.answer is None:
        if is_running:
            raise ServiceError(Code.IDEMPOTENCY_IN_PROGRESS, "the same call is still running")
        message = "the same call was begun and its end is not known; look at the workspace, then use another key"
        raise ServiceError(Code.OUTCOME_UNKNOWN, message)
    error = noted.answer.get("error")
    if error is not None:
        raise ServiceError(Code(error[0]), error[1])
    result: dict[str, Any] = noted.answer["result"]
    return result


async def conclude(store: CallStore, call: CallId, outcome: dict[str, Any] | BaseException) -> None:
    """Notes how a call ended.

    Args:
        store: Where.
        call: Which.
        outcome: Its result, or what it raised.
    """
    if isinstance(outcome, dict):
        await store.answer(call, {"result": outcome})
    elif not isinstance(outcome, ServiceError) or outcome.code in _UNKNOWN:
        return
    elif outcome.code not in _UNDONE:
        await store.answer(call, {"error": [outcome.code.value, outcome.message]})
    elif not outcome.has_begun:
        await store.forget(call)


def now() -> datetime:
    """Aware, in UTC."""
    return datetime.now(UTC)
