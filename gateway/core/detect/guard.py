"""The detectors of one operation, or of all together: their states, and whether one of them trips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.core.detect.cusum import (
    BALANCED,
    Detector,
    Dispersion,
    Excursion,
    Profile,
    Signal,
    consistency_trigger,
    error_trigger,
    latency_trigger,
)
from gateway.core.model import Thresholds

_HOLD: Final = 0.5
_CLEAR: Final = 0.25
_WARM_UP_S: Final = 30.0


class GuardState(StrEnum):
    """What the guard of an operation says."""

    ARMED = "armed"
    NOT_ARMED = "not_armed"
    """It cannot judge everything yet; why is said."""
    NO_DATA = "no_data"
    """Nothing on new to judge."""
    HOLD = "hold"
    """An early warning: no share is raised."""
    TRIPPED = "tripped"


@dataclass(frozen=True, slots=True)
class Counted:
    """What happened on new since the last tick.

    Attributes:
        n: Requests that ended.
        errors: Of them, failures.
        timed: Requests whose latency is known, or known to be too long.
        slow: Of them, too slow.
        compared: Comparisons that were judged.
        mismatches: Of them, confirmed mismatches.
        old_n: Requests that ended on old.
        old_errors: Of them, failures.
    """

    n: int = 0
    errors: int = 0
    timed: int = 0
    slow: int = 0
    compared: int = 0
    mismatches: int = 0
    old_n: int = 0
    old_errors: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.n + other.n,
            self.errors + other.errors,
            self.timed + other.timed,
            self.slow + other.slow,
            self.compared + other.compared,
            self.mismatches + other.mismatches,
            self.old_n + other.old_n,
            self.old_errors + other.old_errors,
        )


@dataclass(frozen=True, slots=True)
class Trip:
    """Why new is taken out.

    Attributes:
        signal: What was too much.
        excursion: The evidence.
        threshold: What it exceeded.
        limit_s: Of latency: what was too slow.
    """

    signal: Signal
    excursion: Excursion
    threshold: float
    limit_s: float | None = None

    def reason(self) -> str:
        """In words, for the kill."""
        found = self.excursion
        rate = 100 * found.k / max(found.n, 1)
        said = {
            Signal.ERRORS: f"{found.k} of {found.n} requests failed ({rate:.1f} %, allowed {100 * self.threshold:g} %)",
            Signal.LATENCY: (
                f"{found.k} of {found.n} requests took longer than {1000 * (self.limit_s or 0):.0f} ms "
                f"({rate:.1f} %, allowed {100 * self.threshold:g} %)"
            ),
            Signal.CONSISTENCY: (
                f"{found.k} of {found.n} compared answers differ ({rate:.3f} %, allowed {100 * self.threshold:g} %)"
            ),
        }
        return f"{self.signal}: {said[self.signal]}"


Confirm = Callable[[Excursion], bool | None]
"""Whether the baseline bears out that new was slow; None: hold."""


class Guard:
    """Three detectors side by side."""

    def __init__(self, thresholds: Thresholds, profile: Profile = BALANCED, detectors: int = 3) -> None:
        """Begins without evidence.

        Args:
            thresholds: Of the migration.
            profile: How sure to be.
            detectors: How many run in all.
        """
        self._errors = Detector(error_trigger(thresholds.error_rate), profile, detectors)
        self._latency = Detector(latency_trigger(), profile, detectors)
        self._consistency = Detector(consistency_trigger(thresholds.consistency), profile, detectors)
        self._dispersion = Dispersion()
        self._first_at: float | None = None
        self._is_held = False
        self._has_limit = False
        self.tripped: Trip | None = None

    @property
    def evidence(self) -> float:
        """Of the surest detector, 0-1."""
        return max(self.scores().values())

    @property
    def dispersion(self) -> float:
        """By how much evidence of errors is divided, 1-10."""
        return self._errors.dispersion

    def scores(self) -> dict[str, float]:
        """The evidence of each detector, 0-1."""
        return {each.trigger.signal.value: each.evidence for each in (self._errors, self._latency, self._consistency)}

    def learn(self, counted: Counted) -> None:
        """Takes healthy traffic, to learn how bursty errors are. While it is mirrored, not while it is judged."""
        if counted.n:
            self._dispersion.note(counted.errors)

    def reset(self) -> None:
        """Forgets the evidence: the kill was re-armed."""
        for detector in (self._errors, self._latency, self._consistency):
            detector.reset()
        self.tripped, self._is_held, self._first_at = None, False, None

    def tick(self, counted: Counted, now: float, limit_s: float | None, mark: object, confirm: Confirm) -> Trip | None:
        """Judges what happened; returns why new must go, once.

        Args:
            counted: Since the last tick.
            now: Seconds.
            limit_s: What is too slow, or None while nobody knows.
            mark: Kept with an excursion that begins now.
            confirm: Asked before a trip of latency.
        """
        self._has_limit = limit_s is not None
        if self.tripped is not None:
            return None
        if counted.n and self._first_at is None:
            self._first_at = now
        self._errors.dispersion = self._dispersion.value or 1.0
        trip = self._judge(self._errors, counted.n, counted.errors, now, mark)
        if trip is None and limit_s is not None and self._is_warm(now):
            found = self._latency.tick(counted.timed, counted.slow, now, mark)
            if found is not None and confirm(found):
                trip = Trip(Signal.LATENCY, found, self._latency.trigger.threshold, limit_s)
        if trip is None:
            trip = self._judge(self._consistency, counted.compared, counted.mismatches, now, mark)
        self._is_held = self.evidence >= (_CLEAR if self._is_held else _HOLD)
        self.tripped = trip
        return trip

    def _judge(self, detector: Detector, n: int, k: int, now: float, mark: object) -> Trip | None:
        found = detector.tick(n, k, now, mark)
        return None if found is None else Trip(detector.trigger.signal, found, detector.trigger.threshold)

    def _is_warm(self, now: float) -> bool:
        return self._first_at is not None and now - self._first_at >= _WARM_UP_S

    def state(self, now: float) -> tuple[GuardState, str | None]:
        """What it says now, and why where that needs a word."""
        if self.tripped is not None:
            return GuardState.TRIPPED, self.tripped.reason()
        if self._is_held:
            return GuardState.HOLD, f"evidence {100 * self.evidence:.0f} % of what trips"
        if self._first_at is None:
            return GuardState.NO_DATA, "no request on new yet"
        if not self._has_limit:
            return GuardState.NOT_ARMED, "latency: fewer than 100 answers of old to compare with"
        if not self._is_warm(now):
            return GuardState.NOT_ARMED, f"latency: warming up, {_WARM_UP_S - (now - self._first_at):.0f} s more"
        return GuardState.ARMED, None
