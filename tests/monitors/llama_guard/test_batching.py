from __future__ import annotations

import asyncio
import threading

import pytest

from monitors.llama_guard.batching import Batcher, Overloaded
from monitors.llama_guard.types import GuardUnavailable, Prompt, Scored
from tests.support.waiting import PATIENCE, eventually


class Counting:
    """A back end whose score is the first token, and that can be held."""

    name = "counting"

    def __init__(self):
        self.batches = []
        self.free = threading.Event()
        self.free.set()
        self.bad = None
        self.error: Exception = RuntimeError("boom")

    def prepare(self, heads):
        """Nothing to do."""

    def score(self, prompts, ask_above):
        self.free.wait(PATIENCE)
        self.batches.append([prompt.ids[0] for prompt in prompts])
        if any(prompt.ids[0] == self.bad for prompt in prompts):
            raise self.error
        return [Scored(float(prompt.ids[0]), f"{ask_above}") for prompt in prompts]


def prompts(*numbers, length=4):
    return [Prompt((number, *range(1, length))) for number in numbers]


@pytest.fixture
def backend():
    return Counting()


@pytest.fixture
async def batcher(backend):
    made = Batcher(backend, 0.5, size=4, tokens=64, limit=20)
    running = asyncio.create_task(made.run())
    yield made
    backend.free.set()
    running.cancel()


async def held(batcher, backend, *jobs):
    """Start one pass, and these jobs while it runs; then let go. All scores."""
    backend.free.clear()
    first = asyncio.create_task(batcher.score(prompts(99)))
    await eventually(lambda: batcher.waiting == 0 and batcher._arrived.is_set())
    rest = [asyncio.create_task(batcher.score(job)) for job in jobs]
    await eventually(lambda: batcher.waiting == sum(map(len, jobs)))
    backend.free.set()
    await first
    return await asyncio.gather(*rest)


async def test_what_waits_shares_a_pass_and_each_gets_its_own_score(batcher, backend):
    found = await held(batcher, backend, prompts(1), prompts(2, 3), prompts(4))
    assert [[score.margin for score in job] for job in found] == [[1.0], [2.0, 3.0], [4.0]]
    assert backend.batches == [[99], [1, 2, 4, 3]]
    assert found[0][0].written == "0.5"


async def test_a_long_job_takes_turns_with_short_ones(batcher, backend):
    await held(batcher, backend, prompts(*range(1, 11)), prompts(50), prompts(60))
    assert backend.batches[1] == [1, 50, 60, 2]
    assert sorted(number for batch in backend.batches for number in batch) == [*range(1, 11), 50, 60, 99]


async def test_a_pass_is_bounded_by_its_tokens_padding_included(batcher, backend):
    await held(batcher, backend, prompts(1, length=30), prompts(2), prompts(3), prompts(4))
    assert [len(batch) for batch in backend.batches] == [1, 2, 2]
    backend.batches.clear()
    assert (await batcher.score(prompts(7, length=500)))[0].margin == 7.0, "a prompt alone always fits"


async def test_too_much_waiting_is_refused(batcher, backend):
    with pytest.raises(Overloaded, match="0 prompts wait, 21 more"):
        await batcher.score(prompts(*range(1, 22)))
    backend.free.clear()
    running = asyncio.create_task(batcher.score(prompts(*range(100, 120))))
    await eventually(lambda: batcher.waiting == 16)
    with pytest.raises(Overloaded, match="16 prompts wait, 5 more are too many: 20 may"):
        await batcher.score(prompts(*range(200, 205)))
    backend.free.set()
    assert len(await running) == 20
    assert batcher.waiting == 0


async def test_one_bad_prompt_does_not_cost_the_others_theirs(batcher, backend):
    backend.bad = 2
    found = await held(batcher, backend, prompts(1), prompts(2), prompts(3))
    assert [job[0].margin for job in found] == [1.0, None, 3.0]
    assert found[1][0].reason == "the guard failed: RuntimeError"
    backend.bad = None
    assert (await batcher.score(prompts(2)))[0].margin == 2.0, "a failure is not remembered"


async def test_an_engine_that_is_away_is_not_asked_again_for_each_prompt(batcher, backend):
    backend.bad, backend.error = 2, GuardUnavailable("the engine is away")
    found = await held(batcher, backend, prompts(1), prompts(2))
    assert [(job[0].margin, job[0].reason) for job in found] == [(None, "the engine is away")] * 2
    assert len(backend.batches) == 2


async def test_a_known_prompt_costs_nothing(batcher, backend):
    await batcher.score(prompts(1, 2))
    again = await batcher.score([*prompts(1), *prompts(5), *prompts(2)])
    assert [score.margin for score in again] == [1.0, 5.0, 2.0]
    assert backend.batches == [[1, 2], [5]]
    await batcher.score([Prompt(prompts(1)[0].ids, codes=("S1",))])
    assert backend.batches[-1] == [1], "asked for categories, it is another question"


async def test_nobody_waits_for_what_was_cancelled(batcher, backend):
    backend.free.clear()
    first = asyncio.create_task(batcher.score(prompts(99)))
    await eventually(lambda: batcher.waiting == 0 and batcher._arrived.is_set())
    gone = asyncio.create_task(batcher.score(prompts(1, 2)))
    await eventually(lambda: batcher.waiting == 2)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert batcher.waiting == 0
    backend.free.set()
    await first
    assert (await batcher.score(prompts(3)))[0].margin == 3.0
    assert backend.batches == [[99], [3]]
