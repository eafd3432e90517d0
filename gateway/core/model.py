"""The nouns of a migration: sides, operations, groups, keys, the definition and the policy.

Owns the immutable types that every other part exchanges. It must not know where they come from (YAML, Redis, disk)
nor how a request is carried. The words are those of docs/glossary.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NewType, Self

from gateway.core.compare.rules import ComparisonRules
from gateway.core.notice import NoticeTarget

Ppm = NewType("Ppm", int)
"""A share in parts per million, 0..1_000_000."""

Epoch = NewType("Epoch", int)
"""Grows with every policy change of a migration; a lower one is ignored."""

Headers = list[tuple[bytes, bytes]]
"""Header fields in wire order: lower-case name, raw value."""

_PLAIN_COMPARISON: Final = ComparisonRules()

SERVER_ERRORS: Final = frozenset(range(500, 600))
"""The statuses that blame a side where nothing else is said."""

WINDOW: Final = "window"
"""The profile of the literal rule: more than a threshold within the last seconds."""

PPM_ALL = Ppm(1_000_000)
PPM_NONE = Ppm(0)


class Side(StrEnum):
    """One of the two services behind the gateway."""

    OLD = "old"
    NEW = "new"

    @property
    def other(self) -> Side:
        """The opposite side."""
        return Side.NEW if self is Side.OLD else Side.OLD


class OperationClass(StrEnum):
    """What an operation does to state. The class decides, not the HTTP method."""

    READ = "read"
    WRITE = "write"


class Writes(StrEnum):
    """How a group's writes reach the other side."""

    DUAL = "dual"
    """Copied through the intent log."""
    SHARED = "shared"
    """Both sides work on one store."""
    NONE = "none"
    """Never: the whole group moves together and a moved key starts afresh."""


class Stage(StrEnum):
    """How far an operation has moved. The table of what each does is in core/stages.py."""

    OFF = "off"
    SHADOW_READ = "shadow_read"
    DUAL_WRITE = "dual_write"
    SHADOW = "shadow"
    LIVE = "live"
    RAMPDOWN = "rampdown"
    COMPLETE = "complete"


class Balance(StrEnum):
    """How one of a side's instances is chosen."""

    KEY = "key"
    """Rendezvous hash of the key over the configured instances."""
    P2C = "p2c"
    """The less loaded of two drawn at random."""


class KeySourceKind(StrEnum):
    """Where one part of a key is read from."""

    HEADER = "header"
    PATH = "path"
    QUERY = "query"
    COOKIE = "cookie"
    ARGUMENT = "argument"
    CLIENT_ADDRESS = "client_address"


@dataclass(frozen=True, slots=True)
class KeySource:
    """One part of a key.

    Attributes:
        kind: Where to look.
        name: Header (lower-case), path or query parameter, cookie; dotted member path for arguments; empty for
            the client address.
    """

    kind: KeySourceKind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)


KeyRecipe = tuple[KeySource, ...]
"""The parts of one key, in order. A list of recipes is tried in order; the first that yields every part wins."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One address of a side.

    Attributes:
        name: As configured, for messages and metrics: `http://127.0.0.1:9001`, `unix:/run/a.sock`.
        host: Host to connect to; empty for a unix socket.
        port: TCP port; 0 for a unix socket.
        tls: Whether to speak TLS.
        unix_path: Path of the unix socket, or None.
    """

    name: str
    host: str
    port: int
    tls: bool = False
    unix_path: str | None = None

    @property
    def authority(self) -> str:
        """The `Host` that stands for this instance when the client sent none."""
        if self.unix_path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.tls else 80
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class HealthProbe:
    """How a side's instances are asked whether they live."""

    path: str
    interval_s: float


