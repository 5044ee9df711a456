"""Tells the leader's loop at once when somebody changed routes, versions or rollouts: a command, another host's API."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from adapters.errors import DatabaseError
from adapters.fleet_store import FleetStore

LOOK_EVERY = 0.05    # seconds
AWAY = 1.0           # seconds between looks while the database is away; the loop beside says so

log = logging.getLogger("understudy.controller")


class Awareness:
    """A thread that compares the registry's revision. `on_change` is called in it, never twice for one revision."""

    def __init__(self, fleet: FleetStore, on_change: Callable[[], None]) -> None:
        self._fleet = fleet
        self._on_change = on_change
        self._seen: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="awareness", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. A look at a database that hangs is left to itself."""
        self._stop.set()
        self._thread.join(timeout=1.0)

    def look(self) -> bool:
        """Look once. True when the revision is another than last time. Raises DatabaseError."""
        revision = self._fleet.registry_revision()
        changed, self._seen = self._seen not in (None, revision), revision
        if changed:
            self._on_change()
        return changed

    def _run(self) -> None:
        pause = LOOK_EVERY
        while not self._stop.wait(pause):
            try:
                self.look()
                pause = LOOK_EVERY
            except DatabaseError:
                pause = AWAY
