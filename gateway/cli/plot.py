"""Line plots as SVG: a few series, marks, axes. What a report and a page of the docs need, and no more.

A plotting library would be the largest dependency of the gateway, for one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import floor, log10
from typing import Final

_WIDTH: Final = 760
_HEIGHT: Final = 340
_LEFT: Final = 64
_RIGHT: Final = 20
_TOP: Final = 56
_BOTTOM: Final = 48
_COLOURS: Final = {"old": "#4878a8", "new": "#3c9060", "failed": "#c8402c"}
_OTHERS: Final = ("#4878a8", "#3c9060", "#c8402c", "#9060a8", "#a88030", "#606060")
_TICKS: Final = 6


@dataclass(frozen=True, slots=True)
class Line:
    """A series.

    Attributes:
        name: For the legend.
        points: x and y.
        kind: `old`, `new` or `failed` have colours of their own.
    """

    name: str
    points: Sequence[tuple[float, float]]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line.

    Attributes:
        x: Where.
        name: What happened there.
    """

    x: float
    name: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot.

    Attributes:
        title: Above it.
        x_name: Of the horizontal axis.
        y_name: Of the vertical one.
        lines: The series.
        marks: Vertical lines.
        is_log: Whether both axes are logarithmic; then every value must be above 0.
    """

    title: str
    x_name: str
    y_name: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = field(default=())
    is_log: bool = False

    def svg(self) -> str:
        """The picture."""
        xs = [x for line in self.lines for x, _ in line.points] or [0.0, 1.0]
        ys = [y for line in self.lines for _, y in line.points] or [0.0, 1.0]
        x_axis = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT, is_log=self.is_log)
        y_axis = _Axis(min(ys) if self.is_log else 0.0, max(ys), _HEIGHT - _BOTTOM, _TOP, is_log=self.is_log)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(self.title)}</text>',
            *self._grid(x_axis, y_axis),
            *self._series(x_axis, y_axis),
        ]
        for mark in self.marks:
            x = x_axis.place(mark.x)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="black"/>')
            parts.append(f'<text x="{x + 3:.1f}" y="{_TOP + 12}">{escape(mark.name)}</text>')
        return "\n".join([*parts, "</svg>\n"])

    def _grid(self, x_axis: _Axis, y_axis: _Axis) -> list[str]:
        parts = []
        for value in x_axis.ticks():
            x = x_axis.place(value)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#e4e4e4"/>')
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
        for value in y_axis.ticks():
            y = y_axis.place(value)
            parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        middle_x, middle_y = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(f'<text x="{middle_x}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(self.x_name)}</text>')
        turn = f'transform="rotate(-90 14 {middle_y})"'
        parts.append(f'<text x="14" y="{middle_y}" text-anchor="middle" {turn}>{escape(self.y_name)}</text>')
        return parts

    def _series(self, x_axis: _Axis, y_axis: _Axis) -> list[str]:
        parts, x = [], float(_LEFT)
        for at, line in enumerate(self.lines):
            colour = _COLOURS.get(line.kind, _OTHERS[at % len(_OTHERS)])
            points = " ".join(f"{x_axis.place(px):.1f},{y_axis.place(py):.1f}" for px, py in line.points)
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{points}"/>')
            parts.append(f'<rect x="{x:.0f}" y="32" width="14" height="4" fill="{colour}"/>')
            parts.append(f'<text x="{x + 19:.0f}" y="39">{escape(line.name)}</text>')
            x += 32 + 6.6 * len(line.name)
        return parts


class _Axis:
    """Places values between two edges."""

    def __init__(self, least: float, most: float, begin: float, end: float, *, is_log: bool) -> None:
        self._is_log = is_log
        self._least, self._most = least, most if most > least else least + 1
        self._begin, self._end = begin, end

    def place(self, value: float) -> float:
        least, most, at = self._least, self._most, value
        if self._is_log:
            least, most, at = log10(least), log10(most), log10(value)
        return self._begin + (at - least) / (most - least) * (self._end - self._begin)

    def ticks(self) -> list[float]:
        if self._is_log:
            exponents = range(floor(log10(self._least)), floor(log10(self._most)) + 1)
            return [10.0**exponent for exponent in exponents if 10.0**exponent >= self._least]
        step = 10.0 ** floor(log10((self._most - self._least) / _TICKS))
        step *= next(factor for factor in (1, 2, 5, 10) if (self._most - self._least) / (step * factor) <= _TICKS)
        first = int(-(-self._least // step))
        return [round(at * step, 10) for at in range(first, int(self._most // step) + 1)]
