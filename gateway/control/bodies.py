"""What callers may send: pydantic models of the request bodies. Unknown members, nulls and wrong types are refused."""

from __future__ import annotations

import re
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from gateway.core.drill import Fault
from gateway.core.model import PPM_NONE, Ppm, Scope, Stage
from gateway.core.percent import parse_percent
from gateway.core.plain_text import one_line
from gateway.core.roles import Role

REASON_LIMIT: Final = 500
KEY_LIMIT: Final = 2048
_TTL_LIMIT_S: Final = 10 * 366 * 86_400
_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _reason(value: object) -> object:
    # What is no text is for pydantic to refuse.
    return one_line(value) if isinstance(value, str) else value


def _scope(value: object) -> Scope:
    if not isinstance(value, str):
        raise ValueError('is no scope; write "all", "group:NAME" or "operation:NAME"')  # noqa: TRY004 - pydantic's way
    return Scope.parse(value)


def _role(value: object) -> Role:
    if not isinstance(value, str):
        raise ValueError("is no role; write viewer, operator or approver")  # noqa: TRY004 - pydantic's way
    return Role.parse(value)


def _stage(value: object) -> Stage:
    names = ", ".join(Stage)
    if not isinstance(value, str) or value not in set(Stage):
        raise ValueError(f"is no stage; write one of {names}")
    return Stage(value)


def _fault(value: object) -> Fault:
    names = ", ".join(Fault)
    if not isinstance(value, str) or value not in set(Fault):
        raise ValueError(f"is no fault; write one of {names}")
    return Fault(value)


Percent = Annotated[
    Ppm,
    PlainValidator(parse_percent),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.0001}),
]
Reason = Annotated[str, BeforeValidator(_reason), Field(min_length=1, max_length=REASON_LIMIT)]
StageName = Annotated[Stage, PlainValidator(_stage), WithJsonSchema({"type": "string", "enum": list(Stage)})]
ScopeName = Annotated[
    Scope, PlainValidator(_scope), WithJsonSchema({"type": "string", "pattern": "^(all|group:.+|operation:.+)$"})
]
RoleName = Annotated[
    Role, PlainValidator(_role), WithJsonSchema({"type": "string", "enum": [str(role) for role in Role]})
]
FaultName = Annotated[
    Fault, PlainValidator(_fault), WithJsonSchema({"type": "string", "enum": [fault.value for fault in Fault]})
]
PartPath = Annotated[str, Field(min_length=1, max_length=512)]
Key = Annotated[str, Field(min_length=1, max_length=KEY_LIMIT)]


class Body(BaseModel):
    """Base of all request bodies."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_nulls(cls, content: object) -> object:
        if isinstance(content, dict):
            nulls = [str(name)[:60] for name, value in content.items() if value is None]
            if nulls:
                raise ValueError(f"{', '.join(nulls)}: null says nothing; leave the member out")
        return content


class ChangeBody(Body):
    """A change of one operation or one group; any subset."""

    stage: StageName | None = None
    percent: Percent | None = None
    mirror_percent: Percent | None = None
    dual_percent: Percent | None = None
    skip: bool = False
    reason: Reason | None = None

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.reason is None and (self.stage is not None or self.percent is not None):
            raise ValueError(f"a change of stage or percent needs a reason of 1-{REASON_LIMIT} characters")
        return self


class KillBody(Body):
    """A kill."""

    scope: ScopeName
    reason: Reason
    accept_data_loss: bool = False


class RearmBody(Body):
    """A re-arm."""

    reason: Reason
    percent: Percent | None = None


class DrillBody(Body):
    """A drill."""

    fault: FaultName
    reason: Reason
    operation: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    load: Annotated[int, Field(ge=0, le=1000, description="Requests a second that the drill sends to new.")] = 100
    share_percent: Annotated[Percent, Field(description="Share of clients' keys that see the fault too.")] = PPM_NONE
    arm_s: Annotated[int, Field(ge=1, le=3600, description="Longest wait for armed detectors.")] = 180
    every_s: Annotated[int, Field(ge=1, le=600, description="Of `flips`: seconds between two.")] = 30
    for_s: Annotated[int, Field(ge=2, le=3600, description="Of `flips`: seconds in all.")] = 300

    @model_validator(mode="after")
    def _flips_back(self) -> Self:
        if self.fault is Fault.FLIPS:
            if self.for_s < 3 * self.every_s:
                raise ValueError("flips: for_s must be three times every_s at least, so that it goes there and back")
            if not self.load or self.share_percent:
                raise ValueError("flips need a load, and touch no client: load above 0, no share_percent")
        return self


class OperationWishes(Body):
    """What a file says of one operation."""

    stage: StageName | None = None
    percent: Percent | None = None
    mirror_percent: Percent | None = None


class GroupWishes(Body):
    """What a file says of one group."""

    dual_percent: Percent | None = None
    allow: Annotated[list[Key], Field(max_length=10_000)] | None = None
    deny: Annotated[list[Key], Field(max_length=10_000)] | None = None


class PolicyWishes(Body):
    """The policy that a file asks for: only what it says."""

    operations: dict[str, OperationWishes] = {}
    groups: dict[str, GroupWishes] = {}


class ApplyBody(Body):
    """Makes a file's policy current, or puts the policy back that this process remembers."""

    policy: PolicyWishes | None = None
    restore: bool = False
    skip: bool = False
    dry_run: bool = False
    reason: Reason | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if self.restore == (self.policy is not None):
            raise ValueError("say either policy or restore: true")
        if self.restore and self.dry_run:
            raise ValueError("a restore has no dry run; look at the status")
        return self


class NoiseBody(Body):
    """Accepts proposals for an operation, or takes accepted ones back."""

    accept: Annotated[list[PartPath], Field(max_length=500)] = []
    drop: Annotated[list[PartPath], Field(max_length=500)] = []
    reason: Reason

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.accept and not self.drop:
            raise ValueError("say what to accept or what to drop")
        return self


class TokenBody(Body):
    """A new token."""

    name: Annotated[str, Field(pattern=_TOKEN_NAME.pattern, max_length=64)]
    role: RoleName
    ttl_s: Annotated[int, Field(ge=1, le=_TTL_LIMIT_S)] | None = None


class NoticeBody(Body):
    """A test of notifications."""

    reason: Reason


class IncidentBody(BaseModel):
    """What an alerting system sends. Open by nature."""

    model_config = ConfigDict(extra="allow")
