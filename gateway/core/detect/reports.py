"""What workers tell each other, and how it is read: nothing that one of them says may stop another from judging. Pure.

Counts and histograms are cumulative, so that what is lost or said twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.histogram import BUCKETS

Signals = Mapping[str, Sequence[int]]
"""By operation the numbers of `guard.Counted`, in its order; cumulative. Another version may say fewer or more."""
Hanging = Mapping[str, Sequence[int]]
"""By operation: requests that wait and are late already, of new and of old. Of this moment, not cumulative."""
Histograms = Mapping[str, Mapping[str, Sequence[int]]]
"""By operation and source (`new`, `old`, `copied`: old's answers to copies): bucket, count, bucket, …; cumulative."""

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


def histograms_of(document: object) -> Mapping[str, Sequence[int]] | None:
    """Reads the histograms of one operation, by source; None: they are none."""
    if not _is_counts(document):
        return None
    assert isinstance(document, dict)
    for pairs in document.values():
        if len(pairs) % 2 or (pairs and max(pairs[::2]) >= BUCKETS):
            return None
    return document


def _is_counts(found: object) -> bool:
    """Whether it is lists of natural numbers by name; `true` is no number."""
    return isinstance(found, dict) and all(
        isinstance(counts, list) and (not counts or (set(map(type, counts)) == _INT and min(counts) >= 0))
        for counts in found.values()
    )
