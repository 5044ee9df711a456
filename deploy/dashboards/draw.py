"""Draws the panels of a dashboard with matplotlib: lines, numbers, states, bars and heat maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.dashboards.board import Board, Panel

Points = list[tuple[float, float]]     # (seconds since the epoch, value)
MOST = 8                               # names in a legend
SCALES: dict[str, tuple[float, str]] = {"percentunit": (100.0, " %"), "reqps": (1.0, "/s"), "s": (1.0, " s")}
COLOURS = {"green": "#3a8f4d", "orange": "#e08a1e", "red": "#c4372f", "blue": "#3b6fb5", "transparent": "#eeeeee"}


@dataclass(frozen=True, slots=True)
class Line:
    """One series with the name it has in a legend."""

    name: str
    labels: Mapping[str, str]
    points: Points


def board(what: Board, panels: Mapping[str, list[Line]], marks: Mapping[str, list[Line]], span: tuple[float, float],
          path: Path) -> None:  # fmt: skip
    """Write a picture of all panels, in their places; marks as vertical lines. Times are minutes from the start."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places, height = _places(what)
    figure = Figure(figsize=(14, height * 0.33), dpi=72, layout=None)
    FigureCanvasAgg(figure)
    rim = 0.5 / (height * 0.33)
    figure.suptitle(what.title, x=0.03, y=1 - rim / 2, ha="left", va="center", fontsize=13, weight="bold")
    grid = figure.add_gridspec(height, 24, left=0.03, right=0.99, top=1 - rim, bottom=rim / 2, hspace=0.9, wspace=2.2)
    for title, top in places[None]:
        axes = figure.add_subplot(grid[top : top + 1, :])
        axes.axis("off")
        axes.text(0, 0.4, title, fontsize=11, color="#444444", weight="bold", transform=axes.transAxes)
    for panel, left, top in places[Panel]:
        inner = slice(top, top + panel.height - 1)
        axes = figure.add_subplot(grid[inner, left : left + panel.width])
        axes.set_title(panel.title, fontsize=9, loc="left", pad=3)
        axes.tick_params(labelsize=7)
        for edge in ("top", "right"):
            axes.spines[edge].set_visible(False)
        KINDS[panel.kind](axes, panel, panels[panel.title], span)
        if panel.kind in ("graph", "timeline"):
            _mark(axes, what, marks, span[0])
    figure.savefig(path, metadata={"Software": ""}, pil_kwargs={"optimize": True})


def _places(what: Board) -> tuple[dict[Any, Any], int]:
    """({None: [(heading, top)], Panel: [(panel, left, top)]}, height), in Grafana's grid of 24 columns."""
    headings, placed, top = [], [], 0
    for row in what.rows:
        headings.append((row.title, top))
        top, left, tallest = top + 2, 0, 0
        for panel in row.panels:
            if left + panel.width > 24:
                top, left, tallest = top + tallest, 0, 0
            placed.append((panel, left, top))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return {None: headings, Panel: placed}, top


def _mark(axes: Any, what: Board, marks: Mapping[str, list[Line]], start: float) -> None:
    for mark in what.marks:
        for line in marks[mark.name]:
            began, before = [], None
            for at, _ in line.points:
                if before is None or at - before > 60:
                    began.append(at)
                before = at
            for at in began:
                axes.axvline((at - start) / 60, color=COLOURS[mark.colour], linewidth=0.8, linestyle=":")


def _graph(axes: Any, panel: Panel, lines: list[Line], span: tuple[float, float]) -> None:
    factor, suffix = SCALES.get(panel.unit, (1.0, ""))
    shown = sorted((line for line in lines if line.points), key=lambda line: -max(v for _, v in line.points))
    for number, line in enumerate(shown):
        minutes = [(at - span[0]) / 60 for at, _ in line.points]
        label = line.name if number < MOST else None
        axes.plot(minutes, [v * factor for _, v in line.points], linewidth=1, label=label)
    for value, colour in panel.thresholds[1:]:
        low, high = axes.get_ylim()
        if value is not None and low <= value * factor <= high:
            axes.axhline(value * factor, color=COLOURS[colour], linewidth=0.8, linestyle="--")
    axes.set_xlim(0, (span[1] - span[0]) / 60)
    if panel.minimum is not None:
        axes.set_ylim(bottom=panel.minimum * factor)
    if panel.maximum is not None:
        axes.set_ylim(top=panel.maximum * factor * 1.05)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}{suffix}")
    if shown:
        columns = 1 if len(shown) <= MOST // 2 else 2
        axes.legend(fontsize=6, loc="upper left", framealpha=0.75, edgecolor="none", borderpad=0.2, ncols=columns)


