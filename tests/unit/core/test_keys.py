from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.keys import (
    KeyInputs,
    body_may_decide,
    body_needed,
    encode_part,
    header_names_of,
    read_key,
)
from gateway.core.model import Headers, KeyRecipe, KeySource, KeySourceKind
from tests.unit.core.migrations import AGENT_AND_TASK, ARGUMENTS, RECIPES


def source(text: str) -> KeySource:
    kind, _, name = text.partition(":")
    return KeySource(KeySourceKind(kind), name)


def recipe(*sources: str) -> KeyRecipe:
    return tuple(map(source, sources))


def inputs(
    *headers: tuple[bytes, bytes],
    params: dict[str, str] | None = None,
    query: bytes = b"",
    address: str = "203.0.113.7",
    arguments: Any = None,
) -> KeyInputs:
    return KeyInputs(list(headers), params or {}, query, address, arguments)


def key_of(text: str, given_by: KeyInputs) -> str | None:
    return read_key([recipe(text)], given_by)


@pytest.mark.parametrize(
    ("text", "given_by", "key"),
    [
        ("header:x-user", inputs((b"x-user", b"7")), "7"),
        ("header:x-user", inputs((b"x-other", b"7")), None),
        ("header:x-user", inputs((b"x_user", b"7")), None),
        ("header:x-user", inputs((b"x-user", b" \t7 ")), "7"),
        ("header:x-user", inputs((b"x-user", b"")), None),
        ("header:x-user", inputs((b"x-user", "ключ".encode())), "ключ"),
        ("header:x-user", inputs((b"x-user", b"caf\xe9")), None),
        ("path:id", inputs(params={"id": "7"}), "7"),
        ("path:id", inputs(params={"other": "7"}), None),
        ("path:id", inputs(params={"id": "a\udcff"}), None),
        ("query:user", inputs(query=b"a=1&user=7&b=2"), "7"),
        ("query:user", inputs(query=b"user=a%20b+c"), "a b c"),
        ("query:user", inputs(query=b"%75ser=7"), "7"),
        ("query:user", inputs(query=b"user"), None),
        ("query:user", inputs(query=b"User=7"), None),
        ("query:user", inputs(query=b"a=1;user=7"), None),
        ("query:user", inputs(query=b"user=%ff"), None),
        ("cookie:sid", inputs((b"cookie", b"a=1; sid=7; b=2")), "7"),
        ("cookie:sid", inputs((b"cookie", b"a=1"), (b"cookie", b"sid=7")), "7"),
        ("cookie:sid", inputs((b"cookie", b'sid="7"')), "7"),
        ("cookie:sid", inputs((b"cookie", b'sid= "7" ')), "7"),
        ("cookie:sid", inputs((b"cookie", b"sid=a=b")), "a=b"),
        ("cookie:sid", inputs((b"cookie", b"sid")), None),
        ("cookie:sid", inputs((b"set-cookie", b"sid=7")), None),
        ("argument:user", inputs(arguments={"user": "7"}), "7"),
        ("argument:user.id", inputs(arguments={"user": {"id": "7"}}), "7"),
        ("argument:user.id", inputs(arguments={"user.id": "7"}), None),
        ("argument:user.id", inputs(arguments={"user": "7"}), None),
        ("argument:user", inputs(arguments=None), None),
        ("client_address", inputs(address="203.0.113.7"), "203.0.113.7"),
        ("client_address", inputs(address="::ffff:203.0.113.7"), "203.0.113.7"),
        ("client_address", inputs(address="2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::"),
        ("client_address", inputs(address="2001:DB8:1:2:FFFF::"), "2001:db8:1:2::"),
        ("client_address", inputs(address="fe80::1%eth0"), "fe80::"),
        ("client_address", inputs(address=""), None),
        ("client_address", inputs(address="unknown"), None),
    ],
)
def test_every_source_gives_its_part(text: str, given_by: KeyInputs, key: str | None) -> None:
    assert key_of(text, given_by) == key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("7", "7"),
        (7, "7"),
        (-7, "-7"),
        (0, "0"),
        (10**200, "1" + "0" * 200),
        (10**255, "1" + "0" * 255),
        (10**256, None),
        (-(10**255), None),
        pytest.param(10**100_000, None, id="100000-digits"),
        (True, None),
        (False, None),
        (None, None),
        (7.0, None),
        ({"a": 1}, None),
        (["7"], None),
        ("", None),
        (" \t\n", None),
        ("\ud800", None),
    ],
)
def test_strings_and_integers_are_parts_and_anything_else_is_missing(value: object, key: str | None) -> None:
    assert key_of("argument:user", inputs(arguments={"user": value})) == key


