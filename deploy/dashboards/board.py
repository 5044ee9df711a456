"""What a dashboard is, as plain values: rows of panels, their queries, and what can be chosen above them.

Queries name metrics by monitors.conventions, so that a metric that does not exist is an error here already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from monitors.conventions import Metric

PROMETHEUS = "${datasource}"     # the data source that is chosen above the panels: none is named in the files
BY_ROUTE = 'route=~"$route"'
CHOSEN = f'{BY_ROUTE}, version=~"$version"'
Kind = Literal["graph", "stat", "timeline", "bars", "heatmap"]
Steps = tuple[tuple[float | None, str], ...]

NEUTRAL: Steps = ((None, "blue"),)
GOOD_ABOVE_ZERO: Steps = ((None, "red"), (1.0, "green"))


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query; `legend` may name labels: {{route}}."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `unit`: Grafana's name of it; `thresholds`: (from this value on, colour), the first from None."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "graph"
    width: int = 8               # of 24
    height: int = 8
    minimum: float | None = None
    maximum: float | None = None
    thresholds: Steps = NEUTRAL
    names: tuple[tuple[str, str], ...] = ()   # (value, what is shown instead), for states
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """Something to choose: values of `label` in the series of `of` (PromQL selector), or of `values` where given."""

    name: str
    title: str
    description: str
    of: str = ""
    label: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """An annotation: a line at each moment when `expr` has a sample, looked at every `step`."""

    name: str
    expr: str
    title: str
    text: str
    colour: str
    step: str = "60s"


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. `uid` never changes: links and provisioning rely on it."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...]
    marks: tuple[Mark, ...] = field(default_factory=tuple)
    since: str = "now-6h"


def filled(expr: str, board: Board, values: Mapping[str, str]) -> str:
    """A query with everything chosen, and `values` for Grafana's own variables, such as __rate_interval and window."""
    chosen = {variable.name: ".+" for variable in board.variables if not variable.values} | dict(values)
    for name in sorted(chosen, key=len, reverse=True):
        expr = expr.replace(f"${name}", chosen[name])
    return expr


def of(metric: Metric, where: str = "", suffix: str = "") -> str:
    """A selector: the metric's series where the labels are so."""
    return f"{metric.full_name}{suffix}{{{where}}}" if where else f"{metric.full_name}{suffix}"


def total(metric: Metric, by: str, where: str = CHOSEN, window: str = "$__rate_interval", suffix: str = "") -> str:
    """Events a second of a counter, or of a histogram with a suffix, summed by labels."""
    head = f"sum by ({by})" if by else "sum"
    return f"{head} (rate({of(metric, where, suffix)}[{window}]))"


def ratio(part: str, whole: str) -> str:
    """One rate as a share of another."""
    return f"{part} / {whole}"


def mean(metric: Metric, by: str, where: str = CHOSEN, window: str = "$window") -> str:
    """The mean of what a histogram observed."""
    return ratio(*(total(metric, by, where, window, suffix) for suffix in ("_sum", "_count")))


def quantile(
    q: float, metric: Metric, by: str = "", where: str = CHOSEN, window: str = "$__rate_interval"
) -> str:
    """A quantile of what a histogram observed, interpolated within its buckets."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {total(metric, labels, where, window, '_bucket')})"


def quantiles(
    metric: Metric, by: str, legend: str, at: Sequence[float] = (0.5, 0.95, 0.99), *, where: str = CHOSEN,
    window: str = "$__rate_interval",
) -> tuple[Query, ...]:  # fmt: skip
    """Several quantiles, each with its name before the legend."""
    return tuple(Query(quantile(q, metric, by, where, window), f"p{q * 100:g} {legend}".strip()) for q in at)
