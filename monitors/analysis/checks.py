"""Numbers that cannot be: found before anything is concluded from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monitors.analysis.spec import MetricSpec
from monitors.analysis.types import ArmSums, BadEvent, Finding, Measurements, Verdict

_SLACK = 1e-6    # relative: sums come as floats from a database
_HUGE = 1e100    # above it squares overflow; nothing that is measured comes near it
_TINY = 1e-9     # shares closer to 0 or 1 are no shares of a route


def impossible(metric: str, test: str, problem: str) -> Finding:
    """A finding that says so."""
    return Finding(metric, test, Verdict.ERROR, f"{metric}: {problem}")


def sums_problem(spec: MetricSpec, sums: ArmSums) -> str:
    """Why these sums cannot be a metric's; empty when they can."""
    values = [sums.units, sums.m, sums.mm, sums.d, sums.dd, sums.md]
    covariate = [v for v in (sums.x, sums.xx, sums.xm, sums.xd) if v is not None]
    if not all(abs(v) < _HUGE for v in (*values, *covariate)):
        return "a sum is not a finite number"
    if len(covariate) not in (0, 4):
        return "some sums of the covariate are missing"
    if sums.units < 0 or (sums.units == 0) != (sums.d == 0) or sums.d < 0 or (sums.units == 0 and sums.m):
        return f"{sums.units} units cannot have {sums.d:g} answers"
    if _below(sums.units * sums.mm, sums.m**2) or _below(sums.units * sums.dd, sums.d**2):
        return "a sum of squares is too small for its sum"
    if (spec.bounded or spec.kind == "event") and (_below(sums.d, sums.m) or _below(sums.m, 0.0)):
        return f"a sum of {sums.m:g} over {sums.d:g} values in 0..1{_hint(spec)}"
    return ""


def _below(larger: float, smaller: float) -> bool:
    return larger < smaller - _SLACK * max(1.0, abs(smaller))


def events_problem(events: Sequence[BadEvent]) -> str:
    """Why these bad events cannot be; empty when they can."""
    wrong = next((event.share for event in events if not _TINY <= event.share <= 1 - _TINY), None)
    return "" if wrong is None else f"an event has the share {wrong}, which must lie between 0 and 1"


def pairs_problem(spec: MetricSpec | None, pairs: Sequence[float]) -> str:
    """Why these paired differences cannot be; empty when they can."""
    limit = 1.0 if spec is not None and spec.bounded else math.inf
    wrong = next((d for d in pairs if not (math.isfinite(d) and abs(d) <= limit + _SLACK)), None)
    return "" if wrong is None else f"a paired difference is {wrong}{_hint(spec)}"


def _hint(spec: MetricSpec | None) -> str:
    mean = spec is not None and spec.bounded and spec.kind == "mean"
    return "; a grader that leaves 0..1 needs bounded = false in the plan" if mean else ""


def measurement_problem(measured: Measurements) -> str:
    """What is wrong with the counts and the clock; empty when nothing is."""
    if not (math.isfinite(measured.elapsed) and measured.elapsed >= 0):
        return f"{measured.elapsed} seconds cannot have passed"
    if measured.candidate_units < 0 or measured.stable_units < 0:
        return f"{measured.candidate_units} and {measured.stable_units} are no counts of units"
    counts, weights = measured.ratio_counts, measured.ratio_weights
    if len(counts) != len(weights):
        return f"{len(counts)} counts of units for {len(weights)} arms"
    if not all(0 <= c < _HUGE for c in counts):
        return f"{list(counts)} are no counts of units"
    if not all(0 < w < _HUGE for w in weights) or any(w < _TINY * math.fsum(weights) for w in weights):
        return f"{list(weights)} are no weights of arms"
    return ""
