"""The table of the API: every call with its role, its body and its answer.

Routing, role checks and OpenAPI come from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pydantic import BaseModel

from gateway.control import answers, bodies
from gateway.control.problems import Code
from gateway.core.roles import Role

PAGE_LIMIT: Final = 500
PAGE_DEFAULT: Final = 50


class Method(StrEnum):
    """HTTP methods in use."""

    GET = "GET"
    POST = "POST"
    PATCH = "PATCH"
    DELETE = "DELETE"


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter.

    Attributes:
        name: Of the parameter.
        about: What it does.
        is_integer: Whether it is a number.
    """

    name: str
    about: str
    is_integer: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call.

    Attributes:
        method: HTTP method.
        path: Template.
        name: Of its handler; its `operationId`.
        about: What it does, one line.
        role: Least role, or None: needs no token.
        body: Model of its body, or None: it has none.
        answer: Model of its answer; None for text, or where it is not available yet.
        query: Parameters that it knows; others are refused.
        codes: How it may refuse, beyond what every call may.
        status: Of its answer.
        is_conditional: Whether it heeds `If-Match`.
        is_signed: Whether a `Crossfade-Signature` may stand for a token.
    """

    method: Method
    path: str
    name: str
    about: str
    role: Role | None = Role.VIEWER
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    query: tuple[Query, ...] = ()
    codes: tuple[Code, ...] = field(default=())
    status: int = 200
    is_conditional: bool = False
    is_signed: bool = False


_PAGE: Final = (
    Query("limit", f"At most this many items, 1-{PAGE_LIMIT}; {PAGE_DEFAULT} when absent.", is_integer=True),
    Query("cursor", "`next` of the page before."),
)
_RULES: Final = (Code.RULE_VIOLATION, Code.STAGE_HAS_NO_SHARE, Code.GROUP_SHARE, Code.NOT_YET_AVAILABLE)


def _later(method: Method, path: str, name: str, about: str, role: Role = Role.VIEWER) -> Endpoint:
    """A call of the contract that this version answers with `not_yet_available`."""
    return Endpoint(method, path, name, about, role, query=_PAGE, codes=(Code.NOT_YET_AVAILABLE,))


ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Endpoint(Method.GET, "/v1/status", "status", "The state of everything.", answer=answers.Status),
    Endpoint(
        Method.PATCH,
        "/v1/operations/{operation}",
        "change_operation",
        "Moves one operation. Forward and `skip` need an approver.",
        Role.OPERATOR,
        bodies.ChangeBody,
        answers.ChangedOperation,
        codes=(Code.UNKNOWN_OPERATION, Code.STALE_EPOCH, *_RULES),
        is_conditional=True,
    ),
    Endpoint(
        Method.PATCH,
        "/v1/groups/{group}",
        "change_group",
        "Moves every operation of a group. Forward and `skip` need an approver.",
        Role.OPERATOR,
        bodies.ChangeBody,
        answers.ChangedGroup,
        codes=(Code.UNKNOWN_GROUP, Code.STALE_EPOCH, *_RULES),
        is_conditional=True,
    ),
    Endpoint(
        Method.POST,
        "/v1/kills",
        "kill",
        "Kills a scope. Repeats without effect.",
        Role.OPERATOR,
        bodies.KillBody,
        answers.Killed,
        codes=(Code.UNKNOWN_SCOPE, Code.RULE_VIOLATION),
    ),
    Endpoint(
        Method.DELETE,
        "/v1/kills/{scope}",
        "rearm",
        "Removes exactly this kill.",
        Role.APPROVER,
        bodies.RearmBody,
        answers.Rearmed,
        codes=(Code.UNKNOWN_SCOPE, Code.STALE_EPOCH, Code.RULE_VIOLATION),
        is_conditional=True,
    ),
    Endpoint(
        Method.GET,
        "/v1/explain",
        "explain",
        "Which side a key goes to, and why.",
        answer=answers.Explained,
        query=(
            Query("operation", "Its name; absent = a request that no operation matches."),
            Query("key", "As the parts of the group's key are joined; absent = a request without a key."),
        ),
        codes=(Code.UNKNOWN_OPERATION,),
    ),
    Endpoint(Method.GET, "/v1/audit", "audit", "Who did what, newest first.", answer=answers.AuditPage, query=_PAGE),
    Endpoint(
        Method.GET, "/v1/trips", "trips", "What detectors saw, newest first.", answer=answers.TripPage, query=_PAGE
    ),
    Endpoint(
        Method.GET,
        "/v1/trips/{trip}",
        "trip",
        "What a detector saw when it tripped.",
        answer=answers.TripRecord,
        codes=(Code.UNKNOWN_TRIP,),
    ),
    Endpoint(
        Method.POST,
        "/v1/notifications",
        "notify",
        "Sends a test to every target of notifications.",
        Role.OPERATOR,
        bodies.NoticeBody,
        answers.NoticeSent,
        codes=(Code.RULE_VIOLATION,),
        status=202,
    ),
    Endpoint(
        Method.GET,
        "/v1/difference",
        "difference",
        "Where the stored policy differs from the file's.",
        answer=answers.Difference,
    ),
    Endpoint(
        Method.POST,
        "/v1/apply",
        "apply",
        "Makes a file's policy current, or puts a lost policy back.",
        Role.APPROVER,
        bodies.ApplyBody,
        answers.Applied,
        codes=(Code.UNKNOWN_OPERATION, Code.UNKNOWN_GROUP, Code.STALE_EPOCH, *_RULES),
        is_conditional=True,
    ),
    Endpoint(Method.GET, "/v1/tokens", "list_tokens", "All tokens.", Role.APPROVER, answer=answers.TokenList),
    Endpoint(
        Method.POST,
        "/v1/tokens",
        "create_token",
        "Makes a token; its secret is shown this once.",
        Role.APPROVER,
        bodies.TokenBody,
        answers.TokenMade,
        codes=(Code.TOKEN_EXISTS,),
        status=201,
    ),
    Endpoint(
        Method.DELETE,
        "/v1/tokens/{name}",
        "revoke_token",
        "Ends a token at once.",
        Role.APPROVER,
        answer=answers.TokenRevoked,
        codes=(Code.UNKNOWN_TOKEN, Code.RULE_VIOLATION),
    ),
    Endpoint(
        Method.GET,
        "/v1/comparisons",
        "comparisons",
        "Differences between the answers of both sides, grouped, last seen first.",
        answer=answers.ComparisonPage,
        query=(
            *_PAGE,
            Query("operation", "Of this operation alone."),
            Query(
                "order",
                "`last_seen` (default): one that is seen again while pages are read goes to the front. `signature`: "
                "nothing moves, so the pages hold every group that was there all the time, once.",
            ),
        ),
    ),
    Endpoint(
        Method.GET,
        "/v1/consistency",
        "consistency",
        "How far both sides hold the same.",
        answer=answers.ConsistencyList,
        query=_PAGE,
    ),
    Endpoint(
        Method.GET,
        "/v1/noise",
        "noise",
        "What differs between two answers of one side.",
        answer=answers.NoiseList,
        query=_PAGE,
    ),
    Endpoint(
        Method.PATCH,
        "/v1/noise/{operation}",
        "change_noise",
        "Accepts proposals, or takes accepted ones back.",
        Role.OPERATOR,
        bodies.NoiseBody,
        answers.NoiseItem,
        codes=(Code.UNKNOWN_OPERATION, Code.RULE_VIOLATION),
    ),
    _later(Method.GET, "/v1/writes", "writes", "Copied writes and what became of them."),
    Endpoint(
        Method.POST,
        "/v1/incidents",
        "incidents",
        "Kills the scope that the migration file names for incidents; `resolved` changes nothing.",
        Role.OPERATOR,
        bodies.IncidentBody,
        answers.Incident,
        codes=(Code.RULE_VIOLATION,),
        is_signed=True,
    ),
    Endpoint(
        Method.POST,
        "/v1/drills",
        "begin_drill",
        "Rehearses a rollback with a fault injected; the answer is its first state.",
        Role.APPROVER,
        bodies.DrillBody,
        answers.DrillReport,
        codes=(Code.UNKNOWN_OPERATION, Code.RULE_VIOLATION),
        status=202,
    ),
    Endpoint(Method.GET, "/v1/drills", "drills", "Drills, newest first.", answer=answers.DrillList, query=_PAGE),
    Endpoint(
        Method.GET,
        "/v1/drills/{drill}",
        "drill",
        "One drill as it stands.",
        answer=answers.DrillReport,
        codes=(Code.UNKNOWN_DRILL,),
    ),
    Endpoint(
        Method.DELETE,
        "/v1/drills/{drill}",
        "end_drill",
        "Ends a drill at once and puts everything back.",
        Role.OPERATOR,
        answer=answers.DrillReport,
        codes=(Code.UNKNOWN_DRILL,),
    ),
    Endpoint(Method.GET, "/healthz", "health", "The process lives.", None, answer=answers.Health),
    Endpoint(
        Method.GET,
        "/readyz",
        "ready",
        "A policy is known.",
        None,
        answer=answers.Health,
        codes=(Code.POLICY_UNAVAILABLE,),
    ),
    Endpoint(Method.GET, "/metrics", "metrics", "Metrics in the Prometheus text format.", None),
    Endpoint(Method.GET, "/openapi.json", "openapi", "This document.", None),
)
