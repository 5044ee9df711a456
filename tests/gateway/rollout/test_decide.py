"""The pure decision, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.rollouts import Phase, Rollout
from gateway.rollout.decide import PERSISTS, RECOVERY, Act, Facts, StableArm, decide, next_step
from gateway.rollout.memory import Hold, HoldKind, Memory
from gateway.rollout.plan import from_json, to_json
from monitors.analysis.types import Analysis, Finding, Verdict
from monitors.collapse.types import Kind, Why
from monitors.collapse.types import Verdict as Rewards
from tests.support.traffic import quick_plan

PLAN = quick_plan()
ROW = Rollout(1, "r", "r@2", "r@1", to_json(PLAN), Phase.RAMP, 1, 0.2, 3, 0.0, 0.0)
NOTHING = Memory()
PASS = Analysis(Verdict.PASS, "not worse")
FAIL = Analysis(Verdict.FAIL, "worse", metric="reward")
OVER = Analysis(Verdict.INCONCLUSIVE, "time is up", final=True)
WAITING = Analysis(Verdict.INCONCLUSIVE, "not enough users")
HARM = Finding("error", "attribution", Verdict.FAIL, "error: 5 of 5", log_e=9.0, threshold=8.0, n=5)
BREACH = StableArm("empty", "empty above 2%", 0, 0, 0.02)


def act(row=ROW, memory=NOTHING, plan=PLAN, now=10.0, **facts):
    facts = {"ready": True, **facts}
    return decide(plan, row, memory, Facts(**facts), now)


def with_shadow(**more):
    return from_json({**to_json(PLAN), "shadow": {"sample": 0.5, "min_pairs": 5, **more}})


def test_preparing_waits_until_every_replica_is_ready():
    row = replace(ROW, phase=Phase.PREPARING, step=0, weight=0.0)
    assert act(row, ready=False).act is Act.WAIT
    moved = act(row)
    assert (moved.act, moved.phase, moved.step, moved.weight) == (Act.MOVE, Phase.RAMP, 1, 0.2)
    assert act(row, plan=with_shadow()).phase is Phase.SHADOW


def test_the_shadow_leads_to_the_first_step():
    row = replace(ROW, phase=Phase.SHADOW, step=0, weight=0.0)
    assert act(row, plan=with_shadow()).act is Act.WAIT
    moved = act(row, plan=with_shadow(), analysis=PASS)
    assert (moved.act, moved.step, moved.weight) == (Act.MOVE, 1, 0.2)


def test_each_step_leads_to_the_next_and_the_last_to_a_promotion():
    moved = act(analysis=PASS)
    assert (moved.act, moved.step, moved.weight) == (Act.MOVE, 2, 0.5)
    assert moved.numbers["verdict"] == "pass"
    assert act(replace(ROW, step=2, weight=0.5), analysis=PASS).act is Act.PROMOTE


def test_a_weight_that_was_raised_by_hand_is_never_lowered_by_the_plan():
    assert next_step(PLAN, replace(ROW, step=1, weight=0.3)) == 2
    assert next_step(PLAN, replace(ROW, step=2, weight=0.8)) is None
    assert next_step(PLAN, replace(ROW, step=1, weight=0.6)) is None


@pytest.mark.parametrize("analysis", [None, WAITING, Analysis(Verdict.ERROR, "NaN")])
def test_without_a_pass_nothing_goes_forward(analysis):
    assert act(analysis=analysis).act is Act.WAIT


def test_time_is_up_holds_and_does_not_promote():
    held = act(analysis=OVER)
    assert held.act is Act.HOLD and held.hold.kind is HoldKind.INCONCLUSIVE
    assert (held.phase, held.step, held.weight) == (Phase.RAMP, 1, 0.2)
    again = act(memory=Memory(hold=held.hold), analysis=PASS)
    assert again.act is Act.WAIT


@pytest.mark.parametrize("hold", [None, *(Hold(kind, "x", 0.0) for kind in HoldKind)])
@pytest.mark.parametrize(
    ("facts", "cause"),
    [({"harm": (HARM,)}, "error"), ({"analysis": FAIL}, "reward"), ({"breaker": "5 in a row"}, "breaker"),
     ({"fault": "e0: rank too high"}, "load")],
)  # fmt: skip
def test_harm_ends_it_whatever_holds_it(hold, facts, cause):
    done = act(memory=Memory(hold=hold), **facts)
    assert (done.act, done.cause) == (Act.ROLL_BACK, cause) and done.reason


def test_what_is_not_its_fault_aborts():
    preparing = replace(ROW, phase=Phase.PREPARING, step=0, weight=0.0)
    assert act(preparing, obstacle="no free slot", ready=False).act is Act.ABORT
    assert act(obstacle="the artifact store is away", ready=False, analysis=PASS).act is Act.WAIT


def test_no_analysis_of_harm_is_needed_for_a_rollback_and_its_numbers_are_kept():
    numbers = act(harm=(HARM,)).numbers
    assert (numbers["log_e"], numbers["threshold"], numbers["events"]) == (9.0, 8.0, 5)


def test_manual_approval():
    steps = [{"weight": "20%", "approval": "manual"}, {"weight": "50%", "advance": "evidence"}]
    plan = quick_plan(step=steps)
    held = act(plan=plan, analysis=PASS)
    assert held.act is Act.HOLD and held.hold.kind is HoldKind.APPROVAL and "rollout resume" in held.reason
    assert act(plan=plan, analysis=PASS, memory=Memory(approved=True)).act is Act.MOVE


def test_a_pause_stops_it_until_it_is_lifted():
    paused = Memory(hold=Hold(HoldKind.OPERATOR, "lunch", 0.0))
    assert act(memory=paused, analysis=PASS).act is Act.WAIT


def test_harm_to_the_stable_arm_takes_the_candidate_off():
    held = act(stable=BREACH)
    assert held.act is Act.HOLD and held.weight == 0.0 and held.hold.weight == 0.2
    assert held.hold.kind is HoldKind.STABLE_ARM
    preparing = replace(ROW, phase=Phase.PREPARING)
    assert act(preparing, stable=BREACH, ready=False).act is Act.WAIT


def off(**memory) -> Memory:
    return Memory(hold=Hold(HoldKind.STABLE_ARM, "empty above 2%", 0.0, 0.2), **memory)


def test_stable_that_recovers_without_the_candidate_condemns_it():
    recovered = replace(BREACH, answers=RECOVERY, bad=1)
    assert act(replace(ROW, weight=0.0), off(), stable=recovered).act is Act.ROLL_BACK
    few = replace(BREACH, answers=RECOVERY - 1)
    assert act(replace(ROW, weight=0.0), off(), stable=few).act is Act.WAIT


def test_harm_that_goes_on_has_the_replicas_restarted_once():
    bad = replace(BREACH, answers=100, bad=50)
    row = replace(ROW, weight=0.0)
    assert act(row, off(credited=PERSISTS), stable=bad).act is Act.WAIT
    recycled = act(row, off(credited=PERSISTS + 1), stable=bad)
    assert recycled.act is Act.RECYCLE and recycled.hold is not None and recycled.step == 1
    assert act(row, off(credited=PERSISTS + 1, recycled=True), stable=bad).act is Act.WAIT
    slow = replace(bad, worse="slow_duration")   # a restart would only take away the engine that users wait for
    assert act(row, off(credited=PERSISTS + 1), stable=slow).act is Act.WAIT


def test_an_operators_promotion_waits_for_every_replica_and_says_what_it_skipped():
    memory = Memory(wanted="promote", wanted_by="alice", wanted_why="sure", hold=Hold(HoldKind.OPERATOR, "x", 0.0))
    assert act(memory=memory, ready=False).act is Act.WAIT
    done = act(memory=memory)
    assert done.act is Act.PROMOTE and done.actor == "alice" and done.numbers["skipped_from"]["weight"] == 0.2
    assert "alice" in done.reason and "sure" in done.reason
    assert act(memory=memory, harm=(HARM,)).act is Act.ROLL_BACK


def test_an_engine_that_goes_down_again_takes_the_candidate_off():
    assert act(memory=Memory(crashes={"e0": 1, "e1": 1}), analysis=WAITING).act is Act.WAIT
    held = act(memory=Memory(crashes={"e0": 1, "e1": 2}), analysis=PASS)
    assert held.act is Act.HOLD and held.weight == 0.0 and held.hold.kind is HoldKind.ENGINES and held.hold.weight == 0.2
    assert held.reason.startswith("e1 restarted 2 times")


holds = st.one_of(st.none(), st.sampled_from([Hold(kind, "x", 0.0, 0.2) for kind in HoldKind]))
analyses = st.sampled_from([None, PASS, FAIL, OVER, WAITING])


@given(
    st.sampled_from([Phase.PREPARING, Phase.SHADOW, Phase.RAMP]), holds, analyses, st.booleans(), st.booleans(),
    st.booleans(), st.floats(0, 1e9),
)  # fmt: skip
def test_only_evidence_or_an_operator_promotes(phase, hold, analysis, ready, wanted, breach, credited):
    """Whatever is known: a promotion needs a ready candidate and a PASS of the last step, or an operator's wish."""
    step = 2 if phase is Phase.RAMP else 0
    row = replace(ROW, phase=phase, step=step, weight=0.5 if step else 0.0)
    memory = Memory(hold=hold, wanted="promote" if wanted else "", credited=credited)
    facts = Facts(ready=ready, analysis=analysis, stable=BREACH if breach else StableArm())
    action = decide(with_shadow(), row, memory, facts, 10.0)
    if action.act is Act.PROMOTE:
        assert ready and (wanted or (analysis is PASS and phase is Phase.RAMP and hold is None and not breach))
    if action.act is Act.MOVE:
        assert ready and hold is None and action.weight >= row.weight
    assert decide(with_shadow(), row, memory, facts, 10.0) == action


