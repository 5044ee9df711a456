"""Composes what the workers route from. Pure; the ids of assignments come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Shadow, Snapshot, Tester
from adapters.types import Route
from gateway.rollout.arms import (
    CANDIDATE,
    STABLE,
    AssignmentKey,
    Course,
    Interval,
    intervals,
    pin_key,
    shadow_keys,
)

PINNED = "pinned"
Ids = Mapping[AssignmentKey, int]
__all__ = ["PINNED", "STABLE", "AssignmentKey", "Base", "Serving", "assignment_keys", "compose", "routed_pairs"]


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
    pinned: tuple[str, ...]                          # versions that may be asked for by name
    courses: Mapping[str, Course] = field(default_factory=dict)   # open rollouts by route, as far as they have arms
    hash_unit: Callable[[str, str], bytes] = lambda owner, unit: b""  # what stands for a unit in response ids


def assignment_keys(routes: Iterable[Route], base: Base, serving: Serving) -> list[AssignmentKey]:
    """The rows that `compose` needs."""
    keys = [part.key for route in routes for part in _parts(route, base, serving)]
    for course in serving.courses.values():
        keys += [*shadow_keys(course).values(), *([key] if (key := pin_key(course)) else [])]
    keys += [AssignmentKey(version.partition("@")[0], version, PINNED) for version in serving.pinned]
    return [*keys, AssignmentKey(base.model, base.version, PINNED)]


def compose(routes: Iterable[Route], base: Base, serving: Serving, ids: Ids) -> Snapshot:
    """The snapshot, without an id and an instant. A version that nobody holds gets no replicas: workers answer 503."""

    def replicas(version: str) -> tuple[str, ...]:
        return tuple(sorted(serving.urls)) if version == base.version else serving.holders(version)

    def state(route: Route) -> RouteState:
        arms = []
        for part in _parts(route, base, serving):
            key = part.key
            model = base.model if key.version == base.version else key.version
            arms.append(Arm(ids[key], key.arm, key.version, model, part.low, part.high, replicas(key.version)))
        # The salt is the name: who gets which arm changes only if a route is renamed.
        plain = RouteState(route.name, route.name, tuple(arms))
        course = serving.courses.get(route.name)
        return _with_rollout(plain, course, serving, ids) if course else plain

    def pinned(version: str) -> PinnedVersion:
        key = AssignmentKey(version.partition("@")[0], version, PINNED)
        return PinnedVersion(ids[key], version, version, serving.holders(version))

    base_id = ids[AssignmentKey(base.model, base.version, PINNED)]
    return Snapshot(
        id=0,
        effective_at=0.0,
        base=PinnedVersion(base_id, base.version, base.model, tuple(sorted(serving.urls))),
        routes=tuple(state(route) for route in sorted(routes, key=lambda route: route.name)),
        pinned=tuple(pinned(version) for version in sorted(serving.pinned)),
        endpoints=tuple(Endpoint(name, serving.urls[name]) for name in sorted(serving.urls)),
    )


def _parts(route: Route, base: Base, serving: Serving) -> list[Interval]:
    """The route's arms: one, unless a rollout exposes its candidate."""
    course = serving.courses.get(route.name)
    if course is None:
        return [Interval(AssignmentKey(route.name, route.version or base.version, STABLE), 0.0, 1.0)]
    return intervals(course, [version for version in course.candidates if not serving.holders(version)])


def _with_rollout(plain: RouteState, course: Course, serving: Serving, ids: Ids) -> RouteState:
    """The route's state with what a rollout adds to its arms."""
    shadows = _shadows(course, serving, ids)
    testers: tuple[Tester, ...] = ()
    if (pin := pin_key(course)) and serving.holders(pin.version):
        units = sorted({serving.hash_unit(tester.owner, tester.unit).hex() for tester in course.plan.testers})
        testers = tuple(Tester(unit, ids[pin], CANDIDATE) for unit in units)
    return RouteState(
        plain.name, plain.salt, plain.arms, course.rollout.id, shadows[0] if shadows else None, testers,
        course.plan.breaker, shadows[1:],
    )  # fmt: skip


def _shadows(course: Course, serving: Serving, ids: Ids) -> tuple[Shadow, ...]:
    """One per candidate that is held somewhere; together they may have as many requests under way as the plan says."""
    mirror, found = course.plan.shadow, []
    for version, key in shadow_keys(course).items():
        if mirror is not None and (holders := serving.holders(version)):
            concurrency = max(1, mirror.concurrency // len(course.candidates))
            found.append(Shadow(ids[key], version, version, holders, key.share, concurrency, mirror.ceiling))
    return tuple(found)


def routed_pairs(snapshot: Snapshot) -> set[tuple[str, str]]:
    """Every (replica, version) that the snapshot sends requests to."""
    arms = [arm for route in snapshot.routes for arm in route.arms]
    shadows = [shadow for route in snapshot.routes for shadow in route.mirrored]
    entries: list[Arm | PinnedVersion | Shadow] = [*arms, *shadows, *snapshot.pinned]
    return {(replica, entry.version) for entry in entries for replica in entry.replicas}
