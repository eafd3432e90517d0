"""REST routes: their syntax, and which of them a request could match at once."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.routes import Route, can_match_path, is_denied, overlaps, parameters, parse_path, parse_rest


@pytest.mark.parametrize("text", ["GET /", "POST /v1/git/status", "M-SEARCH /a", "PUT /a/{b}/c/{d_1}", "GET /café"])
def test_a_method_and_a_path_in_its_normal_form_is_a_route(text: str) -> None:
    assert str(parse_rest(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/carts", 'must be a method and a path; write "POST /carts"'),
        ("carts", 'must be a method and a path; write "POST /…"'),
        ("get /carts", '"get" is no HTTP method; write "GET /carts"'),
        (" /carts", '"" is no HTTP method; write "POST /carts"'),
        ("TRACE /carts", "TRACE is never forwarded"),
        ("CONNECT /carts", "CONNECT is never forwarded"),
        ("GET carts", 'must start with /; write "/carts"'),
        ("GET carts/../a/", 'must start with /; write "/a"'),
        ("GET /a/../b", 'is not in its normal form; write "/b"'),
        ("GET /a/./b", 'write "/a/b"'),
        ("GET /a//b", 'write "/a/b"'),
        ("GET /a/", 'write "/a"'),
        ("GET /a;v=1", 'write "/a"'),
        ("GET /a?x=1", 'holds a query, which is not matched; write "/a"'),
        ("GET /a#x", 'holds a fragment, which is not matched; write "/a"'),
        ("GET /a%20b", "holds a % escape"),
        ("GET %ff", "holds a % escape"),
        ("GET /a\\b", "holds a backslash, a space or a control character"),
        ("GET /a b", "holds a backslash, a space"),
        ("GET /a\x00", "or a control character"),
        ("GET /{id", '"{id" mixes text and a parameter'),
        ("GET /x{id}", "a parameter is a whole segment"),
        ("GET /{}", '"{}" mixes'),
        ("GET /{a-b}", '"{a-b}" mixes'),
        ("GET /{a}/{b}/{a}", "{a} stands twice"),
    ],
)
def test_anything_else_is_refused_and_says_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_rest(text)


@given(st.text(st.sampled_from("ab/.;%?#{} \\"), max_size=12))
def test_a_path_that_a_message_proposes_for_a_bare_one_is_accepted(text: str) -> None:
    try:
        parse_path(text)
    except ValueError as exc:
        proposal = str(exc).partition('must start with /; write "')[2].removesuffix('"')
        if proposal:
            assert parse_path(proposal) == proposal


def test_the_names_of_a_template_are_its_parameters() -> None:
    assert parameters(parse_rest("GET /a/{b}/c/{d}")) == {"b", "d"}


segment = st.sampled_from(["a", "b", "{p}"])
template = st.lists(segment, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


def routes(*templates: str) -> list[Route]:
    # Names of parameters do not count, and parse_rest refuses one that stands twice.
    texts = ["/".join(f"{{p{n}}}" if s == "{p}" else s for n, s in enumerate(t.split("/"))) for t in templates]
    return [Route(str(number), parse_rest(f"GET {text}")) for number, text in enumerate(texts)]


@given(template, template)
def test_two_routes_overlap_when_some_path_matches_both(one: str, other: str) -> None:
    first, second = routes(one, other)
    paths = ["/" + "/".join(path) for n in (1, 2, 3) for path in product_of(n)]
    both = any(can_match_path(first.rest, path) and can_match_path(second.rest, path) for path in paths)
    assert bool(list(overlaps([first, second]))) == both


def product_of(length: int) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for _ in range(length):
        found = [(*path, piece) for path in found for piece in ("a", "b", "c")]
    return found


def test_methods_keep_routes_apart() -> None:
    assert not list(overlaps([Route("one", parse_rest("GET /a")), Route("two", parse_rest("PUT /a"))]))


def test_a_parameter_takes_one_segment_that_is_not_empty() -> None:
    rest = parse_rest("GET /a/{b}")
    assert can_match_path(rest, "/a/x")
    assert not can_match_path(rest, "/a/")
    assert not can_match_path(rest, "/a/x/y")


@pytest.mark.parametrize(
    ("route", "prefix", "denied"),
    [
        ("GET /v1/workspaces", "/v1/workspaces", True),
        ("GET /v1/workspaces/{id}", "/v1/workspaces", True),
        ("GET /v1/workspacesx", "/v1/workspaces", False),
        ("GET /v1/{any}", "/v1/workspaces", False),
        ("GET /{any}/workspaces", "/v1", False),
    ],
)
def test_a_route_is_denied_when_all_of_it_lies_below(route: str, prefix: str, *, denied: bool) -> None:
    assert is_denied(parse_rest(route), prefix) is denied
