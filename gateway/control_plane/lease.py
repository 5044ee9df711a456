"""Leadership: one controller acts at a time. Held by renewing a row of the database well before it runs out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable

from adapters.errors import DatabaseError
from adapters.fleet_store import CONTROLLER_LEASE, FleetStore

TTL = 6.0            # seconds
RENEW_EVERY = 1.0    # seconds between renewals, and between tries to become the leader

log = logging.getLogger("understudy.controller")


class Lease:
    """This controller's claim to lead. `clock` gives seconds since the epoch."""

    def __init__(self, fleet: FleetStore, holder: str, clock: Callable[[], float] = time.time) -> None:
        self.holder = holder
        self.epoch: int | None = None
        self._fleet = fleet
        self._clock = clock
        self._until = 0.0              # by this process's monotonic clock
        self._complained = False
        self._lock = threading.Lock()  # of a claim under way: it ends before the lease is let go, or does not begin
        self._releases = 0

    @property
    def held(self) -> bool:
        """True while nobody else can lead. A second of margin for what was just begun."""
        return self.epoch is not None and time.monotonic() < self._until - 1.0

    @property
    def fence(self) -> tuple[str, int] | None:
        """What a publication has to show."""
        return (CONTROLLER_LEASE, self.epoch) if self.epoch is not None else None

    async def keep(self, stop: asyncio.Event) -> None:
        """Acquire and renew until `stop`, then let go. Never raises: a lost database is waited for."""
        while not stop.is_set():
            await self.refresh()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RENEW_EVERY)
        await self.release()

    async def refresh(self) -> bool:
        """Renew, or try to acquire. Returns whether this controller leads."""
        began = time.monotonic()
        try:
            epoch = await asyncio.to_thread(self._claim, self._releases)
        except DatabaseError as error:
            if not self._complained:
                log.error("the lease cannot be renewed: %s", error)
                self._complained = True
            return self.held
        self._complained = False
        if epoch != self.epoch:
            log.info("this controller (%s) %s", self.holder, f"leads, epoch {epoch}" if epoch else "does not lead")
        self.epoch, self._until = epoch, began + TTL
        return self.held

    async def release(self) -> None:
        """Let the next one lead at once."""
        self._releases += 1
        epoch, self.epoch = self.epoch, None
        if epoch is not None:
            with contextlib.suppress(DatabaseError):
                await asyncio.to_thread(self._let_go, epoch)

    def lost(self) -> None:
        """Somebody else leads."""
        self.epoch = None

    def _let_go(self, epoch: int) -> None:
        with self._lock:
            self._fleet.release_lease(CONTROLLER_LEASE, self.holder, epoch)

    def _claim(self, releases: int) -> int | None:
        with self._lock:
            return self._claimed() if releases == self._releases else None

    def _claimed(self) -> int | None:
        now = self._clock()
        if self.epoch is not None and self._fleet.renew_lease(CONTROLLER_LEASE, self.holder, self.epoch, TTL, now):
            return self.epoch
        return self._fleet.acquire_lease(CONTROLLER_LEASE, self.holder, TTL, now)
