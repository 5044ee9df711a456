"""A reliability diagram as SVG: the share that is unsafe by score, with intervals, and the threshold. No library."""

from __future__ import annotations

from monitors.llama_guard.calibration import Bin, Calibration

_SIZE, _LEFT, _TOP = 320, 60, 50
_WIDTH, _HEIGHT = _SIZE + 110, _SIZE + 130


def draw(found: Calibration) -> str:
    """One panel; the size of a dot grows with the number of texts behind it."""
    most = max(one.count for one in found.reliability)
    x = _x(found.threshold)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 22, f"{found.benign} benign and {found.unsafe} unsafe texts", 14),
        _text(_LEFT, 40, f"temperature {found.temperature:.3g}: ECE {found.ece_before:.3f}, {found.ece_after:.3f}", 12),
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_SIZE}" height="{_SIZE}" fill="none" stroke="#999"/>',
        _line(_x(0), _y(0), _x(1), _y(1), "#bbb", "4 4"),
        _line(x, _y(0), x, _y(1), "#d1495b", "6 3"),
        *(_dot(one, most) for one in found.reliability),
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(_x(tick) - 10, _y(0) + 18, f"{tick:g}", 11))
        parts.append(_text(_LEFT - 34, _y(tick) + 4, f"{tick:g}", 11))
    parts.append(_text(_LEFT, _y(0) + 40, "across: calibrated P(unsafe); up: share that is unsafe, 95 %", 11))
    low, high = found.fpr_interval
    line = f"threshold {found.threshold:.4f}: false positives {low:.3%} to {high:.3%}, recall {found.recall:.1%}"
    parts.append(_text(_LEFT, _y(0) + 58, line, 11, "#d1495b"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _dot(one: Bin, most: int) -> str:
    x, radius = _x(one.score), 2.5 + 5 * (one.count / most) ** 0.5
    bar = _line(x, _y(one.interval.lower), x, _y(one.interval.upper), "#1b6ca8", "")
    return bar + f'<circle cx="{x:.1f}" cy="{_y(one.unsafe):.1f}" r="{radius:.1f}" fill="#1b6ca8" fill-opacity="0.7"/>'


def _x(share: float) -> float:
    return _LEFT + _SIZE * share


def _y(share: float) -> float:
    return _TOP + _SIZE * (1 - share)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str) -> str:  # noqa: PLR0917 - as SVG has it
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-dasharray="{dash}"/>'


def _text(x: float, y: float, text: str, size: int, colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}">{text}</text>'
