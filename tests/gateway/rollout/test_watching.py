"""Judgements in the background: of exactly this step, never more often than they may be, and no harm from a bug."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from adapters.evidence_store import EvidenceStore
from adapters.evidence_sums import EvidenceSums
from gateway.rollout import watching
from gateway.rollout.watching import JUDGE_EVERY, Watched
from tests.support.records import Records
from tests.support.world import Clock


@pytest.fixture
def records(database) -> Records:
    return Records(database)


def watch(records: Records, clock: Clock) -> Watched:
    return Watched(records.course(), EvidenceStore(records.database), EvidenceSums(records.database), clock)


async def judged(watched: Watched) -> None:
    watched.judge_if_due()
    if watched.judging:
        await watched.judging


async def test_a_judgement_belongs_to_one_generation(records: Records):
    watched = watch(records, Clock(100.0))
    records.answer(records.candidate, 1)
    await judged(watched)
    assert watched.analysis is not None and watched.units == {"candidate": 1, "stable": 0}
    assert watched.seen()["analysis"]["decision"] == "continue"
    later = replace(watched.course, rollout=replace(watched.course.rollout, generation=1))
    watched.replaced(later)
    assert watched.analysis is None and watched.seen()["analysis"] is None


async def test_the_first_cold_answer_is_reported_apart(records: Records):
    watched = watch(records, Clock(100.0))
    records.answer(records.stable, 1, ttft=0.2)
    records.answer(records.candidate, 2, ttft=None)
    records.answer(records.candidate, 3, ttft=4.5)
    records.answer(records.candidate, 4, ttft=0.3)
    watched.read()
    assert watched.first_ttft == 4.5 and watched.seen()["first_ttft"] == 4.5


async def test_they_keep_a_distance_that_grows_with_what_they_take(records: Records):
    clock = Clock(100.0)
    watched = watch(records, clock)
    await judged(watched)
    first = watched.judged
    clock.now += JUDGE_EVERY / 2
    await judged(watched)
    assert watched.judged is first
    watched._took = 10.0                   # a long look at many records
    clock.now += 100.0
    await judged(watched)
    assert watched.judged is first
    clock.now += 110.0
    await judged(watched)
    assert watched.judged is not first


async def test_a_bug_in_a_statistic_concludes_nothing(records: Records, monkeypatch, caplog):
    def broken(*_args):
        raise ZeroDivisionError

    monkeypatch.setattr(watching, "conclude", broken)
    watched = watch(records, Clock(100.0))
    await judged(watched)
    assert watched.analysis is None and watched.judging is None and "could not be judged" in caplog.text


async def test_what_is_under_way_stops_with_it(records: Records):
    watched = watch(records, Clock(100.0))
    watched.judge_if_due()
    watched.close()
    with pytest.raises(asyncio.CancelledError):
        await watched.judging
