"""The promotion rules over stored evaluations. Pure: rules, facts and a clock in; every rule's finding out.

Non-inferiority of a slice: the paired difference's interval lies above −margin (two-sided 1 − α, which is one-sided
α/2). Every slice must show it, so α is not split (intersection–union). Ceilings compare a one-sided upper bound
(Clopper–Pearson), so a handful of good answers does not pass for safety.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.errors import Conflict
from adapters.evaluation_store import Evaluation
from adapters.types import AdapterVersion
from monitors.stats.paired import prompts_needed, upper_bound
from trainer.evaluation.comparison import Comparison, SliceComparison, compare
from trainer.gating.budgets import budget_rules
from trainer.gating.findings import Finding, Gate, fails, joined, passes, unknown, within
from trainer.gating.rules import Ceiling, PromotionRules

_DAY = 86400.0


@dataclass(frozen=True)
class Facts:
    """What the rules look at. Evaluations by suite, the newest of each; `against` is stable's name."""

    version: AdapterVersion
    against: str
    candidate: Mapping[str, Evaluation]
    stable: Mapping[str, Evaluation]
    now: float


def judge(rules: PromotionRules, facts: Facts) -> Gate:
    """Every rule's finding. Without any evaluation the gate does not pass."""
    groups = [_marks(rules, facts), budget_rules(rules, facts.version)]
    suites = rules.suites or tuple(sorted(facts.candidate.keys() | facts.stable.keys()))
    if not suites:
        both = " and ".join(f"`understudy eval {name} --suite FILE`" for name in (facts.version.name, facts.against))
        groups.append([unknown("evaluation", f"neither version was evaluated: run {both}")])
    return joined([*groups, *(_suite(rules, facts, suite) for suite in suites)])


def _marks(rules: PromotionRules, facts: Facts) -> list[Finding]:
    lineage = facts.version.lineage
    marks = lineage.get("marks")
    found = {**facts.version.manifest, **lineage, **(marks if isinstance(marks, dict) else {})}
    findings = []
    for mark in rules.refused_marks:
        if found.get(mark):
            reason = str(found.get("reason") or found.get(f"{mark}_reason") or "").strip()
            says = f"its training run is marked {mark}" + (f": {reason}" if reason else "")
            findings.append(fails(f"no mark {mark}", says))
        else:
            findings.append(passes(f"no mark {mark}", "its training run has no such mark"))
    return findings


def _suite(rules: PromotionRules, facts: Facts, suite: str) -> list[Finding]:
    candidate, stable = facts.candidate.get(suite), facts.stable.get(suite)
    sides = ((facts.version.name, candidate), (facts.against, stable))
    findings = [_fresh(rules, facts.now, suite, name, found) for name, found in sides]
    if candidate is None:
        return findings
    slices = candidate.body["slices"]
    findings += [_complete(rules, suite, facts.version.name, slices)]
    findings += _ceilings(rules, suite, slices)
    if stable is None:
        return findings
    try:
        comparison = compare(candidate.body, stable.body, rules.alpha)
    except Conflict as conflict:
        return [*findings, unknown(f"{suite}: comparison", str(conflict))]
    findings.append(_complete(rules, suite, facts.against, stable.body["slices"]))
    findings.append(_north_star(rules, suite, comparison))
    findings += [_not_worse(suite, one, rules.alpha) for one in comparison.slices]
    findings += _relative(rules, suite, slices, stable.body["slices"])
    return findings


def _fresh(rules: PromotionRules, now: float, suite: str, name: str, found: Evaluation | None) -> Finding:
    rule = f"{suite}: evaluation of {name}"
    if found is None:
        return unknown(rule, f"there is none: run `understudy eval {name} --suite FILE`")
    days = (now - found.at) / _DAY
    if days > rules.max_age_days:
        return unknown(rule, f"it is {days:.0f} days old, at most {rules.max_age_days:g}: evaluate it anew", days=days)
    if rules.source not in ("any", found.source):
        return unknown(rule, f"it was made with --{found.source}, not through the gateway", id=found.id)
    return passes(rule, f"{max(0.0, days):.1f} days old, {found.source}", days=days, id=found.id)


def _complete(rules: PromotionRules, suite: str, name: str, slices: Mapping[str, Any]) -> Finding:
    answers = sum(measured["answers"] for measured in slices.values())
    missing = sum(measured["missing"] for measured in slices.values())
    rule = f"{suite}: {name} graded"
    return within(rule, missing / answers if answers else None, rules.max_missing, "share of answers without a grade")


def _north_star(rules: PromotionRules, suite: str, comparison: Comparison) -> Finding:
    star = comparison.north_star
    rule = f"{suite}: north star {star.name}"
    if star.difference is None or star.interval is None:
        return unknown(rule, "it was not measured on both sides")
    low, high = star.interval
    needed = rules.min_improvement if rules.improvement == "required" else -rules.no_harm_margin
    says = f"{star.difference:+.3f} [{low:+.3f}, {high:+.3f}], must lie above {needed:+.3f}"
    numbers = {
        "candidate": star.candidate, "stable": star.stable, "difference": star.difference, "lower": low, "upper": high,
        "p": star.p, "needed": needed,
    }  # fmt: skip
    if low > needed:
        return passes(rule, says, **numbers)
    if high <= needed or rules.improvement == "required":
        return fails(rule, says + ("" if high <= needed else ": not significant"), **numbers)
    return unknown(rule, f"{says}: too few prompts to tell", **numbers)


