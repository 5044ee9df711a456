"""Publishes snapshots, and remembers how long ago which replica was last sent requests for which version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Connection

from adapters.fleet_store import FleetStore
from adapters.snapshot import Snapshot, to_json
from gateway.control_plane.publish import routed_pairs

SWITCH_AFTER = 0.15    # seconds from publication until all workers switch: they look every 0.04 s (docs/scaling.md)
MARGIN = 1.0           # seconds more in which a request that was routed before may still reach the engine

log = logging.getLogger("understudy.controller")


class Publisher:
    """Writes a snapshot only when it differs. `connect_timeout` in seconds: how late a routed request may arrive."""

    def __init__(self, fleet: FleetStore, clock: Callable[[], float], connect_timeout: float) -> None:
        self._fleet = fleet
        self._clock = clock
        self._linger = SWITCH_AFTER + MARGIN + connect_timeout
        self._latest: Snapshot | None = None
        self._routed_at: dict[tuple[str, str], float] = {}
        self._since = clock()

    async def adopt(self) -> None:
        """Begin from what was published last, by whomever."""
        self._since = self._clock()
        self._routed_at.clear()
        try:
            self._latest = await asyncio.to_thread(self._fleet.latest)
        except ValueError as error:  # written by another release; what is composed next replaces it
            log.error("the latest snapshot cannot be read: %s", error)
            self._latest = None

    @property
    def latest(self) -> Snapshot | None:
        """What was published last, as far as this controller knows."""
        return self._latest

    async def publish(
        self,
        snapshot: Snapshot,
        fence: tuple[str, int] | None,
        within: Callable[[Connection], None] | None = None,
    ) -> bool:
        """Publish unless nothing changed. Raises Conflict when somebody else leads, DatabaseError.

        `within`: what is written in the same transaction; with it, it is always published.
        """
        now = self._clock()
        self._mark(now)
        body = to_json(snapshot)
        if within is None and self._latest is not None and to_json(self._latest) == body:
            return False
        effective_at = now + SWITCH_AFTER
        row = await asyncio.to_thread(self._fleet.publish, body, effective_at, fence, within)
        self._latest = replace(snapshot, id=row, effective_at=effective_at)
        self._mark(now)
        log.info("published snapshot %d: %s", row, _summary(snapshot))
        return True

    def may_get_requests(self, replica: str, version: str) -> bool:
        """True while workers may still send requests for `version` to `replica`."""
        last = self._routed_at.get((replica, version), self._since)  # at first, all may have been routed until just now
        return self._clock() - last <= self._linger

    def routed_to(self, replica: str) -> int:
        """How many versions the latest snapshot sends to `replica`."""
        return sum(name == replica for name, _ in routed_pairs(self._latest)) if self._latest else 0

    def _mark(self, now: float) -> None:
        if self._latest is not None:
            self._routed_at |= dict.fromkeys(routed_pairs(self._latest), now)
        self._routed_at = {pair: at for pair, at in self._routed_at.items() if now - at <= 3600.0}


def _summary(snapshot: Snapshot) -> str:
    arms = [f"{arm.version} on {','.join(arm.replicas) or 'nothing'}" for r in snapshot.routes for arm in r.arms]
    return "; ".join([*arms, f"engines {','.join(e.name for e in snapshot.endpoints) or 'none'}"])
