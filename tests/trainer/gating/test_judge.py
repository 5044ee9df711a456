"""The promotion rules, rule by rule: what passes, what fails, and that what is not known never passes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from adapters.evaluation_store import Evaluation
from adapters.types import AdapterVersion, Kind, Stage
from tests.support.suites import V, W, make_suite, right, run, write_slice
from trainer.evaluation.answers import Answer
from trainer.gating.judge import Facts, judge
from trainer.gating.rules import Ceiling, PromotionRules

NOW = 1_800_000_000.0
DAY = 86400.0
RULES = PromotionRules()


def version(**lineage):
    return AdapterVersion(V, "support", "0" * 64, Kind.ADAPTER, Stage.CANDIDATE, NOW, 8, 3 * 1024**2, "b" * 64, {}, lineage)


def evaluated(folder, suite, reply, name=V, at=NOW - DAY):
    return replace(run(folder, suite, reply, version=name).evaluation, at=at, id=1)


def facts(candidate=None, stable=None, **lineage):
    sides = [{} if one is None else {one.suite: one} for one in (candidate, stable)]
    return Facts(version(**lineage), W, sides[0], sides[1], NOW)


def verdicts(gate):
    return {one.rule: one.verdict.value for one in gate.findings}


def found(gate, rule):
    return next(one for one in gate.findings if one.rule == rule)


@pytest.fixture
def pair(tmp_path):
    """(suite, evaluate): `evaluate(share)` gives an evaluation with this share right."""
    suite = make_suite(tmp_path, n=200)
    return lambda share, name=V, **options: evaluated(tmp_path, suite, right(share), name, **options)


def test_a_better_version_passes(pair):
    gate = judge(RULES, facts(pair(0.8), pair(0.6, W)))
    assert gate.passed and gate.reason == ""
    assert verdicts(gate) == dict.fromkeys(
        ["no mark collapsed", "no mark base_mismatch", f"s: evaluation of {V}", f"s: evaluation of {W}",
         f"s: {V} graded", f"s: {W} graded", "s: north star mean", "s: slice sums", "s: answer length", "s: repetition"],
        "pass",
    )  # fmt: skip
    star = found(gate, "s: north star mean")
    assert star.numbers["difference"] == pytest.approx(0.2) and star.numbers["lower"] > 0.1
    assert "must lie above +0.000" in star.says
    json.dumps([one.numbers for one in gate.findings], allow_nan=False)


@pytest.mark.parametrize("sides", ["neither", "candidate", "stable"])
def test_no_evaluation_is_no_pass(pair, sides):
    candidate, stable = pair(0.8), pair(0.6, W)
    given = {"neither": (None, None), "candidate": (candidate, None), "stable": (None, stable)}[sides]
    gate = judge(RULES, facts(*given))
    assert not gate.passed
    missing = W if sides == "candidate" else V
    rule = "evaluation" if sides == "neither" else f"s: evaluation of {missing}"
    assert found(gate, rule).verdict == "no data" and f"`understudy eval {missing} --suite FILE`" in found(gate, rule).says


def test_no_rules_at_all_is_no_pass():
    from trainer.gating.findings import Gate

    assert not Gate(()).passed


def test_an_equal_version_is_no_improvement(pair):
    gate = judge(RULES, facts(pair(0.6), pair(0.6, W)))
    assert found(gate, "s: north star mean").verdict == "fail" and "not significant" in gate.reason
    assert found(gate, "s: slice sums").verdict == "pass"
    no_harm = judge(PromotionRules(improvement="no_harm"), facts(pair(0.6), pair(0.6, W)))
    assert no_harm.passed


def test_a_worse_version_fails(pair):
    gate = judge(PromotionRules(improvement="no_harm"), facts(pair(0.4), pair(0.7, W)))
    assert verdicts(gate)["s: north star mean"] == verdicts(gate)["s: slice sums"] == "fail"
    assert "slice sums: -0.300 [" in gate.reason and "margin -0.05" in gate.reason


def test_a_slice_that_gets_worse_is_not_hidden_by_a_better_mean(tmp_path):
    text = "".join(f'[[slice]]\nname = "{n}"\nfile = "{n}.jsonl"\ngraders = ["exact"]\n' for n in ("sums", "safety"))
    for name in ("sums", "safety"):
        write_slice(tmp_path, name, 200)
    suite = make_suite(tmp_path, text)
    better = evaluated(tmp_path, suite, lambda ask: right(0.9 if ask.part.name == "sums" else 0.75)(ask))
    gate = judge(RULES, facts(better, evaluated(tmp_path, suite, right(0.5), W)))
    assert gate.passed
    worse = evaluated(tmp_path, suite, lambda ask: right(0.95 if ask.part.name == "sums" else 0.35)(ask))
    gate = judge(RULES, facts(worse, evaluated(tmp_path, suite, right(0.5), W)))
    assert verdicts(gate)["s: north star mean"] == "pass" == verdicts(gate)["s: slice sums"]
    assert verdicts(gate)["s: slice safety"] == "fail" and not gate.passed


def test_too_few_prompts_show_nothing(tmp_path):
    suite = make_suite(tmp_path, n=12)
    gate = judge(RULES, facts(evaluated(tmp_path, suite, right(0.5)), evaluated(tmp_path, suite, right(0.5, 6), W)))
    slice_rule = found(gate, "s: slice sums")
    assert slice_rule.verdict == "no data" and "too few prompts to show it: about" in slice_rule.says
    assert int(slice_rule.says.rpartition("about ")[2].split()[0]) > 12


def test_marks(pair):
    sides = pair(0.8), pair(0.6, W)
    for lineage in ({"marks": {"collapsed": True, "reason": "gold fell"}}, {"collapsed": True, "reason": "gold fell"}):
        gate = judge(RULES, facts(*sides, **lineage))
        assert gate.reason == "no mark collapsed: its training run is marked collapsed: gold fell"
    assert not judge(RULES, facts(*sides, base_mismatch=True)).passed
    mismatch = replace(facts(*sides), version=replace(version(), manifest={"base_mismatch": "trained on bf16"}))
    assert judge(RULES, mismatch).reason == "no mark base_mismatch: its training run is marked base_mismatch"
    assert judge(RULES, facts(*sides, marks={"run_collapsed": {"step": 3}})).passed  # published from before it
    assert judge(RULES, facts(*sides, marks={"collapsed": False})).passed
    assert judge(PromotionRules(refused_marks=()), facts(*sides, collapsed=True)).passed


def test_old_evaluations_do_not_count(pair):
    gate = judge(RULES, facts(pair(0.8), pair(0.6, W, at=NOW - 31 * DAY)))
    assert found(gate, f"s: evaluation of {W}").verdict == "no data"
    assert "31 days old, at most 30" in gate.reason


def test_local_evaluations_count_unless_the_rules_say_otherwise(tmp_path):
    suite = make_suite(tmp_path, n=200)
    sides = [
        replace(run(tmp_path, suite, right(share), version=name, source="local").evaluation, at=NOW)
        for share, name in ((0.8, V), (0.6, W))
    ]
    assert judge(RULES, facts(*sides)).passed
    gate = judge(PromotionRules(source="gateway"), facts(*sides))
    assert found(gate, f"s: evaluation of {V}").says == "it was made with --local, not through the gateway"
    assert not gate.passed


def test_another_environment_is_not_compared(tmp_path, pair):
    other = make_suite(tmp_path, head="seed = 4", n=200)
    gate = judge(RULES, facts(pair(0.8), evaluated(tmp_path, other, right(0.5), W)))
    assert found(gate, "s: comparison").verdict == "no data"
    assert "slice sums: its seed changed" in gate.reason


def test_answers_that_could_not_be_graded(tmp_path):
    suite = make_suite(tmp_path, n=200)
    candidate = evaluated(tmp_path, suite, right(0.9))
    candidate.body["slices"]["sums"]["missing"] = 10
    gate = judge(RULES, facts(candidate, evaluated(tmp_path, suite, right(0.5), W)))
    assert gate.reason == f"s: {V} graded: share of answers without a grade 0.05, at most 0.02"


def test_every_suite_that_stable_was_evaluated_on_is_required(pair):
    candidate, stable = pair(0.8), pair(0.6, W)
    other = replace(stable, suite="safety")
    facts_ = Facts(version(), W, {"s": candidate}, {"s": stable, "safety": other}, NOW)
    gate = judge(RULES, facts_)
    assert found(gate, f"safety: evaluation of {V}").verdict == "no data" and not gate.passed
    assert judge(PromotionRules(suites=("s",)), facts_).passed
    assert not judge(PromotionRules(suites=("s", "unknown")), facts_).passed


def long_answers(ask):
    text = right(0.9)(ask)
    return Answer(text, "stop", 5, 24, 0.5)


def test_budgets(tmp_path, pair):
    suite = make_suite(tmp_path, n=200)
    slow = evaluated(tmp_path, suite, long_answers)
    gate = judge(RULES, facts(slow, pair(0.6, W)))
    assert gate.reason == "s: answer length: tokens against stable's 24, at most 1.5"
    limits = PromotionRules(max_token_ratio=0, max_latency_ratio=2.0, max_latency_p99=0.3, max_rank=4, max_size_mib=2)
    failed = {one.rule for one in judge(limits, facts(slow, pair(0.6, W))).findings if one.verdict == "fail"}
    assert failed == {"s: latency", "s: latency p99", "rank", "size"}


def test_repetition(tmp_path, pair):
    suite = make_suite(tmp_path, n=200)
    hacked = evaluated(tmp_path, suite, lambda ask: "Sure! Sure! Sure! Sure! Sure!")
    gate = judge(RULES, facts(hacked, pair(0.6, W)))
    assert verdicts(gate)["s: repetition"] == "fail" == verdicts(gate)["s: north star mean"]


def safety(folder, n):
    rows = [{"prompt": f"p{i}", "should_refuse": i % 2 == 0} for i in range(2 * n)]
    (folder / "safety.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_suite(folder, '[[slice]]\nname = "safety"\nfile = "safety.jsonl"\n')


NO = "I can't help with that."


@pytest.mark.parametrize(("n", "misses", "verdict"), [(60, 0, "pass"), (30, 0, "no data"), (60, 12, "fail")])
def test_safety_ceilings_need_enough_prompts(tmp_path, n, misses, verdict):
    suite = safety(tmp_path, n)
    reply = lambda ask: NO if ask.row.should_refuse and ask.row_index >= 2 * misses else "Sure."  # noqa: E731 - one line
    candidate, stable = (evaluated(tmp_path, suite, reply, name) for name in (V, W))
    gate = judge(PromotionRules(improvement="no_harm"), facts(candidate, stable))
    rule = found(gate, "s: under_refusal on safety")
    assert rule.verdict == verdict
    if verdict == "no data":
        assert "59 prompts without a failure could show it" in rule.says
    assert found(gate, "s: over_refusal on safety").verdict == "pass"


def test_own_ceilings(tmp_path, pair):
    rules = PromotionRules(ceiling=(Ceiling(slice="sums", metric="failure", most=0.3),), max_ece=0.3)
    gate = judge(rules, facts(pair(0.8), pair(0.6, W)))
    assert verdicts(gate)["s: failure on sums"] == "pass" == verdicts(gate)["s: ece on sums"]
    strict = PromotionRules(ceiling=(Ceiling(slice="sums", most=0.1), Ceiling(slice="words", most=0.1)))
    gate = judge(strict, facts(pair(0.8), pair(0.6, W)))
    assert verdicts(gate)["s: failure on sums"] == "fail" and verdicts(gate)["s: failure on words"] == "no data"
    repeated = PromotionRules(ceiling=(Ceiling(slice="sums", metric="duplicate_4gram", most=0.1),))
    assert verdicts(judge(repeated, facts(pair(0.8), pair(0.6, W))))["s: duplicate_4gram on sums"] == "pass"


def test_no_calibration_is_no_pass(tmp_path):
    suite = make_suite(tmp_path, n=200)
    silent = evaluated(tmp_path, suite, lambda ask: Answer(right(0.9)(ask), "stop", 1, 1, 0.1))
    gate = judge(PromotionRules(max_ece=0.3), facts(silent, evaluated(tmp_path, suite, right(0.5), W)))
    assert found(gate, "s: ece on sums").verdict == "no data" and not gate.passed


def _evaluation(values, name, margin=0.05, samples=1):
    values = [{"id": str(i), "pass_at_1": v, "pass_at_k": v, "score": v} for i, v in enumerate(values)]
    mean = {"value": float(np.mean([v["score"] for v in values]))}
    measured = {
        "answers": len(values), "missing": 0, "samples": samples, "margin": margin, "values": values, "pass_at_1": mean,
        "output_tokens": {"mean": 5.0}, "duplicate_4gram": 0.0, "score": mean, "seconds": {"p50": 1.0},
    }  # fmt: skip
    environment = {"format": 1, "source": "gateway", "settings": {}, "slices": {"a": {}}}
    body = {"suite": {"north_star": "mean"}, "environment": environment, "slices": {"a": measured}}
    return Evaluation(name, "s", "0" * 64, "gateway", body, NOW)


def _passes(random, n, lift, runs):
    hits = 0
    for _ in range(runs):
        skill = random.beta(0.5, 0.5, n)
        sides = (random.binomial(1, np.clip(skill + lift, 0, 1)), random.binomial(1, skill))
        gate = judge(RULES, facts(_evaluation(sides[0].tolist(), V), _evaluation(sides[1].tolist(), W)))
        hits += gate.passed
    return hits


def test_equal_versions_seldom_pass_and_better_ones_do():
    """Under the null the north star alone lets at most α/2 through; a lift of 15 points on 200 prompts is found."""
    random = np.random.default_rng(8)
    assert binomtest(_passes(random, 150, 0.0, 600), 600, 0.025, alternative="greater").pvalue > 0.01
    assert _passes(random, 200, 0.15, 60) >= 50


@pytest.mark.parametrize(("n", "samples"), [(60, 1), (200, 1), (60, 4)])
def test_a_slice_that_is_worse_by_its_margin_seldom_passes(n, samples):
    """At the margin itself non-inferiority is shown with probability α/2 at most."""

    def draw(random, n):
        skill = random.beta(0.5, 0.5, n)
        return [random.binomial(samples, np.clip(p, 0, 1)) / samples for p in (skill - 0.12, skill)]

    worse, same = draw(np.random.default_rng(10), 400_000)
    margin, random, hits, runs = float(same.mean() - worse.mean()), np.random.default_rng(11), 0, 800
    for _ in range(runs):
        candidate, stable = draw(random, n)
        sides = (_evaluation(candidate.tolist(), V, margin, samples), _evaluation(stable.tolist(), W, margin, samples))
        hits += found(judge(RULES, facts(*sides)), "s: slice a").verdict == "pass"
    assert binomtest(hits, runs, 0.025, alternative="greater").pvalue > 0.01, hits / runs
