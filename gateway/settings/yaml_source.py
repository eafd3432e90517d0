"""Reads one YAML 1.2 file into plain data, and remembers on which line everything stands.

On top of ruamel.yaml's event parser; what a plain scalar means is decided here, by a narrow reading of the core schema
(YAML 1.2.2 §10.3): only `true` and `false` are booleans, so `off`, `on`, `yes` and `no` are text, and a number that
YAML 1.1 and 1.2 read differently is refused. It must not know what any key means.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from gateway.settings.problems import KeyPath, Problem, SettingsError, show_path, show_value

SIZE_LIMIT_BYTES: Final = 1 << 20
DEPTH_LIMIT: Final = 32
VALUE_LIMIT: Final = 50_000
"""Values after aliases are expanded: what stops ten lines of aliases from becoming a billion entries."""

_NUMBER_LENGTH_LIMIT: Final = 40
_DECIMAL: Final = re.compile(r"[-+]?[0-9]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+")
_OCTAL: Final = re.compile(r"0o[0-7]+")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LEADING_ZERO: Final = re.compile(r"[-+]?0[0-9]+")


@dataclass(frozen=True, slots=True)
class Position:
    """Where something stands, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """One file, read.

    Attributes:
        file: The file as the operator named it.
        data: Its root mapping: dicts, lists, text, numbers, booleans, None.
        positions: Where each key and list item stands.
    """

    file: str
    data: dict[str, object]
    positions: Mapping[KeyPath, Position]

    def locate(self, path: KeyPath) -> Position:
        """Where `path` stands; for a key that is absent, where its nearest known parent stands."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, Position(1, 1))


@dataclass(slots=True)
class _Scalar:
    text: str
    is_plain: bool


@dataclass(slots=True)
class _Sequence:
    items: list[tuple[Position, _Node]] = field(default_factory=list)


@dataclass(slots=True)
class _Mapping:
    pairs: list[tuple[Position, _Node, _Node]] = field(default_factory=list)


_Node = _Scalar | _Sequence | _Mapping


class _Stop(Exception):  # noqa: N818 - ends the reading where nothing after it can be trusted
    def __init__(self, message: str, at: Position | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


def read_yaml(path: Path, *, may_be_empty: bool = False) -> Document:
    """Reads a file.

    Args:
        path: The file.
        may_be_empty: Whether nothing, or comments alone, count as an empty mapping.

    Raises:
        SettingsError: It cannot be read, or is not one YAML 1.2 mapping within the bounds of this module.
    """
    try:
        # Not blocking: a pipe that nobody writes to would be waited for, and whoever reads it could not be stopped.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SettingsError([Problem(str(path), 0, "", "is no regular file; name a file")])
            content = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as exc:
        raise SettingsError([Problem(str(path), 0, "", f"cannot be read: {exc.strerror}; name a file")]) from exc
    return parse_yaml(content, str(path), may_be_empty=may_be_empty)


def parse_yaml(content: bytes, file: str, *, may_be_empty: bool = False) -> Document:
    """Reads the content of a file.

    Args:
        content: UTF-8, with or without a byte order mark.
        file: Its name, for messages.
        may_be_empty: Whether nothing, or comments alone, count as an empty mapping.

    Raises:
        SettingsError: It is not one YAML 1.2 mapping within the bounds of this module.
    """
    reading = _Reading(file)
    try:
        root = _Composer(_events(content), reading).compose()
        if root is None and not may_be_empty:
            raise _Stop("is empty; write a mapping (key: value)")  # noqa: TRY301 - told as all that stops the reading
        data = _Expansion(reading).expand_root(root or _Mapping())
    except _Stop as stop:
        reading.report(stop.at, (), stop.message)
        raise SettingsError(reading.problems) from None
    if reading.problems:
        raise SettingsError(reading.problems)
    return Document(file, data, reading.positions)


@dataclass(slots=True)
class _Reading:
    """What was seen so far of a file."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    positions: dict[KeyPath, Position] = field(default_factory=dict)

    def report(self, at: Position | None, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self.file, at.line if at else 0, show_path(path), message))


def _events(content: bytes) -> Iterator[Event]:
    """The parse events of a text; a fault of the syntax as `_Stop`."""
    if len(content) > SIZE_LIMIT_BYTES:
        raise _Stop(f"is larger than {SIZE_LIMIT_BYTES} bytes; split it or remove what does not belong here")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise _Stop("is not UTF-8; save the file as UTF-8", Position(line, 1)) from exc
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        what = " ".join(filter(None, (exc.context, exc.problem)))
        at = Position(mark.line + 1, mark.column + 1) if mark else None
        column = f" (column {at.column})" if at else ""
        raise _Stop(f"is not YAML: {what}{column}; check quotes, brackets and indentation here", at) from exc
    except ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise _Stop("holds a control character; remove it or write it escaped in quotes", Position(line, 1)) from exc
    except YAMLError as exc:
        raise _Stop("is not YAML; check quotes, brackets and indentation") from exc


