"""The files of notes of approach 1: what a restart finds, what is dropped, what damage does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backends.approach1.notes import CALLS, FileNotes
from backends.common.calls import CallId
from backends.common.errors import Code, ServiceError
from backends.common.inventory import State, sum_of
from backends.common.workspace import WorkspaceId

WORKSPACE = WorkspaceId("agent", "task")
STATE = State("main", "a" * 40, "d" * 64)


def call(key: str) -> CallId:
    return CallId(WORKSPACE, "git.push", key, "x")


def files(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def opened(directory: Path) -> FileNotes:
    notes = FileNotes(directory)
    await notes.start()
    return notes


async def test_a_restart_finds_calls_and_records(tmp_path: Path) -> None:
    notes = await opened(tmp_path)
    await notes.begin(call("begun"))
    await notes.begin(call("answered"))
    await notes.answer(call("answered"), {"result": {"é": None}})
    await notes.begin(call("undone"))
    await notes.forget(call("undone"))
    version = await notes.changed(WORKSPACE, "https://example.org/a.git")
    await notes.surveyed(WORKSPACE, version, STATE)
    before = await notes.get(WORKSPACE)
    notes.close()
    again = await opened(tmp_path)
    begun, answered = await again.find(call("begun")), await again.find(call("answered"))
    assert begun is not None
    assert begun.answer is None
    assert answered is not None
    assert answered.answer == {"result": {"é": None}}
    assert await again.find(call("undone")) is None
    assert await again.get(WORKSPACE) == before
    assert before is not None
    assert before.state == STATE
    again.close()


async def test_what_is_asked_before_everything_is_read_waits_for_it(tmp_path: Path) -> None:
    notes = await opened(tmp_path)
    await notes.begin(call("answered"))
    await notes.answer(call("answered"), {"result": {}})
    first = await notes.changed(WORKSPACE, "https://example.org/a.git")
    notes.close()
    again = FileNotes(tmp_path)
    asking = asyncio.gather(again.find(call("answered")), again.changed(WORKSPACE, "https://example.org/a.git"))
    await asyncio.wait([asking], timeout=0)
    assert not asking.done()
    assert not again.is_read
    await again.start()
    assert again.is_read
    noted, version = await asking
    assert noted is not None
    assert noted.answer == {"result": {}}
    assert version > first
    again.close()
    # Nor was anything written over.
    last = await opened(tmp_path)
    assert await last.find(call("answered")) is not None
    last.close()


async def test_a_call_that_could_not_be_noted_was_never_begun(tmp_path: Path) -> None:
    notes = await opened(tmp_path / "notes")
    for number in range(CALLS):
        await notes.begin(call(f"key-{number}"))
    # As a full disk would.
    (tmp_path / "notes").rename(tmp_path / "away")
    with pytest.raises(ServiceError) as caught:
        await notes.begin(call("one"))
    assert caught.value.code is Code.SANDBOX_UNAVAILABLE
    (tmp_path / "away").rename(tmp_path / "notes")
    assert await notes.find(call("one")) is None
    # Nor has it driven out an older one.
    assert await notes.find(call("key-0")) is not None
    await notes.begin(call("one"))
    assert await notes.find(call("one")) is not None
    notes.close()


async def test_what_was_undone_leaves_nothing_where_nothing_was_cloned(tmp_path: Path) -> None:
    notes = await opened(tmp_path)
    await notes.begin(call("one"))
    assert len(files(tmp_path)) == 1
    await notes.forget(call("one"))
    assert files(tmp_path) == []
    await notes.surveyed(WORKSPACE, 1, STATE)
    await notes.expired(WORKSPACE)
    await notes.forget(call("two"))
    assert files(tmp_path) == []
    notes.close()


async def test_notes_that_count_no_more_are_dropped_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = await opened(tmp_path)
    other = WorkspaceId("agent", "cloned")
    await notes.begin(call("one"))
    await notes.answer(call("one"), {"error": ["remote_refused", ""]})
    await notes.changed(other, "https://example.org/a.git")
    await notes.prune()
    assert len(files(tmp_path)) == 2
    later = datetime.now(UTC) + timedelta(hours=24, minutes=1)
    monkeypatch.setattr("backends.approach1.notes.now", lambda: later)
    await notes.prune()
    assert files(tmp_path) == [f"{other.digest}.json"]
    notes.close()


async def test_a_version_never_comes_again_in_a_later_life(tmp_path: Path) -> None:
    notes = await opened(tmp_path)
    versions = []
    for _ in range(3):
        versions += [await notes.changed(WORKSPACE, "https://example.org/a.git") for _ in range(3)]
        await notes.expired(WORKSPACE)
    assert versions == sorted(set(versions))
    notes.close()


async def test_only_the_last_calls_are_kept(tmp_path: Path) -> None:
    notes = await opened(tmp_path)
    for number in range(CALLS + 5):
        await notes.begin(call(f"key-{number}"))
    assert await notes.find(call("key-4")) is None
    assert await notes.find(call("key-5")) is not None
    notes.close()


async def test_calls_are_kept_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = await opened(tmp_path)
    await notes.begin(call("one"))
    notes.close()
    later = datetime.now(UTC) + timedelta(hours=24, minutes=1)
    monkeypatch.setattr("backends.approach1.notes.now", lambda: later)
    assert await notes.find(call("one")) is None
    again = await opened(tmp_path)
    assert await again.find(call("one")) is None
    # Nothing is left to note of a workspace in which nothing was ever cloned.
    assert files(tmp_path) == []
    again.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"agent_id": "a"}', b"\xff\xfe", b"null"])
async def test_a_damaged_file_harms_no_other_and_is_kept_for_people(tmp_path: Path, content: bytes) -> None:
    notes = await opened(tmp_path)
    await notes.begin(call("one"))
    notes.close()
    (tmp_path / "other.json").write_bytes(content)
    (tmp_path / "half.new").write_bytes(b"{")
    again = await opened(tmp_path)
    assert await again.find(call("one")) is not None
    assert (tmp_path / "other.json").read_bytes() == content
    assert not (tmp_path / "half.new").exists()
    again.close()


async def test_pages_and_digests_agree_with_the_records(tmp_path: Path) -> None:
    notes = await opened(tmp_path)
    records = []
    for number in range(60):
        workspace = WorkspaceId("agent", f"task-{number}")
        version = await notes.changed(workspace, "https://example.org/a.git")
        await notes.surveyed(workspace, version, State("main", None, f"{number:064x}"))
        record = await notes.get(workspace)
        assert record is not None
        records.append(record)
    records.sort(key=lambda record: record.workspace.digest)
    assert await notes.page("", "", None, 100) == records
    assert await notes.page("", records[9].workspace.digest, None, 5) == records[10:15]
    assert await notes.page("", "", datetime.now(UTC) + timedelta(seconds=9), 5) == []
    for prefix in ("", "a"):
        within = [record for record in records if record.workspace.digest.startswith(prefix)]
        found = sum_of(prefix, await notes.digests(prefix))
        assert (found.count, found.total) == (len(within), sum(r.fingerprint for r in within) % (1 << 128))
    notes.close()
