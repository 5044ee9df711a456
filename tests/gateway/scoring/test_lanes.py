"""Lanes: batches, bounds, failures of one sample or one grader, graders that come later."""

from __future__ import annotations

import asyncio
import threading

import pytest

from adapters.errors import GraderError, GraderUnavailable
from gateway.errors import ApiError
from gateway.scoring import lanes
from gateway.scoring.lanes import Lane, Scorer, self_test
from gateway.scoring.metrics import ScoringMetrics
from monitors.rewards.composite import Composite
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample
from tests.support.waiting import eventually


class Scripted:
    """Scores an answer by its text: a number, or "boom", "nan", "none"."""

    def __init__(self, name="one", unready=0):
        self.name, self.fingerprint, self.unready = name, name * 2, unready
        self.batches, self.asked = [], 0
        self.hold = threading.Event()
        self.hold.set()

    def prepare(self):
        if self.unready:
            self.unready -= 1
            raise GraderUnavailable("the judge sleeps")

    def score(self, samples):
        self.asked += 1
        assert self.hold.wait(60)
        texts = [sample.completion for sample in samples]
        self.batches.append(texts)
        if "boom" in texts:
            raise ZeroDivisionError("boom")
        return [None if text == "none" else float(text) if text != "4" else 0.4 for text in texts]  # 4: the self-test


def answers(*texts):
    return [Sample((), text) for text in texts]


class Running:
    """A scorer at work."""

    def __init__(self, *graders, limit=100, batch=8, wait=0.01, specs=None):
        self.metrics = ScoringMetrics([grader.name for grader in graders])
        made = [Lane(grader, batch=batch, wait=wait, metrics=self.metrics) for grader in graders]
        composite = Composite(graders, specs) if specs else None
        self.scorer = Scorer(made, composite, limit, self.metrics)

    async def __aenter__(self):
        await self.scorer.prepare()
        self.task = asyncio.create_task(self.scorer.run())
        return self.scorer

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def counted(self):
        text = self.metrics.exposition("")[0].decode()
        lines = [line.split() for line in text.splitlines() if line.startswith("understudy_scoring_samples_total")]
        return {name.partition('outcome="')[2][:-2]: float(value) for name, value in lines}


async def test_requests_that_come_together_are_scored_together():
    grader = Scripted()
    async with Running(grader, batch=4) as scorer:
        grader.hold.clear()
        first = asyncio.create_task(scorer.score(answers("0.1")))
        await eventually(lambda: grader.asked == 2)  # after the self-test
        rest = [asyncio.create_task(scorer.score(answers(f"0.{n}", "1"))) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        grader.hold.set()
        assert await first == [{"one": 0.1}]
        assert [await task for task in rest] == [[{"one": n / 10}, {"one": 1.0}] for n in (2, 3, 4)]
    assert grader.batches[1:] == [["0.1"], ["0.2", "1", "0.3", "1"], ["0.4", "1"]]


async def test_no_grader_waits_for_another_and_composite_is_their_mean():
    quick, slow = Scripted("quick"), Scripted("slow")
    specs = [RewardSpec(name="quick", weight=3), RewardSpec(name="slow")]
    async with Running(quick, slow, specs=specs) as scorer:
        slow.hold.clear()
        tasks = [asyncio.create_task(scorer.score(answers("0.5"))) for _ in range(3)]
        while len(quick.batches) < 2:
            await asyncio.sleep(0.005)
        assert not any(task.done() for task in tasks)
        slow.hold.set()
        assert await tasks[0] == [{"quick": 0.5, "slow": 0.5, "composite": 0.5}]
        assert await scorer.score(answers("none")) == [{"quick": None, "slow": None, "composite": None}]
        assert scorer.fingerprints().keys() == {"quick", "slow", "composite"}
        await asyncio.gather(*tasks)


async def test_one_bad_sample_costs_only_itself():
    grader = Scripted()
    async with (running := Running(grader, batch=8)) as scorer:
        rows = await scorer.score(answers("0.5", "boom", "none", "nan", "7", "1"))
    assert [row["one"] for row in rows] == [0.5, None, None, None, None, 1.0]
    assert running.counted() == {"scored": 2.0, "missing": 1.0, "failed": 3.0}


async def test_too_much_at_once_is_refused_and_room_comes_back():
    grader = Scripted()
    async with Running(grader, limit=3) as scorer:
        grader.hold.clear()
        waiting = asyncio.create_task(scorer.score(answers("1", "1")))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="2 samples wait already, 3 may") as caught:
            await scorer.score(answers("1", "1"))
        assert caught.value.status == 503 and dict(caught.value.headers)["retry-after"] == "1"
        grader.hold.set()
        await waiting
        assert len(await scorer.score(answers("1", "1", "1"))) == 3


async def test_what_nobody_waits_for_is_not_scored():
    grader = Scripted()
    async with Running(grader, batch=1) as scorer:
        grader.hold.clear()
        first = asyncio.create_task(scorer.score(answers("0.1")))
        await eventually(lambda: grader.asked == 2)  # after the self-test
        gone = asyncio.create_task(scorer.score(answers("0.2")))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        grader.hold.set()
        await first
        await scorer.score(answers("0.3"))
    assert grader.batches[1:] == [["0.1"], ["0.3"]]


async def test_a_grader_that_is_away_at_first_comes_later(monkeypatch):
    monkeypatch.setattr(lanes, "_RETRY", (0.01, 0.02))
    late, here = Scripted("late", unready=3), Scripted("here")
    specs = [RewardSpec(name="late"), RewardSpec(name="here", required=False)]
    async with Running(late, here, specs=specs) as scorer:
        assert scorer.reasons() == {"late": "the judge sleeps"}
        assert scorer.fingerprints() == {"late": None, "here": "herehere", "composite": None}
        assert await scorer.score(answers("1")) == [{"late": None, "here": 1.0, "composite": None}]
        while scorer.reasons():
            await asyncio.sleep(0.005)
        assert await scorer.score(answers("1")) == [{"late": 1.0, "here": 1.0, "composite": 1.0}]


@pytest.mark.parametrize(("score", "message"), [(2.0, r"gave 2\.0 in its self-test"), (float("nan"), "gave nan"), ("x", "gave 'x'"), (True, "gave True")])
async def test_a_broken_grader_is_found_before_anything_is_served(score, message):
    grader = Scripted("odd")
    grader.score = lambda samples: [score]
    with pytest.raises(GraderError, match=message) as caught:
        await Running(grader).scorer.prepare()
    assert "odd" in str(caught.value)
    grader.score = lambda samples: [None]
    assert self_test(grader) == "oddodd"
