"""Latency histograms that can be added and subtracted exactly: fixed logarithmic buckets.

352 buckets from 0.1 ms to 124 s; a value read back is within 2 % of one that was recorded. The idea is that of DDSketch
(Masson, Rim, Lee: "DDSketch", VLDB 2019) with a fixed range, so that merging is addition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, log
from operator import add
from typing import Final, Self

BUCKETS: Final = 352
_ALPHA: Final = 0.02
_GAMMA: Final = (1 + _ALPHA) / (1 - _ALPHA)
_LEAST_S: Final = 1e-4
_PER_LOG: Final = 1 / log(_GAMMA)
_OFFSET: Final = ceil(log(_LEAST_S) * _PER_LOG)


def bucket_of(seconds: float) -> int:
    """The bucket that counts a duration, 0..351."""
    if seconds <= _LEAST_S:
        return 0
    return min(BUCKETS - 1, max(0, ceil(log(seconds) * _PER_LOG) - _OFFSET))


def value_of(bucket: int) -> float:
    """The duration that stands for a bucket, in seconds."""
    return float(2 * _GAMMA ** (bucket + _OFFSET) / (1 + _GAMMA))


class Histogram:
    """Counts by bucket.

    Attributes:
        counts: One for each bucket.
    """

    __slots__ = ("counts",)

    def __init__(self, counts: Iterable[int] = ()) -> None:
        self.counts: list[int] = list(counts) or [0] * BUCKETS

    @classmethod
    def from_sparse(cls, sparse: Mapping[str, int]) -> Self:
        """Reads what `sparse` wrote. Buckets that do not exist are left out."""
        histogram = cls()
        for bucket, count in sparse.items():
            if bucket.isdecimal() and (at := int(bucket)) < BUCKETS:
                histogram.counts[at] = count
        return histogram

    def copy(self) -> Histogram:
        """As it is now."""
        return Histogram(self.counts)

    @property
    def total(self) -> int:
        """How many durations were recorded."""
        return sum(self.counts)

    def record(self, seconds: float) -> None:
        """Counts one duration."""
        self.counts[bucket_of(seconds)] += 1

    def sparse(self) -> dict[str, int]:
        """The counts that are not zero, by bucket; fit for JSON."""
        return {str(bucket): count for bucket, count in enumerate(self.counts) if count}

    def quantile(self, share: float) -> float | None:
        """The duration that a share of all did not exceed, in seconds; None when nothing was recorded.

        Args:
            share: 0 < share <= 1: 0.95 for P95.
        """
        total = self.total
        if not total:
            return None
        rank = max(1, ceil(share * total))
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                return value_of(bucket)
        raise AssertionError("the ranks of a histogram end with its total")

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(map(add, self.counts, other.counts))

    def __sub__(self, other: Histogram) -> Histogram:
        return Histogram([a - b if a > b else 0 for a, b in zip(self.counts, other.counts, strict=True)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.counts == other.counts

    __hash__ = None  # type: ignore[assignment]  # it changes
