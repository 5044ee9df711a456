"""Hand-published snapshots of an open rollout, and what the data plane wrote about it."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import select

from adapters import tables
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Shadow, Snapshot, Tester, to_json
from tests.support.serving import BASE, OTHER, STABLE, Gateway, adopted
from tests.support.waiting import PATIENCE


def open_rollout(gateway: Gateway) -> int:
    """A row of `rollouts` for OTHER against STABLE on `support`; its id."""
    row: dict[str, Any] = {"route": "support", "candidate": OTHER, "stable": STABLE, "plan": {}, "phase": "ramp"}
    with gateway.database.begin() as connection:
        done = connection.execute(tables.rollouts.insert().values(**row, started_at=1.0, phase_since=1.0, state={}))
        key = done.inserted_primary_key
        assert key is not None
        return int(key[0])


class Published:
    """The arms of one rollout. `publish` gives the candidate a share, and says what else there is."""

    def __init__(self, gateway: Gateway, engines: dict[str, str], models: tuple[str, str] = (STABLE, OTHER)) -> None:
        self.gateway, self.engines = gateway, engines
        self.stable, self.candidate = models  # as the engines call them
        self.rollout = open_rollout(gateway)
        self.step = 0

    def assignment(self, version: str, arm: str, share: float) -> int:
        return self.gateway.fleet.assignment("support", version, arm, share, rollout=self.rollout, step=self.step)

    def publish(self, share: float, *, breaker: int = 5, testers: tuple[str, ...] = (), **mirror: Any) -> None:
        """`testers`: hashes of units that get the candidate; `mirror`: sample, concurrency, ceiling, timeout."""
        names = tuple(self.engines)
        stable = self.assignment(STABLE, "stable", 1 - share)
        arms = [Arm(stable, "stable", STABLE, self.stable, share, 1.0, names)]
        if share:
            candidate = self.assignment(OTHER, "candidate", share)
            arms.insert(0, Arm(candidate, "candidate", OTHER, self.candidate, 0.0, share, names))
        shadow = None
        if mirror:
            bounds = {"sample": 1.0, "concurrency": 4, "ceiling": 1000, "timeout": PATIENCE} | mirror
            mirrored = self.assignment(OTHER, "shadow", bounds["sample"])
            shadow = Shadow(mirrored, OTHER, self.candidate, names, **bounds)
        pinned_by_hand = tuple(Tester(u, self.assignment(OTHER, "tester", 1.0), "candidate") for u in testers)
        route = RouteState("support", "salt", tuple(arms), self.rollout, shadow, pinned_by_hand, breaker)
        assign = self.gateway.fleet.assignment
        base = PinnedVersion(assign("base", BASE, "base", 1.0), BASE, "base", names)
        pinned = (PinnedVersion(assign("support", STABLE, "pinned", 1.0), STABLE, STABLE, names),)
        endpoints = tuple(Endpoint(name, url) for name, url in self.engines.items())
        self.gateway.fleet.publish(to_json(Snapshot(0, 0.0, base, (route,), pinned, endpoints)), time.time())

    async def settled(self) -> None:
        """Every worker has adopted it."""
        await adopted(self.gateway)


def rows(gateway: Gateway, table: Any) -> list[dict[str, Any]]:
    """All rows of a table, in order."""
    with gateway.database.read() as connection:
        return [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]
