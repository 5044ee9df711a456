"""What makes a plan contradict itself, in one line each: weights, durations, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config import parse_duration

if TYPE_CHECKING:
    from gateway.rollout.plan import Plan, ShadowPlan, Step

LEAST_STABLE = 1e-6            # of the units: below it rounding could leave nobody to compare with


def problems_of(plan: Plan) -> list[str]:
    """Everything that is wrong with it; empty for a sound plan."""
    return [*_step_problems(plan), *_metric_problems(plan), *_split_problems(plan)]


def _step_problems(plan: Plan) -> list[str]:
    problems, before = [], 0.0
    for number, step in enumerate(plan.steps, 1):
        if step.share <= before:
            problems.append(f"step {number}: weight {step.weight} must be above the one before it ({before:.4g})")
        both = f"weight {step.weight} and the holdout {plan.holdout}"
        if step.share + plan.holdout_share > 1 + LEAST_STABLE:
            problems.append(f"step {number}: {both} are more than 100%")
        elif step.share >= 1:
            problems.append(f"step {number}: 100% leaves nothing to compare with; it comes after the last step")
        elif step.share + plan.holdout_share > 1 - LEAST_STABLE:
            problems.append(f"step {number}: {both} leave nobody on stable: together they must be below 100%")
        problems += _duration_problems(f"step {number}", step)
        if step.horizon and step.horizon < step.min_units:
            problems.append(f"step {number}: horizon {step.horizon} is below min_units {step.min_units}")
        before = step.share
    if plan.steps[-1].advance != "evidence":
        problems.append('the last step needs advance = "evidence": nothing is promoted for lack of harm alone')
    if plan.shadow:
        problems += _duration_problems("shadow", plan.shadow)
    return problems


def _split_problems(plan: Plan) -> list[str]:
    if any(not 0.01 <= part <= 100 for part in plan.split):
        return ["split: each part must lie between 0.01 and 100"]
    return []


def _duration_problems(where: str, part: Step | ShadowPlan) -> list[str]:
    if parse_duration(part.max_duration) <= parse_duration(part.min_duration):
        return [f"{where}: max_duration {part.max_duration} must be longer than min_duration {part.min_duration}"]
    return []


def _metric_problems(plan: Plan) -> list[str]:
    names = [metric.name for metric in plan.metrics]
    problems = [f"metric {name!r} is listed twice" for name in sorted(set(names)) if names.count(name) > 1]
    if not any(metric.role == "primary" for metric in plan.metrics):
        problems.append('no metric has role = "primary": say what has to be shown before a promotion')
    if plan.alpha <= plan.harm_alpha:
        problems.append(f"harm_alpha {plan.harm_alpha} must be below alpha {plan.alpha}")
    return problems
