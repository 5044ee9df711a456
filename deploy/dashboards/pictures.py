"""Pictures of the dashboards without a Grafana: `python -m deploy.dashboards.pictures --from TIME --to TIME`.

The same panels and queries, answered by a Prometheus and drawn by matplotlib: dashboards-<name>.png in docs/images/.
They show what a dashboard tells, not what Grafana looks like.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from deploy.dashboards import draw
from deploy.dashboards.__main__ import FOLDER, boards
from deploy.dashboards.board import Board, filled

IMAGES = FOLDER.parent.parent / "docs" / "images"
POINTS = 120               # of a line


class Source:
    """A Prometheus and the time that is shown (seconds since the epoch). `window`: how long a rate looks back."""

    def __init__(self, url: str, start: float, end: float, window: float) -> None:
        self._url, self._start, self._end = url.rstrip("/"), start, end
        self._step = max(1.0, (end - start) / POINTS)
        seconds = f"{max(1, round(window))}s"
        self._values = {"__rate_interval": seconds, "window": seconds, "__range": f"{max(1, round(end - start))}s"}

    @property
    def span(self) -> tuple[float, float]:
        """From when to when."""
        return self._start, self._end

    def lines(self, expr: str, board: Board, legend: str = "") -> list[draw.Line]:
        """The series of a query. Exits with one line when Prometheus refuses or is away."""
        query = filled(expr, board, self._values)
        parameters: dict[str, Any] = {"query": query, "start": self._start, "end": self._end, "step": self._step}
        try:
            answer = httpx.get(f"{self._url}/api/v1/query_range", params=parameters, timeout=60)
        except httpx.HTTPError as error:
            sys.exit(f"Prometheus at {self._url} does not answer: {error}")
        if answer.status_code != 200:
            sys.exit(f"Prometheus refuses {query}: {answer.text[:300]}")
        return [_line(series, legend) for series in answer.json()["data"]["result"]]


def _line(series: dict[str, Any], legend: str) -> draw.Line:
    labels = series["metric"]
    name = legend
    for label in labels:
        name = name.replace("{{" + label + "}}", labels[label])
    values = [(float(at), float(value)) for at, value in series["values"]]
    return draw.Line(name or ", ".join(labels.values()), labels, [(at, v) for at, v in values if math.isfinite(v)])


def picture(board: Board, source: Source, path: Path) -> None:
    """Draw one dashboard."""
    panels = {
        panel.title: [line for query in panel.queries for line in source.lines(query.expr, board, query.legend)]
        for row in board.rows for panel in row.panels
    }  # fmt: skip
    marks = {mark.name: source.lines(mark.expr, board, mark.title) for mark in board.marks}
    draw.board(board, panels, marks, source.span, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw them all, or those named."""
    parser = argparse.ArgumentParser(prog="python -m deploy.dashboards.pictures", description=__doc__)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--from", dest="start", type=float, required=True, help="seconds since the epoch")
    parser.add_argument("--to", dest="end", type=float, default=time.time(), help="seconds since the epoch")
    parser.add_argument("--window", type=float, default=60.0, help="seconds that rates and means look back")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder")
    parser.add_argument("names", nargs="*", help="serving, rollout, …; default: all")
    options = parser.parse_args(arguments)
    known = {name.removesuffix(".json"): board for name, board in boards().items()}
    if unknown := set(options.names) - set(known):
        parser.error(f"no dashboard {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    source = Source(options.prometheus, options.start, options.end, options.window)
    for name in options.names or known:
        picture(known[name], source, path := options.out / f"dashboards-{name}.png")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
