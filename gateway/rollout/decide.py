"""What to do about a rollout now. Pure: the plan, where it is, what is known, the time → one Action.

Order: what ends it comes first, harm before everything; then what holds it; then, if nothing does, the next step.
Harm is acted on also while it is held. No data is never a pass: without an analysis nothing goes forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from adapters.rollouts import Phase, Rollout
from gateway.rollout.memory import Hold, HoldKind, Memory
from gateway.rollout.plan import Plan
from monitors.analysis.types import Analysis, Decision, Finding, Verdict
from monitors.collapse.types import Verdict as Collapse

RECOVERY = 20              # answers of stable without the candidate before it counts as recovered, or not
PERSISTS = 30.0            # seconds of harm without it after which replicas are restarted: no cure for slowness
CRASHES = 2                # restarts of one engine, while the candidate answers, after which it is taken off


class Act(StrEnum):
    """The kinds of actions."""

    WAIT = "wait"
    MOVE = "move"              # to another phase or step
    HOLD = "hold"
    RELEASE = "release"        # end a hold without moving
    RECYCLE = "recycle"        # restart the replicas that held the candidate
    DROP = "drop"              # one of several candidates: the others go on
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    ABORT = "abort"            # end it without a verdict on the candidate


@dataclass(frozen=True, slots=True)
class Action:
    """One decision, with one sentence and the numbers that made it. `cause`: a short word for metrics."""

    act: Act
    reason: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    actor: str = "controller"
    phase: Phase | None = None
    step: int = 0
    weight: float = 0.0
    hold: Hold | None = None
    candidate: str = ""                      # of several: who is dropped, or promoted


@dataclass(frozen=True, slots=True)
class StableArm:
    """Stable against its own window before. `worse`: the metric that shows harm, empty for none.

    `answers`, `bad`: since the candidate was taken off, of that metric; `limit`: the rate that was tolerated.
    """

    worse: str = ""
    reason: str = ""
    answers: int = 0
    bad: int = 0
    limit: float = 0.0

    @property
    def recovered(self) -> bool:
        """Enough answers without the candidate, and no more bad ones than tolerated."""
        return self.answers >= RECOVERY and self.bad <= max(1.0, self.limit * self.answers)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known besides the row. `analysis`: of exactly this step and weight; None: not judged yet.

    Where several candidates are left, `each` has every one's own; the rest is what holds for all of them together
    (gateway.rollout.rivals), and `best` is who would be promoted now.
    """

    ready: bool = False                      # every replica that should hold the candidate does
    fault: str = ""                          # why it cannot be served, when that is the candidate's own fault
    obstacle: str = ""                       # … when it is not
    harm: tuple[Finding, ...] = ()           # of the sequential tests over bad events
    breaker: str = ""                        # what a worker's circuit breaker saw
    stable: StableArm = StableArm()
    analysis: Analysis | None = None
    collapse: Collapse | None = None         # of the candidate's rewards, against its live control
    collapse_holds: bool = False             # and no operator has let that pass
    each: Mapping[str, Facts] = field(default_factory=dict)
    best: str = ""


_WAIT = Action(Act.WAIT)


def decide(plan: Plan, rollout: Rollout, memory: Memory, facts: Facts, now: float) -> Action:
    """The next action of an open rollout. `now` in seconds since the epoch, by the controller's clock."""
    return (
        _drop(rollout, memory, facts)
        or _ending(rollout, facts)
        or _stable_arm(rollout, memory, facts, now)
        or _engines(rollout, memory, now)
        or _wanted(rollout, memory, facts)
        or _held(memory)
        or _collapse(rollout, facts, now)
        or _forward(plan, rollout, memory, facts, now)
    )


