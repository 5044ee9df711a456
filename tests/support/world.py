"""A whole control plane in one process: real database, real artifacts, fake engines, a clock that tests move."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from adapters.artifacts import ArtifactStore
from adapters.base import BaseModelInfo
from adapters.collapse_store import CollapseStore
from adapters.database import Database
from adapters.evidence_store import EvidenceStore
from adapters.evidence_sums import EvidenceSums
from adapters.fleet_store import FleetStore
from adapters.registry import Registry
from adapters.response_store import ResponseStore
from adapters.rollout_store import RolloutStore
from adapters.routes import RouteStore
from adapters.snapshot import RouteState, Snapshot
from adapters.types import Holding, Route
from gateway.config import ControlSettings, EngineSettings, Settings
from gateway.control_plane.controller import Controller
from gateway.control_plane.lease import Lease
from gateway.control_plane.publish import Base
from gateway.control_plane.view import Stores
from tests.support.fake_engine import FakeEngine
from tests.support.fake_weights import record_probes
from tests.support.peft import small_base, write_adapter
from tests.support.waiting import PATIENCE


@dataclass
class Clock:
    """Seconds since the epoch, as far as the controller knows."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class HeldLease(Lease):
    """One that no slow machine loses: it runs out in the database only, by the clock that tests move."""

    @property
    def held(self) -> bool:
        return self.epoch is not None


@dataclass
class World:
    """`engines` in the order of engine.urls. Nothing runs by itself: tests call `ticks`."""

    folder: Path
    settings: Settings
    database: Database
    base: BaseModelInfo
    engines: list[FakeEngine]
    clock: Clock = field(default_factory=Clock)
    controllers: list[Controller] = field(default_factory=list)
    lease: type[Lease] = Lease

    def __post_init__(self) -> None:
        artifacts = ArtifactStore(self.settings.artifacts, self.settings.data_dir)
        self.registry = Registry(self.database, artifacts)
        self.routes = RouteStore(self.database)
        self.fleet = FleetStore(self.database)
        self.rollouts = RolloutStore(self.database)
        self.evidence = EvidenceStore(self.database)
        responses = ResponseStore(self.database)
        self.stores = Stores(
            self.registry, self.routes, self.fleet, artifacts, responses, self.rollouts, self.evidence,
            EvidenceSums(self.database), CollapseStore(self.database),
        )

    def push(self, route: str = "r", seed: int = 0, *, probes: bool = True, like: int | None = None) -> str:
        """Register an adapter; `like`: with the probes of another seed's weights."""
        folder = write_adapter(self.folder / f"{route}-{seed}-{like}", self.base, seed=seed)
        if probes:
            record_probes(folder)
        if like is not None:
            other = write_adapter(self.folder / f"{route}-{like}-probes", self.base, seed=like)
            record_probes(other).write(folder)
        return self.registry.push(folder, route, base=self.base, max_rank=16).name

    async def controller(self, holder: str = "one") -> Controller:
        """A controller that leads (or waits, when another one does)."""
        made = self.follower(holder)
        if await made.lease.refresh():
            await made.lead()
        return made

    def follower(self, holder: str) -> Controller:
        """A controller that has not tried to lead yet."""
        lease = self.lease(self.fleet, holder, self.clock)
        named = Base(self.base.version, "base")
        made = Controller(self.settings, self.stores, named, lease, clock=self.clock, monotonic=self.clock)
        self.controllers.append(made)
        return made

    async def ticks(self, controller: Controller, count: int = 4, seconds: float = 0.1) -> None:
        """Tick, with whatever is prepared in the background done, and let time pass."""
        for _ in range(count):
            await controller.tick()
            await controller.preparation.settle()
            await controller.rollouts.settle()
            self.clock.now += seconds

    async def serve(self, controller: Controller, version: str, route: str = "r") -> None:
        """Set the route and tick until it serves."""
        self.routes.set_target(route, version)
        for _ in range(40):
            await self.ticks(controller, 1)
            if self.routes.get(route).version == version:
                return
        raise AssertionError(f"{version} does not serve: {self.routes.get(route)}")

    def snapshot(self) -> Snapshot:
        """What the workers route from."""
        found = self.fleet.latest()
        assert found is not None
        return found

    def route(self, name: str = "r") -> Route:
        """The route's row."""
        return self.routes.get(name)

    def published(self, name: str = "r") -> RouteState:
        """The route in the latest snapshot."""
        return next(route for route in self.snapshot().routes if route.name == name)

    def held(self, replica: str, version: str) -> Holding | None:
        """The row of one holding."""
        return next(iter(self.fleet.holdings(replica, version)), None)

    def name(self, number: int) -> str:
        """The name of engine `number`."""
        return f"e{number}.sock"


def impatient(controller: Controller) -> None:
    """From now on its ticks wait only a moment for engines; what takes longer goes on beside them."""
    controller._interval = 0.2


@contextlib.asynccontextmanager
async def open_world(
    folder: Path, database: Database, data_dir: Path, engines: int = 1, **engine: int
) -> AsyncIterator[World]:
    """A World with this many started engines; `engine`: further settings of [engine].

    A tick waits for every engine, however slow the machine is: tests of slow engines make their controller `impatient`.
    """
    started = [FakeEngine(folder / f"e{number}.sock").start() for number in range(engines)]
    settings = Settings(
        data_dir=data_dir, engine=EngineSettings(managed=False, urls=tuple(e.url for e in started), **engine),
        control=ControlSettings(interval=f"{PATIENCE:.0f}s"),
    )
    world = World(folder, settings, database, small_base(folder / "base"), started, lease=HeldLease)
    try:
        yield world
    finally:
        for controller in world.controllers:
            await controller.follow()
        for fake in started:
            fake.misbehave.hang = False
            fake.stop()
