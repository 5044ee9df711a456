"""Several candidates: who is dropped, who passes and who is the best; and how often that is wrong, by simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from monitors.analysis import (
    Analysis,
    ArmSums,
    BadEvent,
    Decision,
    Finding,
    HarmTests,
    JudgeSpec,
    Measurements,
    MetricSpec,
    Verdict,
    judge,
)
from monitors.analysis.rivals import harm_share, judge_rivals, together

ERROR = MetricSpec(name="error", role="primary", margin=0.05)
SPEC = JudgeSpec((ERROR,), alpha=0.05, harm_alpha=0.05, min_units=20, max_duration=1000.0, tuning_units=1000)
NAMES = ("a", "b", "c")


def rates(units: int, bad: int) -> ArmSums:
    """One answer per unit."""
    return ArmSums(units, bad, bad, units, units, bad)


def measured(candidate: tuple[int, int], stable: tuple[int, int], elapsed: float = 10.0) -> Measurements:
    sums = {"error": (rates(*candidate), rates(*stable))}
    return Measurements(elapsed, candidate[0], stable[0], metrics=sums)


def within(hits: int, runs: int, alpha: float) -> bool:
    """True unless the rate exceeds alpha by the 99 % Clopper–Pearson bound."""
    print(f"{hits} of {runs} = {hits / runs:.1%}, at most {alpha:.3g} allowed")  # shown by pytest -rP
    return binomtest(hits, runs, alpha, alternative="greater").pvalue > 0.01


def test_a_single_candidate_is_judged_as_ever():
    one = measured((800, 8), (800, 9))
    assert judge_rivals(SPEC, {"a": one}, 1) == {"a": judge(SPEC, one)}
    late = measured((800, 8), (800, 9), elapsed=2000.0)
    assert judge_rivals(SPEC, {"a": late}, 1)["a"].final and not judge_rivals(SPEC, {"a": late}, 3)["a"].final
    assert harm_share(SPEC, 1) is SPEC and harm_share(SPEC, 5).harm_alpha == pytest.approx(0.01)


def test_holm_makes_it_easier_for_the_next_once_one_has_passed():
    """c's evidence suffices at alpha, not at alpha / 3: it passes only beside others that did."""
    clear, close = measured((3000, 30), (3000, 30)), None
    for units in range(100, 3000, 10):
        tried = measured((units, units // 50), (units, units // 50))
        verdicts = [judge(replace(SPEC, alpha=0.05 / n), tried).verdict for n in (1, 3)]
        if verdicts == [Verdict.PASS, Verdict.INCONCLUSIVE]:
            close = tried
            break
    assert close is not None
    alone = judge_rivals(SPEC, dict.fromkeys(NAMES, close), 3)
    assert {one.verdict for one in alone.values()} == {Verdict.INCONCLUSIVE}
    beside = judge_rivals(SPEC, {"a": clear, "b": clear, "c": close}, 3)
    assert {one.verdict for one in beside.values()} == {Verdict.PASS}
    left = judge_rivals(SPEC, {"c": close}, 3)  # the others were dropped: they stay in the family
    assert left["c"].verdict is Verdict.INCONCLUSIVE


def said(verdict: Verdict, effect: float | None = None, *, final: bool = False, metric: str = "") -> Analysis:
    found = (Finding("error", "sequential", verdict, "r", effect=effect),)
    return Analysis(verdict, f"{verdict.value} {effect}", found, final, metric)


PASS, OPEN = said(Verdict.PASS, 0.01), said(Verdict.INCONCLUSIVE)


def test_the_best_of_those_that_passed_is_the_one_with_the_largest_gain():
    better = said(Verdict.PASS, -0.02)
    analysis, best = together(SPEC, {"a": PASS, "b": better, "c": PASS}, 10.0, last=True)
    assert best == "b" and analysis.decision is Decision.PROMOTE and "the best of 3 that passed (a, c)" in analysis.reason
    up = replace(SPEC, metrics=(MetricSpec(name="satisfaction", role="primary"),))
    found = {n: replace(PASS, findings=(replace(PASS.findings[0], metric="satisfaction", effect=e),))
             for n, e in (("a", 0.1), ("b", 0.3), ("c", None))}  # fmt: skip
    assert together(up, found, 10.0, last=True)[1] == "b"
    assert together(SPEC, {"b": PASS, "a": PASS}, 10.0, last=True)[1] == "b"  # equal: the first named


def test_a_step_waits_for_everybody_until_its_time_is_up():
    found = {"a": PASS, "b": OPEN}
    early, nobody = together(SPEC, found, 10.0, last=True)
    assert early.decision is Decision.CONTINUE and nobody == "" and early.reason.startswith("1 of 2 candidates have passed; b")
    late, best = together(SPEC, found, 1000.0, last=True)
    assert (late.decision, best) == (Decision.PROMOTE, "a") and "not shown in time: b" in late.reason
    held, nobody = together(SPEC, found, 1000.0, last=False)
    assert held.decision is Decision.INCONCLUSIVE and nobody == "" and "is up: b" in held.reason
    none, nobody = together(SPEC, {"a": OPEN, "b": OPEN}, 1000.0, last=True)
    assert none.decision is Decision.INCONCLUSIVE and nobody == ""
    missed = together(SPEC, {"a": PASS, "b": said(Verdict.INCONCLUSIVE, final=True)}, 10.0, last=True)
    assert missed[1] == "a"  # b had its only look
    void = said(Verdict.INCONCLUSIVE, final=True, metric="ratio_mismatch")
    assert together(SPEC, {"a": void, "b": void}, 10.0, last=True) == (void, "")


def harmless_dropped(rng: np.random.Generator, events: int) -> bool:
    """Three candidates as good as stable, each with a fifth of the units: is any ever dropped?"""
    tests = {name: HarmTests(harm_share(SPEC, 3)) for name in NAMES}
    arms = rng.choice(4, events, p=[0.2, 0.2, 0.2, 0.4])
    for number, name in enumerate(NAMES):
        bad = [BadEvent(arm == number, 0.2 / 0.6) for arm in arms if arm in (number, 3)]
        if any(finding.verdict is Verdict.FAIL for finding in tests[name].update({"error": bad})):
            return True
    return False


def test_false_alarms_of_three_equal_candidates_stay_within_alpha():
    rng, runs = np.random.default_rng(11), 300
    assert within(sum(harmless_dropped(rng, 300) for _ in range(runs)), runs, SPEC.harm_alpha)


LOOKS = np.unique(np.geomspace(60, 1500, 12).astype(int))


class Arms:
    """Units of three candidates and of stable as they come, two of stable's for one of each; one answer each."""

    def __init__(self, rng: np.random.Generator, rates: tuple[float, float, float], stable: float) -> None:
        self._bad = {n: rng.random(1500) < rate for n, rate in zip(NAMES, rates, strict=True)}
        self._stable = rng.random((1500, 2)) < stable

    def at(self, n: int, names: Sequence[str] = NAMES) -> dict[str, Measurements]:
        """What is known after n units of each candidate."""
        stable = (2 * n, int(self._stable[:n].sum()))
        return {name: measured((n, int(self._bad[name][:n].sum())), stable) for name in names}

    def events(self, name: str, n: int) -> list[BadEvent]:
        """The bad ones of a candidate and of stable, in order of time."""
        hits = np.column_stack([self._bad[name][:n], self._stable[:n]])
        return [BadEvent(column == 0, 1 / 3) for _, column in np.argwhere(hits)]


def test_three_that_are_just_too_bad_are_seldom_promoted():
    """At the margin every promotion is an error: over all three and all looks at most alpha."""
    rng, runs, wrong = np.random.default_rng(12), 80, 0
    for _ in range(runs):
        arms = Arms(rng, (0.10, 0.10, 0.10), 0.05)
        found = (judge_rivals(replace(SPEC, advance="evidence"), arms.at(n), 3) for n in LOOKS)
        wrong += any(one.verdict is Verdict.PASS for each in found for one in each.values())
    assert within(wrong, runs, SPEC.alpha)


def rolled_out(arms: Arms) -> tuple[list[str], str]:
    """Who is dropped, and who is promoted."""
    left, tests = list(NAMES), {name: HarmTests(harm_share(SPEC, 3)) for name in NAMES}
    for n in LOOKS:
        found = {name: tests[name].update({"error": arms.events(name, n)})[0] for name in left}
        left = [name for name in left if found[name].verdict is not Verdict.FAIL]
        analysis, best = together(SPEC, judge_rivals(SPEC, arms.at(n, left), 3), 10.0, last=True)
        if analysis.decision is Decision.PROMOTE:
            return [name for name in NAMES if name not in left], best
    return [name for name in NAMES if name not in left], ""


def test_of_a_bad_one_an_equal_one_and_a_better_one_the_last_is_promoted():
    rng, runs = np.random.default_rng(13), 40
    ends = [rolled_out(Arms(rng, (0.40, 0.10, 0.04), 0.10)) for _ in range(runs)]
    assert all("a" in dropped for dropped, _ in ends)
    assert within(sum(dropped != ["a"] for dropped, _ in ends), runs, SPEC.harm_alpha)
    best = [best for _, best in ends]
    print({name: best.count(name) for name in {*best}})
    assert best.count("c") > 0.9 * runs and "a" not in best
