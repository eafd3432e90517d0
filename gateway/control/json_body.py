"""Reads the JSON body of a control request: bounded, unambiguous, then into a pydantic model.

Whatever is wrong is `invalid_value`, said in words that name the member; nothing was done by then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from gateway.control.problems import Refused, invalid

LIMIT_BYTES: Final = 256 * 1024
READ_TIMEOUT_S: Final = 10.0
_DEPTH_LIMIT: Final = 20
_ERRORS_SHOWN: Final = 20
_ODD: Final = {"extra_forbidden": "is not known here", "missing": "is missing"}
"""Where pydantic's own words would puzzle an operator."""

Model = TypeVar("Model", bound=BaseModel)


async def read_model(request: Request, model: type[Model]) -> Model:
    """The body as `model`.

    Raises:
        Refused: `invalid_value`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise invalid("send the body as Content-Type: application/json")
    return parse_model(await read_body(request), model)


async def read_body(request: Request) -> bytes:
    """The body as it was sent.

    Raises:
        Refused: `invalid_value`: too large, or too late.
    """
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            return await _read(request)
    except (TimeoutError, ClientDisconnect) as exc:
        raise invalid("the body did not arrive in time") from exc


def parse_model(body: bytes, model: type[Model]) -> Model:
    """Bytes of JSON as `model`.

    Raises:
        Refused: `invalid_value`.
    """
    content = _parse(body)
    if not isinstance(content, dict):
        raise invalid("the body is no JSON object")
    try:
        return model.model_validate(content)
    except ValidationError as exc:
        errors = [
            _say(error["loc"], _ODD.get(error["type"], error["msg"]))
            for error in exc.errors(include_url=False, include_input=False)
        ]
        raise invalid("; ".join(errors[:_ERRORS_SHOWN]), errors[:_ERRORS_SHOWN]) from exc


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LIMIT_BYTES:
            raise invalid(f"the body is larger than {LIMIT_BYTES} bytes")
    return bytes(body)


def _parse(body: bytes) -> object:
    try:
        content = json.loads(
            body.decode(), object_pairs_hook=_members, parse_float=Decimal, parse_constant=_refuse_constant
        )
    except Refused:
        raise
    # Numbers beyond Python's digit limit are ValueErrors, nesting beyond its stack RecursionErrors.
    except (ValueError, RecursionError, ArithmeticError) as exc:
        raise invalid("the body is no valid JSON") from exc
    if _depth(content) > _DEPTH_LIMIT:
        raise invalid(f"the body is nested more than {_DEPTH_LIMIT} deep")
    return content


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid(f"member {json.dumps(twice[:60])} stands there twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise invalid(f"{name} is no JSON")


def _depth(content: object) -> int:
    level: list[object] = [content]
    depth = 0
    while level:
        depth += 1
        level = [inner for item in level for inner in _inside(item)]
    return depth


def _inside(item: object) -> Iterable[object]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def _say(location: tuple[int | str, ...], message: str) -> str:
    place = ".".join(str(part)[:60] for part in location) or "body"
    return f"{place}: {message.removeprefix('Value error, ')}"
