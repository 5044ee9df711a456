"""What must hold for any measurements whatever: no PASS without data, no exception, no way around harm."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from monitors.analysis import (
    ArmSums,
    BadEvent,
    Decision,
    JudgeSpec,
    Measurements,
    MetricSpec,
    Verdict,
    harm_findings,
    judge,
)

NAMES = ("error", "guard", "satisfaction", "reward", "tokens")
METRICS = tuple(
    MetricSpec(name=name, role=role) for name, role in zip(NAMES, ("guardrail",) * 2 + ("primary",) * 2 + ("guardrail",), strict=True)
)
FEW = settings(max_examples=120, deadline=None)

shares = st.floats(0.001, 0.999)
events = st.lists(st.builds(BadEvent, st.booleans(), shares), max_size=60)
anything = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(-5, 10**6))
broken_sums = st.builds(ArmSums, st.integers(-2, 10**6), anything, anything, anything, anything, anything)
specs = st.builds(
    JudgeSpec,
    metrics=st.lists(st.sampled_from(METRICS), min_size=1, unique_by=lambda m: m.name).map(tuple),
    min_units=st.integers(0, 500),
    advance=st.sampled_from(["no_harm", "evidence"]),
    horizon=st.sampled_from([0, 200]),
    shadow=st.booleans(),
    min_pairs=st.integers(0, 50),
)


@st.composite
def good_sums(draw: st.DrawFn) -> ArmSums:
    """Sums that one to five answers per unit could have made, values in 0..1."""
    units = draw(st.integers(1, 3000))
    per_unit, rate = draw(st.integers(1, 5)), draw(st.floats(0, 1))
    hit = round(units * rate)
    m, d = [1.0] * hit + [0.0] * (units - hit), [float(per_unit)] * units
    return ArmSums.of(m, d)


metrics = st.dictionaries(st.sampled_from(NAMES), st.tuples(good_sums(), good_sums()), max_size=5)


@given(spec=specs, elapsed=st.floats(0, 1e6))
@FEW
def test_no_data_is_never_a_pass(spec: JudgeSpec, elapsed: float):
    assert judge(spec, Measurements(elapsed)).verdict in (Verdict.INCONCLUSIVE, Verdict.ERROR)
    empty = {name: (ArmSums.of([], []),) * 2 for name in NAMES}
    assert judge(spec, Measurements(elapsed, metrics=empty)).verdict is not Verdict.PASS
    one_sided = Measurements(elapsed, 10_000, 0, metrics=empty)
    assert judge(spec, one_sided).verdict is not Verdict.PASS


@given(
    spec=specs,
    sums=st.dictionaries(st.sampled_from(NAMES), st.tuples(broken_sums, broken_sums), max_size=5),
    elapsed=anything,
    units=st.tuples(st.integers(-5, 10**6), st.integers(-5, 10**6)),
    ratio=st.tuples(st.tuples(anything, anything), st.tuples(anything, anything)),
    shares_of=st.dictionaries(st.sampled_from(NAMES), st.lists(st.builds(BadEvent, st.booleans(), anything)), max_size=2),
    pairs=st.dictionaries(st.sampled_from(NAMES), st.lists(anything, max_size=30), max_size=3),
)
@FEW
def test_nothing_raises_and_everything_has_a_reason(spec, sums, elapsed, units, ratio, shares_of, pairs):
    found = judge(spec, Measurements(elapsed, *units, *ratio, sums, shares_of, pairs))
    assert found.reason and all(finding.reason for finding in found.findings)
    if not math.isfinite(elapsed) or elapsed < 0 or min(units) < 0:
        assert found.verdict in (Verdict.ERROR, Verdict.FAIL)


@given(spec=specs, found=metrics, where=st.sampled_from(["m", "mm", "d", "dd", "md"]), value=st.sampled_from([math.nan, math.inf, -math.inf]))
@FEW
def test_a_number_that_is_none_is_an_error(spec, found, where, value):
    spec = replace(spec, shadow=False)
    gating = [metric.name for metric in spec.metrics]
    measured = {name: pair for name, pair in found.items() if name in gating}
    if not measured:
        return
    name = next(iter(measured))
    measured[name] = (replace(measured[name][0], **{where: value}), measured[name][1])
    result = judge(spec, Measurements(1.0, 10**4, 10**4, metrics=measured))
    assert result.verdict in (Verdict.ERROR, Verdict.FAIL)  # another metric may show harm meanwhile
    assert any(f.metric == name and f.verdict is Verdict.ERROR for f in result.findings)


@given(before=events, after=events)
@FEW
def test_an_alarm_is_never_taken_back(before: list[BadEvent], after: list[BadEvent]):
    spec = JudgeSpec(metrics=METRICS[:1], harm_alpha=0.05)
    first = harm_findings(spec, {"error": before})[0]
    second = harm_findings(spec, {"error": before + after})[0]
    if first.verdict is Verdict.FAIL:
        assert second == first


@given(found=events, share=shares, place=st.integers(0, 60))
@FEW
def test_one_more_event_of_the_candidate_is_more_evidence(found: list[BadEvent], share: float, place: int):
    spec = JudgeSpec(metrics=METRICS[:1], harm_alpha=0.05)
    mine, theirs = (
        harm_findings(spec, {"error": [*found[:place], BadEvent(candidate, share), *found[place:]]})[0]
        for candidate in (True, False)
    )
    without = harm_findings(spec, {"error": found})[0]
    if mine.verdict is not Verdict.FAIL:
        assert mine.log_e is not None and without.log_e is not None and theirs.log_e is not None
        assert mine.log_e > without.log_e - 1e-9 > theirs.log_e - 1e-8
    if without.verdict is Verdict.FAIL and place >= without.n:
        assert mine.verdict is Verdict.FAIL


@given(units=st.integers(200, 3000), bad=st.integers(0, 200), more=st.integers(1, 100))
@FEW
def test_more_bad_outcomes_never_help(units: int, bad: int, more: int):
    spec = JudgeSpec(metrics=METRICS[:1], min_units=100)
    stable = ArmSums(units, 20, 20, units, units, 20)

    def judged(count: int) -> Decision:
        count = min(count, units)
        arm = ArmSums(units, count, count, units, units, count)
        return judge(spec, Measurements(1.0, units, units, metrics={"error": (arm, stable)})).decision

    if judged(bad) is not Decision.PROMOTE:
        assert judged(bad + more) is not Decision.PROMOTE


@given(spec=specs, found=metrics, seed=st.permutations(range(5)))
@FEW
def test_the_order_of_metrics_does_not_matter(spec: JudgeSpec, found: dict, seed: list[int]):
    turned = replace(spec, metrics=tuple(spec.metrics[i] for i in seed if i < len(spec.metrics)))
    keys = sorted(found, key=lambda name: seed[NAMES.index(name)])
    one = judge(spec, Measurements(1.0, 1000, 1000, metrics=found))
    two = judge(turned, Measurements(1.0, 1000, 1000, metrics={name: found[name] for name in keys}))
    assert one.verdict == two.verdict
    assert {f.metric: f for f in one.findings if f.test != "attribution"} == {
        f.metric: f for f in two.findings if f.test != "attribution"
    }


@given(values=st.lists(st.floats(-1, 1), min_size=1, max_size=80))
@FEW
def test_pairs_that_are_never_worse_do_not_roll_back(values: list[float]):
    spec = JudgeSpec(metrics=METRICS[3:4], shadow=True, min_pairs=1)
    found = judge(spec, Measurements(1.0, pairs={"reward": [abs(value) for value in values]}))
    assert found.decision is Decision.PROMOTE
