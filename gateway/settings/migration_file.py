"""The shape of `config/migration.yaml`: which keys exist and what type each value has.

Values keep the file's own words; what they mean together is decided in `compile`. The keys are those of
docs/configuration.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, Strict

from gateway.core.compare.rules import DEFAULT_HEADERS
from gateway.core.detect.cusum import WindowRule
from gateway.core.model import Balance, OperationClass, Ppm, Side, Stage, Writes
from gateway.core.notice import NoticeKind
from gateway.core.percent import parse_percent
from gateway.settings.validation import Shape

SECONDS_LIMIT: Final = 86_400.0
BODY_LIMIT_BYTES: Final = 1 << 40

Percent = Annotated[Ppm, BeforeValidator(parse_percent)]
Seconds = Annotated[float, Field(gt=0, le=SECONDS_LIMIT)]
Bytes = Annotated[int, Field(ge=0, le=BODY_LIMIT_BYTES)]
# An enum's member is never written in YAML; its text is. Strictness would refuse the text.
ClassWord = Annotated[OperationClass, Strict(False)]
StageWord = Annotated[Stage, Strict(False)]
WritesWord = Annotated[Writes, Strict(False)]
SideWord = Annotated[Side, Strict(False)]
BalanceWord = Annotated[Balance, Strict(False)]
NoticeWord = Annotated[NoticeKind, Strict(False)]


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


class McpShape(Shape):
    """Where MCP is spoken."""

    path: str
    stateless: bool = True


class HealthShape(Shape):
    """The active probe of a side."""

    path: str
    interval_s: Seconds = 1.0


class SideShape(Shape):
    """One side."""

    instances: list[str]
    balance: BalanceWord = Balance.KEY
    host: str | None = None
    ca_file: str | None = None
    health: HealthShape | None = None
    trusted: bool | None = None
    mirror_headers_file: str | None = None


class SidesShape(Shape):
    """Both sides."""

    old: SideShape
    new: SideShape


class GroupShape(Shape):
    """A group. `stage` and `percent` stand for every operation of it that says none of its own."""

    key: list[list[str]]
    writes: WritesWord = Writes.DUAL
    independent: bool = False
    stage: StageWord | None = None
    percent: Percent | None = None
    dual_percent: Percent | None = None
    allow: list[str] | None = None
    deny: list[str] | None = None


class MatchShape(Shape):
    """How requests of an operation are recognised."""

    rest: Annotated[list[str], BeforeValidator(_one_or_many)] = Field(default_factory=list)
    mcp: str | None = None


class DeadlinesShape(Shape):
    """Deadlines by phase; the ones left out come from the gateway's settings."""

    connect_s: Seconds | None = None
    send_s: Seconds | None = None
    first_byte_s: Seconds | None = None
    between_bytes_s: Seconds | None = None


class PartShape(Shape):
    """How one part of an answer is compared."""

    ignore: bool = False
    unordered: bool = False
    keyed: str | None = None
    any_length: bool = False
    optional: bool = False
    nullable: bool = False
    loose_number: bool = False
    shape: bool = False
    form: Literal["uuid", "time", "hex", "number"] | None = None
    normalise: Annotated[list[Literal["uuid", "time", "sha"]], Field(min_length=1)] | None = None
    abs_tolerance: Annotated[float, Field(ge=0)] | None = None
    rel_tolerance: Annotated[float, Field(ge=0, le=1)] | None = None
    within_s: Annotated[float, Field(ge=0, le=SECONDS_LIMIT)] | None = None


class CompareShape(Shape):
    """How the answers of both sides are compared."""

    parts: dict[str, PartShape] = Field(default_factory=dict)
    headers: list[str] = Field(default_factory=lambda: list(DEFAULT_HEADERS))
    equal_statuses: list[list[Annotated[int, Field(ge=200, le=599)]]] = Field(default_factory=list)
    incomparable_codes: list[str] = Field(default_factory=list)
    loose_numbers: bool = False
    comparable: bool = True


class OperationShape(Shape):
    """An operation."""

    op_class: ClassWord = Field(alias="class")
    match: MatchShape
    group: str | None = None
    key: list[list[str]] | None = None
    stage: StageWord | None = None
    percent: Percent | None = None
    mirror_percent: Percent | None = None
    deadline_s: Seconds | None = None
    deadlines: DeadlinesShape = DeadlinesShape()
    body_limit: Bytes = 1 << 20
    strict: bool = False
    failure_codes: list[str] = Field(default_factory=list)
    safety_net: bool = True
    failure_statuses: list[Annotated[int, Field(ge=400, le=599)]] | None = None
    secrets: list[str] | None = None
    compare: CompareShape = CompareShape()


class DefaultShape(Shape):
    """Where requests go that no operation matches."""

    op_class: ClassWord = Field(OperationClass.WRITE, alias="class")
    side: SideWord = Side.OLD
    deadline_s: Seconds | None = None
    deadlines: DeadlinesShape = DeadlinesShape()
    body_limit: Bytes | None = None


class ThresholdsShape(Shape):
    """Where a detector trips."""

    error_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    p95_ratio: Annotated[float, Field(gt=1, le=1000)] = 2.0
    consistency: Annotated[float, Field(gt=0, le=1)] = 0.9999
    profile: Literal["balanced", "strict", "window"] = "balanced"
    window_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    min_samples: Annotated[int, Field(ge=WindowRule.LEAST, le=1_000_000_000)] = WindowRule.LEAST


class IncidentsShape(Shape):
    """What an alert from outside does."""

    scope: str = "all"
    secret_file: str | None = None


class DrillsShape(Shape):
    """How often a drill must have passed."""

    every: Annotated[str, Field(pattern=r"^[0-9]{1,9}[smhd]$")]


class WebhookShape(Shape):
    """Where notices go by POST. The URL is a secret and stands in a file of its own."""

    url_file: str
    secret_file: str | None = None


class SlackShape(Shape):
    """An incoming webhook of Slack, or of what takes the same."""

    url_file: str


class NotificationShape(Shape):
    """One target of notifications: exactly one of `webhook`, `slack` and `command`."""

    webhook: WebhookShape | None = None
    slack: SlackShape | None = None
    command: list[str] | None = None
    events: list[NoticeWord] = Field(default_factory=lambda: list(NoticeKind))


class MigrationShape(Shape):
    """The whole file."""

    migration: str
    sides: SidesShape
    operations: dict[str, OperationShape]
    mcp: McpShape | None = None
    groups: dict[str, GroupShape] = Field(default_factory=dict)
    default: DefaultShape = DefaultShape()
    deny_paths: list[str] = Field(default_factory=lambda: ["/v1/workspaces"])
    trusted_proxies: list[str] = Field(default_factory=list)
    secrets: list[str] | None = None
    thresholds: ThresholdsShape = ThresholdsShape()
    incidents: IncidentsShape | None = None
    drills: DrillsShape | None = None
    notifications: list[NotificationShape] = Field(default_factory=list)
    steps_percent: list[Percent] = Field(default_factory=lambda: [Ppm(step * 10_000) for step in (1, 5, 25, 50, 100)])


STAND_INS: Final[Mapping[str, object]] = {
    "migration": "unreadable",
    "sides": {"old": {"instances": ["unix:/unreadable/old"]}, "new": {"instances": ["unix:/unreadable/new"]}},
    "operations": {},
}
"""What takes the place of required parts that could not be read, so that the rest is still checked. Never returned."""
