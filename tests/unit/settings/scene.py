"""A small migration file that is right, ways to break it, and what loading then says."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.settings import LoadedMigration, Problem, SettingsError, load_migration

SHOP = """\
migration: shop
mcp: {path: /mcp}
sides:
  old: {instances: ["http://127.0.0.1:9001"]}
  new: {instances: ["http://127.0.0.1:9002"]}
groups:
  cart:
    writes: none
    key: [[header:x-user-id]]
operations:
  cart.read: {class: read, group: cart, match: {rest: "GET /carts/{id}", mcp: cart_read}}
  cart.change: {class: write, group: cart, match: {rest: "PUT /carts/{id}"}}
"""

READ, CHANGE = "  cart.read: {", "  cart.change: {"
"""Where fields of the two operations are put in."""


class Break(NamedTuple):
    """One edit of `SHOP`, and the fault that it makes.

    Attributes:
        before: What is replaced; it stands in `SHOP`.
        after: By what.
        line: Of the fault.
        path: Of the fault.
        says: A piece of the message that no other rule has.
    """

    before: str
    after: str
    line: int
    path: str
    says: str


def top(text: str, path: str, says: str) -> Break:
    """A fault in a key of its own, on line 2."""
    return Break("migration: shop\n", f"migration: shop\n{text}\n", 2, path, says)


def group(text: str, path: str, says: str, line: int = 9) -> Break:
    """A fault in fields of the group that follow `writes`, which `text` begins with."""
    return Break("writes: none", text, line, f"groups.cart{path}", says)


def read(fields: str, path: str, says: str) -> Break:
    """A fault in fields of the read."""
    return Break(READ, f"{READ}{fields}, ", 11, f"operations.cart.read.{path}", says)


def change(fields: str, path: str, says: str) -> Break:
    """A fault in fields of the write."""
    return Break(CHANGE, f"{CHANGE}{fields}, ", 12, f"operations.cart.change.{path}", says)


def edited(*edits: tuple[str, str]) -> str:
    """`SHOP` with edits, each of which must have something to act on."""
    text = SHOP
    for before, after in edits:
        assert before in text, before
        text = text.replace(before, after, 1)
    return text


def load(directory: Path, text: str) -> LoadedMigration:
    """The migration that a file with this text is."""
    file = directory / "migration.yaml"
    file.write_text(text, encoding="utf-8")
    return load_migration(file)


def faults_of(directory: Path, text: str) -> list[Problem]:
    """Everything that is wrong with a file of this text."""
    with pytest.raises(SettingsError) as caught:
        load(directory, text)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return caught.value.problems


def assert_only_fault(directory: Path, case: Break) -> None:
    """The edit makes its fault, and no other one."""
    found = [(p.line, p.path, p.message) for p in faults_of(directory, edited((case.before, case.after)))]
    assert [(line, path) for line, path, _ in found] == [(case.line, case.path)], found
    assert case.says in found[0][2], found
