"""Sums over units, made by the database, against the same made from plain lists."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from adapters.evidence_sums import Before, EvidenceSums, Segment, Units, is_pair_of, score_rows
from adapters.types import Flag
from monitors.analysis import ArmSums
from tests.support.records import Records


@pytest.fixture
def records(database) -> Records:
    return Records(database)


def segment(records: Records, *earlier: int) -> Segment:
    return Segment((records.candidate,), (records.stable,), earlier)


def test_answers_are_summed_over_units(records: Records):
    draw = random.Random(1)
    bad: dict[tuple[int, int], list[float]] = defaultdict(list)
    tokens: dict[tuple[int, int], list[float]] = defaultdict(list)
    for _ in range(200):
        arm, unit = draw.choice((records.candidate, records.stable)), draw.randrange(20)
        failed, count = draw.random() < 0.3, draw.choice((None, draw.randrange(50)))
        more = {"status": 500, "outcome": "error"} if failed else {}
        records.answer(arm, unit + 100 * (arm == records.stable), output_tokens=count, **more)
        bad[arm, unit].append(float(failed))
        if count is not None:
            tokens[arm, unit].append(float(count))
    records.error(records.candidate, 7, flags=int(Flag.ENGINE_DOWN))
    found = EvidenceSums(records.database).answers(segment(records), {"error": 0.0, "tokens": 0.0, "ttft": 0.0})
    for name, lists in (("error", bad), ("tokens", tokens)):
        for side, arm in enumerate((records.candidate, records.stable)):
            units = [values for (a, _), values in lists.items() if a == arm]
            wanted = ArmSums.of([sum(v) for v in units], [float(len(v)) for v in units])
            assert ArmSums(int(found[name][side][0]), *found[name][side][1:]) == wanted
    assert found["ttft"][0][0] == len({unit for arm, unit in bad if arm == records.candidate})


def test_slow_answers_count_among_those_that_could_be_slow(records: Records):
    records.answer(records.candidate, 1, ttft=3.0)
    records.answer(records.candidate, 1, ttft=None)
    records.answer(records.candidate, 2, ttft=0.5, duration=9.0)
    found = EvidenceSums(records.database).answers(segment(records), {"slow_ttft": 2.0, "slow_duration": 5.0})
    assert found["slow_ttft"][0][:2] == (2, 1.0) and found["slow_ttft"][0][3] == 2.0
    assert found["slow_duration"][0][:2] == (2, 1.0) and found["slow_duration"][0][3] == 3.0
    assert found["slow_ttft"][1] == (0.0,) * 6


def test_of_feedback_the_last_word_counts(records: Records):
    records.say(records.candidate, 1, 0.0, response="a" * 48)
    records.say(records.candidate, 1, 1.0, response="a" * 48)
    records.say(records.candidate, 1, 0.4, response="a" * 48, kind="rating")
    records.say(records.stable, 2, 0.0, response="b" * 48)
    found = EvidenceSums(records.database).words(segment(records), ["satisfaction", "thumbs_down"])
    assert found["satisfaction"][0] == pytest.approx((1, 1.4, 1.96, 2.0, 4.0, 2.8))
    assert found["thumbs_down"][0][:2] == (1, 1.0) and found["thumbs_down"][1][:2] == (1, 1.0)


def test_what_a_unit_said_before_is_its_covariate(records: Records):
    """x is the difference from everybody's mean before; somebody new has none."""
    outside = records.assignment("stable", 1.0, rollout=0, step=0)
    other = records.assignment("stable", 1.0, rollout=99, step=3)
    for assignment, unit, score in ((outside, 1, 1.0), (outside, 1, 0.5), (other, 2, 0.25), (outside, 9, 0.0)):
        records.say(assignment, unit, score, at=500.0)
    records.say(outside, 2, 1.0, at=100.0)      # too long ago
    for unit, score in ((1, 1.0), (2, 0.5), (3, 0.0)):
        records.say(records.candidate, unit, score)
    records.say(records.stable, 9, 1.0)
    found = EvidenceSums(records.database).words(
        segment(records), ["satisfaction", "thumbs_down"], Before("r", 200.0, 1000.0)
    )
    mean = (0.75 + 0.25 + 0.0) / 3
    x = [0.75 - mean, 0.25 - mean, 0.0]
    wanted = ArmSums.of([1.0, 0.5, 0.0], [1.0] * 3, x)
    ours = ArmSums(int(found["satisfaction"][0][0]), *found["satisfaction"][0][1:])
    assert [getattr(ours, n) for n in ("m", "mm", "d", "x", "xx", "xm", "xd")] == pytest.approx(
        [getattr(wanted, n) for n in ("m", "mm", "d", "x", "xx", "xm", "xd")]
    )
    assert found["satisfaction"][1][6] == pytest.approx(-mean) and len(found["thumbs_down"][0]) == 6


def test_scores_have_covariates_too(records: Records):
    outside = records.assignment("stable", 1.0, rollout=0, step=0)
    records.grade(outside, 1, "exact", 0.5, at=500.0)
    records.grade(outside, 2, "exact", 0.0, at=500.0)
    for unit in (1, 2, 3):
        records.grade(records.candidate, unit, "exact", 1.0)
    names = {name: score_rows(name) for name in ("reward", "text.words", "reward.exact")}
    found = EvidenceSums(records.database).scores(segment(records), names, Before("r", 0.0, 1000.0))
    for name in ("reward", "reward.exact"):
        assert found[name][0][6:8] == pytest.approx((0.0, 2 * 0.25**2))
    assert found["text.words"][0] == (0.0,) * 10


def test_scores_by_grader_and_all_together(records: Records):
    records.grade(records.candidate, 1, "exact", 1.0)
    records.grade(records.candidate, 1, "judge", 0.5)
    records.grade(records.candidate, 2, "text.characters", 80.0)
    names = {name: score_rows(name) for name in ("reward", "reward.exact", "text.characters")}
    found = EvidenceSums(records.database).scores(segment(records), names)
    assert found["reward"][0] == pytest.approx((1, 1.5, 2.25, 2.0, 4.0, 3.0))
    assert found["reward.exact"][0][:2] == (1, 1.0)
    assert found["text.characters"][0][:2] == (1, 80.0)


def test_pairs_match_as_scores_do():
    assert is_pair_of("reward", "exact") and not is_pair_of("reward", "text.words")
    assert is_pair_of("reward.exact", "exact") and not is_pair_of("reward.exact", "judge")
    assert is_pair_of("text.words", "text.words")


def test_units_that_changed_arm_count_for_the_candidate(records: Records):
    earlier = records.assignment("candidate", 0.1)
    for arm, unit in (
        (records.candidate, 1), (records.candidate, 1), (records.stable, 1), (records.stable, 2), (records.stable, 3),
        (earlier, 3), (earlier, 4), (records.candidate, 4), (records.candidate, 5),
    ):  # fmt: skip
        records.answer(arm, unit)
    units = EvidenceSums(records.database).units(segment(records, earlier))
    assert units == Units(candidate=3, stable=2, new_candidate=2, new_stable=1)


def test_nothing_is_nothing(records: Records):
    sums = EvidenceSums(records.database)
    assert sums.units(Segment((), ())) == Units() and sums.answers(Segment((), ()), {"error": 0.0}) == {}
    assert sums.units(segment(records)) == Units() and sums.pairs(records.rollout.id) == []
    assert sums.answers(segment(records), {"error": 0.0})["error"] == ((0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0))
