"""Sandboxes of E2B, by its official SDK.

    $HOME/crossfade/
      gitconfig       our global configuration for git
      meta/           url and configuration of the clone
      box/            where clones are made; `current` is a link to the one in place
      .crossfade/     lock and fence (`fencing`)
      run/            one file for each command that runs: the number of its process group

Everything is done by commands, never by the SDK's git module, which writes credentials into the repository. Each
command is a shell script of ours that runs the wanted program and says, in base64, what it wrote and how it ended.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shlex
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from secrets import token_hex
from typing import Any, Final

import structlog
from e2b import (
    AsyncSandbox,
    AuthenticationException,
    CommandExitException,
    RateLimitException,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    TimeoutException,
)
from e2b.exceptions import SandboxNotRunningException, ServiceBusyException
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from backends.common import e2b_scripts
from backends.common.errors import Code, ServiceError
from backends.common.fencing import DIRECTORY, check_guard, guarded
from backends.common.finishing import to_the_end
from backends.common.git_command import CONNECT, GLOBAL_CONFIG, Command
from backends.common.locks import Fence
from backends.common.sandbox import Entry, Finished, Terms
from backends.common.tree import LIST_LIMIT, is_git_directory, split_path

_COMMAND_S: Final = 300.0
_REQUEST_S: Final = 30.0
_BUSY_S: Final = 30.0
"""Longest time that a busy cloud is asked again."""
_PAGE: Final = 100
CREATIONS_PER_S: Final = 1.0
"""E2B allows so many to an account without a plan, 5 with one: https://e2b.dev/docs/sandbox/rate-limits."""
_GONE: Final = (SandboxNotFoundException, SandboxNotRunningException)
"""The two ways in which the SDK says that a sandbox is no more."""
_BUSY: Final = (RateLimitException, ServiceBusyException)

_log = structlog.get_logger("crossfade.service")


@dataclass(frozen=True, slots=True)
class E2BSettings:
    """How sandboxes are had.

    Attributes:
        service: Whose sandboxes these are; put in the metadata of every one, with the owner. Others are never touched.
        api_key: Of the account.
        owner: The deployment; None = it says so itself (`SandboxProvider.belong_to`).
        template: They are made from.
        life_s: They are killed by the cloud when nobody has used them for so long.
        api_url: Of the control plane; None = of the SDK.
        sandbox_url: Of the plane inside of sandboxes; None = of the SDK.
        network: As the SDK takes it: for example the rules by which the cloud's proxy adds a secret to requests.
        is_logged: Who writes under a fence, says so in the sandbox (`fencing`).
    """

    service: str
    api_key: str = field(repr=False)
    owner: str | None = None
    template: str | None = None
    life_s: int = 1800
    api_url: str | None = None
    sandbox_url: str | None = None
    network: Mapping[str, Any] | None = None
    is_logged: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """For every call of the SDK."""
        options: dict[str, Any] = {"api_key": self.api_key, "request_timeout": _REQUEST_S}
        if self.api_url:
            options["api_url"] = self.api_url
        if self.sandbox_url:
            options["sandbox_url"] = self.sandbox_url
        return options