@dataclass(frozen=True, slots=True)
class SideDefinition:
    """One service: its addresses and how they are used.

    Attributes:
        side: Which one.
        instances: At least one, in the configured order.
        balance: How an instance is chosen for a request.
        host: Replaces the client's `Host` when set.
        ca_file: Authority that signs the instances' certificates, or None for the system's.
        health: Active probe, or None.
        is_trusted: Whether it may see clients' credentials in copies of their reads.
        mirror_headers_file: Holds header fields that copies carry instead, `Name: value` a line, or None.
    """

    side: Side
    instances: tuple[Instance, ...]
    balance: Balance = Balance.KEY
    host: str | None = None
    ca_file: str | None = None
    health: HealthProbe | None = None
    is_trusted: bool = False
    mirror_headers_file: str | None = None


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Bounds on the phases of one exchange with a side, in seconds; None = unbounded.

    Attributes:
        connect_s: TCP and TLS handshake, including the wait for a free connection.
        send_s: Longest time without progress while sending the request.
        first_byte_s: From the end of the request's headers to the final status line.
        between_bytes_s: Longest silence inside the answer's body.
        total_s: The whole exchange.
    """

    connect_s: float = 5.0
    send_s: float = 30.0
    first_byte_s: float | None = 60.0
    between_bytes_s: float | None = 300.0
    total_s: float | None = None


@dataclass(frozen=True, slots=True)
class RestMatch:
    """A REST route of an operation.

    Attributes:
        method: Upper-case HTTP method.
        template: Normalised path template such as `/v1/items/{id}`; `{name}` stands for one non-empty segment.
    """

    method: str
    template: str

    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def segments(self) -> tuple[str, ...]:
        """The template split at `/`, without the leading empty segment."""
        return tuple(self.template.split("/")[1:])


@dataclass(frozen=True, slots=True)
class Group:
    """Operations that touch the same data: one key, one salt.

    Attributes:
        name: As configured; an operation without a group has a group of its own name.
        writes: How writes reach the other side.
        recipes: Key recipes, tried in order.
        salt: `<migration>:<name>`.
        operations: Names of the members.
        independent: In a dual group, whether every operation moves on its own.
        implicit: True for the group of an operation that names none; not listed in status.
    """

    name: str
    writes: Writes
    recipes: tuple[KeyRecipe, ...]
    salt: str
    operations: tuple[str, ...]
    independent: bool = False
    implicit: bool = False


@dataclass(frozen=True, slots=True)
class Secrets:
    """What in a request of an operation is its client's secret.

    Attributes:
        headers: Lower-case names of header fields.
        arguments: Names in the query and among the arguments.
        is_declared: The file lists them: other names are no secrets in query and arguments.
    """

    headers: frozenset[str] = frozenset({"authorization", "cookie"})
    arguments: frozenset[str] = frozenset({"token"})
    is_declared: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """A named call.

    Attributes:
        name: Such as `git.clone`.
        op_class: Read or write.
        group: Name of its group (its own name when it has none).
        rest: REST routes.
        mcp: MCP tool name, or None.
        deadlines: Bounds on the phases of an exchange.
        body_limit_bytes: Largest request body.
        strict: Whether a killed read of a pending key is refused rather than answered stale.
        failure_codes: Problem codes in an answer that blame the side.
        failure_statuses: Statuses of an answer that blame the side.
        comparison: How the answers of both sides are compared.
        safety_net: Whether a read that new fails may be asked of old, where both work on one store.
        secrets: What a side that is not trusted must not see.
    """

    name: str
    op_class: OperationClass
    group: str
    rest: tuple[RestMatch, ...] = ()
    mcp: str | None = None
    deadlines: Deadlines = Deadlines()
    body_limit_bytes: int = 1 << 20
    strict: bool = False
    failure_codes: frozenset[str] = frozenset()
    failure_statuses: frozenset[int] = SERVER_ERRORS
    comparison: ComparisonRules = _PLAIN_COMPARISON
    safety_net: bool = True
    secrets: Secrets = Secrets()


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """Where requests go that no operation matches."""

    op_class: OperationClass = OperationClass.WRITE
    side: Side = Side.OLD
    deadlines: Deadlines = Deadlines()
    body_limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where a detector trips, and how sure it wants to be (`core.detect.cusum.PROFILES`, or `window`).

    Attributes:
        error_rate: Share of failures.
        p95_ratio: P95 of new over that of old.
        consistency: Share of compared answers that agree.
        profile: Its name.
        window_s: Of the profile `window`.
        min_samples: Requests that such a window must hold.
    """

    error_rate: float = 0.05
    p95_ratio: float = 2.0
    consistency: float = 0.9999
    profile: str = "balanced"
    window_s: float = 60.0
    min_samples: int = 200


