"""Several candidates against the same stable: each judged alone, then what that means for all of them. Pure.

Harm: each candidate's tests get harm_alpha / n, so that the chance of ever dropping any harmless one stays harm_alpha.
Promotion: Holm's procedure (Scand. J. Statist. 6, 1979) over candidates, each one's hypothesis being that it is worse
than tolerated in some gating metric (intersection–union within a candidate): one passes at alpha / n, then, with k
passed, the others at alpha / (n − k). n counts the candidates that began; one that was dropped stays in the family.

The best of those that passed is the one with the largest estimated gain in the first primary metric. That is a choice
among versions that were each shown not to be worse; it is no claim that the best is better than the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from monitors.analysis.judge import judge
from monitors.analysis.spec import JudgeSpec
from monitors.analysis.types import Analysis, Decision, Measurements, Verdict
from monitors.analysis.wording import gain_sign


def harm_share(spec: JudgeSpec, family: int) -> JudgeSpec:
    """The rules of one candidate's harm tests among `family` that began."""
    return spec if family == 1 else replace(spec, harm_alpha=spec.harm_alpha / family)


def judge_rivals(spec: JudgeSpec, measured: Mapping[str, Measurements], family: int) -> dict[str, Analysis]:
    """One analysis per candidate. `family`: how many began. With a single one the same as `judge`.

    With several the step's end is not judged here: `together` does that, for all at once.
    """
    if family == 1:
        return {name: judge(spec, one) for name, one in measured.items()}
    rules = replace(harm_share(spec, family), max_duration=math.inf)
    found: dict[str, Analysis] = {}
    passed: set[str] = set()
    while True:
        level = replace(rules, alpha=spec.alpha / (family - len(passed)))
        tried = {name: judge(level, one) for name, one in measured.items() if name not in passed}
        found |= tried
        new = {name for name, analysis in tried.items() if analysis.verdict is Verdict.PASS}
        passed |= new
        if not new or len(passed) == len(measured):
            return found


def together(spec: JudgeSpec, found: Mapping[str, Analysis], elapsed: float, *, last: bool) -> tuple[Analysis, str]:
    """What the step has come to, and the best of the candidates that passed ("" for none).

    `found`: of the candidates that are left, none of which did harm. It passes when all have passed, and a last step
    also when no other one can any more: its time is up (elapsed, in seconds), or they have had their only look.
    """
    passed = {name: analysis for name, analysis in found.items() if analysis.verdict is Verdict.PASS}
    rest = {name: analysis for name, analysis in found.items() if name not in passed}
    best = _best(spec, passed)
    if not rest:
        return replace(passed[best], reason=_reason(best, passed, rest)), best
    name, first = next(iter(rest.items()))
    if first.metric == "ratio_mismatch":  # one test over all arms: it voids the step for each
        return first, ""
    waiting = [one for one in rest.values() if one.decision is Decision.CONTINUE]
    late = elapsed >= spec.max_duration
    if waiting and not late:
        missing = next(n for n, one in rest.items() if one.decision is Decision.CONTINUE)
        reason = f"{len(passed)} of {len(found)} candidates have passed; {missing}: {rest[missing].reason}"
        return replace(rest[missing], reason=reason), ""
    if passed and last:
        return replace(passed[best], reason=_reason(best, passed, rest)), best
    why = f"the time for this step ({spec.max_duration:g} s) is up: " if late else ""
    return replace(first, verdict=Verdict.INCONCLUSIVE, reason=f"{why}{name}: {first.reason}", final=True), ""


def _best(spec: JudgeSpec, passed: Mapping[str, Analysis]) -> str:
    """The largest estimated gain in the first primary metric; of equal or unknown ones the first named."""
    primary = next((metric for metric in spec.metrics if metric.role == "primary"), None)

    def gain(name: str) -> float:
        effects = [f.effect for f in passed[name].findings if primary and f.metric == primary.name]
        known = [effect for effect in effects if effect is not None]
        return gain_sign(primary) * known[0] if primary and known else -math.inf

    return max(passed, key=gain, default="")


def _reason(best: str, passed: Mapping[str, Analysis], rest: Mapping[str, Analysis]) -> str:
    """One sentence: who, of how many, and on what evidence."""
    others = [name for name in passed if name != best]
    said = f"{best}: {passed[best].reason}"
    if others:
        said += f"; the best of {len(passed)} that passed ({', '.join(others)})"
    return said + (f"; not shown in time: {', '.join(rest)}" if rest else "")