def _stat(axes: Any, panel: Panel, lines: list[Line], span: tuple[float, float]) -> None:
    factor, suffix = SCALES.get(panel.unit, (1.0, ""))
    axes.axis("off")
    values = [line.points[-1][1] for line in lines if line.points]
    text = f"{values[-1] * factor:.3g}{suffix}" if values else "no data"
    look = {"ha": "center", "va": "center", "fontsize": 15, "color": _colour(panel, values)}
    axes.text(0.5, 0.4, text, transform=axes.transAxes, **look)


def _colour(panel: Panel, values: Sequence[float]) -> str:
    name = panel.thresholds[0][1]
    for limit, colour in panel.thresholds[1:]:
        if values and limit is not None and values[-1] >= limit:
            name = colour
    return COLOURS[name]


def _timeline(axes: Any, panel: Panel, lines: list[Line], span: tuple[float, float]) -> None:
    lines = [line for line in lines if any(value for _, value in line.points)][:12]
    for row, line in enumerate(lines):
        for began, ended, value in _stretches(line.points):
            width = max(ended - began, (span[1] - span[0]) / 120)
            axes.barh(row, width / 60, 0.7, (began - span[0]) / 60, color=_colour(panel, [value]))
        axes.text(0.01, row + 0.38, line.name, fontsize=6, va="bottom", transform=axes.get_yaxis_transform())
    axes.set_yticks([])
    axes.set_ylim(-0.5, max(len(lines), 3) - 0.2)
    axes.set_xlim(0, (span[1] - span[0]) / 60)


def _stretches(points: Points) -> list[tuple[float, float, float]]:
    """(from, to, value) of each stretch in which the value stays the same; up to the next one's beginning."""
    found: list[tuple[float, float, float]] = []
    for at, value in points:
        if found:
            began, _, before = found[-1]
            found[-1] = (began, at, before)
        if not found or found[-1][2] != value:
            found.append((at, at, value))
    return found


def _bars(axes: Any, panel: Panel, lines: list[Line], span: tuple[float, float]) -> None:
    factor, suffix = SCALES.get(panel.unit, (1.0, ""))
    last = [(line.name, line.points[-1][1]) for line in lines if line.points]
    last = sorted(last, key=lambda item: -abs(item[1]))[:MOST]
    for row, (name, value) in enumerate(last):
        axes.barh(row, value * factor, color=_colour(panel, [value]), height=0.6)
        axes.text(0, row + 0.32, f"{name}: {value * factor:.4g}{suffix}", fontsize=6, va="bottom")
    if not last:
        axes.text(0.5, 0.5, "nothing", ha="center", fontsize=8, color="#888888", transform=axes.transAxes)
    axes.set_yticks([])
    axes.set_ylim(-0.6, max(len(last), 3) + 0.2)


def _heatmap(axes: Any, panel: Panel, lines: list[Line], span: tuple[float, float]) -> None:
    """Counts per bucket: the buckets of Prometheus count everything below them."""
    rows = sorted(lines, key=lambda line: float(line.labels["le"]))
    times = sorted({at for line in rows for at, _ in line.points})
    below = [0.0] * len(times)
    counts = []
    for line in rows:
        found = dict(line.points)
        here = [found.get(at, 0.0) for at in times]
        counts.append([max(0.0, a - b) for a, b in zip(here, below, strict=True)])
        below = here
    if times:
        extent = ((times[0] - span[0]) / 60, (times[-1] - span[0]) / 60, 0, len(rows))
        axes.imshow(counts, aspect="auto", origin="lower", extent=extent, cmap="Blues", interpolation="nearest")
        axes.set_yticks(range(1, len(rows) + 1), [f"≤ {line.labels['le']}" for line in rows], fontsize=6)
    axes.set_xlim(0, (span[1] - span[0]) / 60)


KINDS: Mapping[str, Callable[[Any, Panel, list[Line], tuple[float, float]], None]] = {
    "graph": _graph, "stat": _stat, "timeline": _timeline, "bars": _bars, "heatmap": _heatmap,
}  # fmt: skip
