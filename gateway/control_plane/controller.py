"""The leader's loop: look at the engines, decide, act, publish. Level-triggered: every tick starts from what is.

    tick: database → engines → placement → what each should hold → steps → switch routes → rollouts → publish

While a rollout is open, its evidence is looked at and acted on ten times a second beside it (`look`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from adapters.errors import Conflict, DatabaseError, UnderstudyError
from gateway.config import Settings, parse_duration
from gateway.control_plane.fleet import Fleet
from gateway.control_plane.lease import Lease
from gateway.control_plane.metrics import ControlMetrics
from gateway.control_plane.patience import patiently
from gateway.control_plane.preparation import Preparation
from gateway.control_plane.publish import Base, Serving, assignment_keys, compose
from gateway.control_plane.publisher import Publisher
from gateway.control_plane.rollouts import ControlPlant
from gateway.control_plane.switching import Switcher
from gateway.control_plane.view import Reader, Stores, View, Writer
from gateway.control_plane.wanted import candidates, named_versions, wants
from gateway.engines.placement import Placement, place
from gateway.rollout.collapse_duty import CollapseDuty
from gateway.rollout.controller import Rollouts
from gateway.rollout.plant import RolloutStores

ASKED_FOR_TIME = 600.0    # seconds a version that was asked for by name stays loaded
HURRY = 0.1              # seconds between ticks while something is under way
CARED_FOR = 3600.0        # seconds at least that a rollout is looked after when it has ended
FIRST_LOOK = 15.0         # seconds a new leader waits for word of every engine before it publishes without

log = logging.getLogger("understudy.controller")


class Controller:
    """One controller. Only the lease's holder acts; tests call `lead` and `tick` themselves."""

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        base: Base,
        lease: Lease,
        *,
        metrics: ControlMetrics | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        hash_unit: Callable[[str, str], bytes] = lambda owner, unit: b"",
    ) -> None:
        self.lease = lease
        self.placement = Placement({})
        self.preparation = Preparation(stores.artifacts, clock, base.version)
        self._settings = settings
        self._stores = stores
        self.base = base
        self._metrics = metrics
        self._clock = clock
        self._writer = Writer(stores.fleet)
        bake = parse_duration(settings.rollout.bake)
        self._reader = Reader(stores, clock, max(bake, CARED_FOR))
        self._switcher = Switcher(stores, bake)
        self.publisher = Publisher(stores.fleet, clock, parse_duration(settings.gateway.connect_timeout))
        self._plant = ControlPlant(self, stores, base, self._writer)
        shown, tax = (metrics.rollouts, metrics.collapse) if metrics else (None, None)
        self.rollouts = Rollouts(
            RolloutStores(stores.rollouts, stores.evidence, stores.sums), self._plant,
            settings.data_dir / "incidents", bake, clock, monotonic, shown,
            CollapseDuty(stores.collapse, settings, clock=clock, monotonic=monotonic, metrics=tax),
        )  # fmt: skip
        self._hash_unit = hash_unit
        self._one_look = asyncio.Lock()
        self.fleet = self._new_fleet()
        self._asked_for: dict[str, float] = {}
        self._leads_since: float | None = None
        self._wake = asyncio.Event()
        self._interval = parse_duration(settings.control.interval)
        self._holding = False

    def now(self) -> float:
        """Seconds since the epoch by this controller's clock."""
        return self._clock()

    @property
    def leads(self) -> bool:
        """True while this controller acts."""
        return self._leads_since is not None and self.lease.held

    async def run(self, stop: asyncio.Event) -> None:
        """Lead whenever the lease is ours, until `stop`. A lost database is waited for, holding everything as it is."""
        keeping = asyncio.create_task(self.lease.keep(stop))
        watching = asyncio.create_task(self._watch_rollouts(stop))
        try:
            while not stop.is_set():
                pause = await patiently(self._round())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self.follow()
            if not stop.is_set():  # a bug: this process must end, not go on renewing a lease that it does not use
                keeping.cancel()
                await self.lease.release()
            await asyncio.gather(keeping, return_exceptions=True)

    async def lead(self) -> None:
        """Begin to lead: from what the database and the engines say, nothing else. Raises DatabaseError."""
        await self.publisher.adopt()
        await self.fleet.refresh()
        await self.fleet.forget_strangers()
        await self.fleet.step(self._interval)
        self._leads_since = self._clock()

    async def follow(self) -> None:
        """Stop leading; the engines keep what they hold."""
        self._leads_since = None
        self.rollouts.close()
        await self.fleet.close()
        self.fleet = self._new_fleet()
        if self._metrics:
            self._metrics.follows()

    async def tick(self) -> bool:
        """One look and what follows from it. True while something is under way. Raises DatabaseError, Conflict."""
        now = self._clock()
        view = await self._view(now)
        await self.fleet.refresh()
        wanted = wants(view.routes, view.versions, view.asked_for, now, view.rollouts)
        self.placement = place(wanted, self.fleet.slots())
        self.preparation.retain(set(view.versions))
        self.fleet.assign(self.placement, view.versions, self.preparation, self.publisher)
        await self.fleet.step(self._interval)
        self._look_again_at_files()
        await self._switcher.settle(view, self.placement, self.fleet, self.preparation, self._clock())
        view = await self.look()
        await self.fleet.record()
        if self._metrics:
            self._metrics.leads(self.fleet.agents.values())
        return bool(self._unanswered(view))

    async def look(self) -> View:
        """Carry rollouts forward and publish what follows: needs nothing from the engines. Raises as `tick` does."""
        async with self._one_look:
            view = self._plant.view = await self._view(self._clock())
            if await self.rollouts.tick(view.rollouts, view.routes):
                view = self._plant.view = await self._view(self._clock())
                self.rollouts.follow(view.rollouts)
                self.wake()
            await self._publish(view)
            return view

    def ask_for(self, version: str) -> None:
        """Have `version` loaded for a while without routing to it; probe it again where it is loaded."""
        self._asked_for[version] = self._clock() + ASKED_FOR_TIME
        for agent in self.fleet.agents.values():
            agent.recheck(version)
        self.wake()

    def wake(self) -> None:
        """Tick now."""
        self._wake.set()

    def _new_fleet(self) -> Fleet:
        on_load = self._metrics.loaded if self._metrics else lambda seconds: None
        return Fleet(self._settings, self._stores.fleet, self._writer, self._clock, on_load)

    async def _round(self) -> float:
        """Lead if we may; returns seconds until the next round."""
        if not self.lease.held:
            if self._leads_since is not None:
                log.warning("this controller does not lead any more")
                await self.follow()
            return self._interval
        try:
            if self._leads_since is None:
                await self.lead()
            busy = await self.tick()
        except DatabaseError as error:
            if not self._holding:
                log.error("holding everything as it is: %s", error)
                self._holding = True
            return self._interval
        except Conflict as conflict:
            log.warning("%s", conflict)
            self.lease.lost()
            return self._interval
        except UnderstudyError as error:  # one thing that cannot be done must not keep the engines unwatched
            log.error("%s", error)
            return self._interval
        if self._holding:
            log.info("the database is back")
            self._holding = False
        return HURRY if busy else self._interval

    async def _watch_rollouts(self, stop: asyncio.Event) -> None:
        """While a rollout is open, look ten times a second. What fails is reported by the loop beside it."""
        while not stop.is_set():
            if self.leads and self.rollouts.any_open:
                with contextlib.suppress(UnderstudyError):
                    await self.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), HURRY if self.rollouts.any_open else self._interval)

    async def _view(self, now: float) -> View:
        self._asked_for = {version: until for version, until in self._asked_for.items() if until > now}
        return await self._reader.view(self._asked_for)

    async def _publish(self, view: View) -> None:
        agents = self.fleet.agents
        waited = self._clock() - (self._leads_since or 0.0)
        if not all(agent.known for agent in agents.values()) and waited < FIRST_LOOK:
            return  # a new leader must not take engines away only because it has not looked at them yet
        pinned = [v for v in sorted(view.versions) if self.placement.of(v) and self._holders(v)]
        urls = {name: agent.client.url for name, agent in agents.items() if agent.usable}
        serving = Serving(urls, self._holders, tuple(pinned), self.rollouts.courses, self._hash_unit)
        ids = await self._writer.assignments(assignment_keys(view.routes, self.base, serving))
        await self.publisher.publish(compose(view.routes, self.base, serving, ids), self.lease.fence)

    def _holders(self, version: str) -> tuple[str, ...]:
        return self.fleet.holders(version, self.placement)

    def _look_again_at_files(self) -> None:
        for agent in self.fleet.agents.values():
            for version, count in agent.tries.failures.items():
                self.preparation.again(version, f"{agent.name} {count}")

    def _unanswered(self, view: View) -> set[str]:
        """Versions whose loading is not decided yet on some replica."""
        wanted = named_versions(view.routes) | candidates(view.rollouts) | view.asked_for
        return {
            version
            for version in wanted
            for name in self.placement.of(version)
            if not self.fleet.agents[name].ready(version)
        }
