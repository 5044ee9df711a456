"""Small SVG charts for reports: lines over steps, and intervals by slice. Text in, text out; no plotting library.

Colours come from the page (classes s0, s1, … and CSS variables), so that a chart is readable in light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 30
SMOOTH_FROM = 25          # points from which a noisy line gets a smoothed one over it
SPARSE = 40               # points up to which each is drawn


@dataclass(frozen=True)
class Series:
    """One line: (step, value) in order of steps; None breaks it. `noisy`: a smoothed line is drawn over many points."""

    label: str
    points: Sequence[tuple[float, float | None]]
    noisy: bool = True

    @property
    def present(self) -> list[tuple[float, float]]:
        """The points that have a value."""
        return [(x, y) for x, y in self.points if y is not None and math.isfinite(y)]


@dataclass(frozen=True)
class Marker:
    """A vertical line at a step, with a word."""

    step: float
    label: str
    bad: bool = False


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, of one slice in one evaluation."""

    label: str
    series: int          # 0: this version, 1: stable
    value: float
    lower: float
    upper: float


def line_chart(series: Sequence[Series], markers: Sequence[Marker] = ()) -> str:
    """An <svg> of the series that have points; empty when none has."""
    shown = [one for one in series if one.present]
    if not shown:
        return ""
    xs = [x for one in shown for x, _ in one.present]
    ys = [y for one in shown for _, y in one.present]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 6), ticks(min(ys), max(ys), 5)
    scale = _Scale((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    parts = [_grid(scale, x_ticks, y_ticks)]
    parts += [_marker(scale, marker) for marker in markers if scale.x_range[0] <= marker.step <= scale.x_range[1]]
    parts += [_line(scale, one, place) for place, one in enumerate(series) if one.present]
    return _svg(WIDTH, HEIGHT, "".join(parts))


def interval_chart(estimates: Sequence[Estimate]) -> str:
    """Dots with whiskers on 0..1, a row for each label; series 0 above series 1. Empty for no estimates."""
    if not estimates:
        return ""
    labels = list(dict.fromkeys(estimate.label for estimate in estimates))
    left, row, width = 130, 30, 620
    height = row * len(labels) + 34
    span = width - left - 20
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + span * tick
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 24}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    for place, label in enumerate(labels):
        middle = row * place + row / 2 + 6
        at = f'x="{left - 10}" y="{middle + 4:.1f}"'
        parts.append(f'<text class="label" {at} text-anchor="end">{escape(label)}</text>')
        for estimate in (one for one in estimates if one.label == label):
            y = middle + (-5 if estimate.series == 0 else 5)
            low, value, high = (left + span * clamp(v) for v in (estimate.lower, estimate.value, estimate.upper))
            said = escape(f"{label}: {estimate.value:.3f} [{estimate.lower:.3f}, {estimate.upper:.3f}]")
            parts.append(
                f'<g class="s{estimate.series}"><title>{said}</title>'
                f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<circle class="dot" cx="{value:.1f}" cy="{y:.1f}" r="4"/></g>'
            )
    return _svg(width, height, "".join(parts))


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that enclose [low, high]; at least two."""
    if high <= low:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, max(last, first + 1) + 1)]


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Exponential moving average over about a twelfth of the points, corrected for its start."""
    share = 1 - 2 / (max(3.0, len(points) / 12) + 1)
    total, weight, found = 0.0, 0.0, []
    for x, y in points:
        total, weight = share * total + (1 - share) * y, share * weight + (1 - share)
        found.append((x, total / weight))
    return found


def clamp(value: float) -> float:
    """`value` within 0..1."""
    return min(1.0, max(0.0, value))


@dataclass(frozen=True)
class _Scale:
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)


def _svg(width: int, height: int, inside: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">{inside}</svg>'


def _grid(scale: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    parts = []
    for value in y_ticks:
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x_ticks:
        place = f'x="{scale.x(value):.1f}" y="{HEIGHT - 10}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{number(value)}</text>')
    return "".join(parts)


def _marker(scale: _Scale, marker: Marker) -> str:
    x = scale.x(marker.step)
    kind = "marker bad" if marker.bad else "marker"
    anchor, shift = ("end", -4) if x > WIDTH * 0.7 else ("start", 4)
    return (
        f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="{kind}" x="{x + shift:.1f}" y="{TOP + 10}" text-anchor="{anchor}">{escape(marker.label)}</text>'
    )


def _line(scale: _Scale, series: Series, place: int) -> str:
    noisy = series.noisy and len(series.present) >= SMOOTH_FROM
    kind = "line faint" if noisy else "line"
    drawn = [_path(scale, part, kind) for part in _unbroken(series.points)]
    if noisy:
        drawn.append(_path(scale, smoothed(series.present), "line"))
    if len(series.present) <= SPARSE and not noisy:
        drawn += [
            f'<circle class="dot" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2.5">'
            f"<title>{escape(series.label)}, step {x:g}: {y:.4g}</title></circle>"
            for x, y in series.present
        ]
    return f'<g class="s{place}">{"".join(drawn)}</g>'


def _unbroken(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            parts.append([])
        else:
            parts[-1].append((x, y))
    return [part for part in parts if len(part) > 1]


def _path(scale: _Scale, points: Sequence[tuple[float, float]], kind: str) -> str:
    at = " ".join(f"{scale.x(x):.1f},{scale.y(y):.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{at}"/>'


def number(value: float) -> str:
    """A short label: 0.05, 1.2e-05, 3,000."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
