"""Composes what the workers route from. Pure; the ids of assignments come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Snapshot
from adapters.types import Route

STABLE, PINNED = "stable", "pinned"


@dataclass(frozen=True, slots=True)
class AssignmentKey:
    """The values of one row of `assignments`."""

    route: str
    version: str
    arm: str
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Base:
    """The base model: `version` is base@<12 hex digits>, `model` its name on the engines and for clients."""

    version: str
    model: str


@dataclass(frozen=True, slots=True)
class Serving:
    """What can serve: usable replicas (name → url), and which of them hold a version, ready."""

    urls: Mapping[str, str]
    holders: Callable[[str], tuple[str, ...]]
    pinned: tuple[str, ...]                  # versions that may be asked for by name


def assignment_keys(routes: Iterable[Route], base: Base, serving: Serving) -> list[AssignmentKey]:
    """The rows that `compose` needs."""
    keys = [AssignmentKey(route.name, route.version or base.version, STABLE) for route in routes]
    keys += [AssignmentKey(version.partition("@")[0], version, PINNED) for version in serving.pinned]
    return [*keys, AssignmentKey(base.model, base.version, PINNED)]


def compose(routes: Iterable[Route], base: Base, serving: Serving, ids: Mapping[AssignmentKey, int]) -> Snapshot:
    """The snapshot, without an id and an instant. A version that nobody holds gets no replicas: workers answer 503."""
    everywhere = tuple(sorted(serving.urls))

    def arm(route: Route) -> Arm:
        version = route.version or base.version
        model = route.version or base.model
        replicas = serving.holders(route.version) if route.version else everywhere
        return Arm(ids[AssignmentKey(route.name, version, STABLE)], STABLE, version, model, 0.0, 1.0, replicas)

    def pinned(version: str) -> PinnedVersion:
        key = AssignmentKey(version.partition("@")[0], version, PINNED)
        return PinnedVersion(ids[key], version, version, serving.holders(version))

    base_id = ids[AssignmentKey(base.model, base.version, PINNED)]
    return Snapshot(
        id=0,
        effective_at=0.0,
        base=PinnedVersion(base_id, base.version, base.model, everywhere),
        # The salt is the name: who gets which arm changes only if a route is renamed.
        routes=tuple(RouteState(r.name, r.name, (arm(r),)) for r in sorted(routes, key=lambda r: r.name)),
        pinned=tuple(pinned(version) for version in sorted(serving.pinned)),
        endpoints=tuple(Endpoint(name, serving.urls[name]) for name in everywhere),
    )


def routed_pairs(snapshot: Snapshot) -> set[tuple[str, str]]:
    """Every (replica, version) that the snapshot sends requests to."""
    entries: list[Arm | PinnedVersion] = [*(arm for route in snapshot.routes for arm in route.arms), *snapshot.pinned]
    return {(replica, entry.version) for entry in entries for replica in entry.replicas}
