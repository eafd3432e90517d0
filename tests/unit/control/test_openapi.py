from __future__ import annotations

from pathlib import Path

from gateway.control.endpoints import ENDPOINTS
from gateway.control.openapi import describe, render

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_the_description_is_the_one_in_the_docs() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(), (
        "the API has changed: python -m gateway.control.openapi > docs/openapi.json"
    )


def test_every_call_is_described_and_every_reference_leads_somewhere() -> None:
    document = describe(ENDPOINTS)
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(endpoint.method.value, endpoint.path) for endpoint in ENDPOINTS}
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def test_a_body_is_described_as_it_is_read() -> None:
    schemas = describe(ENDPOINTS)["components"]["schemas"]
    percent = schemas["ChangeBody"]["properties"]["percent"]
    assert (percent["type"], percent["minimum"], percent["maximum"]) == ("number", 0, 100)
    assert schemas["ChangeBody"]["additionalProperties"] is False
    assert "null" not in str(schemas["ChangeBody"])
    assert "Scope" not in schemas


def test_only_what_the_contract_names_needs_no_token() -> None:
    open_paths = {
        path
        for path, methods in describe(ENDPOINTS)["paths"].items()
        for operation in methods.values()
        if not operation["security"]
    }
    assert open_paths == {"/healthz", "/readyz", "/metrics", "/openapi.json"}


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    if isinstance(node, list):
        return [found for value in node for found in references(value)]
    return []
