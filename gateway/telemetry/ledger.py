"""The counters of several processes, added up: over crashes and restarts, for ever or over a window.

Totals never fall: what a process counted stays in them after it died. A process that starts anew says so by another
`incarnation`; in a rolling restart the one before it still reports for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from gateway.core.compare import tallies
from gateway.core.counts import Counts, add, subtract

Blob = Mapping[str, Any]

_OVERLAP: Final = 4
"""How many earlier incarnations of a process may still report; older ones are gone."""
_SILENT_S: Final = 5.0
"""A process that has said nothing for so much longer than another one waits for nothing any more."""
_COUNTED: Final = (
    "operations",
    "refused",
    "doubts",
    "mirror",
    "comparisons",
    "rehearsed",
    "copies",
    "noise",
    "evidence_dropped",
    "saved",
    "forged",
    "force_ignored",
    "upstream",
)


class Ledger:
    """Blobs of `counters`, by process.

    Attributes:
        live: The latest blob of each process's last incarnation, with what it said about itself (epoch, age, …).
    """

    def __init__(self, window_s: float = 60.0, sample_s: float = 1.0) -> None:
        self.live: dict[str, Blob] = {}
        self._draining: dict[str, dict[str, Blob]] = {}
        self._retired: Counts = {}
        self._retired_agreement: tallies.Blob = {}
        self._window_s = window_s
        self._sample_s = sample_s
        self._samples: deque[tuple[float, Counts]] = deque()

    def take(self, blob: Blob) -> None:
        """Notes what a process counted. Blobs without a name or an incarnation are ignored."""
        worker, incarnation = blob.get("worker"), blob.get("incarnation")
        if not isinstance(worker, str) or not isinstance(incarnation, str):
            return
        draining = self._draining.setdefault(worker, {})
        if incarnation in draining:
            draining[incarnation] = blob
            return
        before = self.live.get(worker)
        if before is not None and before["incarnation"] != incarnation:
            draining[before["incarnation"]] = before
            if len(draining) > _OVERLAP:
                self._retire(draining.pop(next(iter(draining))))
        self.live[worker] = blob

    def forget(self, worker: str) -> None:
        """A process is gone for good; what it counted stays."""
        for blob in self._draining.pop(worker, {}).values():
            self._retire(blob)
        before = self.live.pop(worker, None)
        if before is not None:
            self._retire(before)

    def totals(self) -> Counts:
        """Everything ever counted."""
        total = self._retired
        for blob in self._known():
            total = add(total, _counts(blob))
        return total

    def agreement(self, unix_now: float) -> dict[str, tallies.Recent]:
        """What came of comparisons in the last 24 hours, by operation.

        Args:
            unix_now: Unix seconds.
        """
        said = sorted(self._known(), key=_said_at)
        return tallies.recent([self._retired_agreement, *(blob.get("agreement", {}) for blob in said)], unix_now)

    def suspected(self, operation: str) -> int:
        """Differences that wait to be read again. Whoever died has taken its own along: nobody reads them again."""
        known = self._known()
        newest = max(map(_said_at, known), default=0.0)
        return sum(
            counts.get("suspected", 0) - counts.get("settled", 0)
            for blob in known
            if newest - _said_at(blob) <= _SILENT_S
            for counts in [blob.get("comparisons", {}).get(operation, {})]
        )

    def sample(self, now: float) -> None:
        """Remembers the totals, as the beginning of later windows. Call it on a timer.

        Args:
            now: Monotonic seconds.
        """
        if self._samples and now - self._samples[-1][0] < self._sample_s:
            return
        self._samples.append((now, self.totals()))
        while len(self._samples) > 1 and self._samples[1][0] <= now - self._window_s:
            self._samples.popleft()

    def window(self, now: float) -> tuple[Counts, float]:
        """What was counted lately, and over how many seconds: the window, or less soon after a start."""
        if not self._samples:
            return {}, 0.0
        begun, counts = self._samples[0]
        return subtract(self.totals(), counts), now - begun

    def _known(self) -> list[Blob]:
        draining = (blob for blobs in self._draining.values() for blob in blobs.values())
        return [*self.live.values(), *draining]

    def _retire(self, blob: Blob) -> None:
        self._retired = add(self._retired, _counts(blob))
        self._retired_agreement = tallies.together((self._retired_agreement, blob.get("agreement", {})))


def _said_at(blob: Blob) -> float:
    at: float = blob.get("at", 0.0)
    return at


def _counts(blob: Blob) -> Counts:
    return {name: blob[name] for name in _COUNTED if name in blob}
