"""A clipped mixture e-CUSUM: decides whether the rate of bad events has risen above a threshold, at any traffic.

Every tick, each of five alternatives (rates above the threshold) bets against "healthy": its evidence grows when bad
events come as it foretold, falls when they do not, and never below zero, so that a healthy past is no inertia. The bets
are e-values: at a rate of at most `ceiling * threshold`, whatever its dependence on the past, the chance of a false
trip within T ticks is at most T / patience (after Shin, Ramdas and Rinaldo, "E-detectors", arXiv 2203.03532).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log, sqrt
from typing import Final, Protocol

_CLIP: Final = 3
"""Fewer bad ticks than this never trip."""


class Signal(StrEnum):
    """What is judged."""

    ERRORS = "errors"
    LATENCY = "latency"
    CONSISTENCY = "consistency"


@dataclass(frozen=True, slots=True)
class Trigger:
    """What counts as bad, and when it is too much.

    Attributes:
        signal: Which.
        threshold: The rate of bad events above which new is taken out.
        grid: The rates that are betted on, above it.
        least: A trip needs so many bad events in its excursion.
        has_margin: Whether the excursion's rate must exceed the threshold by the profile's margin.
    """

    signal: Signal
    threshold: float
    grid: tuple[float, ...]
    least: int
    has_margin: bool = True


def error_trigger(threshold: float = 0.05) -> Trigger:
    """Too many failures."""
    return Trigger(Signal.ERRORS, threshold, _above(threshold, _GRID), 10)


def latency_trigger() -> Trigger:
    """More than 5 % are slower than allowed: P95 is above the limit."""
    return Trigger(Signal.LATENCY, 0.05, _GRID, 10)


def consistency_trigger(least_agreement: float = 0.9999) -> Trigger:
    """Too many confirmed mismatches."""
    threshold = max(1 - least_agreement, 1e-9)
    scale = threshold / 1e-4
    grid = tuple(rate * scale if rate < 1e-2 else rate for rate in (2e-4, 1e-3, 1e-2, 0.1, 0.9))
    return Trigger(Signal.CONSISTENCY, threshold, _above(threshold, grid), 3, has_margin=False)


_GRID: Final = (0.06, 0.10, 0.20, 0.50, 0.95)


def _above(threshold: float, grid: tuple[float, ...]) -> tuple[float, ...]:
    """The grid with every rate above the threshold, five of them."""
    kept = [rate for rate in grid if rate > threshold]
    steps = [threshold + (1 - threshold) * share for share in (0.02, 0.1, 0.3, 0.6, 0.95)]
    return tuple(kept) if len(kept) == len(grid) else tuple(steps)


@dataclass(frozen=True, slots=True)
class Profile:
    """How sure a detector wants to be.

    Attributes:
        name: For settings and status.
        ceiling: Share of the threshold up to which new is certainly healthy.
        patience: Ticks that a healthy stream survives on average, at least.
        margin: Standard errors by which an excursion's rate must exceed the threshold.
    """

    name: str
    ceiling: float
    patience: float
    margin: float


BALANCED: Final = Profile("balanced", 0.6, 1e7, 2.5)
STRICT: Final = Profile("strict", 0.8, 1e6, 0.0)
PROFILES: Final = {profile.name: profile for profile in (BALANCED, STRICT)}


@dataclass(frozen=True, slots=True)
class Excursion:
    """What a detector saw since its evidence left zero.

    Attributes:
        rate: The alternative that it bears out.
        n: Events.
        k: Bad ones.
        since: When it began, in the caller's clock.
        evidence: Against the limit: 1 and more = enough.
        mark: What the caller gave when it began.
    """

    rate: float
    n: int
    k: int
    since: float
    evidence: float
    mark: object = None


@dataclass(slots=True)
class _Bet:
    rate: float
    gain: float
    """Of one bad event."""
    loss: float
    """Of one good event; negative."""
    score: float = 0.0
    n: int = 0
    k: int = 0
    since: float = 0.0
    mark: object = None


class Rule(Protocol):
    """Judges one stream of events.

    Attributes:
        trigger: What is judged.
        dispersion: How much more bad events come in bursts than by chance, 1-10.
    """

    trigger: Trigger
    dispersion: float

    @property
    def evidence(self) -> float:
        """As a share of what is enough, 0-1."""
        ...

    def reset(self) -> None:
        """Forgets everything."""
        ...

    def tick(self, n: int, k: int, now: float, mark: object = None) -> Excursion | None:
        """Takes what happened since the last tick; returns what is enough to trip, or None."""
        ...

    def needed(self) -> int | None:
        """How many more events like those of late would be enough; None: they lead nowhere."""
        ...


class Detector:
    """One stream of events.

    Attributes:
        trigger: What is judged.
        limit: Evidence that is enough.
        dispersion: How much more errors come in bursts than by chance, 1-10; evidence is divided by it.
    """

    def __init__(self, trigger: Trigger, profile: Profile = BALANCED, detectors: int = 1) -> None:
        """Begins with no evidence.

        Args:
            trigger: What is judged.
            profile: How sure to be.
            detectors: How many run side by side; each must be surer for it.
        """
        self.trigger = trigger
        self.dispersion = 1.0
        healthy = profile.ceiling * trigger.threshold
        self.limit = log(profile.patience * len(trigger.grid)) + log(max(1, detectors))
        self._margin = profile.margin if trigger.has_margin else 0.0
        self._bets = [
            _Bet(rate, log(rate / healthy), log((1 - rate) / (1 - healthy)) if rate < 1 else -self.limit)
            for rate in trigger.grid
        ]
        self._is_quiet = True
        """No bet has any evidence, so that good events change nothing."""

    @property
    def evidence(self) -> float:
        """Of the best bet, as a share of the limit, 0-1."""
        return 0.0 if self._is_quiet else max(bet.score for bet in self._bets) / self.limit

    def reset(self) -> None:
        """Forgets everything."""
        for bet in self._bets:
            bet.score, bet.n, bet.k = 0.0, 0, 0
        self._is_quiet = True

    def tick(self, n: int, k: int, now: float, mark: object = None) -> Excursion | None:
        """Takes what happened since the last tick.

        Args:
            n: Events.
            k: Bad ones among them.
            now: Seconds, any clock.
            mark: Kept with an excursion that begins now; of no use where nothing is bad.

        Returns:
            An excursion that is enough to trip, or None.
        """
        n = max(n, k)
        if not n or (self._is_quiet and not k):
            return None
        clip, found = self.limit / _CLIP, None
        for bet in self._bets:
            if bet.score <= 0:
                bet.score, bet.n, bet.k, bet.since, bet.mark = 0.0, 0, 0, now, mark
            bet.score += min((k * bet.gain + (n - k) * bet.loss) / self.dispersion, clip)
            bet.n += n
            bet.k += k
            if bet.score >= self.limit:
                if found is None and self._exceeds(bet):
                    found = self._excursion(bet)
                bet.score = self.limit
        self._is_quiet = all(bet.score <= 0 for bet in self._bets)
        return found

    def needed(self) -> int | None:
        """How many more events like those of the excursion would be enough; None: they lead nowhere."""
        bet = max(self._bets, key=lambda bet: bet.score)
        if bet.score <= 0 or not bet.k:
            return None
        rate = bet.k / bet.n
        gain = (rate * bet.gain + (1 - rate) * bet.loss) / self.dispersion
        if gain <= 0:
            return None
        lacking = [(self.limit - bet.score) / gain, (self.trigger.least - bet.k) / rate]
        if rate > self.trigger.threshold:
            threshold = self.trigger.threshold
            # So many that the margin is as small as what this rate exceeds the threshold by.
            wanted = threshold * (1 - threshold) * (self._margin / (rate - threshold)) ** 2
            lacking.append(wanted - bet.n)
        return max(0, ceil(max(lacking)))

    def best(self) -> Excursion | None:
        """The excursion that bears most evidence, or None."""
        bet = max(self._bets, key=lambda bet: bet.score)
        return self._excursion(bet) if bet.score > 0 else None

    def _exceeds(self, bet: _Bet) -> bool:
        threshold = self.trigger.threshold
        if bet.k < self.trigger.least:
            return False
        return bet.k / bet.n > threshold + self._margin * sqrt(threshold * (1 - threshold) / bet.n)

    def _excursion(self, bet: _Bet) -> Excursion:
        return Excursion(bet.rate, bet.n, bet.k, bet.since, bet.score / self.limit, bet.mark)


class Dispersion:
    """Learns how bursty bad events are: variance over mean of their number in a tick, over an hour at least."""

    ENOUGH_TICKS: Final = 14_400
    _MOST: Final = 10.0

    def __init__(self) -> None:
        self._ticks = 0
        self._mean = 0.0
        self._squares = 0.0

    @property
    def learnt(self) -> tuple[int, float, float]:
        """All that it knows, to go on from later: ticks, mean, sum of squares."""
        return self._ticks, self._mean, self._squares

    @learnt.setter
    def learnt(self, learnt: tuple[int, float, float]) -> None:
        self._ticks, self._mean, self._squares = learnt

    def note(self, k: int) -> None:
        """One tick with traffic (Welford 1962)."""
        self._ticks += 1
        delta = k - self._mean
        self._mean += delta / self._ticks
        self._squares += delta * (k - self._mean)

    @property
    def value(self) -> float | None:
        """1-10, or None while too little was seen."""
        if self._ticks < self.ENOUGH_TICKS or self._mean <= 0:
            return None
        return min(self._MOST, max(1.0, self._squares / (self._ticks - 1) / self._mean))


class WindowRule:
    """The literal rule: more than the threshold within the last seconds, of enough events. Off unless chosen.

    Attributes:
        trigger: What is judged.
        window_s: Of the window.
        least: Events that it must hold; 200 at least, since fewer trip healthy services many times a day.
        dispersion: Changes nothing here.
    """

    LEAST: Final = 200

    def __init__(
        self, threshold: float, window_s: float = 60.0, least: int = LEAST, signal: Signal = Signal.ERRORS
    ) -> None:
        self.trigger = Trigger(signal, threshold, (threshold,), 1, has_margin=False)
        self.window_s = window_s
        self.least = max(least, self.LEAST)
        self.dispersion = 1.0
        self._ticks: deque[tuple[float, int, int, object]] = deque()
        self._n = self._k = 0

    @property
    def evidence(self) -> float:
        """The window's rate over the threshold, at most 1; what it lacks of the events that it must hold is good."""
        return min(1.0, self._k / (self.trigger.threshold * max(self._n, self.least)))

    def reset(self) -> None:
        """Forgets everything."""
        self._ticks.clear()
        self._n = self._k = 0

    def tick(self, n: int, k: int, now: float, mark: object = None) -> Excursion | None:
        """Takes what happened since the last tick."""
        n = max(n, k)
        if n:
            self._ticks.append((now, n, k, mark))
            self._n += n
            self._k += k
        begun = now - self.window_s
        while self._ticks and self._ticks[0][0] <= begun:
            _, gone, bad, _ = self._ticks.popleft()
            self._n -= gone
            self._k -= bad
        if self._n < self.least or self._k / self._n <= self.trigger.threshold:
            return None
        first = next(tick for tick in self._ticks if tick[2])
        return Excursion(self.trigger.threshold, self._n, self._k, first[0], 1.0, first[3])

    def needed(self) -> int | None:
        """How many events the window lacks, where its rate is too high."""
        if self._n >= self.least or not self._k or self._k / self._n <= self.trigger.threshold:
            return None
        return self.least - self._n
