"""Passive ejection: an instance that fails again and again is left alone for a growing time.

Pure: `now` is an argument. Failures are those that say "nobody is there" (connecting failed, no answer in time), never
an answer of whatever status. A side's last instance stays in: a slow answer is better than none.

    in  --`after_failures` in a row-->  out for base_s      (unless it is the last one in)
    out --time passed---------------->  on trial            (serves as any other)
    on trial --a failure------------->  out for twice as long, at most max_s
    any --an answer------------------>  in, everything forgotten
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from gateway.upstream.limits import EjectionLimits


@dataclass(slots=True)
class _Record:
    failures: int = 0
    absences: int = 0
    out_until: float = -inf


class Ejection:
    """The state of all instances of a side, by index.

    Attributes:
        ejections: How often an instance was taken out.
    """

    __slots__ = ("_limits", "_quiet_from", "_records", "ejections")

    def __init__(self, instances: int, limits: EjectionLimits) -> None:
        """All in.

        Args:
            instances: How many there are.
            limits: When and for how long.
        """
        self._limits = limits
        self._records = [_Record() for _ in range(instances)]
        self._quiet_from = -inf
        self.ejections = 0

    def is_out(self, index: int, now: float) -> bool:
        """Whether an instance shall be left alone at `now`, in seconds of any monotonic clock."""
        return now < self._quiet_from and now < self._records[index].out_until

    def present(self, now: float) -> range | list[int]:
        """Indices of the instances that are in; never empty."""
        if now >= self._quiet_from:
            return range(len(self._records))
        return [index for index, record in enumerate(self._records) if now >= record.out_until]

    def count_out(self, now: float) -> int:
        """How many instances are out at `now`."""
        return len(self._records) - len(self.present(now))

    def note_answer(self, index: int) -> None:
        """An instance answered."""
        record = self._records[index]
        if record.failures or record.absences:
            record.failures = 0
            record.absences = 0
            record.out_until = -inf

    def note_failure(self, index: int, now: float) -> bool:
        """An instance could not be reached or did not answer in time.

        Returns:
            Whether it was taken out by this.
        """
        record = self._records[index]
        record.failures += 1
        needed = 1 if record.absences else self._limits.after_failures
        if record.failures < needed or now < record.out_until:
            return False
        if all(now < other.out_until for other in self._records if other is not record):
            return False
        record.out_until = now + min(self._limits.base_s * 2.0**record.absences, self._limits.max_s)
        record.absences = min(record.absences + 1, 32)
        record.failures = 0
        self._quiet_from = max(self._quiet_from, record.out_until)
        self.ejections += 1
        return True
