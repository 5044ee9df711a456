"""Change detectors: stable against its own past, and a promoted version against what stable was."""

from __future__ import annotations

import json
import random

import pytest

from adapters.evidence_store import EvidenceStore
from adapters.types import Flag
from gateway.rollout.guard import FLOOR, AfterWatch, Detectors, Seldom, StableGuard, tolerated
from gateway.rollout.memory import Hold, HoldKind
from tests.support.records import CANDIDATE, STABLE, Records


@pytest.fixture
def records(database) -> Records:
    return Records(database)


def test_what_is_tolerated():
    assert tolerated(0, 0) == 0.1                    # nothing is known: more is tolerated
    assert tolerated(100_000, 0) == FLOOR
    assert tolerated(10_000, 500) == pytest.approx(0.1, rel=0.01)
    assert tolerated(100, 90) == 0.5


@pytest.mark.parametrize("limit", [0.02, 0.1, 0.5])
def test_false_alarms_are_rare_and_real_ones_quick(limit):
    """At half of what is tolerated: no alarm in 20 × 5000 answers. At ten times (at most 90 %): within 120, each time."""
    draw = random.Random(limit)
    for _ in range(20):
        quiet = Detectors.restored({"error": limit}, {})
        for _ in range(5000):
            quiet.observe("error", float(draw.random() < limit / 2))
        assert quiet.alarm == ""
        loud, count = Detectors.restored({"error": limit}, {}), 0
        while not loud.alarm:
            loud.observe("error", float(draw.random() < min(0.9, 10 * limit)))
            count += 1
        assert count <= 120


def test_their_state_survives():
    first = Detectors.restored({"error": 0.02}, {})
    for x in (0.0, 1.0, 0.0, 1.0):
        first.observe("error", x)
    second = Detectors.restored({"error": 0.02}, json.loads(json.dumps(first.statistics)))
    assert second.statistics == first.statistics and second.alarm == first.alarm
    first.observe("unknown", 1.0)


def test_stable_as_before_is_no_alarm(records: Records):
    before = records.assignment("stable", 1.0, rollout=0, step=0, version=STABLE)
    for unit in range(40):
        records.answer(before, unit, at=900.0)
    guard = StableGuard(EvidenceStore(records.database), records.course())
    for unit in range(60):
        records.answer(records.stable, unit)
    assert guard.look(records.course()).worse == ""
    assert guard.state["limits"]["error"] == pytest.approx(2 / 60)


def test_stable_that_gets_worse_is_noticed_whatever_the_candidate_does(records: Records):
    guard = StableGuard(EvidenceStore(records.database), records.course())
    for unit in range(40):
        records.answer(records.stable, unit, flags=int(Flag.EMPTY))
        records.answer(records.candidate, unit + 100, flags=int(Flag.EMPTY))
    found = guard.look(records.course())
    assert found.worse == "empty" and "tolerated" in found.reason


def test_an_engine_that_is_away_is_not_stables_harm(records: Records):
    guard = StableGuard(EvidenceStore(records.database), records.course())
    for unit in range(60):
        records.error(records.stable, unit, flags=int(Flag.ENGINE_DOWN))
    assert guard.look(records.course()).worse == ""


def test_no_single_user_raises_an_alarm(records: Records):
    guard = StableGuard(EvidenceStore(records.database), records.course())
    for _ in range(60):
        records.error(records.stable, 1)
    assert guard.look(records.course()).worse == ""
    watch = promoted(records, satisfaction=0.9, error=0.0)
    mine = records.assignment("stable", 1.0, rollout=0, step=0, version=CANDIDATE)
    for _ in range(60):
        records.say(mine, 1, 0.0)
        records.error(mine, 1)
    assert watch.look(records.course()) == ""


def test_a_unit_counts_again_after_a_while():
    seldom = Seldom(10.0)
    assert [seldom.counts("error", b"u", at) for at in (0.0, 5.0, 10.0, 12.0, 20.5)] == [True, False, True, False, True]
    assert seldom.counts("empty", b"u", 5.0) and seldom.counts("error", b"v", 5.0)


def test_what_happens_without_the_candidate_is_counted(records: Records):
    guard = StableGuard(EvidenceStore(records.database), records.course())
    for unit in range(40):
        records.error(records.stable, unit)
    assert guard.look(records.course()).answers == 0
    held = records.course(hold=Hold(HoldKind.STABLE_ARM, "x", 2000.0))
    off = records.assignment("stable", 1.0, version=STABLE)
    for unit in range(30):
        records.answer(off, unit, at=2005.0)
    found = guard.look(held)
    assert (found.answers, found.bad, found.recovered) == (30, 0, True)
    for unit in range(100, 140):                        # what was queued when the candidate was taken off
        records.error(off, unit, at=2002.0)
    later = records.course(hold=Hold(HoldKind.STABLE_ARM, "x", 2000.0), ticked_at=2007.0)
    assert guard.look(later).recovered
    assert not guard.look(records.course(hold=Hold(HoldKind.STABLE_ARM, "x", 2000.0), ticked_at=2002.0)).recovered
    guard.forget()
    assert guard.look(held).worse == ""


def test_another_controller_goes_on_where_the_first_stopped(records: Records):
    store = EvidenceStore(records.database)
    first = StableGuard(store, records.course())
    for unit in range(5):
        records.error(records.stable, unit)
    first.look(records.course())
    state = json.loads(json.dumps(first.state))
    second = StableGuard(store, records.course(stable=state))
    assert second.look(records.course()).worse == first.look(records.course()).worse
    assert second.state == state


def promoted(records: Records, **reference: float):
    store = EvidenceStore(records.database)
    return AfterWatch(store, records.course(reference=reference, after={"cursors": store.ends()}))


def test_after_a_promotion_a_fall_of_satisfaction_is_noticed(records: Records):
    draw = random.Random(3)
    watch = promoted(records, satisfaction=0.8, error=0.0)
    mine = records.assignment("stable", 1.0, rollout=0, step=0, version=CANDIDATE)
    for unit in range(200):
        records.say(mine, unit, float(draw.random() < 0.8))
    assert watch.look(records.course()) == ""
    for unit in range(200):
        records.say(mine, 1000 + unit, float(draw.random() < 0.3))
    reason = watch.look(records.course())
    assert reason.startswith("after the promotion: mean satisfaction below")


def test_after_a_promotion_errors_and_rewards_are_watched(records: Records):
    mine = records.assignment("stable", 1.0, rollout=0, step=0, version=CANDIDATE)
    watch = promoted(records, **{"error": 0.01, "reward.exact": 0.9})
    for unit in range(30):
        records.grade(mine, unit, "exact", 0.1)
        records.grade(mine, unit, "odd-scale", 40.0)
    assert "reward.exact" in watch.look(records.course())
    overall = promoted(records, reward=0.9)
    for unit in range(30):
        records.grade(mine, unit, "exact", 0.1)
    assert "mean reward below" in overall.look(records.course())
    other = promoted(records, error=0.01)
    for unit in range(30):
        records.error(mine, unit)
    assert "error above" in other.look(records.course())


def test_without_a_reference_nothing_is_concluded(records: Records):
    mine = records.assignment("stable", 1.0, rollout=0, step=0, version=CANDIDATE)
    watch = promoted(records)
    for unit in range(50):
        records.error(mine, unit)
    assert watch.look(records.course()) == ""
