"""Control, put together: what the API needs, built from state, settings and telemetry, and the tasks beside it.

The composition root of control. Performs the first boot, adopts operations that are new in the file, tells where file
and stored policy differ, puts the policy back after Redis lost it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.app import State, build_state, load_parts_migration, upstream_limits
from gateway.control import handlers
from gateway.control.acts import Acts
from gateway.control.app import create_app
from gateway.control.drill.desk import DrillDesk
from gateway.control.drill.ports import Kit
from gateway.control.gather import gather
from gateway.control.ports import StoreUnavailableError
from gateway.control.problems import Refused
from gateway.control.wishes import complete_wishes
from gateway.control_adapters import (
    SAMPLE_S,
    StoredDrills,
    StoredEvidence,
    StoredNoise,
    StoredNotices,
    StoredPolicy,
    StoredTokens,
    WorkerCounters,
)
from gateway.control_new_side import AskedNewSide
from gateway.control_stray_keys import StrayKeys
from gateway.control_token import MachineToken
from gateway.core.audit import AuditEntry
from gateway.core.drill import Debt, drill_debt
from gateway.core.feed_status import FeedState
from gateway.core.file_changes import adopt_new, difference, initial_policy
from gateway.core.file_policy import FilePolicy
from gateway.core.model import Policy
from gateway.errors import CrossfadeError, PolicyAbsentError, StaleEpochError
from gateway.notify.outbox import Outbox
from gateway.parts import Parts, read_secret
from gateway.settings import LoadedMigration, SettingsError
from gateway.settings.gateway_file import GatewaySettings
from gateway.small_server import SmallServer, SmallServerConfig
from gateway.state.boot import WriteBack, first_boot
from gateway.state.connect import REDIS_ERRORS
from gateway.state.counters import CounterStore
from gateway.state.drills import DrillStore
from gateway.state.evidence import EvidenceStore
from gateway.state.noise import NoiseStore
from gateway.state.notices import NoticeStore
from gateway.state.tokens import TokenStore
from gateway.telemetry.exposition import Metrics

LOCAL_SANDBOXES: Final = (
    "the bundled services run git in local sandboxes: for one trusted machine, not an isolation boundary"
)
NAME: Final = "control"
_RETRY_S: Final = 0.25
_CARE_FOR_DRILLS_S: Final = 5.0
_DRILL_DUE: Final = "drill_due"
"""What the audit calls a drill that failed or was missed; whoever notifies reads it there."""
_REASON_LIMIT: Final = 500
_CONNECTIONS: Final = 512
_KEEP_ALIVE_S: Final = 30
_DRAIN_S: Final = 5
_HEAD_BYTES: Final = 32 * 1024

_log = structlog.get_logger("crossfade.control")


class ControlPlane:
    """Control, put together.

    Attributes:
        state: What is shared through Redis.
        app: The API.
        server: Serves it.
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
        self._strays = StrayKeys(self.state.store, self.state.feed)
        self._look_at_file = asyncio.Event()
        self._look_at_file.set()
        self.has_crashed = False
        self._has_told_loss = False
        self._drill_debt: Debt | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stored_drills = StoredDrills(DrillStore(self.state.redis, migration))
        self._drills = DrillDesk(
            Kit(
                self._stored_drills,
                AskedNewSide(self.state.feed, upstream_limits(settings), read_secret(parts.internal_token_file)),
                self._counters,
                read_secret(parts.force_secret_file),
            )
        )
        notices = NoticeStore(self.state.redis, migration, f"{NAME}:{secrets.token_hex(8)}")
        self._outbox = Outbox(
            migration, StoredNotices(notices, self.state.store), lambda: self.state.feed.status().state
        )
        self.state.feed.subscribe(self._outbox.wake)
        stored = StoredPolicy(self.state.store, self.state.feed)
        self._acts = Acts(stored, self.state.feed)
        self.app = create_app(
            handlers.Parts(
                store=stored,
                feed=self.state.feed,
                tokens=tokens,
                counters=self._counters,
                files=self,
                evidence=StoredEvidence(EvidenceStore(self.state.redis, migration)),
                noise=StoredNoise(NoiseStore(self.state.redis, migration)),
                drills=self._drills,
                bootstrap=self._machine_token,
                metrics=Metrics(
                    self._counters.ledger, lambda: self._drill_debt is not None, lambda: self._outbox.results
                ).render,
                notes=self._notes,
            )
        )
        self.server = SmallServer(
            SmallServerConfig(
                self.app,
                connections=_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_DRAIN_S,
                head_bytes=_HEAD_BYTES,
            )
        )

    @property
    def is_prepared(self) -> bool:
        """Whether there is something to serve: a policy, and a token to ask for it with as far as Redis is there."""
        feed, token = self.state.feed, self._machine_token
        if feed.current is None:
            return False
        return token is None or token.was_made_valid or feed.status().state is not FeedState.OK

    async def start(self) -> None:
        """Follows the policy and begins to care for it."""
        await self.state.feed.start()
        self._run(self._follow_file())
        self._run(self._count())
        self._run(self._strays.run())
        self._run(self._care_for_drills())
        self._outbox.use(self._definition.notifications)
        self._run(self._outbox.watch())
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
        self._outbox.use(loaded.definition.notifications)
        self._look_at_file.set()
        _log.info("definition", digest=loaded.definition.digest[:12])

    async def aclose(self) -> None:
        """Ends everything. The server has drained by then."""
        await self._drills.aclose()
        await self._outbox.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.state.aclose()

    def _notes(self) -> list[str]:
        debt = [self._drill_debt.said] if self._drill_debt else []
        bundled = [LOCAL_SANDBOXES] if self._parts.bundled else []
        return [*bundled, *self._strays.notes, *debt, *self._outbox.troubles()]

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_end)
        self._tasks.append(task)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            # Half a control process would look alive; a new one is a second away.
            _log.error("task_crashed", exc_info=exc)
            self.has_crashed = self.server.should_exit = True

    async def _care_for_drills(self) -> None:
        """Puts back what drills left behind; says once when one is due, or that the last one failed."""
        while True:
            if self.state.feed.current is not None and self.state.feed.status().state is FeedState.OK:
                try:
                    await self._drills.tidy(self._acts)
                    await self._look_for_debt()
                except (Refused, StoreUnavailableError) as exc:
                    _log.warning("drills_not_cared_for", why=str(exc))
            await asyncio.sleep(_CARE_FOR_DRILLS_S)

    async def _look_for_debt(self) -> None:
        self._drill_debt = debt = drill_debt(await self._drills.all(), self._definition.drill_every_s, time.time())
        if debt is None or not await self._stored_drills.note_debt(debt.about):
            return
        _log.warning(_DRILL_DUE, why=debt.said)
        entry = replace(_entry(_DRILL_DUE, self._definition.migration), reason=debt.said[:_REASON_LIMIT])
        try:
            await self._acts.store.record(entry)
        except StoreUnavailableError:
            await self._stored_drills.forget_debt()
            raise

    # --- the file and the stored policy ----------------------------------------------------------------------------

    async def _follow_file(self) -> None:
        """After each load of the file: boots or adopts what is new, then says what differs."""
        while True:
            await self._look_at_file.wait()
            self._look_at_file.clear()
            while not (policy := await self._settle()):  # noqa: ASYNC110 - Redis tells nobody when it is back
                await asyncio.sleep(_RETRY_S)
            self._tell_differences(policy)

    def _say_what_is_lost(self) -> None:
        """Says once why nothing begins: Redis is empty, and here a policy was known that cannot be read any more."""
        if self._has_told_loss:
            return
        self._has_told_loss = True
        file = self.state.file.path
        _log.error(
            "policy_lost",
            why=f"Redis holds no policy of {self._definition.migration}, and {file} cannot be read, so it is unknown "
            "which share of the clients is where",
            ways_out=f"put a good copy of {file} back; or remove it and {file}.damaged* to begin anew with all on old",
        )

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
            if policy is None and feed.current is None:
                self._say_what_is_lost()
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
        found = difference(definition, policy, complete_wishes(definition, policy, self.wishes))
        for target, fields in gather(definition, found).items():
            for field, (stored, wished) in fields.items():
                _log.warning("policy_differs_from_file", target=target, field=field, stored=stored, file=wished)

    async def _count(self) -> None:
        while True:
            with contextlib.suppress(StoreUnavailableError):
                await self._counters.look()
            await asyncio.sleep(SAMPLE_S)


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
