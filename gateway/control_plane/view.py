"""What the database says, as one consistent look; and the controller's writes to it, off the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from adapters.artifacts import ArtifactStore
from adapters.collapse_store import CollapseStore
from adapters.errors import ConfigError, NotFound
from adapters.evidence_store import EvidenceStore
from adapters.evidence_sums import EvidenceSums
from adapters.fleet_store import FleetStore
from adapters.registry import Registry
from adapters.response_store import ResponseStore
from adapters.rollout_store import RolloutStore
from adapters.rollouts import Rollout
from adapters.routes import RouteStore
from adapters.types import AdapterVersion, Holding, Route
from gateway.control_plane.wanted import candidates, named_versions
from gateway.rollout.arms import AssignmentKey


@dataclass(frozen=True, slots=True)
class Stores:
    """Everything the control plane keeps state in."""

    registry: Registry
    routes: RouteStore
    fleet: FleetStore
    artifacts: ArtifactStore
    responses: ResponseStore
    rollouts: RolloutStore
    evidence: EvidenceStore
    sums: EvidenceSums
    collapse: CollapseStore


@dataclass(frozen=True, slots=True)
class View:
    """Routes, rollouts, and the versions that are named by them or asked for. `revision` says when to look again.

    `rollouts`: the open ones, and those that ended so lately that they are still looked after.
    """

    revision: int = -1
    routes: tuple[Route, ...] = ()
    versions: dict[str, AdapterVersion] = field(default_factory=dict)
    asked_for: frozenset[str] = frozenset()
    rollouts: tuple[Rollout, ...] = ()


class Reader:
    """Reads again only when the registry's revision, or what was asked for, has changed. Raises DatabaseError.

    `after`: seconds for which a rollout that has ended is still looked after.
    """

    def __init__(self, stores: Stores, clock: Callable[[], float] = time.time, after: float = 86400.0) -> None:
        self._stores = stores
        self._clock = clock
        self._after = after
        self._view = View()

    async def view(self, asked_for: Iterable[str] = ()) -> View:
        """The current view."""
        self._view = await asyncio.to_thread(self._read, frozenset(asked_for))
        return self._view

    def _read(self, asked_for: frozenset[str]) -> View:
        revision = self._stores.fleet.registry_revision()  # first: what changes meanwhile is read again next time
        if revision == self._view.revision and asked_for == self._view.asked_for:
            return self._view
        routes = tuple(self._stores.routes.list())
        rollouts = tuple(self._stores.rollouts.active(self._clock() - self._after))
        versions = {}
        for name in named_versions(routes) | candidates(rollouts) | asked_for:
            try:
                versions[name] = self._stores.registry.get(name)
            except (NotFound, ConfigError):
                continue
        return View(revision, routes, versions, asked_for, rollouts)


class Writer:
    """The agents' HoldingStore, and remembered assignments. Raises DatabaseError."""

    def __init__(self, fleet: FleetStore) -> None:
        self._fleet = fleet
        self._assignments: dict[AssignmentKey, int] = {}

    async def upsert_holding(self, holding: Holding) -> None:
        """Write the row."""
        await asyncio.to_thread(self._fleet.upsert_holding, holding)

    async def delete_holding(self, replica: str, version: str) -> None:
        """Remove the row."""
        await asyncio.to_thread(self._fleet.delete_holding, replica, version)

    async def assignments(self, keys: Iterable[AssignmentKey]) -> dict[AssignmentKey, int]:
        """The ids of these rows, made where they do not exist yet."""
        for key in keys:
            if key not in self._assignments:
                row = (key.route, key.version, key.arm, key.share)
                self._assignments[key] = await asyncio.to_thread(
                    self._fleet.assignment, *row, rollout=key.rollout, step=key.step
                )
        return self._assignments
