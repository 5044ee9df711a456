"""From a snapshot to the RouteTable: everything about an answer that can be computed before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from adapters.snapshot import Arm, PinnedVersion, RouteState, Shadow, Snapshot
from gateway.data_plane.breaker import Breakers
from gateway.data_plane.mirror import Mirror
from gateway.data_plane.routing import CompiledRoute, RouteTable, Target
from gateway.data_plane.screening.screen import Screen
from gateway.data_plane.task_rules import TaskRule
from gateway.data_plane.upstreams import Upstream
from gateway.data_plane.watch import Watch, watch_arms
from monitors.conventions import ArmName

Entry = Arm | PinnedVersion | Shadow
_BY_HAND = {b"stable": (ArmName.STABLE, ArmName.CONTROL), b"candidate": (ArmName.CANDIDATE, ArmName.TREATMENT)}


def _nothing(_route: str) -> Screen | None:
    """Where no screening is configured."""
    return None


@dataclass(frozen=True, slots=True)
class TableCompiler:
    """`upstream` gives the live state of a replica by name, None for unknown ones; `share` of answers are measured.

    `screens` gives the screening of a route by its name, None where there is none.
    """

    base_name: str
    rules: tuple[TaskRule, ...]
    upstream: Callable[[str], Upstream | None]
    breakers: Breakers
    share: float = 0.0
    workers: int = 1
    screens: Callable[[str], Screen | None] = _nothing

    def compile(self, snapshot: Snapshot) -> RouteTable:
        """The table of one snapshot. Raises ValueError or KeyError when it makes no sense."""
        pinned = {p.version: self._target(p.version.split("@")[0], "pinned", p) for p in snapshot.pinned}
        base = self._target(self.base_name, "base", snapshot.base)
        by_version = {**pinned, snapshot.base.version: base}
        return RouteTable(
            snapshot=snapshot,
            routes={route.name: self._route(route, by_version) for route in snapshot.routes},
            pinned=pinned,
            base_name=self.base_name,
            base=base,
            rules=self.rules,
        )

    def _route(self, route: RouteState, by_version: dict[str, Target]) -> CompiledRoute:
        """Arms of width 0 are left out; intervals of one assignment share a target."""
        mirrors = [
            Mirror(route.rollout, self._target(route.name, ArmName.SHADOW, shadow), shadow)
            for shadow in route.mirrored
            if shadow.sample > 0
        ]
        mirror = replace(mirrors[0], rivals=tuple(mirrors[1:])) if mirrors else None
        watch = watch_arms(route, self.share, self.workers, self.breakers.guard(route), mirror)
        serving = self.breakers.serving(route)
        targets: dict[int, Target] = {}

        def target(arm: Arm) -> Target:
            if arm.assignment not in targets:
                targets[arm.assignment] = self._target(route.name, arm.arm, arm, watch(arm))
            return targets[arm.assignment]

        return CompiledRoute(
            route.name,
            route.salt.encode(),
            tuple((arm.high, target(serving(arm))) for arm in route.arms if arm.high > arm.low),
            self._testers(route),
            self._by_hand(route, by_version),
            mirror,
        )

    def _testers(self, route: RouteState) -> dict[bytes, Target]:
        """Pinned units whose arm can answer now; the others are served like everybody."""
        found = {}
        for tester in route.testers:
            entry = _entry(route, (tester.arm,))
            if entry is not None and tester.unit:
                target = self._target(route.name, ArmName.TESTER, entry, assignment=tester.assignment)
                found[bytes.fromhex(tester.unit)] = target
        return found

    def _by_hand(self, route: RouteState, by_version: dict[str, Target]) -> dict[bytes, Target]:
        """What an operator may ask for: a tester's assignment where there is one, else the version's own, by name."""
        found = {}
        for name, arms in _BY_HAND.items():
            entry = _entry(route, arms)
            if entry is None:
                continue
            tester = next((t for t in route.testers if t.arm.encode() == name), None)
            if tester is not None:
                found[name] = self._target(route.name, ArmName.TESTER, entry, assignment=tester.assignment)
            elif entry.version in by_version:
                found[name] = by_version[entry.version]
            elif not route.rollout:
                own = entry.arm if isinstance(entry, Arm) else ArmName.CANDIDATE
                found[name] = self._target(route.name, own, entry)
        return found

    def _target(
        self, route: str, arm: str, entry: Entry, watch: Watch | None = None, assignment: int | None = None
    ) -> Target:
        holders = tuple(found for name in entry.replicas if (found := self.upstream(name)) is not None)
        name = orjson.dumps(entry.model)
        return Target(
            route=route,
            version=entry.version,
            arm=str(arm),
            assignment=entry.assignment if assignment is None else assignment,
            model=name,
            stamped=(b'"model":' + name, b'"model": ' + name),
            upstreams=holders,
            headers=((b"x-understudy-version", entry.version.encode()), (b"x-understudy-route", route.encode())),
            watch=watch,
            screen=self.screens(route),
            blames=arm not in (ArmName.CANDIDATE, ArmName.TREATMENT, ArmName.TESTER, ArmName.SHADOW),
        )


def _entry(route: RouteState, names: tuple[str, ...]) -> Arm | Shadow | None:
    """The arm of one of these names, or for the candidate the version that only sees mirrored prompts."""
    arm = next((arm for arm in route.arms if arm.arm in names), None)
    if arm is None and ArmName.CANDIDATE in names:
        return route.shadow
    return arm