class E2BProvider:
    """Implements `SandboxProvider`."""

    def __init__(self, settings: E2BSettings) -> None:
        """Connects to nothing yet."""
        self._settings = settings
        self._owner = settings.owner
        self._sandboxes: dict[str, E2BSandbox] = {}

    @property
    def terms(self) -> Terms:
        """See `SandboxProvider.terms`."""
        return Terms(self._settings.life_s, CREATIONS_PER_S)

    def belong_to(self, deployment: str) -> None:
        """See `SandboxProvider.belong_to`."""
        self._owner = self._settings.owner or deployment

    @property
    def _mark(self) -> str:
        if not self._owner:
            # Without a name, sandboxes of everybody would be taken for one's own.
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, "the service is starting; try again")
        return f"{self._owner}-{self._settings.service}"

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> E2BSandbox:
        """See `SandboxProvider.create`.

        Raises:
            ServiceError: `rate_limited`, `sandbox_unavailable`.
        """
        metadata = {**(labels or {}), "crossfade_service": self._mark, "crossfade_name": name}
        making = self._create(name, metadata)
        try:
            # To its end: a creation that is cancelled leaves a sandbox that nobody knows of.
            sandbox = await to_the_end(making)
        except asyncio.CancelledError:
            await to_the_end(self.destroy(name))
            raise
        self._sandboxes[name] = sandbox
        return sandbox

    async def _create(self, name: str, metadata: dict[str, str]) -> E2BSandbox:
        settings = self._settings
        more: dict[str, Any] = {"network": settings.network} if settings.network else {}
        key = f"{self._mark}-{name}-{token_hex(8)}"
        async with _explained():
            async for attempt in _patiently():
                with attempt:
                    made = await AsyncSandbox.create(
                        template=settings.template,
                        timeout=settings.life_s,
                        metadata=metadata,
                        # A lost answer, asked again, must not make a second one; a later creation must not get this.
                        idempotency_key=key,
                        **more,
                        **settings.options,
                    )
            sandbox = E2BSandbox(name, made, settings)
            try:
                await sandbox.set_up()
            except BaseException:
                await to_the_end(_kill(made.sandbox_id, settings))
                raise
        return sandbox

    async def find(self, name: str) -> E2BSandbox | None:
        """See `SandboxProvider.find`."""
        known = self._sandboxes.get(name)
        async with _explained():
            if known is not None:
                if await self._is_there(known):
                    return known
                self._sandboxes.pop(name, None)
                return None
            listed = [info async for info in self._listed({"crossfade_name": name})]
            for info in listed:
                sandbox = await self._connected(name, info.sandbox_id)
                if sandbox is not None:
                    return self._sandboxes.setdefault(name, sandbox)
        return None

    async def _connected(self, name: str, sandbox_id: str) -> E2BSandbox | None:
        """A sandbox that was listed, if it is still there."""
        try:
            made = await AsyncSandbox.connect(sandbox_id, timeout=self._settings.life_s, **self._settings.options)
            sandbox = E2BSandbox(name, made, self._settings)
            await sandbox.look()
        except _GONE:
            return None
        except ServiceError as exc:
            if _says_gone(exc):
                return None
            raise
        return sandbox

    async def _is_there(self, known: E2BSandbox) -> bool:
        try:
            if not await known.is_alive():
                return False
            if not known.has_repository:
                # Another instance may have cloned into it meanwhile.
                await known.look()
        except ServiceError as exc:
            if _says_gone(exc):
                return False
            raise
        return True

    async def destroy(self, name: str) -> None:
        """See `SandboxProvider.destroy`."""
        known = self._sandboxes.pop(name, None)
        async with _explained():
            if known is not None:
                await _kill(known.sandbox_id, self._settings)
            else:
                for info in [info async for info in self._listed({"crossfade_name": name})]:
                    await _kill(info.sandbox_id, self._settings)

    async def names(self) -> list[str]:
        """See `SandboxProvider.names`."""
        async with _explained():
            return sorted({info.metadata["crossfade_name"] async for info in self._listed({}) if info.metadata})

    async def _listed(self, more: dict[str, str]) -> AsyncIterator[Any]:
        query = SandboxQuery(metadata={"crossfade_service": self._mark, **more})
        pages = AsyncSandbox.list(query=query, limit=_PAGE, **self._settings.options)
        while pages.has_next:
            for info in await pages.next_items():
                yield info


@dataclass
class _Known:
    """What is known of a sandbox, however many hold it.

    Attributes:
        url: Of what was cloned, or None.
        prolonged_at: When its life was last prolonged; monotonic.
        settled: How many clones were put in place here.
    """

    url: str | None = None
    prolonged_at: float = 0.0
    settled: int = 0


