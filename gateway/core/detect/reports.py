"""What workers tell each other, and how it is read: nothing that one of them says may stop another from judging. Pure.

Counts and histograms are cumulative, so that what is lost or said twice changes nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from sys import byteorder
from typing import Final

Signals = Mapping[str, Sequence[int]]
"""By operation the numbers of `guard.Counted`, in its order; cumulative. Another version may say fewer or more."""
Hanging = Mapping[str, Sequence[int]]
"""By operation: requests that wait and are late already, of new and of old. Of this moment, not cumulative."""
Histograms = Mapping[str, Mapping[str, Sequence[int]]]
"""By operation and source: bucket, count, bucket, …; cumulative.

`copied` are what old answers to copies, `rehearsed` what of `old` it answers to a drill.
"""

SOURCES: Final = ("new", "old", "copied", "rehearsed")
_INT: Final = {int}


@dataclass(frozen=True, slots=True)
class Said:
    """What one worker says at a tick.

    Attributes:
        signals: Its counts.
        hanging: What hangs on it.
        histograms: Of the operations whose turn it is, as far as it has any.
        due: Those operations: what others measured of them is asked for.
    """

    signals: Signals = field(default_factory=dict)
    hanging: Hanging = field(default_factory=dict)
    histograms: Histograms = field(default_factory=dict)
    due: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What was last heard of a worker.

    Attributes:
        seq: Grows with every report.
        signals: Its counts.
        hanging: What hangs on it.
    """

    seq: int
    signals: Signals
    hanging: Hanging = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the others said.

    Attributes:
        reports: By process.
        histograms: By process, of the operations whose turn it was.
        unreadable: Processes whose report cannot be read.
    """

    reports: Mapping[str, Report] = field(default_factory=dict)
    histograms: Mapping[str, Histograms] = field(default_factory=dict)
    unreadable: frozenset[str] = frozenset()


def report_of(document: object) -> Report | None:
    """Reads `[seq, signals, hanging]`; None: it is nothing that can be added up."""
    if not isinstance(document, list) or len(document) < 2:
        return None
    seq, signals = document[0], document[1]
    hanging = document[2] if len(document) > 2 else {}
    if type(seq) is not int or not _is_counts(signals) or not _is_counts(hanging):
        return None
    return Report(seq, signals, hanging)


def packed(sources: Mapping[str, Sequence[int]]) -> bytes:
    """The histograms of one operation as bytes: for each source how many numbers follow, and they; 8 bytes each."""
    numbers = array("Q")
    for source in SOURCES:
        pairs = sources.get(source, ())
        numbers.append(len(pairs))
        numbers.extend(pairs)
    if byteorder != "little":
        numbers.byteswap()
    return numbers.tobytes()


def unpacked(data: bytes) -> dict[str, Sequence[int]] | None:
    """Reads what `packed` wrote; None: it is nothing of the kind. Buckets are not looked at: there are many of them."""
    numbers = array("Q")
    if len(data) % numbers.itemsize:
        return None
    numbers.frombytes(data)
    if byteorder != "little":
        numbers.byteswap()
    found: dict[str, Sequence[int]] = {}
    at = 0
    for source in SOURCES:
        size = numbers[at] if at < len(numbers) else 0
        pairs = numbers[at + 1 : at + 1 + size]
        if size % 2 or len(pairs) != size:
            return None
        if size:
            found[source] = pairs
        at += 1 + size
    return found


def _is_counts(found: object) -> bool:
    """Whether it is lists of natural numbers by name; `true` is no number."""
    if not isinstance(found, dict) or not all(isinstance(counts, list) for counts in found.values()):
        return False
    numbers = list(chain.from_iterable(found.values()))
    return not numbers or (set(map(type, numbers)) == _INT and min(numbers) >= 0)