def _drop(rollout: Rollout, memory: Memory, facts: Facts) -> Action | None:
    """One of several candidates did harm, or cannot be served: it goes alone."""
    for version, own in facts.each.items():
        action = _ending(rollout, own)
        if action is not None and action.act is Act.ROLL_BACK:
            return replace(action, act=Act.DROP, candidate=version, reason=f"{version}: {action.reason}",
                           phase=rollout.phase, step=rollout.step, weight=rollout.weight, hold=memory.hold)  # fmt: skip
    return None


def _ending(rollout: Rollout, facts: Facts) -> Action | None:
    if facts.fault:
        return Action(Act.ROLL_BACK, facts.fault, cause="load")
    if facts.obstacle and rollout.phase is Phase.PREPARING:  # later it is waited out: stable serves meanwhile
        return Action(Act.ABORT, facts.obstacle, cause="obstacle")
    for finding in facts.harm:
        if finding.verdict is Verdict.FAIL:
            return Action(Act.ROLL_BACK, finding.reason, _numbers(finding), cause=finding.metric)
    if facts.breaker:
        return Action(Act.ROLL_BACK, facts.breaker, cause="breaker")
    if facts.analysis and facts.analysis.decision is Decision.ROLLBACK:
        cause = facts.analysis.metric or "analysis"
        return Action(Act.ROLL_BACK, facts.analysis.reason, facts.analysis.to_json(), cause=cause)
    return collapsed(facts.collapse)


def collapsed(verdict: Collapse | None) -> Action | None:
    """A rollback where users are shown to be less satisfied, whether the reward noticed it or not."""
    if verdict is None or not verdict.kind.harmful:
        return None
    return Action(Act.ROLL_BACK, verdict.reason, verdict.to_json(), cause=verdict.kind.value)


def _stable_arm(rollout: Rollout, memory: Memory, facts: Facts, now: float) -> Action | None:
    """Harm to both arms is invisible to a comparison of the two: stable is also compared with itself before."""
    stable, hold = facts.stable, memory.hold
    held = hold is not None and hold.kind is HoldKind.STABLE_ARM
    numbers = {"metric": stable.worse, "answers": stable.answers, "bad": stable.bad, "limit": stable.limit}
    if not held:
        if not stable.worse or rollout.phase is Phase.PREPARING:
            return None
        reason = f"stable got worse than before the rollout: {stable.reason}; the candidate is off"
        off = Hold(HoldKind.STABLE_ARM, reason, now, rollout.weight)
        return Action(Act.HOLD, reason, numbers, phase=rollout.phase, step=rollout.step, weight=0.0, hold=off)
    assert hold is not None, "it is held"
    if stable.recovered:
        reason = f"stable recovered without the candidate ({stable.bad} bad of {stable.answers} answers): {hold.reason}"
        return Action(Act.ROLL_BACK, reason, numbers, cause="stable_arm")
    if memory.credited > PERSISTS and not memory.recycled and not stable.worse.startswith("slow_"):
        reason = f"it goes on without the candidate: {hold.reason}"
        return replace(_stay(rollout, hold, reason, numbers), act=Act.RECYCLE)
    return None


def _engines(rollout: Rollout, memory: Memory, now: float) -> Action | None:
    """One outage is nobody's fault. An engine that goes down again may do so because of what the candidate is asked."""
    worst = max(memory.crashes, key=lambda name: memory.crashes[name], default="")
    if memory.hold is not None or not worst or memory.crashes[worst] < CRASHES:
        return None
    times = f"{worst} restarted {memory.crashes[worst]} times in this step"
    reason = f"{times}, while the candidate served: see its log; the candidate is off"
    off = Hold(HoldKind.ENGINES, reason, now, rollout.weight)
    numbers = {"restarts": dict(memory.crashes)}
    return Action(Act.HOLD, reason, numbers, phase=rollout.phase, step=rollout.step, weight=0.0, hold=off)


