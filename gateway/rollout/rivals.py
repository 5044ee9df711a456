"""Several candidates in one rollout (A/B/n): what is known of each, as the facts about all of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from adapters.rollouts import Phase
from gateway.rollout.arms import Course
from gateway.rollout.decide import Facts
from monitors.analysis import Analysis, Decision, JudgeSpec, Measurements
from monitors.analysis.rivals import judge_rivals, together


@dataclass(frozen=True, slots=True)
class Judged:
    """The judgement of a step: each candidate's own, of all together, and who would be promoted ("" for nobody)."""

    together: Analysis
    each: Mapping[str, Analysis]
    best: str = ""


def conclude(course: Course, spec: JudgeSpec, measured: Mapping[str, Measurements]) -> Judged:
    """The judgement of the candidates that are left, from what was measured of each."""
    rollout = course.rollout
    each = judge_rivals(spec, measured, len(rollout.candidates))
    if len(rollout.candidates) == 1:
        return Judged(each[rollout.candidate], each)
    harmful = next((one for one in each.values() if one.decision is Decision.ROLLBACK), None)
    if harmful is not None:  # it is dropped first; then the others are judged anew
        return Judged(harmful, each)
    last = rollout.phase is Phase.RAMP and rollout.step == len(course.plan.steps)
    elapsed = next(iter(measured.values())).elapsed
    whole, best = together(spec, each, elapsed, last=last)
    return Judged(whole, each, best)


def combined(each: Mapping[str, Facts], judged: Judged | None) -> Facts:
    """The facts about all candidates that are left, from every one's own. Of a single one: its own.

    What one did is its own affair while others are left (gateway.rollout.decide drops it); what none can help, such as
    an engine without a slot, is everybody's.
    """
    if len(each) == 1:
        (own,) = each.values()
        return replace(own, analysis=judged.together if judged else None, best=judged.best if judged else "")
    held = next((own for own in each.values() if own.collapse_holds), Facts())
    return Facts(
        ready=all(own.ready for own in each.values()),
        collapse=held.collapse,
        collapse_holds=held.collapse_holds,
        obstacle=next((f"{version}: {own.obstacle}" for version, own in each.items() if own.obstacle), ""),
        stable=next(iter(each.values())).stable,
        analysis=judged.together if judged else None,
        each=each,
        best=judged.best if judged else "",
    )
