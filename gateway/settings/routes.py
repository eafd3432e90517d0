"""REST matches and plain paths of the file: their syntax, and which of them can match the same request.

Every path must be written as `core.paths` normalises it, since that is what requests are compared with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.core.model import RestMatch
from gateway.core.paths import is_below, normalise

_METHOD: Final = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NEVER_FORWARDED: Final = frozenset({"TRACE", "CONNECT"})


@dataclass(frozen=True, slots=True)
class Route:
    """A REST match and whose it is."""

    operation: str
    rest: RestMatch


def parse_path(text: str) -> str:
    """Checks a plain path.

    Raises:
        ValueError: It is not in its normal form, or holds what a path cannot.
    """
    for mark, name in (("?", "query"), ("#", "fragment")):
        if mark in text:
            raise ValueError(f'holds a {name}, which is not matched; write "{text.partition(mark)[0]}"')
    if "%" in text:
        raise ValueError("holds a % escape, and requests are matched decoded; write the character itself")
    if "\\" in text or " " in text or not text.isprintable():
        raise ValueError("holds a backslash, a space or a control character, which no matched path has; remove it")
    if not text.startswith("/"):
        raise ValueError(f'must start with /; write "{normalise(f"/{text}".encode()).text}"')
    normal = normalise(text.encode())
    if normal.text != text or normal.changed:
        raise ValueError(f'is not in its normal form; write "{normal.text}"')
    return text


def parse_rest(text: str) -> RestMatch:
    """Reads `METHOD /path/{parameter}`.

    Raises:
        ValueError: It is not of that form.
    """
    method, space, template = text.partition(" ")
    if not space:
        raise ValueError(f'must be a method and a path; write "POST {text if text.startswith("/") else "/…"}"')
    if not _METHOD.fullmatch(method):
        raise ValueError(f'"{method}" is no HTTP method; write "{method.upper() or "POST"} {template}"')
    if method in _NEVER_FORWARDED:
        raise ValueError(f"{method} is never forwarded; remove it")
    parse_path(template)
    rest = RestMatch(method, template)
    names = []
    for segment in rest.segments:
        parameter = _PARAMETER.fullmatch(segment)
        if parameter:
            names.append(parameter[1])
        elif "{" in segment or "}" in segment:
            raise ValueError(f'"{segment}" mixes text and a parameter; a parameter is a whole segment: /{{name}}/')
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{{{twice}}} stands twice; give each parameter a name of its own")
    return rest


def parameters(rest: RestMatch) -> frozenset[str]:
    """The names of a template's parameters."""
    return frozenset(segment[1:-1] for segment in rest.segments if _is_parameter(segment))


def can_match_path(rest: RestMatch, path: str) -> bool:
    """Whether some request to `path` matches the template."""
    return _meet(rest.segments, tuple(path.split("/")[1:]))


def is_denied(rest: RestMatch, prefix: str) -> bool:
    """Whether every request that matches lies under `prefix`."""
    literal = []
    for segment in rest.segments:
        if _is_parameter(segment):
            break
        literal.append(segment)
    return is_below("/" + "/".join(literal), prefix)


def overlaps(routes: Iterable[Route]) -> Iterator[tuple[Route, Route]]:
    """Pairs of routes that some request matches both of: the later one, and the first that it meets.

    There is no precedence: at the same position a text and a parameter can both match, and so can two equal texts or
    two parameters. Only different texts keep two templates apart.
    """
    seen: dict[tuple[str, int], list[Route]] = {}
    for route in routes:
        rivals = seen.setdefault((route.rest.method, len(route.rest.segments)), [])
        first = next((rival for rival in rivals if _meet(rival.rest.segments, route.rest.segments)), None)
        if first is not None:
            yield route, first
        rivals.append(route)


def _meet(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return len(one) == len(other) and all(
        a == b or (_is_parameter(a) and b != "") or (_is_parameter(b) and a != "")
        for a, b in zip(one, other, strict=True)
    )


def _is_parameter(segment: str) -> bool:
    return segment.startswith("{")
