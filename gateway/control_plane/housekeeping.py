"""What a leader clears away now and then: old records, old snapshots, artifacts that nothing can need any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from adapters.errors import UnderstudyError
from gateway.config import Settings, parse_duration
from gateway.control_plane.controller import Controller
from gateway.control_plane.view import Stores

EVERY = 60.0               # seconds
SNAPSHOTS_KEPT = 100

log = logging.getLogger("understudy.controller")


def clear(settings: Settings, stores: Stores, now: float, enough: Callable[[], bool] = lambda: False) -> None:
    """One round, or as much of it as there is time until `enough`. Raises UnderstudyError."""
    stores.fleet.prune_snapshots(SNAPSHOTS_KEPT)
    old = now - parse_duration(settings.capture.retention)
    records = stores.responses.prune(old, enough)
    stores.collapse.forget(old)
    artifacts = stores.registry.collect()
    if records or artifacts:
        log.info("deleted %d old record(s) and %d unused artifact(s)", records, artifacts)
    if given := stores.responses.shrink(enough):
        log.info("gave %.0f MB of the database back to the disk", given / 1e6)


async def keep_house(
    settings: Settings,
    stores: Stores,
    controller: Controller,
    stop: asyncio.Event,
    clock: Callable[[], float] = time.time,
) -> None:
    """Clear away, while this controller leads, until `stop`. What fails is tried again next time."""
    while not stop.is_set():
        if controller.leads:
            try:
                await asyncio.to_thread(clear, settings, stores, clock(), lambda: stop.is_set() or not controller.leads)
            except UnderstudyError as error:
                log.warning("housekeeping: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY)
