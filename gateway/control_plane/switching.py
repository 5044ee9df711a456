"""Decides when a route switches to its target, or gives it up; and what a poisoned engine means for a version."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from adapters.errors import Conflict, NotFound
from adapters.types import Route, Stage
from gateway.control_plane.fleet import Fleet
from gateway.control_plane.preparation import Preparation
from gateway.control_plane.view import Stores, View
from gateway.control_plane.wanted import SERVABLE
from gateway.engines.placement import Placement

TRIES = 3          # failed loads on one replica after which a target is given up

log = logging.getLogger("understudy.controller")


@dataclass(frozen=True, slots=True)
class Commit:
    """Every placed replica holds the target."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The version cannot be served, and why. `blame`: it is the version's own fault."""

    error: str
    blame: bool = False


def judge(
    route: Route, view: View, placement: Placement, fleet: Fleet, preparation: Preparation
) -> Commit | Fail | None:
    """What to do about the route's target now; None: wait."""
    return readiness(route.target, view, placement, fleet, preparation) if route.target else None


def readiness(
    name: str, view: View, placement: Placement, fleet: Fleet, preparation: Preparation
) -> Commit | Fail | None:
    """Can this version serve, on every usable replica that it is placed on? None: not decided yet."""
    version = view.versions.get(name)
    if version is None or version.stage not in SERVABLE:
        stage, reason = (version.stage.value, version.reason) if version else ("gone", "")
        quarantined = version is not None and version.stage is Stage.QUARANTINED
        return Fail(f"it is {stage}{f': {reason}' if reason else ''}", blame=quarantined)
    if name in placement.refused:
        return Fail(placement.refused[name])
    if error := preparation.error(name):
        return Fail(error)
    holders = [fleet.agents[replica] for replica in placement.of(name) if fleet.agents[replica].usable]
    for agent in holders:
        if agent.tries.failures.get(name, 0) >= TRIES:
            held = agent.holdings.get(name)
            return Fail(f"{agent.name}: {held.error if held else 'it cannot be loaded'}", blame=True)
    return Commit() if holders and all(agent.ready(name) for agent in holders) else None


class Switcher:
    """Carries out what `judge` says, once per tick. `bake` in seconds."""

    def __init__(self, stores: Stores, bake: float) -> None:
        self._stores = stores
        self._bake = bake
        self._quarantined: set[tuple[str, str, str]] = set()

    async def settle(
        self, view: View, placement: Placement, fleet: Fleet, preparation: Preparation, now: float
    ) -> bool:
        """Commit, fail and end what is due. True when something changed. Raises DatabaseError."""
        changed = await self._quarantine(view, fleet)
        await fleet.ask_for_restarts()
        for route in view.routes:
            verdict = judge(route, view, placement, fleet, preparation)
            if verdict is None and not _baked(route, now):
                continue
            try:
                await asyncio.to_thread(self._carry_out, route, verdict, now)
            except (Conflict, NotFound) as overtaken:  # an operator was faster: the next tick sees what they want
                log.info("%s", overtaken)
            changed = True
        return changed

    def _carry_out(self, route: Route, verdict: Commit | Fail | None, now: float) -> None:
        """None: the bake is over."""
        routes = self._stores.routes
        if isinstance(verdict, Commit):
            switched = routes.commit_target(route.name, self._bake, now, route.generation)
            if switched.error:
                log.error("route %s: %s", route.name, switched.error)
            else:
                log.info("route %s: %s serves instead of %s", route.name, route.target, route.version or "the base")
        elif isinstance(verdict, Fail):
            routes.fail_target(route.name, verdict.error, route.generation)
            log.error("route %s: %s is given up: %s", route.name, route.target, verdict.error)
        else:
            routes.end_bake(route.name, route.generation)

    async def _quarantine(self, view: View, fleet: Fleet) -> bool:
        """A version that made an engine compute NaN must not be loaded anywhere again."""
        changed = False
        for agent, held in fleet.poisoned():
            version = view.versions.get(held.version)
            finding = (agent.name, held.boot, held.version)
            if held.probe.get("blame") != held.version or version is None or version.stage not in SERVABLE:
                continue
            if finding in self._quarantined:  # an operator released it since: that is theirs to decide
                continue
            self._quarantined.add(finding)
            try:
                reason = f"on {agent.name}: {held.error}"
                await asyncio.to_thread(self._stores.registry.quarantine, held.version, "controller", reason)
                log.error("version %s is quarantined: %s", held.version, reason)
            except Conflict as conflict:
                log.info("%s", conflict)
            changed = True
        return changed


def _baked(route: Route, now: float) -> bool:
    """What served before need not stay loaded any more."""
    return route.previous is not None and route.bake_until <= now
