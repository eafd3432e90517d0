"""What both services do with a call: the lock, the key, the operation, the note of what it changed.

The services differ in where sandboxes come from and where notes are kept; that is `Sandboxes`, `WorkspaceLocks`,
`CallStore` and `Inventory`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import structlog

from backends.common import metrics
from backends.common.calls import CallId, CallStore, conclude, identify, noted_before, replay
from backends.common.carrying import Manifest, export_bundle, import_bundle
from backends.common.contract import Arguments, Operation
from backends.common.errors import Code, ServiceError
from backends.common.finishing import to_the_end
from backends.common.git_operations import Call, check_remote, perform
from backends.common.inventory import Inventory, Record, without_credentials
from backends.common.locks import Fence, WorkspaceLocks
from backends.common.remotes import RemoteRules
from backends.common.sandbox import Sandbox
from backends.common.survey import survey
from backends.common.workspace import WorkspaceId

CLONE: Final = "git.clone"
_SURVEYS_AT_ONCE: Final = 4
_SURVEY_S: Final = 60.0

_log = structlog.get_logger("crossfade.service")

Result = dict[str, Any]


class Sandboxes(Protocol):
    """Where a service's workspaces live."""

    async def find(self, workspace: WorkspaceId) -> Sandbox | None:
        """The workspace's sandbox, or None."""
        ...

    async def obtain(self, workspace: WorkspaceId) -> Sandbox:
        """A sandbox for a workspace that has none."""
        ...

    async def abandon(self, sandbox: Sandbox) -> None:
        """Its workspace holds no repository: it is not needed."""
        ...


