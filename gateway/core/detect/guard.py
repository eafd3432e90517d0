"""The detectors of one operation, or of all together: their states, and whether one of them trips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from gateway.core.detect.cusum import (
    BALANCED,
    PROFILES,
    Detector,
    Dispersion,
    Excursion,
    Profile,
    Rule,
    Signal,
    Trigger,
    WindowRule,
    consistency_trigger,
    error_trigger,
    latency_trigger,
)
from gateway.core.model import WINDOW, Thresholds

POOLED: Final = "(all)"
"""Stands for all operations together; none can have this name."""
_HOLD: Final = 0.5
_CLEAR: Final = 0.25
_SAID: Final = 0.1
"""Evidence from which on it is said how much more would be enough."""
_WARM_UP_S: Final = 30.0
_FORGOTTEN_S: Final = 3600.0
"""Without a request for so long nothing is known of new any more."""


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
        copied: Answers of new to mirrored reads: kept apart, they come with lower priority.
        copied_errors: Of them, failures.
    """

    n: int = 0
    errors: int = 0
    timed: int = 0
    slow: int = 0
    compared: int = 0
    mismatches: int = 0
    old_n: int = 0
    old_errors: int = 0
    copied: int = 0
    copied_errors: int = 0

    @property
    def is_bad(self) -> bool:
        """Whether an excursion may begin with it."""
        return bool(self.errors or self.slow or self.mismatches)

    def __add__(self, other: Counted) -> Counted:
        return Counted(*(getattr(self, name) + getattr(other, name) for name in FIELDS))


FIELDS: Final = tuple(each.name for each in fields(Counted))
"""The order of the numbers that workers tell each other."""
NOTHING: Final = Counted()


class Figure(StrEnum):
    """A figure of consistency. What copied writes say, delivery and state, comes with them as a row below."""

    READ_AGREEMENT = "read_agreement"
    """Of mirrored reads: answers that agree."""


@dataclass(frozen=True, slots=True)
class Figured:
    """Where a figure is counted, and its words.

    Attributes:
        figure: Which.
        n: Field of `Counted`: how often it was looked at.
        bad: Field of `Counted`: how often it was wrong.
        says: Of a trip, after the numbers.
    """

    figure: Figure
    n: str
    bad: str
    says: str


FIGURES: Final = (Figured(Figure.READ_AGREEMENT, "compared", "mismatches", "compared answers differ"),)


@dataclass(frozen=True, slots=True)
class Trip:
    """Why new is taken out.

    Attributes:
        signal: What was too much.
        excursion: The evidence.
        threshold: What it exceeded.
        limit_s: Of latency: what was too slow.
        figure: Of consistency: which.
    """

    signal: Signal
    excursion: Excursion
    threshold: float
    limit_s: float | None = None
    figure: Figured = FIGURES[0]

    def reason(self) -> str:
        """In words, for the kill."""
        found = self.excursion
        rate = 100 * found.k / max(found.n, 1)
        allowed = f"{1000 * self.limit_s:.0f} ms" if self.limit_s else "each of them may"
        said = {
            Signal.ERRORS: f"{found.k} of {found.n} requests failed ({rate:.1f} %, allowed {100 * self.threshold:g} %)",
            Signal.LATENCY: (
                f"{found.k} of {found.n} requests took longer than {allowed} "
                f"({rate:.1f} %, allowed {100 * self.threshold:g} %)"
            ),
            Signal.CONSISTENCY: (
                f"{found.k} of {found.n} {self.figure.says} ({rate:.3f} %, allowed {100 * self.threshold:g} %)"
            ),
        }
        return f"{self.signal}: {said[self.signal]}"


Confirm = Callable[[Excursion], bool | None]
"""Whether the baseline bears out that new was slow; None: hold."""


def profile_of(thresholds: Thresholds) -> Profile:
    """How sure detectors want to be; where a window decides, those that it does not concern."""
    return PROFILES.get(thresholds.profile, BALANCED)


def _rule(trigger: Trigger, thresholds: Thresholds, detectors: int) -> Rule:
    if thresholds.profile == WINDOW and trigger.signal is not Signal.CONSISTENCY:
        # Of two hundred comparisons one mismatch is too many for any window: a day never passes without a trip.
        return WindowRule(trigger.threshold, thresholds.window_s, thresholds.min_samples, trigger.signal)
    return Detector(trigger, profile_of(thresholds), detectors)


