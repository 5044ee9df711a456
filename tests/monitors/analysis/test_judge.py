"""The judgement of a step: what wins over what, what is missing, and every rule of a promotion."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from monitors.analysis import Analysis, ArmSums, Decision, JudgeSpec, Measurements, MetricSpec, Verdict, judge

ERROR = MetricSpec(name="error")
SATISFACTION = MetricSpec(name="satisfaction", role="primary")
SPEC = JudgeSpec(metrics=(ERROR, SATISFACTION), min_units=1000, min_duration=60.0, max_duration=3600.0)


def binary(n: int, good: int) -> ArmSums:
    return ArmSums(n, good, good, n, n, good)


def measured(n: int = 12_000, good: float = 0.8, bad: float = 0.01, elapsed: float = 100.0) -> Measurements:
    """Stable: 1 % errors, 80 % satisfied."""
    metrics = {
        "error": (binary(n, round(n * bad)), binary(n, round(n * 0.01))),
        "satisfaction": (binary(n, round(n * good)), binary(n, round(n * 0.8))),
    }
    return Measurements(elapsed, n, n, (n, n), (1.0, 1.0), metrics)


def test_a_version_as_good_as_stable_is_promoted():
    found = judge(SPEC, measured())
    assert (found.verdict, found.decision) == (Verdict.PASS, Decision.PROMOTE)
    assert found.reason == "not worse than tolerated with 12000 and 12000 units: error, satisfaction"


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (measured(elapsed=59.0), "59 of at least 60 s"),
        (measured(n=999), "999 of 1000 units per arm"),
        (replace(measured(), candidate_units=5), "5 of 1000 units per arm"),
        (measured(n=1000), "error: undecided"),
        (measured(bad=0.03), "error: undecided"),
        (replace(measured(), metrics={"error": measured().metrics["error"]}), "satisfaction: no data"),
        (replace(measured(), metrics={}), "error: no data"),
        (Measurements(100.0), "0 of 1000 units per arm"),
    ],
)
def test_what_is_missing_is_said(numbers: Measurements, words: str):
    found = judge(SPEC, numbers)
    assert (found.verdict, found.decision) == (Verdict.INCONCLUSIVE, Decision.CONTINUE)
    assert words in found.reason


def test_time_that_is_up_never_promotes():
    for numbers in (measured(elapsed=3600.0), measured(n=10, elapsed=4000.0)):
        found = judge(SPEC, numbers)
        assert (found.decision, found.final) == (Decision.INCONCLUSIVE, True)
        assert "the time for this step (3600 s) is up" in found.reason


def test_a_worse_version_is_rolled_back_before_the_least_time():
    found = judge(SPEC, measured(n=3000, good=0.65, elapsed=1.0))
    assert (found.decision, found.metric) == (Decision.ROLLBACK, "satisfaction")


def test_no_harm_is_enough_for_an_early_step_but_not_no_data():
    early = replace(SPEC, advance="no_harm", min_units=50)
    assert judge(early, replace(measured(n=50), metrics={})).decision is Decision.PROMOTE
    assert judge(early, Measurements(100.0, 50, 49)).decision is Decision.CONTINUE
    assert judge(replace(early, min_units=0), Measurements(100.0)).decision is Decision.CONTINUE


def test_impossible_numbers_are_an_error_and_no_promotion():
    broken = dict(measured().metrics, error=(binary(10, 11), binary(10, 1)))
    found = judge(SPEC, replace(measured(), metrics=broken))
    assert (found.verdict, found.decision, found.metric) == (Verdict.ERROR, Decision.CONTINUE, "error")
    late = judge(SPEC, replace(measured(elapsed=4000.0), metrics=broken))
    assert late.decision is Decision.INCONCLUSIVE
    shown = replace(SPEC, metrics=(SATISFACTION, MetricSpec(name="error", role="exploratory")))
    assert judge(shown, replace(measured(), metrics=broken)).decision is Decision.PROMOTE  # it decides nothing


@pytest.mark.parametrize(
    "numbers",
    [
        Measurements(math.nan),
        Measurements(-1.0),
        Measurements(1.0, -1, 5),
        Measurements(1.0, 5, 5, (5, 5), (1.0,)),
        Measurements(1.0, 5, 5, (5, 5), (1.0, 0.0)),
        Measurements(1.0, 5, 5, (5, 5), (1.0, math.nan)),
        Measurements(1.0, 5, 5, (-5, 5), (1.0, 1.0)),
    ],
)
def test_impossible_counts_are_an_error(numbers: Measurements):
    assert judge(SPEC, numbers).verdict is Verdict.ERROR


def test_a_primary_metric_may_have_to_get_better():
    better = replace(SPEC, metrics=(ERROR, SATISFACTION.model_copy(update={"goal": "superior"})))
    equal = judge(better, measured())
    assert equal.decision is Decision.CONTINUE and equal.reason == "not shown to be better: satisfaction"
    assert judge(better, measured(good=0.85)).decision is Decision.PROMOTE


def test_several_primary_metrics_share_alpha_by_holm_and_none_may_be_worse():
    superior = [
        MetricSpec(name=name, role="primary", goal="superior", margin=0.02, margin_unit="absolute")
        for name in ("satisfaction", "reward.a", "reward.b")
    ]
    spec = replace(SPEC, metrics=tuple(superior), horizon=5000, max_duration=math.inf)
    n = 12_000

    def rates(*good: int) -> Measurements:
        names = [metric.name for metric in superior]
        sums = {name: (binary(n, count), binary(n, 9600)) for name, count in zip(names, good, strict=True)}
        return Measurements(100.0, n, n, metrics=sums)

    assert judge(spec, rates(9600, 9600, 9800)).decision is Decision.PROMOTE    # p = .0006
    narrow = judge(spec, rates(9600, 9600, 9712))                               # p = .035: above α/3
    assert narrow.decision is Decision.INCONCLUSIVE and narrow.final            # and its one look is over
    alone = replace(spec, metrics=(superior[2],))
    assert judge(alone, rates(9600, 9600, 9712)).decision is Decision.PROMOTE
    assert judge(spec, rates(9000, 9600, 9900)).decision is Decision.ROLLBACK   # five points down, with margin 2


def test_a_fixed_horizon_that_was_missed_holds():
    spec = replace(SPEC, horizon=3000, max_duration=math.inf)
    early = judge(spec, measured(n=2000))
    assert early.decision is Decision.CONTINUE and "2000 of the 3000 units" in early.reason
    missed = judge(spec, measured(n=3000, good=0.789))
    assert (missed.decision, missed.final) == (Decision.INCONCLUSIVE, True)
    assert judge(spec, measured(n=3000, good=0.80)).decision is Decision.PROMOTE


def test_a_plan_without_anything_to_show_never_promotes():
    spec = replace(SPEC, metrics=(MetricSpec(name="tokens", role="exploratory"),))
    found = judge(spec, measured())
    assert found.decision is Decision.INCONCLUSIVE and "no metric could show" in found.reason


def test_every_verdict_is_plain_json_with_its_numbers():
    for numbers in (measured(), measured(n=10), Measurements(1.0), measured(good=0.5), Measurements(math.nan)):
        found = judge(SPEC, numbers)
        body = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert body["decision"] == found.decision.value and body["reason"]
        assert len(body["findings"]) == len(found.findings)
    assert Analysis(Verdict.ERROR, "x").decision is Decision.CONTINUE
