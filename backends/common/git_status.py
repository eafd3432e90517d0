"""Reads `git status --porcelain=v2 --branch -z`. Pure; the format is described in git-status(1)."""

from __future__ import annotations

from typing import Any, Final

_RENAMED_FIELDS: Final = 9
_CHANGED_FIELDS: Final = 8
_UNMERGED_FIELDS: Final = 10


def parse_head(output: bytes) -> dict[str, Any]:
    """`{branch, head}`: None for no branch (detached) and for no commit yet."""
    branch = head = None
    for record in output.split(b"\0"):
        text = record.decode(errors="replace")
        if text.startswith("# branch.oid "):
            value = text.removeprefix("# branch.oid ")
            head = None if value == "(initial)" else value
        elif text.startswith("# branch.head "):
            value = text.removeprefix("# branch.head ")
            branch = None if value == "(detached)" else value
    return {"branch": branch, "head": head}


def parse_status(output: bytes) -> dict[str, Any]:
    """`{branch, head, clean, staged, unstaged, untracked}`, paths sorted."""
    staged: set[str] = set()
    unstaged: set[str] = set()
    untracked: set[str] = set()
    records = iter(output.split(b"\0"))
    for record in records:
        text = record.decode(errors="replace")
        match text[:2]:
            case "? ":
                untracked.add(text[2:])
            case "1 ":
                _note(text, _CHANGED_FIELDS, staged, unstaged)
            case "2 ":
                _note(text, _RENAMED_FIELDS, staged, unstaged)
                next(records, None)  # the name before
            case "u ":
                path = text.split(" ", _UNMERGED_FIELDS)[_UNMERGED_FIELDS]
                staged.add(path)
                unstaged.add(path)
            case _:
                pass
    return {
        **parse_head(output),
        "clean": not (staged or unstaged or untracked),
        "staged": sorted(staged),
        "unstaged": sorted(unstaged),
        "untracked": sorted(untracked),
    }


def _note(text: str, fields: int, staged: set[str], unstaged: set[str]) -> None:
    parts = text.split(" ", fields)
    in_index, in_tree = parts[1][:1], parts[1][1:]
    if in_index != ".":
        staged.add(parts[fields])
    if in_tree != ".":
        unstaged.add(parts[fields])