@pytest.mark.parametrize("kind", [Kind.COLLAPSE, Kind.QUALITY_REGRESSION])
def test_less_satisfied_users_are_a_rollback_also_while_it_is_held(kind):
    rewards = Rewards(kind, "reward collapse: …", {"alignment_tax": 0.1})
    held = Memory(hold=Hold(HoldKind.OPERATOR, "lunch", 1.0))
    for memory in (NOTHING, held):
        done = act(memory=memory, collapse=rewards, analysis=PASS)
        assert (done.act, done.cause, done.numbers["numbers"]["alignment_tax"]) == (Act.ROLL_BACK, kind.value, 0.1)


def test_signs_of_collapse_hold_the_ramp_unless_an_operator_let_them_pass():
    for rewards in (Rewards(Kind.FREEZE, "signs"), Rewards(Kind.INCONCLUSIVE, "signs", why=Why.FEEDBACK_RATE)):
        held = act(collapse=rewards, collapse_holds=True, analysis=PASS)
        assert (held.act, held.hold.kind, held.weight, held.reason) == (Act.HOLD, HoldKind.INCONCLUSIVE, 0.2, "signs")
        assert act(collapse=rewards, collapse_holds=False, analysis=PASS).act is Act.MOVE
    assert act(replace(ROW, phase=Phase.SHADOW, step=0), collapse=rewards, collapse_holds=True).act is Act.WAIT


def test_too_little_feedback_neither_holds_nor_promotes():
    rewards = Rewards(Kind.INCONCLUSIVE, "too little", why=Why.TOO_LITTLE)
    assert not rewards.holds and act(collapse=rewards, collapse_holds=rewards.holds, analysis=PASS).act is Act.MOVE
    assert act(collapse=Rewards(Kind.OK, "nothing found")).act is Act.WAIT  # without a judgement nothing goes forward
