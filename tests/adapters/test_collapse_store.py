"""Pairs of reward and satisfaction by cursor, each user once a day; and detectors by compare-and-swap."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.collapse_store import DAY, MOST_PAIRS, CollapseStore, Wanted
from adapters.errors import Conflict
from tests.support.records import CANDIDATE, STABLE, Records

WANTED = Wanted(("thumb",), "exact")
NOON = 20_000 * DAY + DAY / 2


@pytest.fixture
def records(database) -> Records:
    return Records(database)


@pytest.fixture
def store(records: Records) -> CollapseStore:
    return CollapseStore(records.database)


def pair(records: Records, unit: int, reward: float, score: float, *, arm: int = 0, at: float = NOON, **more) -> str:
    """An answer of the candidate that is graded, described and rated."""
    arm = arm or records.candidate
    response = records.answer(arm, unit, at=at)
    records.grade(arm, unit, "exact", reward, response=response, at=at)
    records.grade(arm, unit, "text.tokens", 7.0, response=response, at=at)
    records.say(arm, unit, score, response=response, at=at, **more)
    return response


def read(store: CollapseStore, records: Records, after: int = 0, wanted: Wanted = WANTED):
    return store.pairs([records.candidate], after, store.ends()[1], wanted)


def test_a_pair_has_the_scores_of_its_answer(store, records):
    pair(records, 1, 0.25, 1.0)
    pair(records, 2, 0.5, 0.0, arm=records.stable)
    (found,), upto = read(store, records)
    assert (found.satisfaction, dict(found.scores)) == (1.0, {"exact": 0.25, "text.tokens": 7.0})
    assert upto == store.ends()[1] == 2 and read(store, records, upto) == ([], upto)


def test_feedback_without_a_reward_and_other_kinds_do_not_count(store, records):
    records.say(records.candidate, 1, 0.0, response=records.answer(records.candidate, 1))
    pair(records, 2, 0.5, 0.0, kind="regenerate")
    pair(records, 3, 0.5, 1.0)
    assert [p.satisfaction for p in read(store, records)[0]] == [1.0]
    both = Wanted(("thumb", "regenerate"), "exact")
    assert [p.satisfaction for p in read(store, records, wanted=both)[0]] == [0.0, 1.0]


def test_scores_are_known_with_and_without_the_prefix_of_rewards(store, records):
    response = records.answer(records.candidate, 1)
    records.grade(records.candidate, 1, "reward.exact", 0.75, response=response)
    records.say(records.candidate, 1, 1.0, response=response)
    (found,), upto = read(store, records)
    assert WANTED.reward(found.scores) == 0.75 and len(store.newest([records.candidate], upto, 9, WANTED)) == 1


def test_without_a_grader_the_reward_is_the_mean_of_all_but_texts(store, records):
    response = pair(records, 1, 0.2, 1.0)
    records.grade(records.candidate, 1, "other", 0.6, response=response)
    (found,), _ = read(store, records, wanted=Wanted(("thumb",)))
    assert Wanted(("thumb",)).reward(found.scores) == pytest.approx(0.4)
    assert Wanted(("thumb",), "third").reward(found.scores) is None
    assert read(store, records, wanted=Wanted(("thumb",), "third"))[0] == []


def test_a_user_counts_once_a_day_however_it_is_read(store, records):
    for unit, at in ((1, NOON), (2, NOON), (1, NOON + 60), (1, NOON + DAY), (2, NOON + 5), (1, NOON - DAY)):
        pair(records, unit, 0.5, 1.0, at=at)
    whole, end = read(store, records)
    one_by_one = [found for after in range(end) for found in store.pairs([records.candidate], after, after + 1, WANTED)[0]]
    assert [p.id for p in whole] == [p.id for p in one_by_one] == [1, 2, 4, 6]


def test_the_days_first_word_with_a_reward_is_the_one(store, records):
    records.say(records.candidate, 1, 0.0, response=records.answer(records.candidate, 1), at=NOON)
    pair(records, 1, 0.5, 1.0, at=NOON + 1)
    pair(records, 1, 0.5, 0.0, at=NOON + 2)
    assert [p.satisfaction for p in read(store, records)[0]] == [1.0]
    assert [p.id for p in store.pairs([records.candidate], 2, 3, WANTED)[0]] == []


def test_long_readings_go_on_where_they_stopped(store, records, monkeypatch):
    monkeypatch.setattr("adapters.collapse_store.MOST_PAIRS", 3)
    for unit in range(8):
        pair(records, unit, 0.5, 1.0)
    found, after = [], 0
    while after < store.ends()[1]:
        part, after = read(store, records, after)
        assert len(part) <= 3
        found += part
    assert [p.id for p in found] == list(range(1, 9)) and MOST_PAIRS > 3


def test_the_baseline_is_the_newest_a_user_once_a_day(store, records):
    for unit in (1, 2, 3, 3, 4):
        pair(records, unit, 0.5, 1.0)
    assert [p.id for p in store.newest([records.candidate], 5, 3, WANTED)] == [2, 3, 5]
    assert [p.id for p in store.newest([records.candidate], 4, 10, WANTED)] == [1, 2, 3]


def test_answers_and_feedback_are_counted(store, records):
    for unit in range(4):
        records.answer(records.candidate, unit)
    records.error(records.candidate, 9)
    records.answer(records.stable, 9)
    pair(records, 1, 0.5, 1.0, at=NOON)
    arms = [records.candidate]
    records.say(records.candidate, 1, 0.0, kind="abandon", at=NOON)
    assert store.counts(arms, (0, store.ends()[0]), (0, 1)) == (5, 1, 0)
    assert store.counts(arms, (4, store.ends()[0]), (1, 9)) == (1, 1, 1)
    assert store.counts_between(arms, NOON, NOON) == (1, 2, 1)


def test_reading_may_begin_before_the_first_record(store, records, monkeypatch):
    monkeypatch.setattr("adapters.collapse_store.OVERLAP", 2)
    assert store.before_first([records.candidate]) == (0, 0)
    for unit in range(5):
        pair(records, unit, 0.5, 1.0, arm=records.stable)
    pair(records, 6, 0.5, 1.0)
    assert store.before_first([records.candidate]) == (4, 4) and store.before_first([records.stable]) == (0, 0)


def test_arms_are_what_users_saw(store, records):
    shadow = records.assignment("shadow", 0.1, step=0)
    alone = records.assignment("stable", 1.0, rollout=0, step=0)
    assert set(store.arms("r", CANDIDATE)) == {records.candidate, alone} and shadow not in store.arms("r", CANDIDATE)
    assert store.arms("r", CANDIDATE, records.rollout.id, "candidate") == [records.candidate]
    assert store.arms("r", STABLE, records.rollout.id) == [records.stable]


def test_a_detector_is_written_by_one_at_a_time(store):
    first = store.load("r", CANDIDATE, "alone")
    assert first.revision == 0
    written = store.save(replace(first, words=3, calibration={"n": 1}, state={"x": 0.1}))
    with pytest.raises(Conflict, match="somebody else"):
        store.save(first)
    again = store.save(replace(written, words=4, calibration={}))
    assert store.load("r", CANDIDATE, "alone") == replace(again, calibration={"n": 1})  # not written again
    with pytest.raises(Conflict):
        store.save(written)
    assert store.save(replace(again, calibration={"n": 2}), calibrated=True).revision == 3
    assert store.load("r", CANDIDATE, "alone").calibration == {"n": 2}
    assert store.load("r", CANDIDATE, "after:1").revision == 0


def test_old_detectors_go(store):
    for scope, at in (("after:1", 10.0), ("alone", 20.0)):
        store.save(replace(store.load("r", CANDIDATE, scope), updated_at=at))
    assert store.forget(15.0) == 1
    assert (store.load("r", CANDIDATE, "after:1").revision, store.load("r", CANDIDATE, "alone").revision) == (0, 1)
