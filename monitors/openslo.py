"""OpenSLO v1 files (https://github.com/OpenSLO/OpenSLO) as objectives, and objectives as OpenSLO.

Read: SLO and SLI of Prometheus; ratioMetric (good or bad with total, or raw) and thresholdMetric; Occurrences and
Timeslices; rolling windows. Alerts come from the burn-rate tables: alert policies are named as not read. What OpenSLO
has no field for stands in annotations: understudy/route, action, sli, unreachable, no-data, events-per-hour and, for a
raw ratio, bad-events (PromQL of bad events per second, of which an alert wants ten).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.errors import ConfigError
from adapters.settings import describe
from monitors.burnrate import TABLES, Policy, parse
from monitors.openslo_queries import bad_slice, per_second, raw_share
from monitors.slo import NO_DATA, Action, Events, Indicator, Ratio, Slices, Slo

VERSION = "openslo/v1"
M = TypeVar("M", bound=BaseModel)
_NOTED = ("AlertPolicy", "AlertCondition", "AlertNotificationTarget", "DataSource", "Service")


class _Part(BaseModel):
    """A part of a file; what is not used here is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Source(_Part):
    type: str = "Prometheus"
    spec: dict[str, Any]


class _Query(_Part):
    metricSource: _Source

    @property
    def promql(self) -> str:
        """The query. Raises ConfigError: another source than Prometheus."""
        if self.metricSource.type.lower() != "prometheus":
            raise ConfigError(f"metricSource.type {self.metricSource.type}: only Prometheus is read")
        query = self.metricSource.spec.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ConfigError("metricSource.spec.query is missing: it holds the PromQL")
        return query.strip()


class _RatioMetric(_Part):
    counter: bool = False
    good: _Query | None = None
    bad: _Query | None = None
    total: _Query | None = None
    raw: _Query | None = None
    rawType: Literal["success", "failure"] | None = None


class _SliSpec(_Part):
    ratioMetric: _RatioMetric | None = None
    thresholdMetric: _Query | None = None


class _Metadata(_Part):
    name: str
    annotations: dict[str, str] = Field(default_factory=dict)


class _Sli(_Part):
    metadata: _Metadata | None = None
    spec: _SliSpec


class _Objective(_Part):
    target: float | None = None
    targetPercent: float | None = None
    op: Literal["lte", "gte", "lt", "gt"] | None = None
    value: float | None = None
    timeSliceTarget: float | None = None
    timeSliceWindow: str | None = None
    indicator: _Sli | None = None
    indicatorRef: str | None = None

    @property
    def share(self) -> float:
        """The target in (0, 1)."""
        if (self.target is None) == (self.targetPercent is None):
            raise ConfigError("an objective has either target or targetPercent")
        return self.target if self.target is not None else float(self.targetPercent or 0) / 100


class _TimeWindow(_Part):
    duration: str
    isRolling: bool = False


class _SloSpec(_Part):
    service: str
    budgetingMethod: Literal["Occurrences", "Timeslices", "RatioTimeslices"]
    objectives: tuple[_Objective, ...] = Field(min_length=1)
    timeWindow: tuple[_TimeWindow, ...] = Field((_TimeWindow(duration="30d", isRolling=True),), max_length=1)
    description: str = ""
    indicator: _Sli | None = None
    indicatorRef: str | None = None


class _Document(_Part):
    apiVersion: str
    kind: str
    metadata: _Metadata
    spec: dict[str, Any] = Field(default_factory=dict)


def read_openslo(path: Path) -> tuple[list[Slo], list[str]]:
    """(objectives, what of the file is not used and why). Raises ConfigError, which names file and object."""
    try:
        parts = [part for part in yaml.safe_load_all(path.read_text(encoding="utf-8")) if part is not None]
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    documents = [_checked(_Document, part, f"{path}: document {number}") for number, part in enumerate(parts, 1)]
    ignored = [f"{d.kind} {d.metadata.name} is not used: alerts come from docs/slo.md's windows" for d in documents
               if d.kind in _NOTED]  # fmt: skip
    slos: list[Slo] = []
    for document in documents:
        where = f"{path}: {document.kind} {document.metadata.name}"
        if document.apiVersion != VERSION:
            raise ConfigError(f"{where}: apiVersion {document.apiVersion} is not read: write it as {VERSION}")
        if document.kind == "SLO":
            slos += _located(document, documents, where)
        elif document.kind not in ("SLI", *_NOTED):
            raise ConfigError(f"{where}: OpenSLO has no such kind")
    if not slos:
        raise ConfigError(f"{path} holds no SLO")
    return slos, ignored


