"""What is a secret by its name, and where one may stand."""

from __future__ import annotations

import json

import pytest

from gateway.core.model import Headers, Secrets
from gateway.core.secrets import Payload, holds_secret, is_secret_name, without_secrets

PLAIN = Secrets()
JSON = b"application/json"


def payload(query: bytes = b"", body: bytes | None = None, kind: bytes = JSON, *, is_mcp: bool = False) -> Payload:
    return Payload(query, body, kind, is_mcp)


@pytest.mark.parametrize(
    "name",
    ["authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token", "x-amz-security-token", "X-Apikey",
     "access_token", "accessToken", "client_secret", "password", "sig", "X-Amz-Signature", "session_id", "jwt",
     "crossfade-auth", "private_token"],
)  # fmt: skip
def test_secrets_are_known_by_their_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["accept", "x-request-id", "traceparent", "x-key", "key", "author", "page_token", "nextPageToken", "max_tokens",
     "progressToken", "signal", "url", "id", "x-forwarded-for", "content-type", "host"],
)  # fmt: skip
def test_other_names_are_not(name: str) -> None:
    assert not is_secret_name(name)


def test_fields_that_are_secrets_are_left_out() -> None:
    fields: Headers = [(b"accept", b"*/*"), (b"x-auth-token", b"s"), (b"x-mine", b"s"), (b"cookie", b"a=b")]
    assert without_secrets(fields, Secrets(headers=frozenset({"x-mine"}))) == [(b"accept", b"*/*")]


@pytest.mark.parametrize(
    "found",
    [
        payload(b"access_token=abc"),
        payload(b"a=1&api%5Fkey=abc"),
        payload(b"token=abc"),
        payload(body=b'{"token": "abc"}'),
        payload(body=b'{"a": [{"b": {"password": "abc"}}]}'),
        payload(body=b"user=a&password=b", kind=b"application/x-www-form-urlencoded; charset=utf-8"),
        payload(body=b"<token>abc</token>", kind=b"application/xml"),
        payload(body=b'{"a": 1, "a": 2}'),
        payload(
            body=json.dumps({"method": "tools/call", "params": {"arguments": {"token": "x"}}}).encode(), is_mcp=True
        ),
    ],
)
def test_secrets_are_found_where_they_cannot_be_left_out(found: Payload) -> None:
    assert holds_secret(found, PLAIN)


@pytest.mark.parametrize(
    "found",
    [
        payload(),
        payload(b"a=1&page_token=2"),
        payload(body=b""),
        payload(body=b'{"token": null, "url": "x"}'),
        payload(body=b"[1, 2]"),
        payload(body=json.dumps({"params": {"arguments": {"a": 1}, "_meta": {"token": "x"}}}).encode(), is_mcp=True),
    ],
)
def test_nothing_else_is(found: Payload) -> None:
    assert not holds_secret(found, PLAIN)


def test_a_list_of_the_file_is_what_counts_for_arguments() -> None:
    mine = Secrets(arguments=frozenset({"pin"}), is_declared=True)
    assert holds_secret(payload(body=b'{"pin": 1}'), mine)
    assert holds_secret(payload(b"pin=1"), mine)
    assert not holds_secret(payload(body=b'{"token": "abc"}'), mine)
