"""Measurements → Analysis: harm, the split of the traffic, then whether the version has earned more.

What wins over what: shown harm (a rollback is safe whatever else is wrong) → a mismatched split, which voids the step →
impossible numbers → the step's time is up → not enough yet → the rules. Only the last can be a PASS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monitors.analysis.checks import measurement_problem
from monitors.analysis.comparison import compare, explore, no_data, superiority_p
from monitors.analysis.harm import HarmTests, mismatch_finding, pair_findings
from monitors.analysis.spec import JudgeSpec, MetricSpec
from monitors.analysis.types import Analysis, BadEvent, Finding, Measurements, Verdict
from monitors.stats.results import InsufficientData


def harm_findings(spec: JudgeSpec, bad_events: Mapping[str, Sequence[BadEvent]]) -> tuple[Finding, ...]:
    """The attribution tests alone: any FAIL is a rollback. A loop that looks after every event keeps a HarmTests."""
    return HarmTests(spec).update(bad_events)


def judge(spec: JudgeSpec, measured: Measurements) -> Analysis:
    """The judgement of a step. Pure, and every verdict carries its numbers. Never raises for bad measurements."""
    events = harm_findings(spec, measured.bad_events)
    if problem := measurement_problem(measured):
        reason = f"the measurements are impossible: {problem}"
        return _harm(events, events) or Analysis(Verdict.ERROR, reason, events)
    split = mismatch_finding(measured)
    compared = pair_findings(spec, measured) if spec.shadow else _comparisons(spec, measured)
    findings = [*([split] if split else []), *events, *compared]
    return _harm([*events, *compared], findings) or _without_harm(spec, measured, split, findings)


def _harm(candidates: Sequence[Finding], findings: Sequence[Finding]) -> Analysis | None:
    first = next((found for found in candidates if found.verdict is Verdict.FAIL), None)
    return Analysis(Verdict.FAIL, first.reason, tuple(findings), metric=first.metric) if first else None


def _without_harm(
    spec: JudgeSpec, measured: Measurements, split: Finding | None, findings: Sequence[Finding]
) -> Analysis:
    all_found, late = tuple(findings), measured.elapsed >= spec.max_duration
    if split is not None and split.verdict is Verdict.FAIL:
        reason = f"{split.reason}: nothing can be concluded from this step"
        return Analysis(Verdict.INCONCLUSIVE, reason, all_found, final=True, metric=split.metric)
    gating = {metric.name for metric in spec.metrics if metric.gating}
    wrong = next((found for found in findings if found.verdict is Verdict.ERROR and found.metric in gating), None)
    if wrong is not None:
        return Analysis(Verdict.ERROR, wrong.reason, all_found, final=late, metric=wrong.metric)
    missing, final = _missing(spec, measured, findings)
    if late:
        text = f"the time for this step ({spec.max_duration:g} s) is up: {missing or 'the rules hold only now'}"
        return Analysis(Verdict.INCONCLUSIVE, text, all_found, final=True)
    if missing:
        return Analysis(Verdict.INCONCLUSIVE, missing, all_found, final=final)
    return Analysis(Verdict.PASS, _passed(spec, measured), all_found)


def _comparisons(spec: JudgeSpec, measured: Measurements) -> list[Finding]:
    gating = [m for m in spec.metrics if m.gating]
    found = [
        compare(m, *measured.metrics[m.name], spec) if m.name in measured.metrics else no_data(m) for m in gating
    ]
    return [*found, *explore([m for m in spec.metrics if not m.gating], measured, spec)]


def _missing(spec: JudgeSpec, measured: Measurements, findings: Sequence[Finding]) -> tuple[str, bool]:
    """What is still missing for a PASS, and whether waiting is of no use. ("", False) when nothing is."""
    if measured.elapsed < spec.min_duration:
        return f"{measured.elapsed:.0f} of at least {spec.min_duration:g} s have passed", False
    if spec.shadow:
        pairs = max((len(values) for values in measured.pairs.values()), default=0)
        needed = max(1, spec.min_pairs)
        return (f"{pairs} of {needed} pairs" if pairs < needed else ""), False
    units, needed = min(measured.candidate_units, measured.stable_units), max(1, spec.min_units)
    if units < needed:
        return f"{units} of {needed} units per arm", False
    if spec.advance == "no_harm":
        return "", False
    return _evidence_missing(spec, measured, findings)


def _evidence_missing(spec: JudgeSpec, measured: Measurements, findings: Sequence[Finding]) -> tuple[str, bool]:
    """Guardrails and primaries must all pass (intersection–union, no split of α), then the primaries' own goals."""
    found = {f.metric: f for f in findings if f.test not in ("attribution", "ratio_mismatch")}
    gating = [metric for metric in spec.metrics if metric.gating]
    if not gating:
        return "no metric could show that it is good", True
    open_ones = [m for m in gating if m.name not in found or found[m.name].verdict is not Verdict.PASS]
    if open_ones:
        first = found.get(open_ones[0].name)
        missed = any(m.name in found and _had_its_look(found[m.name]) for m in open_ones)
        return (first.reason if first else f"{open_ones[0].name}: no data"), missed
    primaries = [metric for metric in gating if metric.goal == "superior" and metric.role == "primary"]
    if primaries and not any(_superior(spec, measured, primaries)):
        missed = any(_had_its_look(found[metric.name]) for metric in primaries)
        return f"not shown to be better: {', '.join(m.name for m in primaries)}", missed
    return "", False


def _had_its_look(found: Finding) -> bool:
    """True for a fixed-horizon test at its size: it must not be tried again with more data."""
    return found.test == "fixed" and found.p is not None


def _superior(spec: JudgeSpec, measured: Measurements, primaries: Sequence[MetricSpec]) -> list[bool]:
    """Holm over the primary metrics that should get better: one of them suffices, none may be worse."""
    ps = []
    for metric in primaries:
        try:
            ps.append(superiority_p(metric, *measured.metrics[metric.name], spec))
        except InsufficientData:
            ps.append(1.0)  # not tested: it counts as one of the family and cannot be rejected
    from monitors.stats.multiple import holm

    return [bool(rejected) for rejected in holm(ps, spec.alpha)]


def _passed(spec: JudgeSpec, measured: Measurements) -> str:
    if spec.shadow:
        return f"no harm shown in {max(len(values) for values in measured.pairs.values())} pairs of answers"
    units = f"{measured.candidate_units} and {measured.stable_units} units"
    if spec.advance == "no_harm":
        return f"no harm shown with {units}"
    shown = ", ".join(metric.name for metric in spec.metrics if metric.gating)
    return f"not worse than tolerated with {units}: {shown}"
