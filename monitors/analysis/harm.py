"""Tests that are valid at every look: does the candidate do harm, and is the traffic split as configured?

All metrics share harm_alpha: each alarms at log e ≥ ln(K / harm_alpha), K the number of gating metrics; tests that
begin anew in each of P phases at ln(K·P / harm_alpha).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev

from monitors.analysis.checks import events_problem, impossible, pairs_problem
from monitors.analysis.spec import JudgeSpec, MetricSpec
from monitors.analysis.types import BadEvent, Finding, Measurements, Verdict
from monitors.stats.attribution import AttributionTest
from monitors.stats.ratio_mismatch import RatioMismatchTest

MISMATCH_THRESHOLD = math.log(1000.0)
_SIGN_TOLERANCE = 0.1  # unbounded metrics, pairs: tolerated (share worse − share better) where the margin is no SD


def harm_level(spec: JudgeSpec) -> float:
    """α of one metric's harm tests, over the whole rollout."""
    return spec.harm_alpha / max(1, sum(metric.gating for metric in spec.metrics))


def phase_level(spec: JudgeSpec) -> float:
    """α of a harm test that begins anew in every phase: of means, and of pairs."""
    return harm_level(spec) / max(1, spec.phases)


class HarmTests:
    """The attribution tests of a rollout. They remember: `update` only looks at what was appended since.

    One per event metric that may stop a rollout. An alarm stands, whatever comes after it.
    """

    def __init__(self, spec: JudgeSpec) -> None:
        events = [metric for metric in spec.metrics if metric.kind == "event" and metric.gating]
        self._watched = [_Attribution(metric, harm_level(spec)) for metric in events]

    def update(self, bad_events: Mapping[str, Sequence[BadEvent]]) -> tuple[Finding, ...]:
        """All events so far, in order, per metric → one finding each; INCONCLUSIVE without an alarm, never PASS."""
        return tuple(watched.update(bad_events.get(watched.metric.name, ())) for watched in self._watched)


class _Attribution:
    """One metric's test with the sentence about it."""

    def __init__(self, metric: MetricSpec, level: float) -> None:
        self.metric = metric
        self._test = AttributionTest(level, metric.null_risk)
        self._threshold = -math.log(level)
        self._shares = 0.0             # sum over the events
        self._log_e = 0.0              # at the alarm, or now

    def update(self, events: Sequence[BadEvent]) -> Finding:
        test, name = self._test, self.metric.name
        if not test.rejected:
            if problem := events_problem(events[test.events :]):
                return impossible(name, "attribution", problem)
            for event in events[test.events :]:
                self._log_e = test.observe(event.candidate, event.share)
                self._shares += event.share
                if self._log_e >= self._threshold:
                    break
        verdict = Verdict.FAIL if test.rejected else Verdict.INCONCLUSIVE
        reason = self._reason() if test.events else f"{name}: no bad event"
        return Finding(
            name, "attribution", verdict, reason, log_e=self._log_e, threshold=self._threshold, n=test.events
        )

    def _reason(self) -> str:
        count = f"{self._test.candidate_events} of {self._test.events} bad events are the candidate's"
        share = self._shares / self._test.events
        return f"{self.metric.name}: {count}, whose share of the traffic was {share:.3g} (log e {self._log_e:.2f})"


def mismatch_finding(measured: Measurements) -> Finding | None:
    """The split of the units that came during the step; None where there is none to test. FAIL voids the step."""
    if len(measured.ratio_counts) < 2:
        return None
    test = RatioMismatchTest(measured.ratio_weights)
    log_e, n = test.observe(measured.ratio_counts), sum(measured.ratio_counts)
    expected = [weight * n / math.fsum(measured.ratio_weights) for weight in measured.ratio_weights]
    numbers = f"{_join(measured.ratio_counts)} units where {_join(expected)} were expected (log e {log_e:.2f})"
    verdict = Verdict.FAIL if log_e >= MISMATCH_THRESHOLD else Verdict.INCONCLUSIVE
    reason = f"the traffic is not split as configured: {numbers}" if verdict is Verdict.FAIL else f"split: {numbers}"
    name = "ratio_mismatch"
    return Finding(name, name, verdict, reason, log_e=log_e, threshold=MISMATCH_THRESHOLD, n=n)


def _join(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.0f}" for value in values)


def pair_findings(spec: JudgeSpec, measured: Measurements) -> list[Finding]:
    """One finding per metric with pairs: is the candidate's answer to the same prompt worse than tolerated?"""
    known = {metric.name: metric for metric in spec.metrics}
    pairs = {name: values for name, values in measured.pairs.items() if name in known and len(values)}
    return [_paired(known[name], values, spec) for name, values in pairs.items()]


def _paired(metric: MetricSpec, differences: Sequence[float], spec: JudgeSpec) -> Finding:
    from monitors.stats.betting import betting_e_below, betting_interval

    if problem := pairs_problem(metric, differences):
        return impossible(metric.name, "paired", problem)
    sign = 1.0 if metric.direction == "increase" else -1.0
    gains = [sign * d if metric.bounded else sign * _sign(d) for d in differences]
    tolerated = min(_pair_tolerance(metric, gains), 0.999)
    level = phase_level(spec)
    better = [min(1.0, max(0.0, (1 + gain) / 2)) for gain in gains]
    evidence = float(betting_e_below(better, (1 - tolerated) / 2, level).max())  # an alarm stands
    low, high = betting_interval(better, 2 * spec.alpha, grid=200)
    low, high = 2 * low - 1, 2 * high - 1
    log_e, threshold = math.log(max(evidence, 1e-300)), -math.log(level)
    verdict = Verdict.FAIL if log_e >= threshold else Verdict.PASS if low > -tolerated else Verdict.INCONCLUSIVE
    what = "difference" if metric.bounded else "share better minus share worse"
    state = {Verdict.FAIL: "worse than tolerated", Verdict.PASS: "not worse than tolerated"}.get(verdict, "undecided")
    mean = fmean(gains)
    bounds = (low, high) if sign > 0 or not metric.bounded else (-high, -low)
    shown = mean if sign > 0 or not metric.bounded else -mean
    reason = f"{metric.name}: {state} in {len(gains)} pairs; {what} {shown:.3f}, tolerated {tolerated:.3f}"
    return Finding(metric.name, "paired", verdict, reason, shown, *bounds, -tolerated, log_e, threshold, n=len(gains))


def _sign(value: float) -> float:
    return (value > 0) - (value < 0)


def _pair_tolerance(metric: MetricSpec, gains: Sequence[float]) -> float:
    """In mean gain, positive. For unbounded metrics a shift of δ SD is 2Φ(δ/√2) − 1 in share better − share worse."""
    if not metric.bounded:
        if metric.margin_unit != "sd":
            return _SIGN_TOLERANCE
        return 2 * NormalDist().cdf(metric.margin / math.sqrt(2)) - 1
    if metric.margin_unit == "absolute":
        return metric.margin
    spread = stdev(gains) if len(gains) > 1 and metric.margin_unit == "sd" else 0.0
    return max(metric.floor, metric.margin * spread if metric.margin_unit == "sd" else 0.0)
