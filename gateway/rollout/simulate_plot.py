"""The plot of a simulation as SVG: which share of the rollouts had been decided after how long. No library needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from gateway.rollout.simulate_report import EQUAL, HARMFUL, Report, in_words

_WIDTH, _HEIGHT, _LEFT, _TOP = 430, 260, 60, 60
_COLOURS = ("#1b6ca8", "#d1495b", "#8a8d91")
_PANEL = _WIDTH + _LEFT + 30


def draw(found: Report) -> str:
    """One panel a candidate. Rollbacks solid, promotions dashed; time on a logarithmic axis."""
    kinds = [kind for kind in (HARMFUL, EQUAL) if any(key[1] == kind for key in found.outcomes)]
    latest = max(outcome.seconds for runs in found.outcomes.values() for outcome in runs)
    decades = (0, max(2, math.ceil(math.log10(latest))))
    panels = [_panel(found, kind, number, decades) for number, kind in enumerate(kinds)]
    width, height = _PANEL * len(kinds) + 20, _HEIGHT + _TOP + 110
    legend = [_legend(rules, index, height - 40) for index, rules in enumerate(_rules(found))]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    note = _text(_LEFT, height - 12, "solid: rolled back; dashed: promoted", 12, "#555")
    title = _text(_LEFT, 24, f"Plan {found.plan!r}: {_traffic(found)}", 15)
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head, background, title, *panels, *legend, note, "</svg>"]) + "\n"


def _rules(found: Report) -> list[str]:
    return list(dict.fromkeys(rules for rules, _ in found.outcomes))


def _traffic(found: Report) -> str:
    t = found.traffic
    risk = f"{t.metric} {t.bad_rate:.3g} (candidate: {t.relative_risk:g} times)"
    return f"{t.rps:g} requests/s, {risk}, satisfaction {t.satisfaction:g} {t.satisfaction_change:+g}"


def _panel(found: Report, kind: str, number: int, decades: tuple[int, int]) -> str:
    left = _LEFT + number * _PANEL
    parts = [_text(left, _TOP - 12, kind, 13, "#333"), _axes(left, decades)]
    for index, rules in enumerate(_rules(found)):
        for decision, dash in (("rollback", ""), ("promote", "6 4")):
            runs = found.outcomes.get((rules, kind), ())
            times = sorted(outcome.seconds for outcome in runs if outcome.decision == decision)
            if times:
                parts.append(_curve(times, len(runs), left, decades, _COLOURS[index], dash))
    return "\n".join(parts)


def _curve(times: Sequence[float], runs: int, left: float, decades: tuple[int, int], colour: str, dash: str) -> str:  # noqa: PLR0917 - one call, all of them needed
    """The empirical distribution as steps."""
    x, y = _x(times[0], left, decades), _y(0.0)
    points = [f"{left},{y:.1f}", f"{x:.1f},{y:.1f}"]
    for count, seconds in enumerate(times, 1):
        x = _x(seconds, left, decades)
        points += [f"{x:.1f},{y:.1f}", f"{x:.1f},{_y(count / runs):.1f}"]
        y = _y(count / runs)
    points.append(f"{left + _WIDTH},{y:.1f}")
    style = f'stroke="{colour}" stroke-dasharray="{dash}"' if dash else f'stroke="{colour}"'
    return f'<polyline fill="none" stroke-width="2" {style} points="{" ".join(points)}"/>'


def _axes(left: float, decades: tuple[int, int]) -> str:
    parts = [f'<rect x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line x1="{left}" x2="{left + _WIDTH}" y1="{_y(share)}" y2="{_y(share)}" stroke="#eee"/>')
        parts.append(_text(left - 42, _y(share) + 4, f"{share:.0%}", 11, "#555"))
    for seconds in (1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400):
        if decades[0] <= math.log10(seconds) <= decades[1]:
            x = _x(seconds, left, decades)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + _HEIGHT}" stroke="#eee"/>')
            parts.append(_text(x - 14, _TOP + _HEIGHT + 16, in_words(seconds), 11, "#555"))
    return "\n".join(parts)


def _x(seconds: float, left: float, decades: tuple[int, int]) -> float:
    place = (math.log10(max(seconds, 10.0 ** decades[0])) - decades[0]) / (decades[1] - decades[0])
    return left + _WIDTH * place


def _y(share: float) -> float:
    return _TOP + _HEIGHT * (1 - share)


def _legend(rules: str, index: int, y: float) -> str:
    x = _LEFT + index * 190
    line = f'<line x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}" stroke="{_COLOURS[index]}" stroke-width="3"/>'
    return line + _text(x + 30, y, rules, 12)


def _text(x: float, y: float, text: str, size: int, colour: str = "#111") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