class Guard:
    """Three detectors side by side."""

    def __init__(self, thresholds: Thresholds, detectors: int = 3) -> None:
        """Begins without evidence.

        Args:
            thresholds: Of the migration.
            detectors: How many run in all.
        """
        self._errors = _rule(error_trigger(thresholds.error_rate), thresholds, detectors)
        self._latency = _rule(latency_trigger(), thresholds, detectors)
        self._consistency = {
            each: _rule(consistency_trigger(thresholds.consistency), thresholds, detectors) for each in FIGURES
        }
        self._all = (self._errors, self._latency, *self._consistency.values())
        self._dispersion = Dispersion()
        self._first_at: float | None = None
        self._last_at = 0.0
        self._is_held = False
        self._has_limit = False
        self._has_compared = False
        self.tripped: Trip | None = None

    @property
    def evidence(self) -> float:
        """Of the surest detector, 0-1."""
        return max(each.evidence for each in self._all)

    @property
    def latency_evidence(self) -> float:
        """Of the detector that needs a second look at both sides, 0-1."""
        return self._latency.evidence

    @property
    def dispersion(self) -> float:
        """By how much evidence of errors is divided, 1-10."""
        return self._dispersion.value or 1.0

    @property
    def learnt(self) -> tuple[int, float, float]:
        """What it knows of how bursty errors are; see `Dispersion`."""
        return self._dispersion.learnt

    def recall(self, learnt: tuple[int, float, float]) -> None:
        """Goes on from what was learnt before a restart, unless it knows more."""
        if learnt[0] > self._dispersion.learnt[0]:
            self._dispersion.learnt = learnt

    def scores(self) -> dict[str, float]:
        """The evidence for each signal, 0-1."""
        scores: dict[str, float] = {}
        for each in self._all:
            signal = each.trigger.signal.value
            scores[signal] = max(each.evidence, scores.get(signal, 0.0))
        return scores

    def learn(self, counted: Counted) -> None:
        """Takes mirrored traffic, to learn how bursty errors are; not while requests are served, not while it holds."""
        if counted.copied and not self._is_held:
            self._dispersion.note(counted.copied_errors)

    def watch(self, counted: Counted, now: float) -> None:
        """Judges what new answers to copies: it may hold, and there is nothing to take out."""
        self.learn(counted)
        self._errors.dispersion = self.dispersion
        self._errors.tick(counted.copied, counted.copied_errors, now)
        self._judge_consistency(counted, now, None)
        self._note_hold()

    def reset(self) -> None:
        """Forgets the evidence: the kill was re-armed, or its stage has changed."""
        for detector in self._all:
            detector.reset()
        self.tripped, self._is_held, self._first_at, self._has_compared = None, False, None, False

    def tick(self, counted: Counted, now: float, limit_s: float | None, mark: object, confirm: Confirm) -> Trip | None:
        """Judges what happened; returns why new must go, once.

        Args:
            counted: Since the last tick.
            now: Seconds.
            limit_s: What is too slow, or None while nobody knows.
            mark: Kept with an excursion that begins now; not looked at where nothing is bad.
            confirm: Asked before a trip of latency.
        """
        self._has_limit = limit_s is not None
        if self.tripped is not None:
            return None
        if counted.n:
            self._last_at = now
            if self._first_at is None:
                self._first_at = now
        self._errors.dispersion = self.dispersion
        found = self._errors.tick(counted.n, counted.errors, now, mark)
        trip = None if found is None else Trip(Signal.ERRORS, found, self._errors.trigger.threshold)
        if trip is None and limit_s is not None and self._is_warm(now):
            found = self._latency.tick(counted.timed, counted.slow, now, mark)
            if found is not None and confirm(found):
                trip = Trip(Signal.LATENCY, found, self._latency.trigger.threshold, limit_s)
        inconsistent = self._judge_consistency(counted, now, mark)
        trip = trip or inconsistent
        self._note_hold()
        self.tripped = trip
        return trip

    def _judge_consistency(self, counted: Counted, now: float, mark: object) -> Trip | None:
        trip = None
        for figure, detector in self._consistency.items():
            n, bad = getattr(counted, figure.n), getattr(counted, figure.bad)
            self._has_compared |= n > 0
            found = detector.tick(n, bad, now, mark)
            if found is not None:
                trip = trip or Trip(Signal.CONSISTENCY, found, detector.trigger.threshold, figure=figure)
        return trip

    def _note_hold(self) -> None:
        self._is_held = self.evidence >= (_CLEAR if self._is_held else _HOLD)

    def _is_warm(self, now: float) -> bool:
        return self._first_at is not None and now - self._first_at >= _WARM_UP_S

    @property
    def is_held(self) -> bool:
        """Whether there is an early warning."""
        return self._is_held

    def state(self, now: float, *, is_compared: bool = False) -> tuple[GuardState, str | None]:
        """What it says now, and why where that needs a word.

        Args:
            now: Seconds.
            is_compared: Whether answers of this operation can be compared at all.
        """
        if self.tripped is not None:
            return GuardState.TRIPPED, self.tripped.reason()
        if self._is_held:
            return GuardState.HOLD, self.leaning()
        if self._first_at is None:
            return GuardState.NO_DATA, "no request on new yet"
        if now - self._last_at > _FORGOTTEN_S:
            return GuardState.NO_DATA, f"no request on new for {(now - self._last_at) / 3600:.0f} h"
        if not self._has_limit:
            return GuardState.NOT_ARMED, "latency: fewer than 100 answers of old to compare with"
        if not self._is_warm(now):
            return GuardState.NOT_ARMED, f"latency: warming up, {_WARM_UP_S - (now - self._first_at):.0f} s more"
        if self.evidence >= _SAID:
            return GuardState.ARMED, self.leaning()
        if is_compared and not self._has_compared:
            return GuardState.ARMED, "consistency: no answers were compared yet"
        return GuardState.ARMED, None

    def leaning(self) -> str:
        """Which way the evidence goes, and how much more of the same would be enough."""
        surest = max(self._all, key=lambda each: each.evidence)
        said = f"{surest.trigger.signal}: evidence {100 * surest.evidence:.0f} % of what trips"
        needed = surest.needed()
        return said if not needed else f"{said}; needs about {needed} more requests"
