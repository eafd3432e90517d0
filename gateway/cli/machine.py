"""Prepares what `crossfade up`, `gateway` and `control` run: settings and migration in, a machine out.

The composition root of the supervisor: the one place where settings, local parts and telemetry meet.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from gateway.core.model import Definition, Side
from gateway.local.data_dir import DataDir
from gateway.local.embedded_redis import EmbeddedRedis, prepare_redis
from gateway.local.errors import StartError
from gateway.local.plan import CHANNEL_FD, SOCKET_FD, PartSpec
from gateway.local.readiness import http_probe, redis_probe
from gateway.local.redis_lock import wait_for_predecessor
from gateway.local.run import Machine
from gateway.local.sockets import bind_one, bind_shared, url_of
from gateway.parts import ACCEPTED_NAME, Parts, read_secret
from gateway.settings import GatewaySettings, load_gateway_settings, load_migration, locate_gateway, locate_migration
from gateway.settings.addresses import BUNDLED_PREFIX, is_placeholder, parse_instance
from gateway.telemetry.exposition import Metrics
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.logs import configure_logs

PARTS_FILE: Final = "parts.json"
TOKEN_FILE: Final = "token"  # noqa: S105 - a file's name
TOKEN_PREFIX: Final = "cf_"  # noqa: S105 - what every token begins with
_LOOPBACK: Final = "127.0.0.1"
_START_LIMIT_S: Final = 60.0
_STOP_MARGIN_S: Final = 5.0
_BACKLOG: Final = 1024
_LOCKING_SERVICE: Final = "approach2"
_SERVICE_GRACE_S: Final = 8.0
"""Default of CROSSFADE_SHUTDOWN_GRACE_S, as the services have it."""
_SERVICE_UMASK: Final = 0o022
_SECRETS_IN_ENVIRONMENT: Final = frozenset(
    {"CROSSFADE_INTERNAL_TOKEN", "CROSSFADE_FORCE_SECRET", "CROSSFADE_REDIS_URL", "REDISCLI_AUTH"}
)
_SECRETS_OF_SERVICES: Final = frozenset({"E2B_API_KEY", "CROSSFADE_DATABASE_URL", "CROSSFADE_GIT_TOKEN"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator asked for.

    Attributes:
        gateway: Run gateway workers.
        control: Run the control process.
        services: Run the bundled services that the migration names, and an embedded Redis where no other is set.
        migration: The migration file, or None for the usual one.
        config: The gateway file, or None for the usual one.
        overrides: Settings of the command line.
    """

    gateway: bool = True
    control: bool = True
    services: bool = True
    migration: Path | None = None
    config: Path | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)


