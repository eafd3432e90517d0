"""One operation as the guard sees it, or all together: its detectors, what both sides did, what was learnt of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from gateway.core.detect.floors import Silence
from gateway.core.detect.guard import Counted, Guard
from gateway.core.detect.latency import (
    Baseline,
    Concurrent,
    Source,
    hour_of_week,
    reference_p95_s,
)
from gateway.core.histogram import Histogram
from gateway.core.model import Stage
from gateway.core.snapshot import Plan
from gateway.core.stages import TABLE, Route
from gateway.guard.merging import Durations

_NOTED_EVERY_S: Final = 5.0
_MERGES: Final = 2
"""Merges after which all workers have told what they saw since an excursion began."""
AT_MOST_S: Final = 600.0
"""A second look goes back so far: what both sides did before says nothing about now."""
STEP_S: Final = 300.0
_AGAIN_S: Final = 600.0
"""How long a trip that took nothing out is not repeated."""
_SHARE: Final = 4
"""Of its deadline an answer may take so much, where nobody knows how long one usually takes."""
_NEVER: Final = float("-inf")
_DISPERSION: Final = 3
"""Numbers that tell how bursty errors are."""


class Mode(Enum):
    """What there is to judge."""

    IDLE = auto()
    """Nothing."""
    MIRRORED = auto()
    """Copies: it may hold, and nothing is taken out."""
    JUDGED = auto()
    """What clients wait for."""
    OUT = auto()
    """New is taken out already."""


def mode_of(plan: Plan | None) -> Mode:
    """What there is to judge of an operation."""
    if plan is None:
        return Mode.IDLE
    if plan.latch is not None:
        return Mode.OUT
    row = TABLE[plan.stage]
    if row.reads is not Route.OLD:
        return Mode.JUDGED
    return Mode.MIRRORED if row.mirrors else Mode.IDLE


@dataclass(frozen=True, slots=True)
class Mark:
    """What was known at a moment.

    Attributes:
        at: Seconds.
        limit_s: What was too slow then, or None.
        new: Durations of new, since this process began.
        old: Likewise of old, as it served clients.
        copied: Likewise of old, as it answered copies.
        merges: How often durations were added up until then.
        old_n: Requests that had ended on old.
        old_errors: Of them, failures.
    """

    at: float
    limit_s: float | None
    new: Histogram
    old: Histogram
    copied: Histogram
    merges: int
    old_n: int
    old_errors: int


@dataclass(slots=True)
class Watched:
    """One operation, or all together.

    Attributes:
        guard: Its detectors.
        clients: What old does for clients.
        stand_in: What it does, a drill's requests included.
        silence: Requests without any answer.
        durations: Of both sides.
        mode: What there is to judge.
        waiting: Requests on their way to new, on this worker.
        hanging: Requests of new and old that are late and still wait, on this worker.
        merges: How often durations were added up.
        tripped_at: When it tripped last.
        references: Old's P95 by hour of the week, when it had traffic.
    """

    guard: Guard
    clients: Baseline
    stand_in: Baseline
    silence: Silence = field(default_factory=Silence)
    durations: Durations = field(default_factory=Durations)
    mode: Mode = Mode.IDLE
    waiting: int = 0
    hanging: list[int] = field(default_factory=lambda: [0, 0])
    merges: int = 0
    tripped_at: float = _NEVER
    references: dict[int, float] = field(default_factory=dict)
    _old_n: int = 0
    _old_errors: int = 0
    _noted_at: float = _NEVER
    _copies: tuple[int, Histogram, Histogram, Histogram] | None = None
    _steps: deque[Mark] = field(default_factory=lambda: deque(maxlen=2))

    @property
    def baseline(self) -> Baseline:
        """What old does for clients; with what a drill asked of it only where there is nothing else.

        Drills are answered faster than clients are, and would make those look slow long after the drill.
        """
        return self.stand_in if self.clients.p95_s is None else self.clients

    def enter(self, mode: Mode) -> None:
        """There is something else to judge from now on: evidence of before is none."""
        if mode is not self.mode:
            self.mode = mode
            self.reset()

    def reset(self) -> None:
        """Forgets the evidence."""
        self.guard.reset()
        self.silence.reset()
        self._steps.clear()
        self.tripped_at = _NEVER

    def has_tripped_lately(self, now: float) -> bool:
        """Whether it has tripped, and nothing was taken out for it: it is not said again at once."""
        if now - self.tripped_at < _AGAIN_S:
            return True
        if self.guard.tripped is not None:
            self.reset()
        return False

    def count(self, counted: Counted) -> None:
        """Takes what old did, whatever new does."""
        self._old_n += counted.old_n
        self._old_errors += counted.old_errors

    def mark(self, now: float) -> Mark:
        """What is known now."""
        if self._copies is None or self._copies[0] != self.merges:
            durations = self.durations
            self._copies = (self.merges, durations.new.copy(), durations.old.copy(), durations.copied.copy())
        merges, new, old, copied = self._copies
        return Mark(now, self.baseline.limit_s, new, old, copied, merges, self._old_n, self._old_errors)

    def step(self, now: float) -> None:
        """Keeps marks on the way of a long excursion, so that a second look need not go back to its beginning."""
        if not self.guard.latency_evidence:
            self._steps.clear()
        elif not self._steps or now - self._steps[-1].at >= STEP_S:
            self._steps.append(self.mark(now))

    def since(self, mark: Mark, hanging: tuple[int, int], now: float) -> tuple[Concurrent, float] | None:
        """What both sides did since, and what was too slow then; None: not all workers have told yet.

        Args:
            mark: When an excursion began.
            hanging: On all workers, of new and old.
            now: Seconds.
        """
        if now - mark.at > AT_MOST_S and self._steps:
            mark = self._steps[0]
        if mark.limit_s is None or self.merges - mark.merges < _MERGES:
            return None
        durations, is_present = self.durations, self.baseline.is_present
        if self.baseline.source is Source.COPIED:
            # What hangs of copies is known to nobody; so what hangs on new is left out as well.
            seen = Concurrent(durations.new - mark.new, durations.copied - mark.copied, 0, 0, is_present)
        else:
            seen = Concurrent(durations.new - mark.new, durations.old - mark.old, *hanging, is_present)
        return seen, mark.limit_s

    def old_since(self, mark: Mark) -> tuple[int, int]:
        """Requests that ended on old since, and failures among them."""
        return self._old_n - mark.old_n, self._old_errors - mark.old_errors

    def note(self, now: float, unix_s: float) -> bool:
        """Learns from time to time what old does; returns whether it did."""
        if now - self._noted_at < _NOTED_EVERY_S:
            return False
        self._noted_at = now
        durations, hour = self.durations, hour_of_week(unix_s)
        self.clients.note(durations.old - durations.rehearsed, now, durations.copied)
        self.stand_in.note(durations.old, now, durations.copied)
        if self.clients.source is Source.SERVED and self.clients.p95_s is not None:
            self.references[hour] = self.clients.p95_s
        reference = reference_p95_s(self.references, hour)
        if reference is not None:
            self.clients.refer(reference)
        return True

    def patience_s(self, plan: Plan) -> float | None:
        """How long an answer may take before silence says something; None: nobody knows."""
        if self.baseline.limit_s is not None:
            return self.baseline.limit_s
        deadlines = plan.operation.deadlines
        bound_s = deadlines.total_s or deadlines.first_byte_s
        return None if bound_s is None else bound_s / _SHARE

    # --- for restarts ---

    def learnt(self) -> dict[str, Any]:
        """What is worth keeping, for JSON."""
        references = {str(hour): round(p95_s, 6) for hour, p95_s in self.references.items()}
        return {"dispersion": self.guard.learnt, "p95_s": references}

    def recall(self, kept: object) -> None:
        """Goes on from what `learnt` said before a restart; what cannot be read is left out."""
        if not isinstance(kept, dict):
            return
        dispersion, references = kept.get("dispersion"), kept.get("p95_s")
        if isinstance(dispersion, list) and len(dispersion) == _DISPERSION and all(map(_is_number, dispersion)):
            self.guard.recall((int(dispersion[0]), float(dispersion[1]), float(dispersion[2])))
        if isinstance(references, dict):
            known = {int(hour): p95_s for hour, p95_s in references.items() if hour.isdecimal() and _is_number(p95_s)}
            self.references = {**known, **self.references}


def _is_number(found: object) -> bool:
    return isinstance(found, (int, float)) and not isinstance(found, bool) and 0 <= found < float("inf")


def is_final(plan: Plan) -> bool:
    """Whether there is no way back: a detector pages instead."""
    return plan.stage is Stage.COMPLETE
