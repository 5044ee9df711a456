"""What a plan would do with stated traffic: many seeded rollouts, decided by the code that decides real ones.

Attribution tests see every first bad event as it happens, exactly as the controller feeds them; `judge` looks at the
step's sums at growing intervals. Approval by hand is taken as given at once. What the simulation leaves out: engines
that are slow or away, the time from a decision to the new route (below a second), feedback that comes late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gateway.config import parse_duration
from gateway.rollout.plan import Plan
from gateway.rollout.simulated_traffic import FirstEvent, Population, Traffic
from monitors.analysis import Decision, JudgeSpec, Measurements, MetricSpec, judge
from monitors.analysis.harm import harm_level
from monitors.stats.attribution import AttributionTest

_GROWTH = 1.35     # each look at the sums is this much later than the one before
_SHADOW_SHARE = 0.5  # a mirrored prompt is answered by both


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one simulated rollout ended. `candidate_requests` were served by the candidate until then."""

    decision: str                  # promote, rollback, inconclusive
    seconds: float                 # since the rollout began
    candidate_requests: float
    bad_requests: float            # of those, expected bad ones in the metric that is asked about
    cause: str                     # the metric that decided, or the step that ran out of time
    step: int                      # 0: shadow; 1…: the ramp


def simulate(
    plan: Plan, traffic: Traffic, runs: int = 200, seed: int = 0, progress: Callable[[], None] | None = None
) -> list[Outcome]:
    """`runs` rollouts. The same seed gives the same outcomes. Raises ConfigError for traffic that cannot be."""
    traffic.check()
    outcomes = []
    for stream in np.random.SeedSequence(seed).spawn(runs):
        outcomes.append(_Run(plan, traffic, np.random.default_rng(stream)).outcome())
        if progress:
            progress()
    return outcomes


class _Run:
    """One rollout."""

    def __init__(self, plan: Plan, traffic: Traffic, rng: np.random.Generator) -> None:
        plan = plan.model_copy(update={"metrics": tuple(metric for metric in plan.metrics if metric.gating)})
        self._plan, self._traffic, self._rng = plan, traffic, rng
        self._people = Population(traffic, plan.metrics, rng)
        spec = plan.judge_spec(0)
        events = [metric for metric in spec.metrics if metric.kind == "event"]
        self._tests = {metric.name: AttributionTest(harm_level(spec), metric.null_risk) for metric in events}
        self._clock = 0.0
        self._served = 0.0

    def outcome(self) -> Outcome:
        """Run it to its end."""
        if self._plan.shadow and (ended := self._shadow(self._plan.shadow.sample, self._plan.shadow_spec())):
            return ended
        for number in range(1, len(self._plan.steps) + 1):
            if ended := self._step(number):
                return ended
        return self._end("promote", "", len(self._plan.steps))

    def _step(self, number: int) -> Outcome | None:
        spec, share = self._plan.judge_spec(number - 1), self._plan.steps[number - 1].share
        self._people.begin_step(share)
        for elapsed, interval in _looks(spec):
            for event in self._people.advance(self._clock, interval):
                if self._alarmed(event, share):
                    self._pass(event.at - self._clock, share)
                    return self._end("rollback", event.metric, number)
            self._pass(interval, share)
            if (ended := self._judged(spec, elapsed, number)) is not None:
                return ended if isinstance(ended, Outcome) else None
        return self._end("inconclusive", "time", number)

    def _judged(self, spec: JudgeSpec, elapsed: float, number: int) -> Outcome | bool | None:
        """An end, True for "on to the next step", None for "go on looking"."""
        units = self._people.units()
        share = self._people.share
        analysis = judge(spec, Measurements(elapsed, *units, units, (share, 1 - share), self._people.sums()))
        if analysis.decision is Decision.PROMOTE:
            return True
        if analysis.decision is Decision.CONTINUE:
            return None
        return self._end(analysis.decision.value, analysis.metric or "time", number)

    def _alarmed(self, event: FirstEvent, share: float) -> bool:
        test = self._tests.get(event.metric)
        if test is not None:
            test.observe(event.candidate, share)
        return test is not None and test.rejected

    def _shadow(self, sample: float, spec: JudgeSpec) -> Outcome | None:
        """Nobody is served by the candidate. Pairs of rewards, and bad events of both answers."""
        rewards = [metric.name for metric in self._plan.metrics if metric.name.startswith("reward")]
        differences: list[float] = []
        for elapsed, interval in _looks(spec):
            count = int(self._rng.poisson(self._traffic.rps * sample * interval))
            differences += self._people.pairs(count).tolist()
            for at, metric, candidate in self._mirrored(count, interval):
                if self._alarmed(FirstEvent(at, metric, candidate), _SHADOW_SHARE):
                    self._clock = at
                    return self._end("rollback", metric, 0)
            self._clock += interval
            pairs = {name: tuple(differences) for name in rewards or ("none",)}
            analysis = judge(spec, Measurements(elapsed, pairs=pairs))
            if analysis.decision is Decision.PROMOTE:
                return None
            if analysis.decision is not Decision.CONTINUE:
                return self._end(analysis.decision.value, analysis.metric or "time", 0)
        return self._end("inconclusive", "time", 0)

    def _mirrored(self, count: int, interval: float) -> Iterator[FirstEvent]:
        """Bad events of mirrored answers in order of time. Speed says nothing in the shadow, which has low priority."""
        events = []
        for metric in self._tests:
            if metric == "thumbs_down" or metric.startswith("slow_"):
                continue
            for candidate in (True, False):
                hits = self._rng.binomial(count, self._traffic.rate(metric, candidate))
                times = self._clock + interval * self._rng.random(hits)
                events += [FirstEvent(float(at), metric, candidate) for at in times]
        return iter(sorted(events))

    def _pass(self, seconds: float, share: float) -> None:
        self._clock += seconds
        self._served += seconds * self._traffic.rps * share

    def _end(self, decision: str, cause: str, step: int) -> Outcome:
        bad = self._served * self._traffic.rate(self._traffic.metric, candidate=True)
        return Outcome(decision, self._clock, self._served, bad, cause, step)


