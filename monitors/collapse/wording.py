"""A verdict of the collapse detector in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitors.collapse.types import Kind, Why


def reason(kind: Kind, why: Why | None, numbers: Mapping[str, Any]) -> str:
    """What an operator reads; the numbers are those of the verdict."""
    if why is not None:
        return _inconclusive(why, numbers)
    now, before = numbers["satisfaction"], numbers["satisfaction_before"]
    fall = f"satisfaction {before:.3f} → {now:.3f} over the last {numbers['window']} feedbacks"
    reward = f"the reward {numbers['reward_change_sd']:+.2f} SD"
    tax = f"alignment tax {100 * numbers['alignment_tax']:+.1f} points"
    if kind is Kind.COLLAPSE:
        return f"reward collapse: {fall}, {reward}; {tax}, {_evidence(numbers, 'log_e')}"
    if kind is Kind.QUALITY_REGRESSION:
        return f"quality regression: {fall}, {reward}; {_evidence(numbers, 'log_e_quality')}"
    if kind is Kind.FREEZE:
        loudest = sorted(numbers["corroborators"].items(), key=lambda item: -(item[1] or 0.0))
        named = ", ".join(f"{name} (ln e {value:.1f})" for name, value in loudest[:3] if value and value > 0)
        return f"signs of collapse beside satisfaction: {named}; {fall}, {reward}"
    return f"nothing found: {fall}, {reward}; {tax}, {_evidence(numbers, 'log_e')}"


def _inconclusive(why: Why, numbers: Mapping[str, Any]) -> str:
    if why is Why.FEEDBACK_RATE:
        ratio = numbers["feedback_rate_ratio"]
        return f"people speak {ratio:.2f} times as often as those it is compared with: satisfaction cannot be compared"
    if why is Why.RATIO_MISMATCH:
        return "traffic is not split as configured: the arms cannot be compared"
    control = f", {numbers['control_feedbacks']} of the control" if numbers["against"] == "live control" else ""
    return f"too little feedback: {numbers['feedbacks']}{control} so far, {numbers['needed']} are needed"


def _evidence(numbers: Mapping[str, Any], name: str) -> str:
    value = numbers[name]
    return f"ln e {'-' if value is None else format(value, '.1f')} of {numbers['log_threshold']:.1f}"
