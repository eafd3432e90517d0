"""Notes about workspaces, a file for each: what was cloned, its version, the last keyed calls. Read once, at the start.

    <data dir>/workspaces/<hash>.json

A file is written whole under another name and renamed, synced where a keyed call is noted; whatever interrupts that
leaves the old one or the new one.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import structlog

from backends.common.calls import CallId, Noted, now
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.inventory import RangeDigest, Record, State
from backends.common.workspace import WorkspaceId

CALLS: Final = 200
"""Keyed calls that are kept for a workspace."""
_BYTES: Final = 4 << 20
"""Size of a file from which the oldest calls go, however few there are."""

_log = structlog.get_logger("crossfade.approach1")


@dataclass
class _Notes:
    workspace: WorkspaceId
    record: Record | None = None
    calls: dict[str, Noted] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return self.record is None and not self.calls


class FileNotes:
    """Implements `CallStore` and `Inventory` for one instance.

    Whoever asks before everything is read waits: what is not known yet must not be taken for unknown, nor written over.
    """

    def __init__(self, directory: Path) -> None:
        """Makes the directory.

        Raises:
            OSError: It cannot be made.
        """
        self._directory = directory
        self._notes: dict[str, _Notes] = {}
        self._version = 0
        self._is_read = asyncio.Event()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One thread: what is written later is on disk later.
        self._thread = ThreadPoolExecutor(1, "notes")

    async def start(self) -> None:
        """Reads what earlier runs noted. A file that cannot be read is left alone and told of.

        Raises:
            ServiceError: `sandbox_unavailable`: the directory cannot be read.
        """
        try:
            self._notes = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        except OSError as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"the notes cannot be read: {exc.strerror}") from exc
        self._is_read.set()

    @property
    def is_read(self) -> bool:
        """Whether it knows what earlier runs noted."""
        return self._is_read.is_set()

    def close(self) -> None:
        """Returns when everything is on disk."""
        self._thread.shutdown()

    # --- keyed calls -----------------------------------------------------------------------------------------------

    async def find(self, call: CallId) -> Noted | None:
        """See `CallStore.find`."""
        notes = (await self._known()).get(call.workspace.digest)
        noted = notes.calls.get(call.name) if notes is not None else None
        return noted if noted is not None and noted.is_kept(now()) else None

    async def begin(self, call: CallId) -> None:
        """See `CallStore.begin`."""
        notes = await self._of(call.workspace)
        before = dict(notes.calls)
        notes.calls.pop(call.name, None)
        notes.calls[call.name] = Noted(call.digest, now())
        while len(notes.calls) > CALLS:
            del notes.calls[next(iter(notes.calls))]
        try:
            await self._write(notes)
        except BaseException:
            # It is not begun then. What of it is on disk all the same tells a restart that it does not know.
            notes.calls = before
            if notes.is_empty:
                self._notes.pop(call.workspace.digest, None)
            raise

    async def answer(self, call: CallId, answer: dict[str, Any]) -> None:
        """See `CallStore.answer`."""
        notes = await self._of(call.workspace)
        noted = notes.calls.get(call.name) or Noted(call.digest, now())
        notes.calls[call.name] = replace(noted, answer=answer)
        await self._write(notes)

    async def forget(self, call: CallId) -> None:
        """See `CallStore.forget`."""
        notes = (await self._known()).get(call.workspace.digest)
        if notes is not None and notes.calls.pop(call.name, None) is not None:
            await self._write(notes)

    # --- inventory -------------------------------------------------------------------------------------------------

    async def changed(self, workspace: WorkspaceId, repository: str) -> int:
        """See `Inventory.changed`."""
        notes = await self._of(workspace)
        at = now()
        # Milliseconds, so that no version comes again in a later life of the workspace: whoever kept one from before
        # does not mean this.
        version = max(
            int(at.timestamp() * 1000), self._version + 1, notes.record.version + 1 if notes.record is not None else 0
        )
        self._version = version
        notes.record = Record(workspace, repository, version, at)
        await self._write(notes, is_synced=False)
        return version

    async def surveyed(self, workspace: WorkspaceId, version: int, state: State) -> None:
        """See `Inventory.surveyed`."""
        notes = (await self._known()).get(workspace.digest)
        if notes is not None and notes.record is not None and notes.record.version == version:
            notes.record = replace(notes.record, state=state)
            await self._write(notes, is_synced=False)

    async def get(self, workspace: WorkspaceId) -> Record | None:
        """See `Inventory.get`."""
        notes = (await self._known()).get(workspace.digest)
        return notes.record if notes is not None else None

    def records(self) -> list[Record]:
        """Every workspace that holds something, as far as it is read."""
        return list(_records(self._notes, ""))

    async def expired(self, workspace: WorkspaceId) -> None:
        """A workspace holds nothing any more; its keyed calls are still known."""
        notes = (await self._known()).get(workspace.digest)
        if notes is not None and notes.record is not None:
            notes.record = None
            await self._write(notes)

    def holds_something(self, workspace: WorkspaceId) -> bool:
        """Whether a workspace has a record, as far as they are read."""
        notes = self._notes.get(workspace.digest)
        return notes is not None and notes.record is not None

    async def prune(self) -> None:
        """Drops calls of more than a day ago, and what is left with nothing.

        Raises:
            ServiceError: A file cannot be removed.
        """
        present = now()
        for notes in list((await self._known()).values()):
            for name in [name for name, noted in notes.calls.items() if not noted.is_kept(present)]:
                del notes.calls[name]
            if notes.is_empty:
                await self._write(notes)

    async def page(self, prefix: str, after: str, since: datetime | None, limit: int) -> list[Record]:
        """See `Inventory.page`."""
        known = await self._known()
        names = sorted(name for name in known if name > after and name.startswith(prefix))
        found = (known[name].record for name in names)
        chosen = (record for record in found if record is not None and (since is None or record.updated_at >= since))
        return list(islice(chosen, limit))

    async def unsurveyed(self, prefix: str) -> list[Record]:
        """See `Inventory.unsurveyed`."""
        return [record for record in _records(await self._known(), prefix) if record.state is None]

    async def digests(self, prefix: str) -> list[RangeDigest]:
        """See `Inventory.digests`."""
        found: dict[str, tuple[int, int]] = {}
        for name, notes in (await self._known()).items():
            if notes.record is not None and name.startswith(prefix):
                below = name[: len(prefix) + 1]
                count, total = found.get(below, (0, 0))
                found[below] = (count + 1, (total + notes.record.fingerprint) % (1 << 128))
        return [RangeDigest(below, count, total) for below, (count, total) in sorted(found.items())]

    # ---------------------------------------------------------------------------------------------------------------

    async def _known(self) -> dict[str, _Notes]:
        await self._is_read.wait()
        return self._notes

    async def _of(self, workspace: WorkspaceId) -> _Notes:
        return (await self._known()).setdefault(workspace.digest, _Notes(workspace))

    async def _write(self, notes: _Notes, *, is_synced: bool = True) -> None:
        """Writes a file, or removes it where nothing is left to note: callers may name any number of workspaces.

        Not synced, it survives the process alone, which will do for what can be found out again.
        """
        path = self._directory / f"{notes.workspace.digest}.json"
        if notes.is_empty:
            self._notes.pop(notes.workspace.digest, None)
            work = functools.partial(path.unlink, missing_ok=True)
        else:
            work = functools.partial(_write_whole, path, _encode(notes), is_synced)
        try:
            await to_the_end(asyncio.get_running_loop().run_in_executor(self._thread, work))
        except OSError as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"the notes cannot be written: {exc.strerror}") from exc

    def _load(self) -> dict[str, _Notes]:
        found: dict[str, _Notes] = {}
        for path in self._directory.iterdir():
            if path.suffix != ".json":
                # Half of a file, of a run that was killed.
                path.unlink(missing_ok=True)
                continue
            try:
                notes = _decode(path.read_bytes())
            except (OSError, ValueError, KeyError, TypeError) as exc:
                _log.error("notes_unreadable", file=path.name, why=type(exc).__name__)
                continue
            if notes.is_empty:
                # A clone that never succeeded, more than a day ago.
                path.unlink(missing_ok=True)
            else:
                found[notes.workspace.digest] = notes
        return found


def _records(known: dict[str, _Notes], prefix: str) -> Iterable[Record]:
    for name, notes in known.items():
        if notes.record is not None and name.startswith(prefix):
            yield notes.record


def _write_whole(path: Path, content: bytes, is_synced: bool) -> None:
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        if is_synced:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if is_synced:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _encode(notes: _Notes) -> bytes:
    calls = [
        {"name": name, "digest": noted.digest, "at": noted.at.isoformat(), "answer": noted.answer}
        for name, noted in notes.calls.items()
    ]
    texts = [json.dumps(call) for call in calls]
    while len(texts) > 1 and sum(map(len, texts)) > _BYTES:
        del texts[0]
    workspace, record = notes.workspace, notes.record
    head = {
        "agent_id": workspace.agent_id,
        "task_id": workspace.task_id,
        "record": None if record is None else _encode_record(record),
    }
    return f'{json.dumps(head)[:-1]}, "calls": [{", ".join(texts)}]}}'.encode()


def _encode_record(record: Record) -> dict[str, Any]:
    state = record.state
    return {
        "repository": record.repository,
        "version": record.version,
        "updated_at": record.updated_at.isoformat(),
        "state": None if state is None else [state.branch, state.head, state.digest],
    }


def _decode(content: bytes) -> _Notes:
    read = json.loads(content)
    workspace = WorkspaceId(read["agent_id"], read["task_id"])
    record = None
    if (said := read["record"]) is not None:
        state = State(*said["state"]) if said["state"] is not None else None
        at = datetime.fromisoformat(said["updated_at"])
        record = Record(workspace, said["repository"], said["version"], at, state)
    calls = {
        call["name"]: Noted(call["digest"], datetime.fromisoformat(call["at"]), call["answer"])
        for call in read["calls"]
    }
    present = now()
    return _Notes(workspace, record, {name: noted for name, noted in calls.items() if noted.is_kept(present)})