def _located(document: _Document, documents: list[_Document], where: str) -> list[Slo]:
    try:
        return _slos(document, documents)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _slos(document: _Document, documents: list[_Document]) -> list[Slo]:
    """One per objective; several are numbered from 0."""
    spec = _checked(_SloSpec, document.spec, "spec")
    found = _sli(spec, documents)
    base = _plain(document.metadata, spec)
    made = []
    for number, objective in enumerate(spec.objectives):
        if objective.indicator or objective.indicatorRef:
            raise ConfigError("composite SLOs are not read: give each objective an SLO of its own")
        name = base.name if len(spec.objectives) == 1 else f"{base.name}-{number}"
        measured = _indicator(found, objective, spec.budgetingMethod)
        if isinstance(measured, Ratio):
            measured = replace(measured, bad=document.metadata.annotations.get("understudy/bad-events", ""))
        made.append(replace(base, name=name, objective=objective.share, indicator=measured))
    return made


def _plain(metadata: _Metadata, spec: _SloSpec) -> Slo:
    """What all objectives of an SLO share."""
    said = {key.removeprefix("understudy/"): value for key, value in metadata.annotations.items()}
    window = spec.timeWindow[0] if spec.timeWindow else _TimeWindow(duration="30d", isRolling=True)
    try:
        period = next((name for name in TABLES if parse(name) == parse(window.duration)), "")
    except ConfigError:
        period = ""
    if not window.isRolling or not period:
        raise ConfigError(f"timeWindow {window.duration}: only rolling windows of {', '.join(TABLES)} are read")
    try:
        return Slo(
            metadata.name, Ratio(""), 0.5, spec.service, said.get("route", ""), said.get("sli", "custom"), period,
            Action(said.get("action", "page")), Policy(said.get("unreachable", "refuse")),
            said.get("no-data", NO_DATA[0]), float(said.get("events-per-hour", 0)), spec.description,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"an annotation of understudy/ is wrong: {error}") from None


def _sli(spec: _SloSpec, documents: list[_Document]) -> _SliSpec:
    if spec.indicator is not None:
        return spec.indicator.spec
    for document in documents:
        if document.kind == "SLI" and document.metadata.name == spec.indicatorRef:
            return _checked(_SliSpec, document.spec, f"SLI {spec.indicatorRef}: spec")
    if spec.indicatorRef:
        raise ConfigError(f"indicatorRef {spec.indicatorRef}: the file has no SLI of this name")
    raise ConfigError("an SLO needs indicator or indicatorRef")


def _indicator(found: _SliSpec, objective: _Objective, method: str) -> Indicator:
    if method == "RatioTimeslices":
        raise ConfigError("budgetingMethod RatioTimeslices is not read: use Occurrences or Timeslices")
    if found.thresholdMetric is not None:
        if objective.op is None or objective.value is None:
            raise ConfigError("a thresholdMetric needs op and value in its objective")
        return bad_slice(found.thresholdMetric.promql, objective.op, objective.value)
    if found.ratioMetric is None:
        raise ConfigError("an SLI needs ratioMetric or thresholdMetric")
    measured = _ratio(found.ratioMetric)
    if method == "Occurrences":
        return measured
    if objective.timeSliceTarget is None or objective.timeSliceWindow is None:
        raise ConfigError("Timeslices need timeSliceTarget and timeSliceWindow in the objective")
    parse(objective.timeSliceWindow)
    return Slices(f"({measured.error(objective.timeSliceWindow)}) > bool {1 - objective.timeSliceTarget:.12g}")


def _ratio(metric: _RatioMetric) -> Events | Ratio:
    if metric.raw is not None:
        if metric.rawType is None or metric.good or metric.bad or metric.total:
            raise ConfigError("raw needs rawType, and neither good, bad nor total")
        return raw_share(metric.raw.promql, metric.rawType)
    if metric.total is None or (metric.good is None) == (metric.bad is None):
        raise ConfigError("a ratioMetric needs total, and either good or bad; or raw")
    good, bad = (query.promql if query else "" for query in (metric.good, metric.bad))
    return per_second(metric.total.promql, good, bad, counter=metric.counter)


def _checked(model: type[M], body: object, where: str) -> M:
    """Raises ConfigError with the first problem."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe(error, model)}") from None
