"""Objectives as OpenSLO v1, as monitors.openslo reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from monitors.openslo import VERSION
from monitors.slo import SHORTEST, Events, Ratio, Slo


def to_yaml(slos: Iterable[Slo]) -> str:
    """One document per objective; the same text for the same objectives."""
    text: str = yaml.safe_dump_all(map(_document, slos), sort_keys=False, width=10000, allow_unicode=True)
    return text


def _document(slo: Slo) -> dict[str, Any]:
    said: dict[str, object] = {
        "route": slo.route, "action": slo.action.value, "sli": slo.sli, "unreachable": slo.policy.value,
        "no-data": slo.no_data, "events-per-hour": f"{slo.events_per_hour:g}" if slo.events_per_hour else "",
    }  # fmt: skip
    spec: dict[str, Any] = {"description": slo.description} if slo.description else {}
    spec |= {
        "service": slo.service,
        "indicator": {"metadata": {"name": slo.id}, "spec": _sli(slo)},
        "timeWindow": [{"duration": slo.period, "isRolling": True}],
        "budgetingMethod": "Occurrences",
        "objectives": [_objective(slo)],
    }
    if isinstance(slo.indicator, Ratio):
        said["bad-events"] = slo.indicator.bad
    notes = {f"understudy/{key}": value for key, value in said.items() if value}
    return {"apiVersion": VERSION, "kind": "SLO", "metadata": {"name": slo.name, "annotations": notes}, "spec": spec}


def _sli(slo: Slo) -> dict[str, Any]:
    indicator = slo.indicator
    if isinstance(indicator, Events):
        return {"ratioMetric": {"counter": True, "bad": _query(indicator.bad), "total": _query(indicator.total)}}
    if isinstance(indicator, Ratio):
        return {"ratioMetric": {"rawType": "failure", "raw": _query(indicator.share)}}
    return {"thresholdMetric": _query(indicator.bad)}


def _objective(slo: Slo) -> dict[str, Any]:
    bound = {} if isinstance(slo.indicator, Events | Ratio) else {"op": "lte", "value": 0}
    return bound | {"target": slo.objective}


def _query(promql: str) -> dict[str, Any]:
    """Other readers know only one window."""
    return {"metricSource": {"type": "Prometheus", "spec": {"query": promql.replace(SHORTEST, "5m")}}}
