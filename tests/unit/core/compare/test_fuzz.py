"""Whatever two services send, there is a verdict."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.compare.answers import Answer, Comparer, Pairing, Result
from gateway.core.compare.json_value import canonical, parse
from gateway.core.compare.rules import ComparisonRules, Relax, Rule
from gateway.shadow.frames import REPLY, read_verdict, verdict_frame

KINDS = [
    b"application/json",
    b"text/event-stream",
    b"text/plain",
    b"",
    b"application/json; charset=utf-16",
    b"x;;=\xff",
]
CODINGS = [None, b"gzip", b"br", b"deflate", b"gzip, br", b",", b"nonsense"]
PIECES = [
    b"{", b"}", b"[", b"]", b'"a"', b":", b",", b"1", b"1e999999999", b"-0.0", b'"\\ud800"', b"null", b"data: ",
    b"\n\n",
    b"\r", b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"{\\"a\\":1}"}]}}', b"\xff", b"NaN",
    b'{"error":{"data":{"code":"x"}}}', b'"2026-01-01T00:00:00Z"', b'"9999-99-99T99:99:99Z"',
]  # fmt: skip
RULES = ComparisonRules(
    by_path={"$.a": Rule(abs_tolerance="1", within_s=1), "$..b": Rule(keyed="a"), "$[*]": Rule(shape=True)},
    relaxed={"$.c": Relax.ORDER, "$": Relax.ORDER},
    loose_numbers=True,
)

Bodies = st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    headers = [(b"content-type", draw(st.sampled_from(KINDS)))]
    coding = draw(st.sampled_from(CODINGS))
    if coding is not None and draw(st.booleans()):
        headers.append((b"content-encoding", coding))
    return Answer(draw(st.sampled_from([200, 204, 404, 500])), headers, draw(Bodies))


@given(answers(), answers(), st.booleans(), st.booleans(), st.sampled_from([ComparisonRules(), RULES]))
def test_there_is_a_verdict(
    left: Answer, right: Answer, is_mcp: bool, with_leaves: bool, rules: ComparisonRules
) -> None:
    found = Comparer(rules, b"secret").compare(left, right, Pairing(is_mcp), with_leaves=with_leaves)
    assert (found.result is Result.DIFFERS) == bool(found.differences)
    frame = verdict_frame(1, found, rules.version)
    assert read_verdict(json.loads(frame[REPLY.size :])) == found


@pytest.mark.parametrize("number", ["1e999999999", "-1e-999999999", "0.1e99999", "1" * 900, "-0.0", "0e5"])
def test_numbers_beyond_bounds_have_a_canonical_form(number: str) -> None:
    assert canonical(parse(f"[{number}]")) == canonical(parse(f"[{number}]"))