def _looks(spec: JudgeSpec) -> Iterator[tuple[float, float]]:
    """(seconds in the step, seconds since the look before): from a tenth of min_duration up to the step's end."""
    before, now = 0.0, max(1.0, spec.min_duration / 10)
    while before < spec.max_duration:
        now = min(now, spec.max_duration)
        yield now, now - before
        before, now = now, now * _GROWTH if not before < spec.min_duration < now * _GROWTH else spec.min_duration


def duration_of(plan: Plan) -> float:
    """Seconds that the plan takes at least."""
    shadow = parse_duration(plan.shadow.min_duration) if plan.shadow else 0.0
    return shadow + sum(parse_duration(step.min_duration) for step in plan.steps)


def reachable(plan: Plan, traffic: Traffic) -> list[str]:
    """What this traffic cannot give this plan in time: one line each, before anything is simulated."""
    problems = []
    for number, step in enumerate(plan.steps, 1):
        smaller, seconds = min(step.share, 1 - step.share), parse_duration(step.max_duration)
        units = min(traffic.units, traffic.rps * seconds) * smaller
        if units < step.min_units:
            problems.append(f"step {number} needs {step.min_units} units per arm, but about {units:.0f} come in time")
    last = plan.steps[-1]
    answers = traffic.rps * min(last.share, 1 - last.share) * parse_duration(last.max_duration)
    for metric in plan.metrics:
        needed, counted = _needed(metric, plan, traffic)
        available = answers * counted
        if metric.gating and available < needed:
            text = f"{needed} observations per arm for its margin (power {plan.power:g})"
            problems.append(f"the last step: {metric.name} needs {text}, but about {available:.0f} come in time")
    return problems


def _needed(metric: MetricSpec, plan: Plan, traffic: Traffic) -> tuple[int, float]:
    """(observations per arm that a fixed-horizon test would need, observations per answer); (0, 1) where unknown."""
    from monitors.stats.power import sample_size_noninferiority

    rates = {"satisfaction": traffic.satisfaction, traffic.metric: traffic.bad_rate}
    rate = rates.get(metric.name, 0.0)
    if metric.name not in rates or not 0 < rate < 1:
        return 0, 1.0
    margin = metric.margin
    if metric.margin_unit != "absolute":
        margin = max(metric.floor, (metric.margin - 1) * rate)
    counted = traffic.feedback_rate if metric.source == "feedback" else 1.0
    return sample_size_noninferiority(rate, -min(margin, 0.99), plan.alpha, plan.power), counted