class _Reported:
    """The ledger of all workers, and its metrics."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._metrics = Metrics(self._ledger)
        self.take = self._ledger.take
        self.sample = self._ledger.sample
        self.render = self._metrics.render


class _Builder:
    """Builds a machine step by step.

    Args:
        wanted: What is to run.
        env: The environment.
        taken: Gives back what was taken, should it come to nothing.
    """

    def __init__(self, wanted: Wanted, env: Mapping[str, str], taken: ExitStack) -> None:
        self.wanted = wanted
        self.env = env
        self.settings = _load_settings(wanted, env)
        configure_logs(self.settings.log.level, self.settings.log.format, part="supervisor")
        self.migration_file = locate_migration(wanted.migration).absolute()
        self.definition = load_migration(self.migration_file).definition
        self.data_dir = DataDir(self.settings.data_dir)
        self.taken = taken
        taken.callback(self.data_dir.close)
        self.redis: EmbeddedRedis | None = None
        self.redis_lock = -1
        self.bundled: dict[str, socket.socket] = {}

    def build(self) -> Machine:
        """The whole machine.

        Raises:
            StartError: Something must be put right first.
            SettingsError: The migration file is not right.
        """
        settings, data_dir, wanted = self.settings, self.data_dir, self.wanted
        workers = bind_shared(settings.host, settings.port, settings.workers) if wanted.gateway else []
        control = bind_one(settings.control_host, settings.control_port) if wanted.control else None
        ops = bind_one(settings.ops_host, settings.ops_port)
        if wanted.services:
            self.bundled = {name: bind_one(_LOOPBACK, 0) for name in _bundled_services(self.definition)}
            for sock in self.bundled.values():
                # A request that comes before the service has started waits for it, as it does after a crash.
                sock.listen(_BACKLOG)
        for sock in (*workers, *([control] if control else []), ops, *self.bundled.values()):
            self.taken.enter_context(closing(sock))
        parts = self._parts()
        # Again, with the addresses that are known now: nothing is started for a file that does not work.
        self.definition = self._accept(self.migration_file, parts)
        data_dir.write(parts.migration_pointer.name, f"{self.migration_file}\n")
        parts.write(data_dir.path / PARTS_FILE)
        facts = {
            "migration": self.definition.migration,
            **({"gateway": url_of(workers[0], "https" if settings.tls.cert_file else "http")} if workers else {}),
            **({"control": url_of(control), "token_file": parts.bootstrap_token_file} if control else {}),
            "ops": url_of(ops),
            "redis": _without_credentials(parts.redis_url),
        }

        def look_again() -> Mapping[str, Any]:
            file = parts.migration_file
            definition = self._accept(file, parts, self.definition.migration)
            return {**facts, "migration_file": str(file), **_addresses(definition)}

        stages = [self._redis_parts(), self._service_parts(parts), self._control_parts(control), self._workers(workers)]
        return Machine(
            data_dir=data_dir,
            stages=stages,
            rolling=[spec.name for spec in stages[-1]],
            facts={**facts, "migration_file": str(self.migration_file), **_addresses(self.definition)},
            look_again=look_again,
            ops=ops,
            metrics=_Reported(),
            clean_up=self.redis.clean_up if self.redis else lambda: None,
        )

    def _parts(self) -> Parts:
        redis_url, password_file = self._redis()
        token_file = self.data_dir.secret(TOKEN_FILE, prefix=TOKEN_PREFIX) if self.wanted.control else None
        return Parts(
            data_dir=str(self.data_dir.path),
            redis_url=redis_url,
            redis_password_file=password_file,
            internal_token_file=self._secret("internal.token", "CROSSFADE_INTERNAL_TOKEN"),
            force_secret_file=self._secret("force.secret", "CROSSFADE_FORCE_SECRET"),
            bootstrap_token_file=str(token_file) if token_file else None,
            bundled={name: url_of(sock) for name, sock in self.bundled.items()},
            settings=self.settings.model_dump(mode="json", exclude={"redis_url", "data_dir"}),
        )

    def _accept(self, file: Path, parts: Parts, migration: str | None = None) -> Definition:
        """Checks a migration file and keeps the copy of it that every process loads.

        Args:
            file: The operator's.
            parts: Of this machine.
            migration: The one that it must be, or None for any.

        Raises:
            SettingsError: The file is not right; the copy stays as it was.
            StartError: It wants a service that does not run here, or is another migration.
        """
        definition = _load(file, parts)
        if migration is not None and definition.migration != migration:
            raise StartError(f"{file} is migration {definition.migration}, not {migration}")
        copy = self.data_dir.write(f"{ACCEPTED_NAME}.new", file.read_text(encoding="utf-8"))
        # It may have been edited between being checked and being copied.
        definition = _load(copy, parts)
        copy.replace(copy.with_name(ACCEPTED_NAME))
        return definition

    # --- parts -----------------------------------------------------------------------------------------------------

    def _redis_parts(self) -> list[PartSpec]:
        if self.redis is None:
            return []
        return [
            PartSpec(
                "redis",
                self.redis.command,
                {"PATH": self.env.get("PATH", "")},
                is_foreign=True,
                log_file=self.redis.log_file,
                keeps_open=(self.redis_lock,),
                probe=redis_probe(self.redis.socket_path, self.redis.password_file),
            )
        ]

    def _service_parts(self, parts: Parts) -> list[PartSpec]:
        token_file = {"CROSSFADE_INTERNAL_TOKEN_FILE": parts.internal_token_file} if parts.internal_token_file else {}
        env = {**self._child_env(), **token_file}
        # Approach 2 locks workspaces there.
        redis = {"CROSSFADE_REDIS_URL": parts.redis_url}
        if parts.redis_password_file:
            redis["CROSSFADE_REDIS_PASSWORD_FILE"] = parts.redis_password_file
        return [
            PartSpec(
                name,
                (*_python(f"backends.{name}"), "--fd", SOCKET_FD, "--data-dir", str(self.data_dir.subdirectory(name))),
                {**env, **redis} if name == _LOCKING_SERVICE else env,
                needs=("redis",) if self.redis and name == _LOCKING_SERVICE else (),
                sock=sock,
                probe=http_probe(sock),
                # Services run commands as other users, who must be able to read what is made for them.
                umask=_SERVICE_UMASK,
                stop_limit_s=_service_grace_s(self.env) + _STOP_MARGIN_S,
            )
            for name, sock in self.bundled.items()
        ]

    def _control_parts(self, sock: socket.socket | None) -> list[PartSpec]:
        if sock is None:
            return []
        return [self._channelled("control", _python("gateway.control_process"), sock)]

    def _workers(self, sockets: list[socket.socket]) -> list[PartSpec]:
        names = [f"gateway-{slot}" for slot in range(len(sockets))]
        return [
            self._channelled(name, (*_python("gateway.worker"), "--name", name), sock)
            for name, sock in zip(names, sockets, strict=True)
        ]

    def _channelled(self, name: str, program: tuple[str, ...], sock: socket.socket) -> PartSpec:
        parts_file = str(self.data_dir.path / PARTS_FILE)
        drain = self.settings.drain
        return PartSpec(
            name,
            (*program, "--parts", parts_file, "--fd", SOCKET_FD, "--channel-fd", CHANNEL_FD),
            {name: value for name, value in self._child_env().items() if name not in _SECRETS_OF_SERVICES},
            sock=sock,
            has_channel=True,
            needs=("redis",) if self.redis else (),
            # Alone it may have to wait for whoever performs the first boot, or for Redis; it says 503 meanwhile.
            start_limit_s=_START_LIMIT_S if self.wanted.services else None,
            stop_limit_s=max(drain.grace_s, drain.linger_s) + _STOP_MARGIN_S,
        )

    def _child_env(self) -> dict[str, str]:
        return {name: value for name, value in self.env.items() if name not in _SECRETS_IN_ENVIRONMENT}

    # --- secrets ---------------------------------------------------------------------------------------------------

    def _secret(self, name: str, variable: str) -> str | None:
        """The file of a secret that may be given, and is made only where everybody who needs it runs here."""
        given, given_file = self.env.get(variable), self.env.get(f"{variable}_FILE")
        if given and given_file:
            raise StartError(f"{variable} and {variable}_FILE are both set; unset one")
        if given_file:
            read_secret(given_file)
            return str(Path(given_file).absolute())
        if given or self.wanted.services:
            return str(self.data_dir.secret(name, given=given))
        return None

    def _redis(self) -> tuple[str, str | None]:
        """Where Redis is, without its password, and the file that holds it."""
        if self.settings.redis_url:
            url, password = _split_password(self.settings.redis_url.reveal())
            return url, str(self.data_dir.secret("redis.password", given=password)) if password else None
        if not self.wanted.services:
            raise StartError("there is no Redis; set redis_url in config/gateway.yaml or CROSSFADE_REDIS_URL")
        self.redis_lock = wait_for_predecessor(self.data_dir.subdirectory("redis"))
        self.taken.callback(os.close, self.redis_lock)
        self.redis = prepare_redis(self.data_dir, self.env)
        self.taken.callback(self.redis.clean_up)
        return self.redis.url, str(self.redis.password_file)


def prepare_machine(wanted: Wanted, env: Mapping[str, str]) -> tuple[Machine, Definition]:
    """Prepares a machine, and says what it will carry; nothing runs yet.

    Args:
        wanted: What is to run.
        env: The environment.

    Raises:
        StartError: Something must be put right first; the message says what.
        PartsFileError: A secret that was given cannot be read.
        SettingsError: A file is not right.
        FileNotFoundError: There is no migration file.
    """
    with ExitStack() as taken:
        builder = _Builder(wanted, env, taken)
        try:
            machine = builder.build()
        except OSError as exc:
            if exc.filename is None:
                raise
            raise StartError(f"{exc.filename} cannot be written: {exc.strerror}; remove it or make room") from exc
        taken.pop_all()
    return machine, builder.definition


def _load_settings(wanted: Wanted, env: Mapping[str, str]) -> GatewaySettings:
    """The settings; on a terminal, logs are for people unless somebody said otherwise."""
    file = locate_gateway(wanted.config)
    settings = load_gateway_settings(file, env, wanted.overrides)
    if sys.stderr.isatty() and "format" not in settings.log.model_fields_set:
        settings = load_gateway_settings(file, env, {**wanted.overrides, "log.format": "console"})
    return settings


def _load(file: Path, parts: Parts) -> Definition:
    """The definition with the addresses of the services that run.

    Raises:
        SettingsError: The file is not right.
        StartError: It wants a service that does not run here.
    """
    addresses = {name: (parse_instance(url),) for name, url in parts.bundled.items()}
    definition = load_migration(file, addresses).definition
    missing = _bundled_services(definition)
    if missing:
        names = ", ".join(BUNDLED_PREFIX + name for name in missing)
        raise StartError(f"{file} names {names}, not run here; `crossfade up` starts what its file names at its start")
    return definition


def _service_grace_s(env: Mapping[str, str]) -> float:
    try:
        return max(float(env.get("CROSSFADE_SHUTDOWN_GRACE_S") or _SERVICE_GRACE_S), 0.0)
    except ValueError:
        # The service says so, and does not start.
        return _SERVICE_GRACE_S


def _python(module: str) -> tuple[str, ...]:
    # -P: a directory called `gateway` in the operator's working directory must not be run instead of ours.
    return (sys.executable, "-P", "-m", module)


def _bundled_services(definition: Definition) -> list[str]:
    instances = [instance for side in Side for instance in definition.sides[side].instances]
    return sorted({i.name.removeprefix(BUNDLED_PREFIX) for i in instances if is_placeholder(i)})


def _addresses(definition: Definition) -> dict[str, Any]:
    urls = {side.value: [instance.name for instance in definition.sides[side].instances] for side in Side}
    return {**{side: names[0] for side, names in urls.items()}, "instances": urls}


def _split_password(url: str) -> tuple[str, str | None]:
    """A Redis URL without its password, and the password."""
    credentials, at, _ = urlsplit(url).netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    if not colon:
        return url, None
    scheme, _, beyond = url.partition("://")
    kept = f"{user}@" if user else ""
    return f"{scheme}://{kept}{beyond.removeprefix(credentials + at)}", unquote(password)


def _without_credentials(url: str) -> str:
    scheme, _, beyond = url.partition("?")[0].partition("://")
    return f"{scheme}://{beyond.rpartition('@')[2]}"