class Workspaces:
    """Performs operations on workspaces.

    Attributes:
        sandboxes: Where they live.
        locks: One writer at a time.
        inventory: What is known of them.
        rules: Which remotes may be used.
    """

    def __init__(
        self,
        sandboxes: Sandboxes,
        locks: WorkspaceLocks,
        calls: CallStore,
        inventory: Inventory,
        rules: RemoteRules,
    ) -> None:
        self.sandboxes = sandboxes
        self.locks = locks
        self.inventory = inventory
        self.rules = rules
        self._calls = calls
        self._unnoted: set[WorkspaceId] = set()
        self._surveying: dict[WorkspaceId, asyncio.Task[None]] = {}
        self._surveyors = asyncio.Semaphore(_SURVEYS_AT_ONCE)

    async def perform(
        self, operation: Operation, workspace: WorkspaceId, arguments: Arguments, call: Call
    ) -> dict[str, Any]:
        """Performs an operation; returns its result as the contract has it.

        Raises:
            ServiceError: It failed.
        """
        if not operation.is_write:
            return await self._read(operation, workspace, arguments, call)
        keyed = identify(workspace, operation, arguments, call.key)
        if keyed is not None:
            # Before the lock: who asks again while the call runs should not wait for it.
            answered = await noted_before(self._calls, self.locks, keyed)
            if answered is not None:
                return answered
        async with self.locks.hold(workspace) as fence:
            if keyed is None:
                return await self._write(operation, workspace, arguments, call, fence)
            return await self._once(keyed, lambda: self._write(operation, workspace, arguments, call, fence))

    async def catch_up(self) -> None:
        """Notes the writes that could not be noted when they ended; the inventory is asked after that."""
        for workspace in list(self._unnoted):
            try:
                async with self.locks.hold(workspace):
                    sandbox = await self.sandboxes.find(workspace)
                    if sandbox is not None and sandbox.has_repository and workspace in self._unnoted:
                        await self.changed(workspace, sandbox)
                    self._unnoted.discard(workspace)
            except ServiceError as exc:
                # Whoever holds it notes that; where nothing can be noted, the inventory cannot be asked either.
                _log.warning("write_not_noted_yet", workspace=workspace.digest, why=exc.message)

    async def surveyed(self, record: Record) -> Record:
        """A record with its state, where that can be found out."""
        if record.state is None:
            running = self._surveying.get(record.workspace) or self._begin_survey(record.workspace, record.version)
            await asyncio.wait([running])
            return await self.inventory.get(record.workspace) or record
        return record

    async def export(self, workspace: WorkspaceId, have: str | None) -> tuple[bytes, Manifest]:
        """A workspace as a bundle, and what it is a bundle of.

        Raises:
            ServiceError: As `carrying.export_bundle`.
        """
        async with self.locks.hold(workspace) as fence:
            sandbox = _with_repository(await self.sandboxes.find(workspace))
            state = await survey(sandbox)
            made = await export_bundle(sandbox.fenced(fence), have)
            repository = without_credentials(await sandbox.remote_url())
            record = await self.inventory.get(workspace)
            version = record.version if record is not None else 0
            return made.bundle, Manifest(repository, state, version, made.shallow, made.refs, made.default)

    async def take(self, workspace: WorkspaceId, bundle: bytes, manifest: Manifest, expected: int | None) -> Record:
        """Puts a bundle in place of what a workspace holds.

        Args:
            workspace: Which; it need not exist.
            bundle: Of an export.
            manifest: Of the same.
            expected: The version that shall be replaced; 0 = none there yet, None = whatever is there.

        Raises:
            ServiceError: `conflict`: another version is there. Else as `carrying.import_bundle`.
        """
        async with self.locks.hold(workspace) as fence:
            before = await self.inventory.get(workspace)
            if expected is not None and expected != (before.version if before is not None else 0):
                raise ServiceError(Code.CONFLICT, "the workspace has another version")
            sandbox = await self.sandboxes.find(workspace) or await self.sandboxes.obtain(workspace)
            try:
                await import_bundle(sandbox.fenced(fence), bundle, manifest, self.rules)
            except BaseException:
                if not sandbox.has_repository:
                    await to_the_end(self._leave(workspace, sandbox.fenced(fence)))
                raise
            self._unnoted.add(workspace)
            version = await to_the_end(self.inventory.changed(workspace, manifest.repository))
            self._unnoted.discard(workspace)
            await self.inventory.surveyed(workspace, version, manifest.state)
            record = await self.inventory.get(workspace)
            assert record is not None
            return record

    async def check_remote(self, url: str) -> Result:
        """Whether a clone of a remote would get in, from a sandbox of its own and by the service's own credential.

        Raises:
            ServiceError: It would not.
        """
        workspace = WorkspaceId("crossfade", f"check-{secrets.token_hex(8)}")
        async with self.locks.hold(workspace):
            sandbox = await self.sandboxes.obtain(workspace)
            try:
                return await check_remote(url, sandbox, self.rules)
            finally:
                await to_the_end(self.sandboxes.abandon(sandbox))

    async def changed(self, workspace: WorkspaceId, sandbox: Sandbox) -> int:
        """Notes that a write has ended, well or not; returns the new version. Only under the lock."""
        version = await self.inventory.changed(workspace, without_credentials(await sandbox.remote_url()))
        self._unnoted.discard(workspace)
        self._begin_survey(workspace, version)
        return version

    async def aclose(self) -> None:
        """Ends surveys; they are made again when somebody asks."""
        running = list(self._surveying.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # ---------------------------------------------------------------------------------------------------------------

    async def _once(self, keyed: CallId, work: Callable[[], Awaitable[Result]]) -> Result:
        noted = await self._calls.find(keyed)
        if noted is not None:
            return replay(keyed, noted, is_running=False)
        await self._calls.begin(keyed)
        try:
            result = await work()
        except (ServiceError, asyncio.CancelledError) as exc:
            await to_the_end(self._conclude(keyed, exc))
            raise
        await to_the_end(self._conclude(keyed, result))
        return result

    async def _conclude(self, keyed: CallId, outcome: Result | BaseException) -> None:
        try:
            await conclude(self._calls, keyed, outcome)
        except ServiceError as exc:
            # It is as it is: whoever asks with the same key is told that this is not known, and nothing is done twice.
            _log.error("answer_not_noted", workspace=keyed.workspace.digest, why=exc.message)

    async def _read(self, operation: Operation, workspace: WorkspaceId, arguments: Arguments, call: Call) -> Result:
        sandbox = await self.sandboxes.find(workspace)
        return await perform(operation.name, _with_repository(sandbox), arguments, call, self.rules)

    async def _write(
        self, operation: Operation, workspace: WorkspaceId, arguments: Arguments, call: Call, fence: Fence
    ) -> Result:
        sandbox = await self.sandboxes.find(workspace)
        if operation.name == CLONE:
            sandbox = sandbox or await self.sandboxes.obtain(workspace)
        else:
            sandbox = _with_repository(sandbox)
            # Whoever was here before may have been killed in the middle of it.
            await sandbox.fenced(fence).remove_stale_locks()
        try:
            return await perform(operation.name, sandbox.fenced(fence), arguments, call, self.rules)
        finally:
            await to_the_end(self._after(workspace, sandbox.fenced(fence)))

    async def _after(self, workspace: WorkspaceId, sandbox: Sandbox) -> None:
        """What is left to do, whatever came of the operation: a failure here says nothing of that."""
        if not sandbox.has_repository:
            await self._leave(workspace, sandbox)
            return
        try:
            await self.changed(workspace, sandbox)
        except ServiceError as exc:
            metrics.WRITES_NOT_NOTED.inc()
            _log.error("write_not_noted", workspace=workspace.digest, why=exc.message)
            self._unnoted.add(workspace)

    async def _leave(self, workspace: WorkspaceId, sandbox: Sandbox) -> None:
        """Destroys a sandbox whose first clone failed: callers may try any number of them, each in its own workspace.

        Not one in which somebody else has cloned: what is known here of who holds the workspace, and of what is in the
        sandbox, may be out of date.
        """
        try:
            if await sandbox.retire():
                await self.sandboxes.abandon(sandbox)
        except ServiceError as exc:
            _log.warning("sandbox_kept", workspace=workspace.digest, why=exc.message)

    # --- surveys ---------------------------------------------------------------------------------------------------

    def _begin_survey(self, workspace: WorkspaceId, version: int) -> asyncio.Task[None]:
        """Looks at a workspace behind the answer: writers should not wait for it."""
        before = self._surveying.get(workspace)
        if before is not None:
            # What it sees is out of date already.
            before.cancel()
        task = self._surveying[workspace] = asyncio.create_task(self._survey(workspace, version))
        task.add_done_callback(lambda done: self._end_survey(workspace, done))
        return task

    def _end_survey(self, workspace: WorkspaceId, done: asyncio.Task[None]) -> None:
        if self._surveying.get(workspace) is done:
            del self._surveying[workspace]

    async def _survey(self, workspace: WorkspaceId, version: int) -> None:
        try:
            async with self._surveyors, asyncio.timeout(_SURVEY_S):
                sandbox = await self.sandboxes.find(workspace)
                if sandbox is None or not sandbox.has_repository:
                    return
                state = await survey(sandbox)
                if not await self.locks.is_held(workspace):
                    await self.inventory.surveyed(workspace, version, state)
        except (ServiceError, TimeoutError) as exc:
            metrics.SURVEYS_FAILED.inc()
            _log.warning("survey_failed", workspace=workspace.digest, why=str(exc))


def _with_repository(sandbox: Sandbox | None) -> Sandbox:
    if sandbox is None or not sandbox.has_repository:
        raise ServiceError(Code.UNKNOWN_WORKSPACE, "nothing was cloned into this workspace here; clone first")
    return sandbox
