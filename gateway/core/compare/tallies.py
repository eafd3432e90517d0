"""What came of comparisons in the last 24 hours: by operation, version of the rules, and hour. Pure.

A process counts (`Tallies`), and its report holds all of that (`blob`). The figure of an operation is what all reports
have counted under the rules that are in force (`recent`): a fault that was mended is out of it after 24 hours, other
rules begin it anew. Reports of processes that are gone are kept as one (`together`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from gateway.core.counts import Counts, add

WINDOW_S: Final = 86_400
_HOUR_S: Final = 3600
_HOURS: Final = WINDOW_S // _HOUR_S
_VERSIONS: Final = 2
"""Versions of rules of an operation whose counts are kept; those that began last."""
_UNKNOWN: Final = ""

Blob = Mapping[str, Any]
"""By operation: `version` in force; by version `since` (Unix seconds) and `hours` (hour -> result -> count)."""


@dataclass(frozen=True, slots=True)
class Recent:
    """An operation lately, under the rules that are in force.

    Attributes:
        results: Pairs by what came of them: `match`, `mismatch`, `incomparable:<why>`.
        since: Unix seconds of the first of them, or the beginning of the window; None: nothing was compared.
        rules: Version of the rules; None: nobody has said.
    """

    results: Mapping[str, int] = field(default_factory=dict)
    since: float | None = None
    rules: str | None = None

    @property
    def matches(self) -> int:
        """Pairs that agreed."""
        return self.results.get("match", 0)

    @property
    def mismatches(self) -> int:
        """Pairs that differed three times."""
        return self.results.get("mismatch", 0)

    def __add__(self, other: Recent) -> Recent:
        """Of several operations together."""
        begun = [since for since in (self.since, other.since) if since is not None]
        return Recent(add(self.results, other.results), min(begun, default=None))


class Tallies:
    """Counts of one process."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}
        self._found: dict[str, dict[str, Any]] = {}
        self._is_sure = False

    def use(self, versions: Mapping[str, str], *, is_sure: bool = True) -> None:
        """These versions of rules are in force.

        Args:
            versions: By operation.
            is_sure: False: so far; nobody shall be told yet.
        """
        self._rules = dict(versions)
        self._is_sure = is_sure

    def note(self, operation: str, result: str, now: float, count: int = 1) -> None:
        """Pairs were judged. `now`: Unix seconds."""
        version = self._rules.get(operation, _UNKNOWN)
        found = self._found.setdefault(operation, {"since": {}, "hours": {}})
        hours = found["hours"].get(version)
        if hours is None:
            found["since"][version] = now
            hours = found["hours"][version] = {}
            _forget_versions(found)
        hour = _hour(now)
        counts = hours.get(hour)
        if counts is None:
            counts = hours[hour] = {}
            _forget_hours(hours)
        counts[result] = counts.get(result, 0) + count

    def blob(self) -> dict[str, Any]:
        """For JSON."""
        said = self._rules if self._is_sure else {}
        return {
            name: {
                "version": said.get(name, _UNKNOWN),
                "since": dict(found["since"]),
                "hours": {
                    version: {hour: dict(counts) for hour, counts in hours.items()}
                    for version, hours in found["hours"].items()
                },
            }
            for name, found in self._found.items()
        } | {
            name: {"version": version, "since": {}, "hours": {}}
            for name, version in said.items()
            if name not in self._found
        }


def together(blobs: Iterable[Blob]) -> Blob:
    """Several reports as one."""
    total: dict[str, dict[str, Any]] = {}
    for blob in blobs:
        for name, one in blob.items():
            found = total.get(name, {"version": _UNKNOWN, "since": {}, "hours": {}})
            since = dict(found["since"])
            for version, moment in one["since"].items():
                since[version] = min(moment, since.get(version, moment))
            hours: Counts = add(found["hours"], one["hours"])
            version = one["version"] or found["version"]
            found = total[name] = {"version": version, "since": since, "hours": hours}
            for version in hours:
                _forget_hours(hours[version])
            _forget_versions(found)
    return total


def recent(blobs: Sequence[Blob], now: float) -> dict[str, Recent]:
    """The figures, by operation.

    Args:
        blobs: Reports; the last one that is sure of an operation's rules says which are in force.
        now: Unix seconds.
    """
    first = int(_hour(now)) - _HOURS + 1
    versions: dict[str, str] = {}
    for blob in blobs:
        for name, one in blob.items():
            versions[name] = one["version"] or versions.get(name, _UNKNOWN)
    return {name: _recent(name, version, blobs, first) for name, version in versions.items()}


def _recent(name: str, version: str, blobs: Sequence[Blob], first: int) -> Recent:
    results: Counter[str] = Counter()
    since: float | None = None
    for blob in blobs:
        one = blob.get(name)
        if one is None or version not in one["since"]:
            continue
        for hour, counts in one["hours"][version].items():
            if int(hour) >= first:
                for result, count in counts.items():
                    results[result] += count
        since = min(one["since"][version], since or inf)
    if not results or since is None:
        return Recent(rules=version or None)
    return Recent(dict(results), max(since, first * _HOUR_S), version or None)


def _hour(now: float) -> str:
    # A string, as JSON has it: reports are added up with what was read from others.
    return str(int(now // _HOUR_S))


def _forget_hours(hours: dict[str, Any]) -> None:
    last = max(map(int, hours), default=0)
    for hour in [hour for hour in hours if int(hour) <= last - _HOURS]:
        del hours[hour]


def _forget_versions(found: Mapping[str, Any]) -> None:
    since, hours = found["since"], found["hours"]
    for version in sorted(since, key=lambda version: -since[version])[_VERSIONS:]:
        del since[version]
        hours.pop(version, None)
