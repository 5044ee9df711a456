"""Real workers, a real controller loop, real time: from the event that decides to the last request that a bad version
gets. The figures are printed; that it gets none afterwards is what is tested."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from adapters import tables
from adapters.rollouts import Phase
from gateway.config import EngineSettings, Settings
from tests.support.fake_engine import FakeEngine
from tests.support.peft import small_base
from tests.support.serving import CHAT, Gateway, adopted, serving
from tests.support.traffic import begin, quick_plan
from tests.support.waiting import PATIENCE
from tests.support.world import Clock, World


class RealClock(Clock):
    """The real time, which nobody can move."""

    def __call__(self) -> float:
        return time.time()

    @property
    def now(self) -> float:
        return time.time()

    @now.setter
    def now(self, _value: float) -> None:
        """Passes by itself."""


class Users:
    """Ask without pause, each with a unit of its own."""

    def __init__(self, gateway: Gateway, count: int) -> None:
        self.statuses: list[int] = []
        self.answers: list[tuple[float, int, int]] = []  # (when it was asked, user, status)
        self.gone = asyncio.Event()
        self._gateway, self._count = gateway, count
        self._stop = asyncio.Event()

    async def run(self) -> None:
        http = httpx.AsyncClient(base_url=self._gateway.url, timeout=PATIENCE)
        async with http, asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._one(http, number))
        self.gone.set()

    async def _one(self, http: httpx.AsyncClient, number: int) -> None:
        body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
        turn = 0
        while not self._stop.is_set():
            headers = {"x-understudy-unit": f"user {number} {turn}"}
            began = time.time()
            status = (await http.post(CHAT, json=body, headers=headers)).status_code
            self.statuses.append(status)
            self.answers.append((began, number, status))
            turn += 1
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()

    async def leave(self) -> None:
        """Nothing of theirs is under way any more."""
        self.stop()
        await asyncio.wait_for(self.gone.wait(), PATIENCE)


async def wait_for(condition, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.025)


def deciding(world: World, rollout: int, events: int) -> float:
    """When the answer that tipped the scales ended."""
    query = select(tables.bad_events.c.at).where(tables.bad_events.c.rollout == rollout).order_by(tables.bad_events.c.id)
    with world.database.read() as connection:
        return list(connection.execute(query).scalars())[int(events) - 1]


@contextlib.asynccontextmanager
async def ramping(tmp_path: Path, breaker: int):
    """(world, rollout, engine, users, candidate, gateway): half of the users get the candidate; everything is real but vLLM."""
    engine = FakeEngine(tmp_path / "e0.sock").start()
    with serving(tmp_path) as gateway:
        urls = EngineSettings(managed=False, urls=(engine.url,))
        settings = Settings(data_dir=gateway.data_dir, engine=urls)
        world = World(tmp_path, settings, gateway.database, small_base(tmp_path / "base"), [engine], RealClock())
        stable, candidate = world.push(seed=1), world.push(seed=2)
        world.routes.set_target("r", stable)
        controller, stop = world.follower("one"), asyncio.Event()
        running = asyncio.create_task(controller.run(stop))
        users = Users(gateway, 8)
        asking = None
        try:
            await wait_for(lambda: world.route().version == stable, "stable does not serve")
            steps = [{"weight": "50%", "min_units": 10**6, "advance": "evidence"}]
            rollout = begin(world, candidate, quick_plan(step=steps, breaker=breaker))
            await asyncio.to_thread(gateway.start, "/readyz")
            asking = asyncio.create_task(users.run())
            await wait_for(lambda: any(model == candidate for _, model in engine.chats), "the candidate is not asked")
            yield world, rollout, engine, users, candidate, gateway
        finally:
            users.stop()
            stop.set()
            await asyncio.gather(running, *([asking] if asking else []))
            engine.stop()


@pytest.mark.parametrize("breaker", [1000, 5], ids=["evidence", "breaker"])
async def test_a_version_that_breaks_gets_no_more_requests(tmp_path, breaker):
    async with ramping(tmp_path, breaker) as (world, rollout, engine, users, candidate, gateway):
        before = len(users.statuses)
        assert users.statuses == [200] * before
        broke = time.time()
        engine.misbehave.failing = {candidate}
        await wait_for(lambda: world.rollouts.get(rollout.id).phase is Phase.ROLLED_BACK, "it is not taken back")
        await asyncio.sleep(0.6)  # the switch is announced 0.15 s ahead
        await adopted(gateway)
        switched = time.time()
        await wait_for(lambda: len({user for at, user, _ in users.answers if at > switched}) == 8, "somebody waits")
        done, last = world.rollouts.get(rollout.id), max(at for at, model in engine.chats if model == candidate)
        event = world.rollouts.events(rollout.id)[-1]
        asked = sum(at >= broke for at, model in engine.chats if model == candidate)
        since = len(users.statuses)
        await wait_for(lambda: len(users.statuses) > since + 30, "nobody is answered")
        assert last == max(at for at, model in engine.chats if model == candidate), "it is still asked"
        assert {status for at, _, status in users.answers if at > switched} == {200}
        if event.numbers["cause"] == "error":
            decided = deciding(world, rollout.id, event.numbers["events"])
            print(f"deciding event to last start on the candidate: {max(0.0, last - decided):.3f} s")
        print(f"{done.reason}; first failure to last start {last - broke:.3f} s, {asked} requests to the bad version")
        assert event.numbers["cause"] == ("error" if breaker > 5 else event.numbers["cause"])
