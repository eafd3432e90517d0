"""The control process: `python -m gateway.control_process --parts FILE --fd N --channel-fd M`.

Composition root of control: builds what it needs from state, settings and telemetry and plugs it in. Performs the first
boot, adopts operations that are new in the file, puts the policy back after Redis lost it. Started by the supervisor,
which gives it a bound socket and one end of a channel; without a supervisor it does not live on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
import uvloop

from gateway.app import State, build_state, load_parts_migration
from gateway.channel import Channel, open_channel
from gateway.control import handlers
from gateway.control.app import create_app
from gateway.control.ports import StoreUnavailableError
from gateway.control.wishes import complete_wishes
from gateway.control_adapters import SAMPLE_S, StoredPolicy, StoredTokens, WorkerCounters
from gateway.control_token import MachineToken
from gateway.core.audit import AuditEntry
from gateway.core.changes import adopt_new, difference, initial_policy
from gateway.core.feed_status import FeedState
from gateway.core.file_policy import FilePolicy
from gateway.core.model import Policy
from gateway.errors import CrossfadeError, PolicyAbsentError, StaleEpochError
from gateway.parts import Parts, read_secret
from gateway.settings import LoadedMigration, SettingsError
from gateway.settings.gateway_file import GatewaySettings
from gateway.state.boot import WriteBack, first_boot
from gateway.state.connect import REDIS_ERRORS
from gateway.state.counters import CounterStore
from gateway.state.tokens import TokenStore
from gateway.telemetry.exposition import Metrics
from gateway.telemetry.logs import configure_logs

NAME: Final = "control"
FAILED: Final = 1
_RETRY_S: Final = 0.25
_READY_S: Final = 0.02
_CONNECTIONS: Final = 512
_KEEP_ALIVE_S: Final = 30
_DRAIN_S: Final = 5
_HEAD_BYTES: Final = 32 * 1024

_log = structlog.get_logger("crossfade.control")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the control process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="gateway.control_process", description="Control; started by crossfade.")
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--channel-fd", type=int, required=True)
    options = parser.parse_args(argv)
    try:
        parts = Parts.read(options.parts)
        settings = GatewaySettings.model_validate(parts.settings)
        configure_logs(settings.log.level, settings.log.format, part=NAME)
        loaded = load_parts_migration(parts, settings)
        sock = socket.socket(fileno=options.fd)
        check_exposure(sock, is_insecure=settings.insecure_control)
    except (CrossfadeError, SettingsError, ValueError) as exc:
        sys.stderr.write(f"{NAME}: {exc}\n")
        return FAILED

    async def run() -> int:
        plane = ControlPlane(parts, settings, loaded)
        return await Process(plane, await open_channel(options.channel_fd)).run(sock)

    return uvloop.run(run())


class ExposureError(CrossfadeError):
    """Control would be reachable from elsewhere, in the clear."""


def check_exposure(sock: socket.socket, *, is_insecure: bool) -> None:
    """Refuses to carry tokens in the clear beyond this machine.

    Raises:
        ExposureError: The socket is not a loopback one, and nobody said that this is meant.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or is_insecure:
        return
    host = str(sock.getsockname()[0])
    if not ip_address(host.partition("%")[0]).is_loopback:
        raise ExposureError(
            f"control would listen on {host} without TLS; bind it to 127.0.0.1 behind a TLS proxy, or say"
            " --insecure-control"
        )


