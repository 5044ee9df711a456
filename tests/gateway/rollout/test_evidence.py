"""From records to bad events: whose, at which share, once per unit, however often and late they are read."""

from __future__ import annotations

import pytest

from adapters.evidence_store import EvidenceStore
from adapters.types import Flag
from gateway.rollout.evidence import LOOK_BACK, Evidence
from monitors.analysis import Verdict
from tests.support.records import CANDIDATE, STABLE, Records
from tests.support.traffic import quick_plan
from tests.support.world import Clock


@pytest.fixture
def records(database) -> Records:
    return Records(database)


def reader(records: Records, clock: Clock | None = None) -> Evidence:
    spec = records.plan.judge_spec(0)
    return Evidence(EvidenceStore(records.database), spec, clock or Clock(1.0))


def findings(evidence: Evidence):
    return evidence.of[CANDIDATE].findings


def events(evidence: Evidence) -> dict[str, list[tuple[bool, float]]]:
    return {name: [(e.candidate, round(e.share, 6)) for e in found] for name, found in evidence.of[CANDIDATE].events.items()}


def test_bad_answers_carry_their_arm_and_its_odds(records: Records):
    records.answer(records.candidate, 1)
    records.error(records.candidate, 2)
    records.error(records.stable, 3)
    records.answer(records.candidate, 4, flags=int(Flag.EMPTY))
    records.answer(records.candidate, 5, flags=int(Flag.NON_FINITE), status=400)
    evidence = reader(records)
    assert evidence.read(records.course())
    assert events(evidence) == {
        "error": [(True, 0.2), (False, 0.2)], "empty": [(True, 0.2)], "non_finite": [(True, 0.2)],
    }  # fmt: skip
    assert not evidence.read(records.course())


def test_verdicts_on_answers_count_and_those_on_prompts_do_not(database):
    watched = [{"name": "guard", "role": "primary"}, {"name": "unscreened"}]
    records = Records(database, quick_plan(metric=watched))
    records.answer(records.candidate, 1, flags=int(Flag.GUARD), outcome="blocked")
    records.answer(records.stable, 2, flags=int(Flag.GUARD))
    records.answer(records.candidate, 3, flags=int(Flag.UNSCREENED), outcome="blocked", status=503)
    records.answer(records.candidate, 4, flags=int(Flag.UNSAFE_PROMPT), outcome="blocked")
    evidence = reader(records)
    evidence.read(records.course())
    assert events(evidence) == {"guard": [(True, 0.2), (False, 0.2)], "unscreened": [(True, 0.2)]}


def test_what_is_not_the_versions_fault_does_not_count(records: Records):
    records.error(records.candidate, 1, flags=int(Flag.ENGINE_DOWN))
    records.error(records.candidate, 2, status=503)
    records.answer(records.candidate, 3, status=429, outcome="error")
    records.answer(records.candidate, 4, outcome="truncated", flags=int(Flag.ENGINE_DOWN))
    records.answer(records.candidate, 5, outcome="cancelled", status=499)
    evidence = reader(records)
    evidence.read(records.course())
    assert events(evidence) == {}


def test_only_a_units_first_bad_event_counts(records: Records):
    for _ in range(5):
        records.error(records.candidate, 1)
    evidence = reader(records)
    evidence.read(records.course())
    records.error(records.stable, 1)      # the unit's arm changed: its first bad event stands
    evidence.read(records.course())
    assert events(evidence) == {"error": [(True, 0.2)]}


def test_late_feedback_counts_with_the_share_of_its_answer(database):
    records = Records(database, quick_plan(metric=[{"name": "thumbs_down", "role": "primary"}]), weight=0.5)
    early = records.assignment("candidate", 0.05)
    records.say(early, 1, 0.0)
    records.say(records.candidate, 2, 0.0)
    records.say(records.candidate, 3, 1.0)
    outside = records.assignment("stable", 1.0, rollout=0, step=0, version=STABLE)
    records.say(outside, 4, 0.0)
    evidence = reader(records)
    evidence.read(records.course())
    assert events(evidence) == {"thumbs_down": [(True, 0.05), (True, 0.5)]}


def test_replayed_feedback_changes_nothing(database):
    records = Records(database, quick_plan(metric=[{"name": "thumbs_down", "role": "primary"}]))
    for _ in range(50):
        records.say(records.candidate, 1, 0.0, response="x" * 48)
    evidence = reader(records)
    evidence.read(records.course())
    assert events(evidence) == {"thumbs_down": [(True, 0.2)]}