def _not_worse(suite: str, one: SliceComparison, alpha: float) -> Finding:
    rule = f"{suite}: slice {one.name}"
    found = one.paired
    if found is None:
        return unknown(rule, "fewer than two prompts were graded on both sides")
    low, high = found.interval
    says = f"{found.difference:+.3f} [{low:+.3f}, {high:+.3f}], margin -{one.margin:g}, {found.n} prompts"
    numbers = {
        "candidate": one.candidate, "stable": one.stable, "difference": found.difference, "lower": low, "upper": high,
        "margin": one.margin, "n": found.n, "better": found.better, "worse": found.worse, "p": found.p,
        "dropped": one.dropped,
    }  # fmt: skip
    if low > -one.margin:
        return passes(rule, says, **numbers)
    if high < -one.margin or (high < 0 and one.changed):
        return fails(rule, says, **numbers)
    return unknown(rule, f"{says}: {_how_many(found.n, found.difference, low, one.margin)}", **numbers)


def _how_many(n: int, difference: float, low: float, margin: float) -> str:
    """Roughly how many prompts would do, if the difference stays what it is: half-widths shrink with √n."""
    room = difference + margin
    if room <= 0:
        return "it looks worse than its margin, on too few prompts to be sure"
    needed = int(n * ((difference - low) / room) ** 2) + 1
    return f"too few prompts to show it: about {max(needed, n + 1)} would do"


def _ceilings(rules: PromotionRules, suite: str, slices: Mapping[str, Any]) -> list[Finding]:
    own = {(ceiling.slice, ceiling.metric) for ceiling in rules.ceiling}
    wanted = list(rules.ceiling)
    for name, measured in slices.items():
        if "over_refusal" in measured:
            general = (("under_refusal", rules.max_under_refusal), ("over_refusal", rules.max_over_refusal))
            wanted += [
                Ceiling(slice=name, metric=metric, most=most)
                for metric, most in general
                if most and (name, metric) not in own and measured[f"{metric}_values"]
            ]
        if rules.max_ece and (name, "ece") not in own:
            wanted.append(Ceiling(slice=name, metric="ece", most=rules.max_ece))
    return [_ceiling(rules, suite, ceiling, slices.get(ceiling.slice)) for ceiling in wanted]


def _ceiling(rules: PromotionRules, suite: str, ceiling: Ceiling, measured: Mapping[str, Any] | None) -> Finding:
    rule = f"{suite}: {ceiling.metric} on {ceiling.slice}"
    if measured is None:
        return unknown(rule, "the suite has no such slice")
    if ceiling.metric in ("ece", "duplicate_4gram"):
        value = measured[ceiling.metric]
        bound = value["upper"] if isinstance(value, Mapping) else value
        return within(rule, bound, ceiling.most, "upper end" if isinstance(value, Mapping) else "share")
    values = _bad_shares(ceiling, measured)
    if not values:
        return unknown(rule, "no prompt of this slice says anything about it")
    bound, rate = upper_bound(values, rules.alpha), sum(values) / len(values)
    says = f"{rate:.3f}, upper bound {bound:.3f}, at most {ceiling.most:g}, {len(values)} prompts"
    numbers = {"value": rate, "upper": bound, "most": ceiling.most, "n": len(values)}
    if bound <= ceiling.most:
        return passes(rule, says, **numbers)
    if rate > ceiling.most:
        return fails(rule, says, **numbers)
    fewest = prompts_needed(ceiling.most, rules.alpha)
    return unknown(rule, f"{says}: {fewest} prompts without a failure could show it", **numbers)


def _bad_shares(ceiling: Ceiling, measured: Mapping[str, Any]) -> list[float]:
    if ceiling.metric == "failure":
        return [1.0 - v["pass_at_1"] for v in measured["values"] if v["pass_at_1"] is not None]
    return list(measured.get(f"{ceiling.metric}_values", ()))


def _relative(
    rules: PromotionRules, suite: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[Finding]:
    """What may not grow much beyond stable's: length, repetition, time."""
    findings = []
    if rules.max_token_ratio:
        ratio = _ratio(mine, theirs, "output_tokens", "mean")
        findings.append(within(f"{suite}: answer length", ratio, rules.max_token_ratio, "tokens against stable's"))
    if rules.max_latency_ratio:
        ratio = _ratio(mine, theirs, "seconds", "p50")
        findings.append(within(f"{suite}: latency", ratio, rules.max_latency_ratio, "p50 against stable's"))
    if rules.max_latency_p99:
        slowest = [m["seconds"] and m["seconds"]["p99"] for m in mine.values()]
        findings.append(within(f"{suite}: latency p99", _largest(slowest), rules.max_latency_p99, "seconds"))
    if rules.max_duplicate_increase:
        sides = [(m["duplicate_4gram"], theirs[name]["duplicate_4gram"]) for name, m in mine.items()]
        grown = _largest([None if None in pair else pair[0] - pair[1] for pair in sides])
        says = "duplicate 4-grams beyond stable's"
        findings.append(within(f"{suite}: repetition", grown, rules.max_duplicate_increase, says))
    return findings


def _largest(values: Sequence[float | None]) -> float | None:
    """None where one is missing: what was not measured may be the largest."""
    found = [value for value in values if value is not None]
    return max(found) if found and len(found) == len(values) else None


def _ratio(mine: Mapping[str, Any], theirs: Mapping[str, Any], field: str, statistic: str) -> float | None:
    """Over all slices, weighed by answers; None where one side was not measured."""
    totals = []
    for side in (mine, theirs):
        if any(measured[field] is None for measured in side.values()):
            return None
        totals.append(sum(measured[field][statistic] * measured["answers"] for measured in side.values()))
    return totals[0] / totals[1] if totals[1] > 0 else None
