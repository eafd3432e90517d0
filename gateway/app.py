"""The composition root of the data plane: the only module that builds its adapters and plugs them into each other."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.core.compare.rules import Relax
from gateway.core.counts import Counts, add
from gateway.core.drill import DrillOrder, Fault
from gateway.core.mirroring import read_copy_fields
from gateway.core.model import Definition, Instance, OperationClass, Side, SideDefinition
from gateway.core.snapshot import Plan, Snapshot
from gateway.drill.faulty import AlteredSide
from gateway.drill.following import DrillFollower
from gateway.edge.express import ExpressLane
from gateway.edge.general import GeneralLane
from gateway.edge.limits import EdgeLimits
from gateway.edge.listener import EdgeConfig, Listener
from gateway.edge.plane import LaneClock, LaneSettings, Plane
from gateway.edge.protocol import EdgeProtocol
from gateway.edge.server import DrainSettings, EdgeServer
from gateway.edge.tls import PortTls
from gateway.errors import CertificateError, CrossfadeError
from gateway.guard.evaluator import Evaluator
from gateway.guard.floor import AbsenceFloor
from gateway.guard.ports import Surroundings
from gateway.guard.tripping import Sources, Tripper
from gateway.parts import Parts, read_secret
from gateway.ports import Upstream
from gateway.settings import LoadedMigration, SettingsError, load_migration
from gateway.settings.addresses import parse_instance
from gateway.settings.gateway_file import GatewaySettings
from gateway.shadow.copies import CopyPolicy
from gateway.shadow.limits import ShadowLimits
from gateway.shadow.mirror import OWN_CONNECTIONS, Mirror
from gateway.state.connect import REDIS_ERRORS, RedisClient, connect
from gateway.state.counters import CounterStore
from gateway.state.drills import DrillStore
from gateway.state.evidence import EvidenceStore
from gateway.state.feed import FeedSettings, PolicyFeed
from gateway.state.noise import NoiseStore
from gateway.state.policy_store import PolicyStore
from gateway.state.signals import SignalStore
from gateway.state.snapshot_file import SnapshotFile
from gateway.telemetry.counters import RequestCounters
from gateway.upstream import EjectionLimits, SideUpstream, UpstreamLimits

_INCARNATION_BYTES: Final = 8
_SECRET_BYTES: Final = 32
_SHADOW_S: Final = 0.5
_CHECKED_S: Final = 1.0
_GUARD_PAUSE_S: Final = 1.0
_RECORD_BYTES: Final = 6

_log = structlog.get_logger("crossfade.app")


@dataclass(frozen=True, slots=True)
class State:
    """What a process shares through Redis.

    Attributes:
        redis: The client.
        store: The policy.
        file: Its copy on disk.
        feed: Follows the policy.
    """

    redis: RedisClient
    store: PolicyStore
    file: SnapshotFile
    feed: PolicyFeed

    async def aclose(self) -> None:
        """Stops following and disconnects."""
        await self.feed.aclose()
        await self.redis.aclose()


def build_state(parts: Parts, definition: Definition, process: str) -> State:
    """Builds what follows the policy; nothing is started yet.

    Raises:
        OSError: The password of Redis cannot be read.
    """
    redis = connect(parts.redis_url, Path(parts.redis_password_file) if parts.redis_password_file else None)
    store = PolicyStore(redis, definition.migration)
    data_dir = Path(parts.data_dir)
    file = SnapshotFile(data_dir, definition.migration)
    return State(redis, store, file, PolicyFeed(store, definition, data_dir, file, FeedSettings(process)))


def load_parts_migration(parts: Parts, settings: GatewaySettings) -> LoadedMigration:
    """Loads the migration file that was accepted last, with the addresses of the bundled services that run.

    Raises:
        SettingsError: With everything that is wrong with it.
        PartsFileError: It is not known which file that is.
    """
    bundled: Mapping[str, tuple[Instance, ...]] = {name: (parse_instance(url),) for name, url in parts.bundled.items()}
    return load_migration(parts.accepted_file, bundled, settings.default_deadlines)


def load_tls(settings: GatewaySettings) -> PortTls | None:
    """The TLS of the data port, where it has any.

    Raises:
        CertificateError: It cannot be used.
    """
    cert_file, key_file = settings.tls.cert_file, settings.tls.key_file
    if cert_file is None or key_file is None:
        return None
    try:
        return PortTls(cert_file, key_file)
    except OSError as exc:
        raise CertificateError(f"tls: {cert_file} with {key_file} cannot be used: {exc}") from exc


class DataPlane:
    """One gateway worker, put together.

    Attributes:
        server: Serves the data port.
        state: What is shared through Redis.
        address: URL of the data port, as this machine reaches it; None: not known yet.
    """

    def __init__(
        self, name: str, parts: Parts, settings: GatewaySettings, definition: Definition, tls: PortTls | None = None
    ) -> None:
        """Builds everything; needs a running loop and starts nothing."""
        self._name = name
        self.address: str | None = None
        self._tls = tls
        self._incarnation = secrets.token_hex(_INCARNATION_BYTES)
        self._parts = parts
        self._settings = settings
        self._definition = definition
        self._counters = RequestCounters()
        self.state = build_state(parts, definition, name)
        self._published = CounterStore(self.state.redis, definition.migration)
        self._upstream_limits = upstream_limits(settings)
        self._upstreams = self._build_upstreams(definition)
        self._shadow_limits = ShadowLimits(**settings.shadow.model_dump())
        self._copiers = self._build_copiers(definition)
        # What whoever mirrors asks for a side's client each time; changed in place.
        self._copied_to: dict[Side, Upstream] = dict(self._copiers)
        self._evidence = EvidenceStore(self.state.redis, definition.migration)
        self._noise = NoiseStore(self.state.redis, definition.migration)
        self._secret = secrets.token_bytes(_SECRET_BYTES)
        # What operators have accepted; None: not read yet.
        self._relaxed: Mapping[str, Mapping[str, Relax]] | None = None
        self._say_rules()
        drills = DrillStore(self.state.redis, definition.migration)
        self._drill = DrillFollower(
            name,
            drills,
            lambda operation: self._evaluator.pace(operation),
            lambda: self.state.feed.current,
            self._drill_switched,
            drills.clock.now,
        )
        self._shadow = Mirror(
            definition,
            self._copied_to,
            _copy_policies(definition),
            self._shadow_limits,
            self._counters,
            self._evidence,
            self._plan_of,
            self._drill,
            random.random,
            self._secret,
        )
        self._signals = SignalStore(self.state.redis, definition.migration, f"{name}:{self._incarnation}")
        self._tasks: list[asyncio.Task[None]] = []
        # What the clients of the sides counted that a reload has replaced.
        self._counted_before: Counts = {}
        listener = Listener(EdgeLimits(**settings.edge.model_dump()), self._counters.refused)
        self._plane = Plane(
            self.state.feed,
            self._upstreams,
            self._counters,
            LaneSettings(
                auth=read_secret(parts.internal_token_file),
                force_secret=read_secret(parts.force_secret_file),
                in_flight=settings.edge.in_flight,
                safety_net=settings.safety_net,
                says_side=settings.response_headers.side,
                says_request_id=settings.response_headers.request_id,
            ),
            LaneClock(
                monotonic=time.monotonic,
                unix=time.time,
                date=lambda: listener.date,
                # Tells requests apart and guards nothing; a system call for each would cost more than the rest of it.
                entropy=random.Random(secrets.randbits(256)).getrandbits,  # noqa: S311 - see above
            ),
            self._shadow,
        )
        tripper = Tripper(
            name,
            self.state.feed,
            Sources(
                snapshot=lambda: self.state.feed.current,
                drill=lambda: self._drill.blamed,
                noticed=self._counters.recent,
                on_new=self._plane.on_new,
                clock=time.monotonic,
                name=lambda: secrets.token_hex(_RECORD_BYTES),
            ),
        )
        self._evaluator = Evaluator(
            definition,
            self._counters,
            self._signals,
            Surroundings(
                snapshot=lambda: self.state.feed.current,
                on_new=self._plane.on_new,
                on_old=self._plane.on_old,
                clock=time.monotonic,
                unix=time.time,
            ),
            tripper.trip,
        )
        self.state.feed.subscribe(self._drill.policy_changed)
        self.state.feed.subscribe(tripper.policy_changed)
        self._floor = AbsenceFloor(time.monotonic, tripper.trip_all)
        self._plane.floor = self._floor
        self.state.feed.subscribe(self._shadow.policy_changed)
        listener.express = ExpressLane(self._plane)
        listener.is_express_on = settings.express == "on"
        self.server = EdgeServer(
            EdgeConfig(GeneralLane(self._plane), listener, EdgeProtocol, tls.context if tls else None),
            DrainSettings(**settings.drain.model_dump()),
        )

    def bind(self, sock: socket.socket) -> None:
        """Says which socket is served."""
        host, port = sock.getsockname()[:2]
        here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        self.address = f"{'https' if self._tls else 'http'}://{here}:{port}"

    async def start(self) -> None:
        """Follows the policy and looks up the sides' names."""
        upstreams = (*self._upstreams.values(), *self._copiers.values())
        await asyncio.gather(self.state.feed.start(), *(upstream.start() for upstream in upstreams))
        self._tasks = [asyncio.create_task(self._follow_shadow()), asyncio.create_task(self._guard())]
        self._tasks.append(asyncio.create_task(self._drill.run()))
        self._tasks.append(asyncio.create_task(self._look_at_checks()))

    async def reload(self) -> bool:
        """Reads the certificate and the migration file again. What is broken stays as it was; False then."""
        is_certificate_good = self._reload_certificate()
        return await self._reload_definition() and is_certificate_good

    def _reload_certificate(self) -> bool:
        if self._tls is None:
            return True
        try:
            self._tls.reload()
        except OSError as exc:
            _log.error("certificate_refused", why=str(exc))
            return False
        _log.info("certificate")
        return True

    async def _reload_definition(self) -> bool:
        parts, settings = self._parts, self._settings
        try:
            loaded = await asyncio.to_thread(load_parts_migration, parts, settings)
            definition = loaded.definition
            upstreams, copiers = self._build_upstreams(definition), self._build_copiers(definition)
            policies = _copy_policies(definition)
        except (CrossfadeError, SettingsError, OSError, ValueError) as exc:
            _log.error("definition_refused", why=str(exc))
            return False
        if definition.migration != self._definition.migration:
            _log.error("definition_refused", why=f"the migration is {self._definition.migration}; restart for another")
            return False
        await asyncio.gather(*(upstream.start() for upstream in (*upstreams.values(), *copiers.values())))
        self._counted_before = self._upstream_counts()
        before, self._upstreams = self._upstreams, upstreams
        self._definition = definition
        self._plane.sides = upstreams
        self.state.feed.replace_definition(definition)
        retired = [*before.values(), *self._copiers.values()]
        self._copiers.update(copiers)
        self._drill_switched(self._drill.active)
        self._shadow.replace_definition(definition, policies)
        self._say_rules()
        self._evaluator.replace_definition(definition)
        for upstream in retired:
            upstream.retire()
        _log.info("definition", digest=definition.digest[:12])
        return True

    def blob(self) -> dict[str, Any]:
        """What this worker counted and decides by, for metrics and status."""
        status = self.state.feed.status()
        snapshot = self.state.feed.current
        return {
            "worker": self._name,
            "address": self.address,
            "incarnation": self._incarnation,
            "at": time.time(),
            "state": status.state.value,
            "age_s": status.age_s,
            "definition": self._definition.digest,
            **(_decides_by(snapshot) if snapshot is not None else {"epoch": None}),
            "sides": {side.value: upstream.stats().state_blob() for side, upstream in self._upstreams.items()},
            "upstream": self._upstream_counts(),
            "shadow": self._shadow.state(),
            "evidence_dropped": self._evidence.dropped,
            "guards": self._evaluator.states(),
            **self._counters.blob(),
        }

    def _upstream_counts(self) -> Counts:
        counts = {side.value: upstream.stats().count_blob() for side, upstream in self._upstreams.items()}
        return add(self._counted_before, counts)

    def publish(self) -> None:
        """Lays the counters where control finds them; never waits."""
        self._published.publish(self._name, self.blob())

    async def settle(self) -> None:
        """Ends the shadow: whatever it has begun is counted when this returns. The server has drained by then."""
        await self._shadow.aclose()

    async def aclose(self) -> None:
        """Ends everything. The server has drained by then."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.settle()
        await self._signals.forget([self._signals.process])
        await self._evidence.aclose()
        await self._published.aclose()
        upstreams = (*self._upstreams.values(), *self._copiers.values())
        await asyncio.gather(self.state.aclose(), *(upstream.aclose() for upstream in upstreams))

    async def _guard(self) -> None:
        """Judges for as long as this worker lives: an error in here must not end it silently."""
        while True:
            try:
                await self._evaluator.run()
            except Exception:
                _log.exception("guard_failed")
                await asyncio.sleep(_GUARD_PAUSE_S)

    async def _look_at_checks(self) -> None:
        """Tells the floor what health checks say of new, where all of its instances fail them."""
        while True:
            await asyncio.sleep(_CHECKED_S)
            if self._upstreams[Side.NEW].stats().unwell == len(self._definition.sides[Side.NEW].instances):
                self._floor.unwell()

    def _drill_switched(self, order: DrillOrder | None) -> None:
        """A fault begins, or none is on any more."""
        self._plane.drill = self._drill if order is not None else None
        self._copied_to.update(self._copiers)
        if order is not None and order.fault is Fault.MISMATCH:
            # Whatever old says to a copy differs from what new has served; no client sees anything of it.
            self._copied_to[Side.OLD] = AlteredSide(self._copiers[Side.OLD], order.touches)

    def _plan_of(self, operation: str) -> Plan | None:
        """The plan in force of an operation."""
        snapshot = self.state.feed.current
        return snapshot.plans.get(operation) if snapshot is not None else None

    async def _follow_shadow(self) -> None:
        """Writes evidence, and learns what operators have accepted, behind the requests."""
        has_secret = False
        while True:
            await asyncio.sleep(_SHADOW_S)
            await self._evidence.flush()
            try:
                relaxed = (await asyncio.shield(self._noise.read())).relaxed
                self._shadow.relax(relaxed)
                if relaxed != self._relaxed:
                    self._relaxed = relaxed
                    self._say_rules()
                if not has_secret:
                    self._shadow.use_secret(await asyncio.shield(self._evidence.secret(self._secret)))
                    has_secret = True
                if (noise := self._shadow.next_noise()) is not None:
                    await asyncio.shield(self._published.publish_noise(self._name, self._incarnation, *noise))
            except REDIS_ERRORS:
                # What was accepted before stays accepted.
                continue

    def _say_rules(self) -> None:
        """Read agreement is counted by the version of the rules that are in force."""
        versions = _versions(self._definition, self._relaxed or {})
        self._counters.agreement.use(versions, is_sure=self._relaxed is not None)

    def _build_copiers(self, definition: Definition) -> dict[Side, SideUpstream]:
        """Clients for copies: connections, limits and judgement of instances of their own."""
        connections = self._shadow_limits.concurrency + OWN_CONNECTIONS
        limits = replace(self._upstream_limits, connections=connections, idle_connections=connections)
        return {side: SideUpstream(replace(definition.sides[side], health=None), limits) for side in Side}

    def _build_upstreams(self, definition: Definition) -> dict[Side, SideUpstream]:
        return {side: SideUpstream(definition.sides[side], self._upstream_limits) for side in Side}


def _versions(definition: Definition, relaxed: Mapping[str, Mapping[str, Relax]]) -> dict[str, str]:
    """The version of each read's rules."""
    return {
        name: operation.comparison.relaxed_by(relaxed.get(name, {})).version
        for name, operation in definition.operations.items()
        if operation.op_class is OperationClass.READ
    }


def _copy_policies(definition: Definition) -> dict[Side, CopyPolicy]:
    """What copies for each side carry.

    Raises:
        ValueError: A file of header fields cannot be used.
        OSError: It cannot be read.
    """
    return {side: _copy_policy(definition.sides[side]) for side in Side}


def _copy_policy(side: SideDefinition) -> CopyPolicy:
    file = side.mirror_headers_file
    if file is None:
        return CopyPolicy(side.is_trusted)
    try:
        return CopyPolicy(side.is_trusted, read_copy_fields(Path(file).read_text(encoding="utf-8")))
    except ValueError as exc:
        raise ValueError(f"{file}: {exc}") from exc


def _decides_by(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "epoch": snapshot.epoch,
        "killed": [str(scope) for scope in snapshot.latches],
        "targets": {name: plan.effective / 1_000_000 for name, plan in snapshot.plans.items()},
    }


def upstream_limits(settings: GatewaySettings) -> UpstreamLimits:
    """Bounds of a side's client, as the settings say."""
    values = settings.upstream.model_dump()
    return UpstreamLimits(**{**values, "ejection": EjectionLimits(**values["ejection"])})
