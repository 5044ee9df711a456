"""Which versions should be loaded at all, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adapters.rollouts import Rollout
from adapters.types import AdapterVersion, Kind, Route, Stage
from gateway.engines.placement import Priority, Want

SERVABLE = frozenset({Stage.CANDIDATE, Stage.RELEASED})


def named_versions(routes: Iterable[Route]) -> set[str]:
    """Every version that a route names."""
    return {version for route in routes for version in (route.version, route.target, route.previous) if version}


def candidates(rollouts: Iterable[Rollout]) -> set[str]:
    """The versions that open rollouts roll out."""
    return {version for rollout in rollouts if rollout.open for version in rollout.candidates}


def wants(
    routes: Iterable[Route],
    versions: Mapping[str, AdapterVersion],
    asked_for: Iterable[str],
    now: float,
    rollouts: Iterable[Rollout] = (),
) -> list[Want]:
    """One Want per version, with its most important reason. Quarantined and archived versions are never wanted.

    `asked_for`: versions wanted by name (verification). The version before stays loaded until the bake time is over,
    but gets no requests. A candidate of a rollout comes after everything that is served now.
    """
    found: dict[str, Want] = {}

    def add(version: str | None, priority: Priority, serves: bool = True) -> None:
        known = versions.get(version) if version else None
        if version is None or known is None or known.stage not in SERVABLE or known.kind is not Kind.ADAPTER:
            return
        if version not in found or priority < found[version].priority:
            found[version] = Want(version, priority, serves)

    for route in routes:
        add(route.version, Priority.STABLE)
        add(route.target, Priority.TARGET)
        if route.bake_until > now:
            add(route.previous, Priority.PREVIOUS, serves=False)
    for version in candidates(rollouts):
        add(version, Priority.TARGET)
    for version in asked_for:
        add(version, Priority.WANTED)
    return sorted(found.values(), key=lambda want: (want.priority, want.version))
