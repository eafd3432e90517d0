from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.bodies import ChangeBody, KillBody
from gateway.control.json_body import parse_model
from gateway.control.problems import Refused
from gateway.core.model import Ppm, Scope
from gateway.core.plain_text import one_line


@given(st.text())
def test_a_reason_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert isinstance(line, str)
    assert line.isprintable()
    assert one_line(line) == line
    line.encode()


@given(st.integers(0, 1_000_000))
def test_every_share_is_read_exactly(ppm: int) -> None:
    text = f'{{"percent": {ppm // 10_000}.{ppm % 10_000:04}, "reason": "r"}}'
    assert parse_model(text.encode(), ChangeBody).percent == Ppm(ppm)


@given(st.binary(max_size=200))
def test_whatever_bytes_come_are_a_model_or_a_refusal(body: bytes) -> None:
    with suppress(Refused):
        parse_model(body, KillBody)


def test_duplicates_are_found_at_any_depth() -> None:
    with pytest.raises(Refused, match='"a" stands there twice'):
        parse_model(b'{"scope": "all", "reason": {"b": [{"a": 1, "a": 2}]}}', KillBody)


def test_a_scope_is_read() -> None:
    body = parse_model(b'{"scope": "group:a:b", "reason": " two\\n lines "}', KillBody)
    assert (body.scope, body.reason) == (Scope.parse("group:a:b"), "two lines")
