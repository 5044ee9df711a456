"""A controller that dies at any effect of a rollout, and another one that finishes it right.

Every effect is one transaction: it happened whole or not at all. The controller is killed before and after each of
them, on the way to a promotion and to a rollback; the next one has only the database and the engines to go by.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.database import Database
from adapters.rollouts import Phase
from adapters.types import Stage
from gateway.rollout.plan import Plan
from tests.support.traffic import Traffic, begin, failing, quick_plan
from tests.support.world import World, open_world

EFFECTS = (("fleet", "publish"), ("rollouts", "within"), ("evidence", "add_bad_events"))
ROOT = Path(__file__).parents[3]


class Killed(BaseException):
    """The process is gone."""


def die() -> None:
    """As far as anything outside this call can tell."""
    raise Killed


def kill() -> None:
    """Really."""
    os.kill(os.getpid(), signal.SIGKILL)


def plan() -> Plan:
    """Two steps that need few users."""
    steps = [
        {"weight": "30%", "min_units": 5, "min_duration": "1s"},
        {"weight": "50%", "min_units": 100, "min_duration": "1s", "advance": "evidence"},
    ]
    metrics = [{"name": "error", "role": "primary", "margin": 0.5}]
    return quick_plan(step=steps, metric=metrics)


class Crash:
    """Dies at effect number `number`, before or after it happens; counts them all the same."""

    def __init__(self, world: World, number: int, after: bool, die: Callable[[], None] = die) -> None:
        self.count = 0
        self.calls: list[str] = []
        self._number, self._after, self._die = number, after, die
        for store, name in EFFECTS:
            owner = getattr(world.stores, store)
            setattr(owner, name, self._wrapped(f"{store}.{name}", getattr(owner, name)))

    def _wrapped(self, label: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*args: Any, **more: Any) -> Any:
            if label == "evidence.add_bad_events" and not args[0]:
                return call(*args, **more)
            self.count += 1
            self.calls.append(label)
            mine = self.count == self._number
            if mine and not self._after:
                self._die()
            result = call(*args, **more)
            if mine:
                self._die()
            return result

        return effect


async def drive(world: World, traffic: Traffic, crash: Crash, bad: bool) -> bool:
    """Ticks until the rollout has ended; with another controller once the first one dies. True when one died."""
    died, controller = False, await world.controller("one")
    users = itertools.count(step=300)
    for _ in range(120):
        try:
            await controller.lease.refresh()
            await world.ticks(controller, 1, seconds=0.7)
        except Killed:
            died = True
            world.clock.now += 7.0      # the lease runs out
            controller = await world.controller("two")
            assert controller.leads
            continue
        row = world.rollouts.newest()[0]
        published = world.published()
        if not row.open and published.rollout == 0:
            await world.ticks(controller, 1)
            return died
        if row.phase is Phase.RAMP and published.rollout:
            start = next(users)
            traffic.ask(range(start, start + 300), failing("candidate") if bad and row.step == 2 else failing())
    raise AssertionError(f"it did not end: {world.rollouts.newest()[0]}, {crash.calls}")


def check(world: World, stable: str, candidate: str, bad: bool) -> None:
    """The end is right, whoever brought it about."""
    row = world.rollouts.newest()[0]
    (arm,) = world.published().arms
    ends = [event.kind for event in world.rollouts.events(row.id)]
    if bad:
        assert row.phase is Phase.ROLLED_BACK and arm.version == world.route().version == stable
        assert world.registry.get(candidate).stage is Stage.QUARANTINED
        assert ends == ["started", "moved", "moved", "rolled_back"]
        reports = list((world.settings.data_dir / "incidents").glob("*.md"))
        assert len(reports) == 1 and candidate in reports[0].read_text()
    else:
        assert row.phase is Phase.PROMOTED and arm.version == world.route().version == candidate
        assert world.registry.get(candidate).stage is Stage.RELEASED
        assert ends == ["started", "moved", "moved", "promoted"]


async def ready(world: World) -> tuple[str, str]:
    """(stable, candidate): stable serves, a rollout of the candidate has begun, nobody leads."""
    stable, candidate = world.push(seed=1), world.push(seed=2)
    first = await world.controller("zero")
    await world.serve(first, stable)
    await first.lease.release()
    await first.follow()
    begin(world, candidate, plan())
    return stable, candidate


# Dying before an effect is dying after the one before it: only the first needs both.
CASES = [
    *(pytest.param("sqlite", bad, number, after) for bad in (False, True)
      for number, after in ((1, False), *((number, True) for number in range(1, 8 if bad else 7)))),
    *(pytest.param("postgres", bad, number, True, marks=pytest.mark.postgres)
      for bad, number in ((False, 5), (True, 5), (True, 6))),
]  # fmt: skip


@pytest.mark.parametrize(("database_settings", "bad", "number", "after"), CASES, indirect=["database_settings"])
async def test_killed_at_any_effect(tmp_path, database: Database, data_dir, bad, number, after):
    async with open_world(tmp_path, database, data_dir) as world:
        stable, candidate = await ready(world)
        crash = Crash(world, number, after)
        assert await drive(world, Traffic(world), crash, bad), f"there is no such effect: {crash.calls}"
        check(world, stable, candidate, bad)


CHILD = """
import asyncio, itertools, json, sys
from pathlib import Path
from adapters.database import open_database
from adapters.settings import DatabaseSettings
from gateway.config import EngineSettings, Settings
from tests.gateway.rollout.test_crashes import Crash, drive, kill
from tests.support.peft import small_base
from tests.support.traffic import Traffic
from tests.support.world import Clock, World
told = json.loads(sys.argv[1])
folder, data_dir = Path(told["folder"]), Path(told["data_dir"])
database = open_database(DatabaseSettings(url=told["database"]), data_dir)
settings = Settings(data_dir=data_dir, engine=EngineSettings(managed=False, urls=(told["engine"],)))
world = World(folder, settings, database, small_base(folder / "base"), [], Clock(told["now"]))
crash = Crash(world, told["number"], told["after"], kill)
asyncio.run(drive(world, Traffic(world), crash, told["bad"]))
"""


@pytest.mark.parametrize(
    ("database_settings", "bad", "number", "after"),
    [("sqlite", True, 6, True), pytest.param("postgres", False, 5, False, marks=pytest.mark.postgres)],
    indirect=["database_settings"],
)
async def test_kill_9(tmp_path, database: Database, database_settings, data_dir, bad, number, after):
    async with open_world(tmp_path, database, data_dir) as world:
        stable, candidate = await ready(world)
        told = {
            "folder": str(tmp_path), "data_dir": str(data_dir), "database": database_settings.url, "bad": bad,
            "engine": world.engines[0].url, "now": world.clock.now, "number": number, "after": after,
        }  # fmt: skip
        command = [sys.executable, "-c", CHILD, json.dumps(told)]
        done = await asyncio.to_thread(
            subprocess.run, command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
        world.clock.now += 500.0
        await drive(world, Traffic(world, numbers=itertools.count(10**9)), Crash(world, 0, False), bad)
        check(world, stable, candidate, bad)