class ControlServer(uvicorn.Server):
    """Serves the control port. Signals are the process's business, not uvicorn's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


class ControlPlane:
    """Control, put together.

    Attributes:
        state: What is shared through Redis.
        server: Serves the API.
        wishes: What the migration file says of the policy.
        has_crashed: Something that must run does not any more.
    """

    def __init__(self, parts: Parts, settings: GatewaySettings, loaded: LoadedMigration) -> None:
        """Builds everything; needs a running loop and starts nothing."""
        self._parts = parts
        self._settings = settings
        self._definition = loaded.definition
        self.wishes: FilePolicy = loaded.policy
        self.state: State = build_state(parts, loaded.definition, NAME)
        migration = loaded.definition.migration
        tokens = StoredTokens(TokenStore(self.state.redis, migration))
        self._counters = WorkerCounters(CounterStore(self.state.redis, migration))
        self._machine_token = _machine_token(parts, tokens)
        self._look_at_file = asyncio.Event()
        self._look_at_file.set()
        self.has_crashed = False
        self._tasks: list[asyncio.Task[None]] = []
        app = create_app(
            handlers.Parts(
                store=StoredPolicy(self.state.store, self.state.feed),
                feed=self.state.feed,
                tokens=tokens,
                counters=self._counters,
                files=self,
                bootstrap=self._machine_token,
                metrics=Metrics(self._counters.ledger).render,
            )
        )
        self.server = ControlServer(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_DRAIN_S,
                h11_max_incomplete_event_size=_HEAD_BYTES,
            )
        )

    async def start(self) -> None:
        """Follows the policy and begins to care for it."""
        await self.state.feed.start()
        self._run(self._follow_file())
        self._run(self._count())
        self._run(WriteBack(self.state.feed, self.state.store).run())
        if self._machine_token is not None:
            self._run(self._machine_token.keep())

    async def reload(self) -> None:
        """Reads the migration file again. A broken one leaves everything as it was."""
        try:
            loaded = await asyncio.to_thread(load_parts_migration, self._parts, self._settings)
        except SettingsError as exc:
            for problem in exc.problems:
                _log.error("definition_refused", why=str(problem))
            return
        except (CrossfadeError, OSError, ValueError) as exc:
            _log.error("definition_refused", why=str(exc))
            return
        if loaded.definition.migration != self._definition.migration:
            _log.error("definition_refused", why=f"the migration is {self._definition.migration}; restart for another")
            return
        self._definition, self.wishes = loaded.definition, loaded.policy
        self.state.feed.replace_definition(loaded.definition)
        self._look_at_file.set()
        _log.info("definition", digest=loaded.definition.digest[:12])

    async def aclose(self) -> None:
        """Ends everything. The server has drained by then."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.state.aclose()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_end)
        self._tasks.append(task)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            # Half a control process would look alive; a new one is a second away.
            _log.error("task_crashed", exc_info=exc)
            self.has_crashed = self.server.should_exit = True

    # --- the file and the stored policy ----------------------------------------------------------------------------

    async def _follow_file(self) -> None:
        """After each load of the file: boots or adopts what is new, then says what differs."""
        while True:
            await self._look_at_file.wait()
            self._look_at_file.clear()
            while not (policy := await self._settle()):  # noqa: ASYNC110 - Redis tells nobody when it is back
                await asyncio.sleep(_RETRY_S)
            self._tell_differences(policy)

    async def _settle(self) -> Policy | None:
        """The stored policy once it knows everything that the file names; None: try again."""
        store, feed = self.state.store, self.state.feed
        definition, wishes = self._definition, self.wishes
        try:
            booted = await first_boot(
                store,
                self.state.file,
                lambda: initial_policy(definition, wishes, secrets.token_hex(8)),
                _entry("boot", definition.migration),
            )
            if booted is not None:
                _log.info("first_boot", lineage=booted.lineage)
                feed.refresh_soon()
            policy = await store.read()
            # What is not in force must not be changed: a lost or foreign policy is for write-back or an operator.
            if policy is None or feed.current is None or feed.status().state is not FeedState.OK:
                return None
            adopted = adopt_new(definition, policy, wishes)
            if adopted is None:
                return policy
            names = sorted(set(adopted.operations) - set(policy.operations))
            entry = _entry("adopt", ", ".join(names) or definition.migration)
            stored = await asyncio.shield(store.change(policy, adopted, entry))
        except (StaleEpochError, PolicyAbsentError, ValueError, *REDIS_ERRORS):
            return None
        _log.info("adopted", operations=names, epoch=stored.epoch)
        feed.refresh_soon()
        return stored

    def _tell_differences(self, policy: Policy) -> None:
        definition = self._definition
        for target, fields in difference(definition, policy, complete_wishes(definition, policy, self.wishes)).items():
            for field, (stored, wished) in fields.items():
                _log.warning("policy_differs_from_file", target=target, field=field, stored=stored, file=wished)

    async def _count(self) -> None:
        while True:
            with contextlib.suppress(StoreUnavailableError):
                await self._counters.look()
            await asyncio.sleep(SAMPLE_S)


class Process:
    """Connects control with the supervisor."""

    def __init__(self, plane: ControlPlane, channel: Channel) -> None:
        self._plane = plane
        self._channel = channel

    async def run(self, sock: socket.socket) -> int:
        """Serves until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        # Ctrl-C in a terminal reaches the whole group; the supervisor says when to leave.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        # From the first moment on: a process whose supervisor dies while it starts must not stay.
        obeying = asyncio.create_task(self._obey())
        await self._plane.start()
        saying = asyncio.create_task(self._say_ready())
        try:
            await self._plane.server.serve(sockets=[sock])
        finally:
            for task in (obeying, saying):
                task.cancel()
            await asyncio.gather(obeying, saying, return_exceptions=True)
            await self._plane.aclose()
            self._channel.close()
        return FAILED if self._plane.has_crashed else 0

    def _stop(self) -> None:
        self._plane.server.should_exit = True

    async def _obey(self) -> None:
        async for message in self._channel.messages():
            match message.get("type"):
                case "drain":
                    self._stop()
                case "reload":
                    await self._plane.reload()
                case other:
                    _log.warning("message_unknown", type=str(other))
        # The supervisor is gone, and with it whoever would end us: nothing may be left behind.
        os._exit(FAILED)

    async def _say_ready(self) -> None:
        plane = self._plane
        while not (plane.server.started and plane.state.feed.current is not None):  # noqa: ASYNC110 - neither tells
            await asyncio.sleep(_READY_S)
        self._channel.send({"type": "ready"})


def _machine_token(parts: Parts, tokens: StoredTokens) -> MachineToken | None:
    if parts.bootstrap_token_file is None:
        return None
    path = Path(parts.bootstrap_token_file)
    if not path.exists():
        _log.warning("machine_token_absent", path=str(path), why="it was revoked; crossfade up makes a new one")
        return None
    secret = read_secret(str(path))
    return MachineToken(path, secret.decode(), tokens) if secret else None


def _entry(action: str, target: str) -> AuditEntry:
    return AuditEntry(
        by=NAME,
        role="",
        action=action,
        target=target,
        reason="the migration file",
        changed={},
        request_id="",
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


if __name__ == "__main__":
    sys.exit(main())