def test_holdout_and_testers_are_left_out(records: Records):
    records.error(records.assignment("holdout", 0.1), 1)
    records.error(records.assignment("tester", 1.0, step=0), 2)
    evidence = reader(records)
    evidence.read(records.course())
    assert events(evidence) == {}


def test_the_shadow_is_compared_with_what_it_mirrors(database):
    plan = quick_plan(shadow={"sample": 0.5, "min_pairs": 5})
    records = Records(database, plan, weight=0.0, phase="shadow", step=0)
    mirrored = records.assignment("shadow", 0.5, step=0)
    stable = records.assignment("stable", 1.0, step=0, version=STABLE)
    records.error(mirrored, 1, flags=int(Flag.SHADOW))
    records.error(stable, 2)
    records.answer(stable, 3, outcome="truncated")      # a mirrored answer is not streamed
    evidence = reader(records)
    evidence.read(records.course())
    assert events(evidence) == {"error": [(True, 0.333333), (False, 0.333333)]}


def test_what_only_users_of_stable_can_say_is_no_evidence_for_the_shadow(database):
    """Else a long shadow phase would outweigh whatever users say of the candidate later."""
    metric = [{"name": "thumbs_down", "role": "primary"}, {"name": "slow_ttft", "objective": 1.0, "warmup": 0.0}]
    plan = quick_plan(shadow={"sample": 0.5, "min_pairs": 5}, metric=metric)
    records = Records(database, plan, weight=0.0, phase="shadow", step=0)
    stable = records.assignment("stable", 1.0, step=0, version=STABLE)
    for unit in range(50):
        records.say(stable, unit, 0.0)
        records.answer(stable, unit, ttft=5.0)
    evidence = reader(records)
    evidence.read(records.course())
    assert events(evidence) == {}


def test_a_version_may_be_slow_at_first(database):
    metric = [{"name": "slow_ttft", "objective": 1.0, "warmup": 60.0, "role": "guardrail"},
              {"name": "error", "role": "primary"}]  # fmt: skip
    records = Records(database, quick_plan(metric=metric))
    records.answer(records.candidate, 1, ttft=5.0, at=1030.0)
    records.answer(records.stable, 2, ttft=5.0, at=1030.0)
    records.answer(records.candidate, 3, ttft=5.0, at=1061.0)
    records.answer(records.candidate, 4, ttft=0.9, at=1061.0)
    evidence = reader(records)
    evidence.read(records.course(exposed_at=1000.0))
    assert events(evidence) == {"slow_ttft": [(True, 0.2)]}


def test_enough_harm_is_found(records: Records):
    for unit in range(12):
        records.error(records.candidate, unit)
    evidence = reader(records)
    evidence.read(records.course())
    found = {finding.metric: finding for finding in findings(evidence)}
    assert found["error"].verdict is Verdict.FAIL and found["error"].log_e >= found["error"].threshold
    assert found["empty"].verdict is Verdict.INCONCLUSIVE


def test_another_controller_comes_to_the_same_conclusion(records: Records):
    clock = Clock(1.0)
    first = reader(records, clock)
    for unit in range(6):
        records.error(records.candidate if unit % 3 else records.stable, unit)
        first.read(records.course())
        clock.now += 0.1
    second = reader(records)
    second.read(records.course())
    assert events(second) == events(first)
    assert [f.log_e for f in findings(second)] == pytest.approx([f.log_e for f in findings(first)])


def test_records_that_become_visible_out_of_order_are_found(records: Records):
    """PostgreSQL shows a row when its transaction ends; its id was drawn before."""
    clock = Clock(100.0)
    evidence = reader(records, clock)
    records.answer(records.candidate, 2, id=50)
    evidence.read(records.course())
    clock.now += 0.5
    records.error(records.candidate, 1, id=20)
    evidence.read(records.course())
    assert events(evidence) == {"error": [(True, 0.2)]}


def test_the_cursor_stays_behind_what_may_still_come(records: Records):
    clock = Clock(100.0)
    evidence = reader(records, clock)
    records.answer(records.candidate, 1)
    evidence.read(records.course())
    assert evidence.cursor == (0, 0)
    clock.now += LOOK_BACK
    assert evidence.cursor[0] >= 1