@dataclass(frozen=True, slots=True)
class IncidentRules:
    """What an alert from outside does.

    Attributes:
        scope: What it kills, `all`, `group:NAME` or `operation:NAME`.
        secret_file: Holds the secret of signatures, or None: only tokens count.
    """

    scope: str = "all"
    secret_file: str | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """What the file says: sides, operations, groups, limits. Policy is kept apart.

    Attributes:
        migration: Name; prefix of every salt and Redis key.
        mcp_path: Normalised path of the MCP endpoint, or None.
        mcp_stateless: Whether the sides keep no MCP sessions; GET and DELETE on the MCP path are then 405.
        sides: Both sides.
        groups: By name, implicit ones included.
        operations: By name, in file order.
        default: Where unmatched requests go.
        deny_paths: Normalised path prefixes that the gateway answers with 404.
        trusted_proxies: Networks whose forwarding headers are believed.
        thresholds: Where detectors trip.
        incidents: What alerts do; None: nothing.
        drill_every_s: How old the last drill that passed may be, in seconds; None: as old as it likes.
        notifications: Who is told what happens.
        steps: Shares at which a re-armed or promoted operation enters, ascending.
        digest: SHA-256 of the canonical content, hex.
    """

    migration: str
    mcp_path: str | None
    sides: Mapping[Side, SideDefinition]
    groups: Mapping[str, Group]
    operations: Mapping[str, Operation]
    default: DefaultRoute = DefaultRoute()
    deny_paths: tuple[str, ...] = ("/v1/workspaces",)
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    thresholds: Thresholds = Thresholds()
    mcp_stateless: bool = True
    incidents: IncidentRules | None = None
    drill_every_s: float | None = None
    notifications: tuple[NoticeTarget, ...] = ()
    steps: tuple[Ppm, ...] = (Ppm(10_000), Ppm(50_000), Ppm(250_000), Ppm(500_000), PPM_ALL)
    digest: str = ""


class ScopeKind(StrEnum):
    """How much a kill covers."""

    ALL = "all"
    GROUP = "group"
    OPERATION = "operation"


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """What a kill covers: everything, one group or one operation."""

    kind: ScopeKind
    name: str = ""

    def __str__(self) -> str:
        return str(self.kind) if self.kind is ScopeKind.ALL else f"{self.kind}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `all`, `group:NAME` or `operation:NAME`.

        Raises:
            ValueError: `text` is none of these.
        """
        if text == ScopeKind.ALL:
            return cls(ScopeKind.ALL)
        kind, colon, name = text.partition(":")
        if not colon or not name or kind not in (ScopeKind.GROUP, ScopeKind.OPERATION):
            raise ValueError(f"scope {text!r} is neither all, group:NAME nor operation:NAME")
        return cls(ScopeKind(kind), name)


SCOPE_ALL = Scope(ScopeKind.ALL)


class LatchKind(StrEnum):
    """Who pulled the kill."""

    KILL = "kill"
    """An operator, the break-glass key or the break-glass file."""
    TRIP = "trip"
    """A detector."""


@dataclass(frozen=True, slots=True)
class Latch:
    """A kill in force. It stays until a human re-arms exactly this scope.

    Attributes:
        scope: As asked for.
        kind: By hand or by a detector.
        reason: Why, 1-500 characters.
        by: Name of the token, `redis-key`, `kill-file` or a detector.
        at: Aware UTC.
        evidence: Name of the record of what the detector saw, or None: it was done by hand.
    """

    scope: Scope
    kind: LatchKind
    reason: str
    by: str
    at: datetime
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class OperationPolicy:
    """What operators move, for one operation."""

    stage: Stage = Stage.OFF
    percent: Ppm = PPM_NONE
    mirror: Ppm = PPM_NONE


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """What operators move, for one group.

    Attributes:
        dual: Share of keys whose writes are copied to the other side.
        allow: Keys pinned to new, in `live` only.
        deny: Keys pinned to old, in `live` only.
    """

    dual: Ppm = PPM_NONE
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Policy:
    """What operators move: stages, shares, pinned keys, kills; one epoch for all of it.

    Attributes:
        migration: Name of the migration.
        lineage: Random name given at the first boot.
        epoch: Grows with every change.
        operations: By name. May lack operations that are new in the file and hold ones that left it.
        groups: By name, likewise.
        latches: Kills in force, by scope.
    """

    migration: str
    lineage: str
    epoch: Epoch
    operations: Mapping[str, OperationPolicy] = field(default_factory=dict)
    groups: Mapping[str, GroupPolicy] = field(default_factory=dict)
    latches: Mapping[Scope, Latch] = field(default_factory=dict)


class ErrorCode(StrEnum):
    """Why the gateway itself answers. The status of each is in edge/problem.py."""

    BAD_REQUEST = "bad_request"
    KEY_REQUIRED = "key_required"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    BODY_TOO_LARGE = "body_too_large"
    URI_TOO_LONG = "uri_too_long"
    HEADERS_TOO_LARGE = "headers_too_large"
    NOT_IMPLEMENTED = "not_implemented"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_RESET = "upstream_reset"
    UPSTREAM_INVALID = "upstream_invalid"
    NO_UPSTREAM = "no_upstream"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    POLICY_UNAVAILABLE = "policy_unavailable"
    LOG_UNAVAILABLE = "log_unavailable"
    KEY_PENDING = "key_pending"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    INTERNAL = "internal"
