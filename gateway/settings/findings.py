"""Collects what the checks of one file find, so that all of it is told at once.

Owns the rule that parts of an entry are not held against each other when some of it could not be read: that would only
tell the same mistake twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.settings.problems import KeyPath, Problem, SettingsError, show_path
from gateway.settings.validation import Fault
from gateway.settings.yaml_source import Document

_ENTRY_DEPTH = 2
"""`operations.git.status` and `sides.old` are entries."""


class Findings:
    """Errors and warnings about one file."""

    def __init__(self, document: Document, faults: Iterable[Fault] = ()) -> None:
        self._document = document
        self._errors: list[Problem] = []
        self._warnings: list[Problem] = []
        self._unread: set[KeyPath] = set()
        for fault in faults:
            self._errors.append(self._problem(fault.path, fault.message))
            self._unread.add(fault.path[:_ENTRY_DEPTH])

    @property
    def warnings(self) -> list[str]:
        """One line each, in the order of the file."""
        return [str(problem) for problem in sorted(self._warnings, key=lambda p: (p.line, p.path))]

    def error(self, path: KeyPath, message: str) -> None:
        """Notes that what stands at `path` is wrong by itself."""
        self._errors.append(self._problem(path, message))

    def contradiction(self, path: KeyPath, message: str) -> None:
        """Notes that what stands at `path` does not fit the rest of its entry."""
        if self.could_read(path):
            self.error(path, message)

    def warn(self, path: KeyPath, message: str) -> None:
        """Notes something at `path` that is allowed and probably not meant."""
        self._warnings.append(self._problem(path, message))

    def could_read(self, path: KeyPath) -> bool:
        """Whether the entry at `path` was read without a fault."""
        return path[:_ENTRY_DEPTH] not in self._unread and path[:1] not in self._unread

    def has_unread(self, section: KeyPath) -> bool:
        """Whether an entry of a section, or the section itself, could not be read."""
        return any(path[: len(section)] == section for path in self._unread)

    def line(self, path: KeyPath) -> int:
        """The line of `path`, for messages that point at a second place."""
        return self._document.locate(path).line

    def raise_errors(self) -> None:
        """Ends the loading if there was any error.

        Raises:
            SettingsError: With all of them.
        """
        if self._errors:
            raise SettingsError(self._errors)

    def _problem(self, path: KeyPath, message: str) -> Problem:
        line = self._document.locate(path).line
        # One text may stand for a list of one; it has no index in the file.
        while path and isinstance(path[-1], int) and path not in self._document.positions:
            path = path[:-1]
        return Problem(self._document.file, line, show_path(path), message)
