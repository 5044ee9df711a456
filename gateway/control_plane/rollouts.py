"""What the control plane does for rollouts (gateway.rollout.plant.Plant)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from adapters.rollouts import Rollout
from adapters.snapshot import RouteState, Snapshot
from gateway.control_plane.publish import Base
from gateway.control_plane.switching import Commit, Fail, readiness
from gateway.control_plane.view import Stores, View, Writer
from gateway.rollout.arms import (
    HOLDOUT,
    STABLE,
    AssignmentKey,
    Course,
    share_of,
    without_candidate,
    without_one,
)
from gateway.rollout.changes import Change, carry_out
from gateway.rollout.decide import Act
from gateway.rollout.plan import from_json
from gateway.rollout.plant import Readiness

if TYPE_CHECKING:
    from gateway.control_plane.controller import Controller
    from gateway.control_plane.publisher import Publisher

_TAKES_TRAFFIC_AWAY = frozenset({Act.ROLL_BACK, Act.ABORT, Act.DROP})


class ControlPlant:
    """Lends rollouts the controller's engines and publisher. `view` is set at each look."""

    def __init__(self, controller: Controller, stores: Stores, base: Base, writer: Writer) -> None:
        self.view = View()
        self._controller = controller
        self._stores = stores
        self._base = base
        self._writer = writer

    def readiness(self, version: str) -> Readiness:
        """Whether every usable replica that should hold the candidate does."""
        controller = self._controller
        state = readiness(version, self.view, controller.placement, controller.fleet, controller.preparation)
        if isinstance(state, Fail):
            return Readiness(fault=state.error) if state.blame else Readiness(obstacle=state.error)
        return Readiness(ready=isinstance(state, Commit))

    def boots(self, version: str) -> dict[str, str]:
        """replica → its process, of those that are up and should hold the version."""
        agents = self._controller.fleet.agents
        placed = [agents[name] for name in self._controller.placement.of(version) if name in agents]
        return {agent.name: agent.seen.boot for agent in placed if agent.seen.up}

    async def commit(self, change: Change) -> Rollout:
        """One transaction; where the candidate loses all traffic, together with the snapshot that takes it away.

        Raises Conflict: the row changed, or another controller leads. Raises DatabaseError.
        """
        publisher, fence = self._controller.publisher, self._controller.lease.fence
        change = replace(change, fence=fence)
        snapshot = await self._safe_snapshot(change, publisher)
        if snapshot is None:
            return await asyncio.to_thread(self._stores.rollouts.within, lambda c: carry_out(c, change))
        done: list[Rollout] = []

        def within(connection: Connection) -> None:
            done.append(carry_out(connection, change))

        await publisher.publish(snapshot, fence, within)
        return done[-1]

    async def recycle(self, version: str, reason: str) -> None:
        """Have the replicas that hold the version restarted, where somebody supervises them."""
        await self._controller.fleet.recycle(version, reason)

    async def _safe_snapshot(self, change: Change, publisher: Publisher) -> Snapshot | None:
        """The latest snapshot without the candidate; None where it has no traffic to lose."""
        rollout, action, latest = change.rollout, change.action, publisher.latest
        off = action.act in _TAKES_TRAFFIC_AWAY or (action.act is Act.HOLD and action.weight < rollout.weight)
        if not off or latest is None:
            return None
        who = (action.candidate,) if action.act is Act.DROP else rollout.candidates
        state = next((route for route in latest.routes if route.name == rollout.route), None)
        if state is None or not any(_serves(state, version) for version in who):
            return None
        model = self._base.model if rollout.stable == self._base.version else rollout.stable
        if action.act is Act.DROP:
            course = Course(rollout, from_json(rollout.plan), change.memory)
            share = share_of(course, action.candidate)
            key = AssignmentKey(rollout.route, rollout.stable, HOLDOUT, share, rollout.id, rollout.step)
            ids = await self._writer.assignments([key])
            return without_one(latest, rollout.route, rollout.stable, model, ids[key], dropped=action.candidate)
        key = AssignmentKey(rollout.route, rollout.stable, STABLE)
        ids = await self._writer.assignments([key])
        return without_candidate(latest, rollout.route, rollout.stable, model, ids[key])


def _serves(state: RouteState, version: str) -> bool:
    mirrored = any(shadow.version == version for shadow in state.mirrored)
    return mirrored or bool(state.testers) or any(arm.version == version for arm in state.arms)