@pytest.mark.parametrize(
    ("text", "same", "different"),
    [
        ("header:h", inputs((b"h", b"7"), (b"h", b" 7")), inputs((b"h", b"7"), (b"h", b"8"))),
        ("header:h", inputs((b"h", b"7"), (b"h", b"7")), inputs((b"h", b"7"), (b"h", b""))),
        ("query:q", inputs(query=b"q=7&q=%37"), inputs(query=b"q=7&q=8")),
        ("cookie:c", inputs((b"cookie", b"c=7; c=7")), inputs((b"cookie", b"c=7"), (b"cookie", b"c=8"))),
    ],
)
def test_a_part_given_twice_counts_when_both_agree_and_is_missing_when_they_differ(
    text: str, same: KeyInputs, different: KeyInputs
) -> None:
    assert key_of(text, same) == "7"
    assert key_of(text, different) is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a", "a"),
        ("  a b ", "a b"),
        ("a/b", "a%2Fb"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("", None),
        ("x" * 256, "x" * 256),
        (" " + "x" * 256 + " ", "x" * 256),
        ("x" * 257, None),
        ("é" * 128, "é" * 128),
        ("é" * 129, None),
        ("/" * 256, "%2F" * 256),
    ],
)
def test_a_part_is_trimmed_bounded_in_bytes_and_encoded(text: str, part: str | None) -> None:
    assert encode_part(text) == part


@given(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=2), st.lists(st.text(max_size=6), max_size=2))
def test_two_keys_of_different_parts_are_never_the_same(one: list[str], other: list[str]) -> None:
    ours, theirs = [encode_part(part) for part in one], [encode_part(part) for part in other]
    if None not in ours and None not in theirs and ours != theirs:
        assert "/".join(map(str, ours)) != "/".join(map(str, theirs))


@given(st.text())
def test_a_part_holds_no_slash_and_no_margin(text: str) -> None:
    part = encode_part(text)
    assert part is None or ("/" not in part and part == part.strip() and part)


def test_the_first_recipe_that_yields_every_part_wins() -> None:
    whole: Headers = [(b"x-agent-id", b"a"), (b"x-task-id", b"1")]
    arguments = {"agent_id": "b", "task_id": 2}
    assert read_key(RECIPES, inputs(*whole, arguments=arguments)) == "a/1"
    assert read_key(RECIPES, inputs(whole[0], arguments=arguments)) == "b/2"
    assert read_key(RECIPES, inputs(whole[0], arguments={"task_id": 2})) is None
    assert read_key(RECIPES, inputs(arguments={"agent_id": "a/x", "task_id": "%"})) == "a%2Fx/%25"
    assert read_key([], inputs(*whole)) is None


def test_parts_of_several_kinds_make_one_key() -> None:
    mixed = recipe("header:tenant", "path:id", "query:v", "argument:n", "client_address")
    given_by = inputs((b"tenant", b"t"), params={"id": "i"}, query=b"v=q", arguments={"n": 1})
    assert read_key([mixed], given_by) == "t/i/q/1/203.0.113.7"


@pytest.mark.parametrize(
    ("recipes", "given_by", "needed"),
    [
        ([AGENT_AND_TASK, ARGUMENTS], inputs((b"x-agent-id", b"a"), (b"x-task-id", b"1")), False),
        ([AGENT_AND_TASK, ARGUMENTS], inputs((b"x-agent-id", b"a")), True),
        ([ARGUMENTS, AGENT_AND_TASK], inputs((b"x-agent-id", b"a"), (b"x-task-id", b"1")), True),
        ([AGENT_AND_TASK], inputs(), False),
        ([recipe("header:a", "argument:b")], inputs(), False),
        ([recipe("header:a", "argument:b")], inputs((b"a", b"1")), True),
        ([recipe("header:a", "argument:b"), recipe("header:c")], inputs((b"c", b"1")), False),
        ([recipe("header:c"), recipe("argument:b")], inputs((b"c", b"")), True),
        ([], inputs(), False),
    ],
)
def test_the_body_is_needed_only_where_it_can_still_decide(
    recipes: list[KeyRecipe], given_by: KeyInputs, needed: bool
) -> None:
    assert body_needed(recipes, given_by) is needed


SOURCES = st.sampled_from(["header:a", "header:b", "argument:x", "argument:y", "query:q"]).map(source)
VALUES = st.sampled_from([b"", b"1", b"2"])


@given(
    st.lists(st.lists(SOURCES, min_size=1, max_size=3).map(tuple), max_size=4),
    st.lists(st.tuples(st.sampled_from([b"a", b"b"]), VALUES), max_size=3),
    st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", None])),
)
def test_where_the_body_is_not_needed_it_changes_nothing(
    recipes: list[KeyRecipe], headers: Headers, arguments: dict[str, object]
) -> None:
    unread = inputs(*headers)
    if not body_needed(recipes, unread):
        assert read_key(recipes, unread) == read_key(recipes, inputs(*headers, arguments=arguments))


def test_a_definition_knows_whether_bodies_decide_and_which_headers_do() -> None:
    assert body_may_decide(RECIPES)
    assert not body_may_decide([AGENT_AND_TASK])
    assert header_names_of([*RECIPES, recipe("header:tenant", "cookie:sid")]) == {
        b"x-agent-id",
        b"x-task-id",
        b"tenant",
    }