def _wanted(rollout: Rollout, memory: Memory, facts: Facts) -> Action | None:
    """An operator wants it promoted now."""
    wanted = facts.each.get(memory.wanted_version, facts)
    if memory.wanted != "promote" or not wanted.ready:
        return None
    skipped = f"from {rollout.phase.value} at {rollout.weight:.4g}"
    reason = f"promoted by {memory.wanted_by} {skipped}" + (f": {memory.wanted_why}" if memory.wanted_why else "")
    numbers = {"skipped_from": {"phase": rollout.phase.value, "step": rollout.step, "weight": rollout.weight}}
    return Action(
        Act.PROMOTE, reason, numbers, cause="operator", actor=memory.wanted_by, candidate=memory.wanted_version
    )


def _held(memory: Memory) -> Action | None:
    return _WAIT if memory.hold is not None else None


def _collapse(rollout: Rollout, facts: Facts, now: float) -> Action | None:
    """Signs of collapse that are no proof, or feedback that cannot be compared: no further, and a person looks."""
    if facts.collapse is None or not facts.collapse_holds or rollout.phase is not Phase.RAMP:
        return None
    hold = Hold(HoldKind.INCONCLUSIVE, facts.collapse.reason, now)
    return _stay(rollout, hold, facts.collapse.reason, facts.collapse.to_json())


def _forward(plan: Plan, rollout: Rollout, memory: Memory, facts: Facts, now: float) -> Action:
    if not facts.ready:
        return _WAIT
    if rollout.phase is Phase.PREPARING:
        reason = "the candidate is loaded and verified on every replica"
        return Action(Act.MOVE, reason, phase=Phase.SHADOW) if plan.shadow else _to_step(plan, 1, reason)
    analysis = facts.analysis
    if analysis is None or analysis.decision is Decision.CONTINUE:
        return _WAIT
    if analysis.decision is Decision.INCONCLUSIVE:
        hold = Hold(HoldKind.INCONCLUSIVE, analysis.reason, now)
        return _stay(rollout, hold, analysis.reason, analysis.to_json())
    return replace(_passed(plan, rollout, memory, analysis, now), candidate=facts.best)


def _passed(plan: Plan, rollout: Rollout, memory: Memory, analysis: Analysis, now: float) -> Action:
    """The step has shown what it had to."""
    numbers = analysis.to_json()
    rules = plan.shadow if rollout.phase is Phase.SHADOW else plan.steps[rollout.step - 1]
    if rules is not None and rules.approval == "manual" and not memory.approved:
        reason = f"an operator has to let it go on (`understudy rollout resume {rollout.route}`): {analysis.reason}"
        return _stay(rollout, Hold(HoldKind.APPROVAL, reason, now), reason, numbers)
    following = next_step(plan, rollout)
    if following is not None:
        return _to_step(plan, following, analysis.reason, numbers)
    return Action(Act.PROMOTE, analysis.reason, numbers, cause="evidence")


def next_step(plan: Plan, rollout: Rollout) -> int | None:
    """The number (from 1) of the first step ahead that widens the candidate's share; None after the last."""
    ahead = range(rollout.step + 1, len(plan.steps) + 1)
    return next((number for number in ahead if plan.steps[number - 1].share > rollout.weight), None)


def _to_step(plan: Plan, number: int, reason: str, numbers: Mapping[str, Any] | None = None) -> Action:
    share = plan.steps[number - 1].share
    return Action(Act.MOVE, reason, numbers or {}, phase=Phase.RAMP, step=number, weight=share)


def _stay(rollout: Rollout, hold: Hold, reason: str, numbers: Mapping[str, Any]) -> Action:
    return Action(
        Act.HOLD, reason, numbers, phase=rollout.phase, step=rollout.step, weight=rollout.weight, hold=hold
    )


def _numbers(finding: Finding) -> dict[str, Any]:
    return {"metric": finding.metric, "test": finding.test, "log_e": finding.log_e, "threshold": finding.threshold,
            "effect": finding.effect, "events": finding.n}  # fmt: skip
