"""Which of the detectors took the hacked version away, and what the others had seen by then: from the product's record.

A canary has little feedback: it is the attribution test on thumbs down that decides, by its design. The collapse
detector needs a hundred times as much (docs/collapse.md) and says honestly that it cannot know yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TESTS = {
    "thumbs_down": "attribution test on thumbs down", "collapse": "collapse detector: reward against satisfaction",
    "quality_regression": "collapse detector: satisfaction alone", "satisfaction": "comparison of satisfaction",
    "reward": "comparison of rewards", "breaker": "circuit breaker",
}  # fmt: skip


def fired(row: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For the report. `row`: of the rollout, `events`: its history, both as the operator API gives them."""
    last = next((event for event in reversed(events) if event["kind"] == "rolled_back"), None)
    numbers = dict(last["numbers"]) if last else {}
    cause = str(numbers.get("cause", ""))
    return {
        "detector": _TESTS.get(cause, cause or "none"), "cause": cause, "log_e": numbers.get("log_e"),
        "threshold": numbers.get("threshold"),
        "others": {
            finding["metric"]: {"log_e": finding["log_e"], "threshold": finding["threshold"], "events": finding["n"]}
            for finding in row.get("harm") or () if finding["metric"] != cause
        },
        "collapse": collapse(row),
        "shadow_reward": _shadow_reward(events),
    }  # fmt: skip


def collapse(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the collapse detector said last; kind "none" where it was not there."""
    verdict = row.get("collapse") or {"kind": "none", "reason": "it was not there", "numbers": {}}
    numbers = verdict["numbers"]
    kept = ("feedbacks", "control_feedbacks", "needed", "alignment_tax", "log_e", "log_threshold")
    return {"verdict": verdict["kind"], "reason": verdict["reason"], **{k: numbers[k] for k in kept if k in numbers}}


def in_words(found: Mapping[str, Any]) -> str:
    """Some lines to print."""
    evidence = ""
    if found["log_e"] is not None and found["threshold"] is not None:
        evidence = f" (ln e {found['log_e']:.1f}, threshold {found['threshold']:.1f})"
    lines = [f"fired: {found['detector']}{evidence}"]
    lines += [
        f"not yet: {name}, ln e {one['log_e'] or 0.0:.1f} of {one['threshold'] or 0.0:.1f}, {one['events']:g} event(s)"
        for name, one in found["others"].items()
    ]
    said = found["collapse"]
    lines.append(f"collapse detector: {said['verdict']}: {said['reason'][:150]}")
    if (reward := found["shadow_reward"]) is not None:
        lines.append(f"shadow, same prompts: automated reward {reward:+.2f} against stable: no guard minds")
    return "\n".join(lines)


def _shadow_reward(events: Sequence[Mapping[str, Any]]) -> float | None:
    """Candidate minus stable of the automated reward over pairs of the shadow; None where it was not compared."""
    for event in events:
        for finding in event["numbers"].get("findings") or ():
            if finding.get("metric") == "reward" and finding.get("test") == "paired":
                return float(finding["effect"]) if finding.get("effect") is not None else None
    return None
