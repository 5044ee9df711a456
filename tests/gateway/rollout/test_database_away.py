"""PostgreSQL away in the middle of a rollout: frozen, and then stopped and started again. Real workers and users.

Users are served from the last snapshot, nothing is concluded meanwhile, that it is held is said, no record is lost or
counted twice, and afterwards the rollout goes on. `python -m deploy.proof.away` does the same for a minute on a real
vLLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from adapters import tables
from adapters.rollouts import Phase, Rollout
from gateway.config import EngineSettings, Settings
from gateway.control_plane import lease, patience
from tests.gateway.rollout.test_rerouting import RealClock, Users, wait_for
from tests.support.fake_engine import FakeEngine
from tests.support.peft import small_base
from tests.support.postgres import Postgres
from tests.support.serving import CHAT, Gateway, serving
from tests.support.traffic import begin, quick_plan
from tests.support.waiting import PATIENCE
from tests.support.world import World

pytestmark = pytest.mark.postgres
FROZEN, STOPPED = 2.5, 4.0     # seconds


class Site:
    """Everything is real but vLLM: two workers, a controller's loop, eight users, a rollout at 50 %."""

    def __init__(self, world: World, gateway: Gateway, users: Users, rollout: Rollout, candidate: str) -> None:
        self.world, self.gateway, self.users, self.candidate = world, gateway, users, candidate
        self.rollout = rollout
        self.engine = world.engines[0]

    @property
    def row(self) -> Rollout:
        return self.world.rollouts.get(self.rollout.id)

    async def served_meanwhile(self, seconds: float) -> Counter[int]:
        """What users are told in so many seconds; fifty answers at least."""
        before = len(self.users.statuses)
        await asyncio.sleep(seconds)
        await wait_for(lambda: len(self.users.statuses) > before + 50, "users wait")
        return Counter(self.users.statuses[before:])

    def recorded(self) -> tuple[int, int]:
        """(rows, response ids) of answers in the database."""
        rows = tables.responses.c
        with self.world.database.read() as connection:
            found = connection.execute(select(func.count(), func.count(rows.response_id.distinct()))).one()
        return found[0], found[1]


@contextlib.asynccontextmanager
async def site(tmp_path: Path, postgres: Postgres) -> AsyncIterator[Site]:
    engine = FakeEngine(tmp_path / "e0.sock").start()
    with serving(tmp_path, workers=2, url=postgres.create()) as gateway:
        settings = Settings(data_dir=gateway.data_dir, engine=EngineSettings(managed=False, urls=(engine.url,)))
        world = World(tmp_path, settings, gateway.database, small_base(tmp_path / "base"), [engine], RealClock())
        stable, candidate = world.push(seed=1), world.push(seed=2)
        world.routes.set_target("r", stable)
        controller, stop = world.follower("one"), asyncio.Event()
        running, asking = asyncio.create_task(controller.run(stop)), None
        users = Users(gateway, 8)
        try:
            await wait_for(lambda: world.route().version == stable, "stable does not serve")
            steps = [{"weight": "50%", "min_units": 10**6, "advance": "evidence"}]
            rollout = begin(world, candidate, quick_plan(step=steps))
            await asyncio.to_thread(gateway.start, "/readyz")
            asking = asyncio.create_task(users.run())
            await wait_for(lambda: any(model == candidate for _, model in engine.chats), "the candidate is not asked")
            yield Site(world, gateway, users, rollout, candidate)
        finally:
            users.stop()
            stop.set()
            await asyncio.gather(running, *([asking] if asking else []))
            await controller.fleet.close()
            engine.stop()


async def held_quietly(place: Site, seconds: float, before: Rollout, asked: int) -> None:
    """While the database is away everybody is served, by the same two versions, and nobody decides anything."""
    told = await place.served_meanwhile(seconds)
    assert set(told) == {200}
    assert sum(model == place.candidate for _, model in place.engine.chats) > asked, "the candidate lost its share"


async def test_a_database_that_is_away_for_a_while_costs_nobody_anything(
    tmp_path: Path, own_postgres: Postgres, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "STUCK", 1.0)
    caplog.set_level(logging.INFO, "understudy")
    async with site(tmp_path, own_postgres) as place:
        before, asked = place.row, sum(model == place.candidate for _, model in place.engine.chats)
        own_postgres.freeze()
        try:
            await held_quietly(place, FROZEN, before, asked)
            said = "holding everything as it is: the database has not answered"
            await wait_for(lambda: said in caplog.text, "it is not said")
        finally:
            own_postgres.thaw()
        thawed, leader = time.monotonic(), place.world.controllers[0]
        await wait_for(lambda: place.recorded()[0] > 0 and place.row.open, "nothing is recorded")
        # Its lease may have run out: who does not lead has nothing to say when the database goes next.
        await wait_for(lambda: leader.leads and leader.lease._until >= thawed + lease.TTL, "nobody leads")

        asked = sum(model == place.candidate for _, model in place.engine.chats)
        own_postgres.stop()
        await held_quietly(place, STOPPED, before, asked)
        await wait_for(lambda: "holding everything as it is: database" in caplog.text, "it is not said")
        await asyncio.to_thread(own_postgres.start)
        await wait_for(lambda: "the database is back" in caplog.text, "the controller does not come back")
        row = place.row
        assert (row.phase, row.step, row.weight, row.generation) == (Phase.RAMP, 1, 0.5, before.generation)

        await place.users.leave()
        answered = len(place.users.statuses)
        await wait_for(lambda: place.recorded()[0] >= answered, f"{place.recorded()} of {answered} answers are recorded")
        assert place.recorded() == (answered, answered) and set(place.users.statuses) == {200}
        assert place.gateway.metric("understudy_events_dropped_total") == 0

        place.engine.misbehave.failing = {place.candidate}   # it goes on: a version that breaks now is taken back
        async with httpx.AsyncClient(base_url=place.gateway.url, timeout=PATIENCE) as http:
            for number in range(400):
                body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
                await http.post(CHAT, json=body, headers={"x-understudy-unit": f"late {number}"})
                if not place.row.open:
                    break
        await wait_for(lambda: place.row.phase is Phase.ROLLED_BACK, "it does not go on")
        assert place.world.route().version == place.row.stable


async def test_a_worker_that_cannot_start_meanwhile_does_not_take_the_others_with_it(
    tmp_path: Path, own_postgres: Postgres
) -> None:
    async with site(tmp_path, own_postgres) as place:
        await place.users.leave()
        assert place.gateway.process is not None
        parent = place.gateway.process.pid
        await wait_for(lambda: len(_workers(parent)) == 2, "two workers")
        victim = max(_workers(parent))
        os.kill(victim, signal.SIGSTOP)
        body = {"model": "r", "messages": [{"role": "user", "content": "hi"}]}
        async with httpx.AsyncClient(base_url=place.gateway.url, timeout=PATIENCE) as http:
            assert (await http.post(CHAT, json=body)).status_code == 200, "the other one is up, too"
        own_postgres.stop()
        os.kill(victim, signal.SIGKILL)
        await wait_for(lambda: "Application startup failed" in place.gateway.log.read_text(), "no worker was started")
        async with httpx.AsyncClient(base_url=place.gateway.url, timeout=PATIENCE) as http:
            told = Counter([(await http.post(CHAT, json=body)).status_code for _ in range(20)])
        assert told == {200: 20}
        await asyncio.to_thread(own_postgres.start)
        await wait_for(lambda: len(_workers(parent)) == 2, "no new worker")


def _workers(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = []
    for pid in children:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(int(pid))
    return found
