"""The API's description, OpenAPI 3.1, from the table of endpoints and the models of bodies and answers.

`python -m gateway.control.openapi` writes it to standard output; `docs/openapi.json` holds it, checked by a test.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.control.answers import ProblemDocument
from gateway.control.endpoints import ENDPOINTS, Endpoint
from gateway.control.problems import MEDIA_TYPE, STATUS, Code

_REF: Final = "#/components/schemas/{model}"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_ALWAYS: Final = (Code.INTERNAL,)
_WITH_TOKEN: Final = (Code.TOKEN_REQUIRED, Code.ROLE_REQUIRED, Code.TOO_MANY_ATTEMPTS, Code.POLICY_UNAVAILABLE)

Json = dict[str, Any]


def describe(endpoints: Iterable[Endpoint]) -> Json:
    """The document."""
    every = tuple(endpoints)
    bodies = {endpoint.body for endpoint in every if endpoint.body is not None}
    answers = {endpoint.answer for endpoint in every if endpoint.answer is not None} | {ProblemDocument}
    paths: dict[str, Json] = {}
    for endpoint in every:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Crossfade control API",
            "version": "1",
            "description": "Percentages are numbers 0-100. Unknown is null, never 0. Refusals are problem+json "
            "with a `code`.",
        },
        "paths": paths,
        "components": {
            "schemas": {**_said(_schemas(bodies, "validation"), bodies), **_schemas(answers, "serialization")},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(models: set[type[BaseModel]], mode: Any) -> Json:  # noqa: ANN401 - a Literal that pydantic keeps private
    ordered = sorted(models, key=lambda model: model.__name__)
    _, document = models_json_schema([(model, mode) for model in ordered], ref_template=_REF)
    return dict(sorted(document["$defs"].items()))


def _said(schemas: Json, bodies: set[type[BaseModel]]) -> Json:
    """Schemas of bodies as they are read: a member is said or left out, never null."""
    for schema in schemas.values():
        for name, member in schema.get("properties", {}).items():
            choices = [choice for choice in member.get("anyOf", ()) if choice != {"type": "null"}]
            if len(choices) == 1:
                rest = {key: value for key, value in member.items() if key not in ("anyOf", "default")}
                schema["properties"][name] = {**rest, **choices[0]}
    # What a validator of ours replaces is not part of any body.
    used = {_ref(body)["$ref"] for body in bodies} | _refs(schemas)
    return {name: schema for name, schema in schemas.items() if _REF.format(model=name) in used}


def _refs(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(_refs, node.values()))
    return set().union(*map(_refs, node)) if isinstance(node, list) else set()


def _operation(endpoint: Endpoint) -> Json:
    described: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.about,
        "security": [] if endpoint.role is None else [{"token": []}],
        "responses": _responses(endpoint),
    }
    if endpoint.role is not None:
        described["x-role"] = str(endpoint.role)
    if parameters := _parameters(endpoint):
        described["parameters"] = parameters
    if endpoint.body is not None:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(endpoint.body)}}}
    return described


def _parameters(endpoint: Endpoint) -> list[Json]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(endpoint.path)
    ]
    for query in endpoint.query:
        schema = {"type": "integer" if query.is_integer else "string"}
        found.append({"name": query.name, "in": "query", "description": query.about, "schema": schema})
    if endpoint.is_conditional:
        about = "Act only at this epoch, written as its ETag."
        found.append({"name": "If-Match", "in": "header", "description": about, "schema": {"type": "string"}})
    return found


def _responses(endpoint: Endpoint) -> Json:
    responses: Json = {}
    if Code.NOT_YET_AVAILABLE not in endpoint.codes or endpoint.answer is not None:
        responses[str(endpoint.status)] = {"description": endpoint.about, "content": _content(endpoint)}
    codes = {*endpoint.codes, *_ALWAYS, *(_WITH_TOKEN if endpoint.role is not None else ())}
    if endpoint.body is not None or endpoint.query:
        codes.add(Code.INVALID_VALUE)
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        by_status.setdefault(STATUS[code], []).append(code.value)
    for status, names in sorted(by_status.items()):
        content = {MEDIA_TYPE: {"schema": _ref(ProblemDocument)}}
        responses[str(status)] = {"description": ", ".join(f"`{name}`" for name in names), "content": content}
    return responses


def _content(endpoint: Endpoint) -> Json:
    if endpoint.answer is not None:
        return {"application/json": {"schema": _ref(endpoint.answer)}}
    media_type = "text/plain" if endpoint.name == "metrics" else "application/json"
    return {media_type: {"schema": {"type": "string" if media_type == "text/plain" else "object"}}}


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}


def render() -> str:
    """The document as `docs/openapi.json` holds it."""
    return json.dumps(describe(ENDPOINTS), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
