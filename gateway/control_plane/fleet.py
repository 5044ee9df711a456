"""All replicas of the controller: follows which there are, tells each what to hold, runs their steps side by side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from adapters.errors import DatabaseError
from adapters.fleet_store import FleetStore
from adapters.types import AdapterVersion, Holding, HoldingState, Replica, Stage
from gateway.config import Settings
from gateway.control_plane.preparation import Preparation
from gateway.control_plane.publisher import Publisher
from gateway.control_plane.sites import Site, ask_for_restart, find_sites
from gateway.control_plane.view import Writer
from gateway.engines.agent import ReplicaAgent
from gateway.engines.client import EngineClient
from gateway.engines.placement import Placement, Slots
from gateway.engines.reconcile import Assigned, Desired

SEEN_EVERY = 5.0       # seconds between writes of "seen at" when nothing else changed

log = logging.getLogger("understudy.controller")


class Fleet:
    """The agents by replica name. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        settings: Settings,
        store: FleetStore,
        writer: Writer,
        clock: Callable[[], float],
        on_load: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.agents: dict[str, ReplicaAgent] = {}
        self._sites: dict[str, Site] = {}
        self._settings = settings
        self._store = store
        self._writer = writer
        self._clock = clock
        self._on_load = on_load
        self._steps: dict[str, asyncio.Task[None]] = {}
        self._recorded: dict[str, Replica] = {}
        self._restarts_asked: set[tuple[str, str]] = set()

    async def refresh(self) -> None:
        """Follow the sites: new engines, other addresses, ended processes. Raises DatabaseError."""
        for site in await asyncio.to_thread(find_sites, self._settings):
            self._sites[site.name] = site
            if site.name not in self.agents:
                held = await asyncio.to_thread(self._store.holdings, site.name)
                self.agents[site.name] = self._new_agent(site, {holding.version: holding for holding in held})
            agent = self.agents[site.name]
            if site.name in self._steps:
                continue
            if agent.client.url != site.url:
                await agent.client.aclose()
                agent.client = EngineClient(site.url, self._api_key)
            if site.waiting:
                agent.away(site.waiting)
            if site.gone and agent.holdings:
                await agent.gone()

    async def forget_strangers(self) -> None:
        """Remove the rows of replicas that are not configured any more. Raises DatabaseError."""
        for row in await asyncio.to_thread(self._store.replicas):
            if row.name not in self.agents:
                log.warning("%s is not configured any more and is forgotten", row.name)
                await asyncio.to_thread(self._store.forget_replica, row.name)

    def slots(self) -> list[Slots]:
        """What there is room for, on replicas that are usable now."""
        return [
            Slots(name, *agent.slots, frozenset(agent.seen.adapters))
            for name, agent in self.agents.items()
            if agent.usable
        ]

    def holders(self, version: str, placement: Placement) -> tuple[str, ...]:
        """Replicas that may be sent requests for `version`: ready, and not about to let go of it if others are."""
        ready = [name for name, agent in sorted(self.agents.items()) if agent.ready(version)]
        staying = [name for name in ready if name in placement.of(version)]
        return tuple(staying or ready)

    def assign(
        self,
        placement: Placement,
        versions: Mapping[str, AdapterVersion],
        preparation: Preparation,
        publisher: Publisher,
    ) -> None:
        """Tell every replica what to hold. A version that never served goes to one replica first."""
        prepared: dict[str, Assigned] = {}
        for version in {version for placed in placement.replicas.values() for version in placed}:
            found = preparation.get(versions[version])
            if found is not None:
                prepared[version] = found
        first = {version: self._first_try(version, placement, publisher) for version in prepared}
        for name, agent in self.agents.items():
            if name not in placement.replicas:  # not usable now: when it is back, it is placed before it is changed
                agent.desired = Desired(hold=True)
                continue
            assigned = [
                prepared[version]
                for version in placement.replicas[name]
                if version in prepared and (self._proven(versions[version]) or first[version] == name)
            ]
            # Until it is prepared, what is loaded already stays.
            pending = {v for v in placement.replicas[name] if v not in prepared}
            routed = {v for v in agent.seen.adapters if publisher.may_get_requests(name, v)}
            agent.desired = Desired(tuple(assigned), frozenset(routed | pending), placement.refused)

    async def step(self, patience: float) -> None:
        """Let every replica do what it has to; wait for at most `patience` seconds. Slow ones go on in the background.

        Raises DatabaseError when one of them could not write.
        """
        for name, agent in self.agents.items():
            if name not in self._steps and not self._sites[name].waiting:
                self._steps[name] = asyncio.create_task(agent.step(), name=f"step {name}")
        if not self._steps:
            return
        await asyncio.wait(self._steps.values(), timeout=patience)
        errors: list[BaseException] = []
        for name, task in list(self._steps.items()):
            if task.done():
                del self._steps[name]
                errors += [error] if (error := task.exception()) else []
        for error in errors:
            if not isinstance(error, DatabaseError):
                log.error("a step failed", exc_info=error)
        if lost := next((error for error in errors if isinstance(error, DatabaseError)), None):
            raise lost

    def poisoned(self) -> list[tuple[ReplicaAgent, Holding]]:
        """Replicas whose memory may hold NaN, and what showed it."""
        return [(agent, held) for agent in self.agents.values() if agent.seen.up and (held := agent.poison)]

    async def ask_for_restarts(self) -> None:
        """Have poisoned engines restarted, once per boot; where nobody supervises them here, say so."""
        for agent, held in self.poisoned():
            key = (agent.name, agent.seen.boot)
            if key in self._restarts_asked:
                continue
            self._restarts_asked.add(key)
            site, reason = self._sites[agent.name], f"NaN after probing {held.version}"
            if not await asyncio.to_thread(ask_for_restart, self._settings, site, agent.seen.boot, reason):
                log.error("%s gets no traffic until you restart it: %s", agent.name, reason)

    async def recycle(self, version: str, reason: str) -> None:
        """Have every replica restarted that holds `version`, or held it since it started: its memory is suspect."""
        for agent in self.agents.values():
            held = agent.holdings.get(version)
            key = (agent.name, agent.seen.boot)
            if held is None or held.boot != agent.seen.boot or key in self._restarts_asked:
                continue
            self._restarts_asked.add(key)
            site = self._sites[agent.name]
            if not await asyncio.to_thread(ask_for_restart, self._settings, site, agent.seen.boot, reason):
                log.error("restart %s by hand: %s", agent.name, reason)

    async def record(self) -> None:
        """Write what was seen of the replicas, where it changed. Raises DatabaseError."""
        for name, agent in self.agents.items():
            row = agent.replica
            if not row.up and row.name in self._recorded:
                row = replace(row, seen_at=self._recorded[name].seen_at)
            earlier = self._recorded.get(name)
            if earlier is not None and row.seen_at - earlier.seen_at < SEEN_EVERY:
                row = replace(row, seen_at=earlier.seen_at)
            if row != earlier:
                await asyncio.to_thread(self._store.upsert_replica, row)
                self._recorded[name] = row

    async def close(self) -> None:
        """Stop all steps and close all connections."""
        for task in self._steps.values():
            task.cancel()
        await asyncio.gather(*self._steps.values(), return_exceptions=True)
        self._steps.clear()
        for agent in self.agents.values():
            await agent.client.aclose()
        self.agents.clear()

    @property
    def _api_key(self) -> str:
        return "" if self._settings.engine.managed else self._settings.engine.api_key

    def _new_agent(self, site: Site, holdings: dict[str, Holding]) -> ReplicaAgent:
        engine = self._settings.engine
        return ReplicaAgent(
            site.name,
            EngineClient(site.url, self._api_key),
            self._writer,
            base=engine.served_name,
            slots=(engine.max_loras, engine.max_cpu_loras),
            clock=self._clock,
            holdings=holdings,
            on_load=self._on_load,
        )

    def _proven(self, version: AdapterVersion) -> bool:
        """It served before, or some engine reproduces its probes now."""
        return version.stage is Stage.RELEASED or any(agent.ready(version.name) for agent in self.agents.values())

    def _first_try(self, version: str, placement: Placement, publisher: Publisher) -> str:
        """Where a new version is probed first: where it was begun, else where there is the least traffic."""

        def preference(name: str) -> tuple[bool, int, int, str]:
            agent = self.agents[name]
            held = agent.holdings.get(version)
            begun = held is not None and held.state in (HoldingState.LOADING, HoldingState.FAILED)
            return not begun, publisher.routed_to(name), agent.seen.running, name

        return min(placement.of(version), key=preference)