class _Composer:
    """Events to nodes: one document, no tags, no directives, bounded depth. Aliases share their anchor's node."""

    def __init__(self, events: Iterator[Event], reading: _Reading) -> None:
        self._events = events
        self._reading = reading
        self._anchors: dict[str, _Node | None] = {}
        self._count = 0

    def compose(self) -> _Node | None:
        root: _Node | None = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise _Stop("a second document begins here; keep one document to a file", _position(event))
                if event.version or event.tags:
                    self._report(event, "directives (%YAML, %TAG) are not read; remove them")
                root = self._node(next(self._events), depth=0)
        return root

    def _node(self, event: Event, depth: int) -> _Node:
        at = _position(event)
        self._count += 1
        if self._count > VALUE_LIMIT:
            raise _Stop(f"holds more than {VALUE_LIMIT} values; remove what does not belong here", at)
        if depth > DEPTH_LIMIT:
            raise _Stop(f"is nested deeper than {DEPTH_LIMIT} levels", at)
        if isinstance(event, AliasEvent):
            return self._alias(event)
        assert isinstance(event, NodeEvent)
        tag = getattr(event, "ctag", None)
        if tag is not None:
            self._report(event, f"tags such as {show_value(str(tag))} are not read; remove it")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node = self._content(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _content(self, event: Event, depth: int) -> _Node:
        if isinstance(event, ScalarEvent):
            return _Scalar(event.value, is_plain=event.style in (None, ""))
        if isinstance(event, SequenceStartEvent):
            sequence = _Sequence()
            for item in iter(lambda: next(self._events), None):
                if isinstance(item, SequenceEndEvent):
                    break
                sequence.items.append((_position(item), self._node(item, depth + 1)))
            return sequence
        assert isinstance(event, MappingStartEvent)
        mapping = _Mapping()
        for item in iter(lambda: next(self._events), None):
            if isinstance(item, MappingEndEvent):
                break
            key = self._node(item, depth + 1)
            mapping.pairs.append((_position(item), key, self._node(next(self._events), depth + 1)))
        return mapping

    def _alias(self, event: AliasEvent) -> _Node:
        if event.anchor not in self._anchors:
            raise _Stop(f"*{event.anchor} has no anchor &{event.anchor} before it", _position(event))
        node = self._anchors[event.anchor]
        if node is None:
            raise _Stop(f"*{event.anchor} stands inside what it refers to", _position(event))
        return node

    def _report(self, event: Event, message: str) -> None:
        self._reading.report(_position(event), (), message)


class _Expansion:
    """Nodes to plain data, with the position of every key path. Bounded, since aliases multiply."""

    def __init__(self, reading: _Reading) -> None:
        self._reading = reading
        self._count = 0

    def expand_root(self, root: _Node) -> dict[str, object]:
        if not isinstance(root, _Mapping):
            raise _Stop("must be a mapping (key: value)", Position(1, 1))
        return self._mapping(root, ())

    def _expand(self, node: _Node, path: KeyPath, at: Position) -> object:
        self._count += 1
        if self._count > VALUE_LIMIT:
            # Of the whole file: the value that is one too many stands at some innocent anchor.
            raise _Stop(f"holds more than {VALUE_LIMIT} values once aliases are expanded; write fewer aliases")
        match node:
            case _Scalar():
                return self._scalar(node, path, at)
            case _Sequence():
                return self._sequence(node, path)
            case _Mapping():
                return self._mapping(node, path)

    def _sequence(self, node: _Sequence, path: KeyPath) -> list[object]:
        items: list[object] = []
        for index, (at, item) in enumerate(node.items):
            here = (*path, index)
            self._reading.positions[here] = at
            items.append(self._expand(item, here, at))
        return items

    def _mapping(self, node: _Mapping, path: KeyPath) -> dict[str, object]:
        members: dict[str, object] = {}
        for at, key_node, value in node.pairs:
            key = self._key(key_node, path, at)
            here = (*path, key)
            if key in members:
                first = self._reading.positions[here]
                message = f"is written twice, first on line {first.line}; keep one of the two"
                self._reading.report(at, here, message)
                continue
            self._reading.positions[here] = at
            members[key] = self._expand(value, here, at)
        return members

    def _key(self, node: _Node, path: KeyPath, at: Position) -> str:
        if not isinstance(node, _Scalar):
            raise _Stop("a key must be text, not a list or a mapping", at)
        key = self._scalar(node, path, at)
        if key == "<<" and node.is_plain:
            self._reading.report(at, (*path, "<<"), "merge keys are not YAML 1.2; write the members out")
        elif not isinstance(key, str):
            self._reading.report(at, (*path, node.text), f'a key must be text; write "{node.text}" in quotes')
        return node.text

    def _scalar(self, node: _Scalar, path: KeyPath, at: Position) -> object:
        if not node.is_plain:
            return node.text
        try:
            return resolve_plain(node.text)
        except ValueError as exc:
            self._reading.report(at, path, str(exc))
            return node.text


def resolve_plain(text: str) -> str | int | float | bool | None:
    """What a scalar without quotes means.

    Raises:
        ValueError: Readers of YAML do not agree on it, or it is a number of absurd length.
    """
    match text:
        case "true":
            return True
        case "false":
            return False
        case "" | "~" | "null":
            return None
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    if not (_FLOAT.fullmatch(text) or _HEX.fullmatch(text) or _OCTAL.fullmatch(text)):
        return text
    if len(text) > _NUMBER_LENGTH_LIMIT:
        raise ValueError(f"a number of {len(text)} characters is not read; write it in quotes if it is text")
    if _LEADING_ZERO.fullmatch(text):
        plain = int(text)
        raise ValueError(f'{text} is {plain} to some readers and octal to others; write {plain}, or "{text}" for text')
    if _DECIMAL.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else int(text, 0)


def _position(event: Event) -> Position:
    return Position(event.start_mark.line + 1, event.start_mark.column + 1)