@dataclass(eq=False)
class E2BSandbox:
    """Implements `Sandbox`.

    Attributes:
        name: Names it towards its provider.
    """

    name: str
    _made: AsyncSandbox
    _settings: E2BSettings
    _known: _Known = field(default_factory=_Known)
    _home: str = ""
    _fence: Fence = None

    @property
    def sandbox_id(self) -> str:
        """Names it towards E2B."""
        return str(self._made.sandbox_id)

    def fenced(self, fence: Fence) -> E2BSandbox:
        """See `Sandbox.fenced`."""
        return replace(self, _fence=fence)

    async def set_up(self) -> None:
        """Makes its directories."""
        config = base64.b64encode(GLOBAL_CONFIG.encode()).decode()
        command = f"printf %s {config} | base64 -d | sh -c {shlex.quote(e2b_scripts.SET_UP)}"
        done = await self._made.commands.run(command, timeout=_REQUEST_S, request_timeout=_REQUEST_S)
        self._home = done.stdout.strip()
        self._known.prolonged_at = time.monotonic()

    async def look(self) -> None:
        """Finds out what is in a sandbox that another run, or another instance, of the service uses."""
        if not self._home:
            await self.set_up()
        await self._run(Command(("true",), is_outside=True), 0)

    async def is_alive(self) -> bool:
        """Whether it is there still; prolongs its life now and then.

        Asked for at every operation, so the cloud is asked only when a good part of its life has passed.
        """
        now = time.monotonic()
        if now - self._known.prolonged_at < self._settings.life_s / 10:
            return True
        try:
            await self._made.set_timeout(self._settings.life_s)
        except _GONE:
            return False
        self._known.prolonged_at = now
        return True

    async def is_healthy(self) -> bool:
        """See `Sandbox.is_healthy`. Its whole life is before it afterwards."""
        try:
            async with _explained():
                await self._made.set_timeout(self._settings.life_s)
                self._known.prolonged_at = time.monotonic()
                return bool(await self._made.is_running(request_timeout=_REQUEST_S))
        except ServiceError:
            return False

    @property
    def has_repository(self) -> bool:
        """See `Sandbox.has_repository`."""
        return self._known.url is not None

    @property
    def global_config(self) -> str:
        """See `Sandbox.global_config`."""
        return f"{self._base}/gitconfig"

    @property
    def _base(self) -> str:
        return f"{self._home}/crossfade"

    async def run(self, command: Command, *, keep_bytes: int) -> Finished:
        """See `Sandbox.run`.

        Raises:
            ServiceError: `sandbox_unavailable`: the sandbox is gone, or cannot be reached.
        """
        if command.served is not None:
            # What lies on the service's machine is not there; git says so itself.
            argv = tuple(part for part in command.argv if not part.endswith(f"={CONNECT}"))
            command = replace(command, argv=argv, served=None)
        if self._fence is not None:
            place = f"{self._base}/{DIRECTORY}"
            command = guarded(command, place, self._fence, is_logged=self._settings.is_logged)
        finished = await self._run(command, keep_bytes)
        return check_guard(finished) if self._fence is not None else finished

    async def _run(self, command: Command, keep_bytes: int) -> Finished:
        number, settled = token_hex(8), self._known.settled
        place = "." if command.is_outside else "current"
        running = asyncio.ensure_future(self._say(command, place, keep_bytes, number))
        try:
            async with _explained():
                said = await asyncio.shield(running)
        except asyncio.CancelledError:
            # The cloud goes on with what nobody waits for: whoever gets the workspace next must not meet it.
            await to_the_end(self._end(number, running))
            raise
        except ServiceError as exc:
            # Whether it is there at all is asked before the next operation.
            self._known.prolonged_at = -inf
            if not _says_gone(exc):
                # A connection that broke, say, or a command that took too long: it goes on as well.
                await to_the_end(self._end(number, running))
            raise
        return self._finished(said, settled)

    async def _say(self, command: Command, place: str, keep_bytes: int, number: str) -> str:
        fed = "/dev/null"
        if command.stdin:
            fed = f"{self._base}/run/{number}.in"
            await self._made.files.write(fed, command.stdin, request_timeout=_COMMAND_S)
        words = [
            "exec",
            "setsid",
            "-w",
            "sh",
            "-c",
            e2b_scripts.RUN,
            "sh",
            place,
            str(keep_bytes),
            number,
            fed,
            *command.argv,
        ]
        done = await self._made.commands.run(
            " ".join(word if word == "exec" else shlex.quote(word) for word in words),
            # The environment, not the command line: a credential may be in it.
            envs={**command.env, "HOME": self._home},
            cwd=self._home,
            timeout=_COMMAND_S,
            request_timeout=_REQUEST_S,
        )
        return str(done.stdout)

    async def _end(self, number: str, running: asyncio.Future[str]) -> None:
        command = f"sh -c {shlex.quote(e2b_scripts.KILL)} sh {number}"
        for pause_s in (0.1, 0.5, 0.0):
            try:
                async with _explained():
                    await self._made.commands.run(command, timeout=_REQUEST_S, request_timeout=_REQUEST_S)
                break
            except ServiceError as exc:
                if _says_gone(exc):
                    break
                _log.warning("command_not_ended", sandbox=self.name, why=exc.message)
                await asyncio.sleep(pause_s)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    def _finished(self, said: str, settled: int) -> Finished:
        lines = said.split("\n")
        if lines[0] == "gone":
            raise ServiceError(Code.UNKNOWN_WORKSPACE, "nothing was cloned here; clone first")
        try:
            code, size = map(int, lines[0].split())
            stdout, stderr, url = (base64.b64decode(line) for line in lines[1:4])
        except (ValueError, IndexError) as exc:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, "a command ended before it said how") from exc
        # An answer that was long on its way knows nothing of a clone that was put in place meanwhile, and what was
        # once cloned stays.
        if url and self._known.settled == settled:
            self._known.url = url.decode()
        return Finished(code, stdout, stderr, truncated=size > len(stdout))

    # --- the repository --------------------------------------------------------------------------------------------

    async def settle_clone(self, name: str, remote_url: str) -> None:
        """See `Sandbox.settle_clone`."""
        argv = ("sh", "-c", e2b_scripts.SETTLE, "sh", name)
        settling = Command(argv, stdin=remote_url.encode(), is_outside=True, what="settle_clone")
        done = await to_the_end(self.run(settling, keep_bytes=0))
        if done.code:
            raise ServiceError(Code.SANDBOX_UNAVAILABLE, "the clone could not be put in its place")
        self._known.url = remote_url
        self._known.settled += 1

    async def discard_clone(self, name: str) -> None:
        """See `Sandbox.discard_clone`."""
        with contextlib.suppress(ServiceError):
            removing = Command(("rm", "-rf", "--", name), is_outside=True, what="discard_clone")
            await self.run(removing, keep_bytes=0)

    async def retire(self) -> bool:
        """See `Sandbox.retire`."""
        retiring = Command(("sh", "-c", e2b_scripts.RETIRE), is_outside=True, what="retire")
        done = await self.run(retiring, keep_bytes=0)
        return done.code == 0

    async def prepare(self) -> None:
        """See `Sandbox.prepare`. Every command does it on its way."""

    async def remove_stale_locks(self) -> None:
        """See `Sandbox.remove_stale_locks`."""
        words = ("find", ".git", "-name", "objects", "-prune", "-o", "-name", "*.lock", "-exec", "rm", "-f", "{}", "+")
        await self.run(Command(words, what="remove_stale_locks"), keep_bytes=0)

    async def objects_directory(self) -> str:
        """See `Sandbox.objects_directory`."""
        return f"{self._base}/box/current/.git/objects" if self.has_repository else ""

    async def remote_url(self) -> str:
        """See `Sandbox.remote_url`."""
        if self._known.url is None:
            raise ServiceError(Code.UNKNOWN_WORKSPACE, "nothing was cloned here; clone first")
        return self._known.url

    # --- files -----------------------------------------------------------------------------------------------------

    async def read_file(self, path: str, limit: int) -> tuple[bytes, int]:
        """See `Sandbox.read_file`."""
        done = await self._script("read_file", e2b_scripts.READ, _file(path), str(limit), keep_bytes=limit + 32)
        size, _, content = done.stdout.partition(b"\n")
        return content, int(size)

    async def write_file(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""
        await self._script("write_file", e2b_scripts.WRITE, _file(path), stdin=content)

    async def delete_file(self, path: str) -> None:
        """See `Sandbox.delete_file`."""
        await self._script("delete_file", e2b_scripts.DELETE, _file(path))

    async def list_directory(self, path: str) -> list[Entry]:
        """See `Sandbox.list_directory`."""
        parts = split_path(path)
        done = await self._script("list_directory", e2b_scripts.LIST, "/".join(parts), keep_bytes=16 << 20)
        rows = [row.split(b" ", 2) for row in done.stdout.split(b"\0") if row]
        rows = [row for row in rows if not is_git_directory(row[2].decode(errors="replace"))]
        if len(rows) > LIST_LIMIT or done.truncated:
            raise ServiceError(Code.TOO_LARGE, f"the directory holds more than {LIST_LIMIT} entries")
        kinds = {b"f": "file", b"d": "dir", b"l": "symlink"}
        return [
            Entry(
                "/".join((*parts, name.decode(errors="replace"))),
                kinds.get(kind, "file"),
                int(size) if kind not in (b"d", b"l") else None,
            )
            for kind, size, name in sorted(rows, key=lambda row: row[2])
        ]

    async def _script(self, what: str, text: str, *arguments: str, stdin: bytes = b"", keep_bytes: int = 0) -> Finished:
        command = Command(("sh", "-c", text, "sh", *arguments), stdin=stdin, what=what)
        done = await self.run(command, keep_bytes=keep_bytes)
        match done.code:
            case 0:
                return done
            case 20:
                raise ServiceError(Code.PATH_REFUSED, "the path is refused: one of its parts is no directory")
            case 21:
                raise ServiceError(Code.NOT_FOUND, "there is no such file")
            case 22:
                raise ServiceError(Code.INVALID_ARGUMENT, "the path names no file")
            case 23:
                raise ServiceError(Code.CONFLICT, "a directory stands there")
            case _:
                raise ServiceError(Code.SANDBOX_UNAVAILABLE, "the file cannot be reached")


def _says_gone(exc: ServiceError) -> bool:
    return isinstance(exc.__cause__, _GONE)


def _file(path: str) -> str:
    parts = split_path(path)
    if not parts:
        raise ServiceError(Code.INVALID_ARGUMENT, "the path names the repository itself")
    return "/".join(parts)


def _patiently() -> AsyncRetrying:
    """Attempts at a cloud that is busy; the SDK itself has waited as long as Retry-After says before each."""
    return AsyncRetrying(
        retry=retry_if_exception_type(_BUSY),
        wait=wait_exponential_jitter(multiplier=0.5, max=5),
        stop=stop_after_delay(_BUSY_S),
        reraise=True,
    )


async def _kill(sandbox_id: str, settings: E2BSettings) -> None:
    # False where it is gone already, which is as well.
    await AsyncSandbox.kill(sandbox_id, **settings.options)


@contextlib.asynccontextmanager
async def _explained() -> AsyncIterator[None]:
    """Raises what E2B raised as the contract has it. Its messages are not passed on: they may hold what was sent."""
    try:
        yield
    except ServiceError:
        raise
    except _BUSY as exc:
        raise ServiceError(Code.RATE_LIMITED, "the sandbox cloud is busy; try again") from exc
    except AuthenticationException as exc:
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, "the sandbox cloud refuses the API key") from exc
    except _GONE as exc:
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, "the sandbox is gone") from exc
    except CommandExitException as exc:
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, "the sandbox cannot run commands") from exc
    except (SandboxException, TimeoutException, OSError) as exc:
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"the sandbox cannot be reached ({type(exc).__name__})") from exc
    except Exception as exc:
        # The SDK lets errors of its transports through, of several libraries.
        _log.warning("e2b_failed", why=type(exc).__name__)
        raise ServiceError(Code.SANDBOX_UNAVAILABLE, f"the sandbox cannot be reached ({type(exc).__name__})") from exc
