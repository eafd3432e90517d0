"""What is noted of a keyed call by how it ended, and what is answered to the same call later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from backends.approach1.notes import FileNotes
from backends.common.calls import CallId, Noted, conclude, noted_before, now
from backends.common.errors import Code, ServiceError
from backends.common.locks import LocalLocks
from backends.common.workspace import WorkspaceId

CALL = CallId(WorkspaceId("agent", "task"), "git.push", "key", "digest")


@pytest.fixture
async def notes(tmp_path: Path) -> AsyncIterator[FileNotes]:
    notes = FileNotes(tmp_path)
    await notes.start()
    yield notes
    notes.close()


def failure(code: Code, *, has_begun: bool) -> ServiceError:
    error = ServiceError(code, "why")
    error.has_begun = has_begun
    return error


@pytest.mark.parametrize("code", [Code.SANDBOX_UNAVAILABLE, Code.RATE_LIMITED, Code.WORKSPACE_BUSY])
async def test_what_says_that_nothing_was_done_counts_only_before_anything_was_begun(
    notes: FileNotes, code: Code
) -> None:
    await notes.begin(CALL)
    await conclude(notes, CALL, failure(code, has_begun=True))
    begun = await notes.find(CALL)
    assert begun is not None
    assert begun.answer is None
    await conclude(notes, CALL, failure(code, has_begun=False))
    assert await notes.find(CALL) is None


async def test_a_definite_failure_is_an_answer_whenever_it_comes(notes: FileNotes) -> None:
    await notes.begin(CALL)
    await conclude(notes, CALL, failure(Code.DIVERGED, has_begun=True))
    found = await notes.find(CALL)
    assert found is not None
    assert found.answer == {"error": ["diverged", "why"]}


@dataclass
class Timeline:
    """A store, and locks, of which each answer is the next of a list: what other instances do meanwhile."""

    found: list[Noted | None]
    held: list[bool] = field(default_factory=list)

    async def find(self, call: CallId) -> Noted | None:
        del call
        return self.found.pop(0)

    async def is_held(self, workspace: WorkspaceId) -> bool:
        del workspace
        return self.held.pop(0)


STARTED = Noted("digest", now())
ANSWERED = replace(STARTED, answer={"result": {"n": 1}})
NEXT = replace(STARTED, at=now())


async def test_a_call_that_ends_between_two_questions_is_not_unknown() -> None:
    timeline = Timeline([STARTED, ANSWERED], [False])
    assert await noted_before(timeline, timeline, CALL) == {"n": 1}


async def test_a_call_that_was_undone_between_two_questions_is_made_again() -> None:
    timeline = Timeline([STARTED, None], [False])
    assert await noted_before(timeline, timeline, CALL) is None


async def test_a_call_that_was_begun_anew_between_two_questions_is_running() -> None:
    timeline = Timeline([STARTED, NEXT, NEXT], [False, True])
    with pytest.raises(ServiceError) as caught:
        await noted_before(timeline, timeline, CALL)
    assert caught.value.code is Code.IDEMPOTENCY_IN_PROGRESS


async def test_a_call_that_nobody_runs_and_nobody_ended_is_unknown(notes: FileNotes) -> None:
    locks = LocalLocks()
    assert await noted_before(notes, locks, CALL) is None
    await notes.begin(CALL)
    with pytest.raises(ServiceError) as caught:
        await noted_before(notes, locks, CALL)
    assert caught.value.code is Code.OUTCOME_UNKNOWN
    async with locks.hold(CALL.workspace):
        with pytest.raises(ServiceError) as caught:
            await noted_before(notes, locks, CALL)
    assert caught.value.code is Code.IDEMPOTENCY_IN_PROGRESS
    await notes.answer(CALL, {"result": {"n": 2}})
    assert await noted_before(notes, locks, CALL) == {"n": 2}
