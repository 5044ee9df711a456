"""Which version answers a request: an immutable RouteTable (compiled by route_table.py), and the bucket of a unit.

Live state of the engines (requests in flight, ejection) outlives a table: see gateway.data_plane.upstreams.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from adapters.snapshot import Snapshot
from adapters.types import VERSION_PATTERN
from gateway.data_plane.protocol import ParsedRequest, last_user_text
from gateway.data_plane.task_rules import TaskRule
from gateway.errors import bad_request, forbidden, model_not_found

if TYPE_CHECKING:
    from gateway.data_plane.mirror import Mirror
    from gateway.data_plane.screening.screen import Screen
    from gateway.data_plane.upstreams import Upstream
    from gateway.data_plane.watch import Watch
    from monitors.metrics import RequestMetrics

RULE_TEXT: Final = 8192  # characters of a message that task-type rules look at: an operator's pattern may be slow
_SCALE: Final = 2.0**-64


@dataclass(slots=True, eq=False)
class Target:
    """One version as the hot path needs it: everything about it that can be computed beforehand."""

    route: str
    version: str
    arm: str
    assignment: int
    model: bytes  # the engine's name for it, as a JSON string
    stamped: tuple[bytes, bytes]  # `"model":<name>` as engines write it, without and with a space
    upstreams: tuple[Upstream, ...]  # replicas that hold it
    headers: tuple[tuple[bytes, bytes], ...]
    watch: Watch | None = None  # None: nothing is looked at, as outside routes
    screen: Screen | None = None  # None: neither prompts nor answers are screened
    blames: bool = True  # its broken connections speak against the engine; a candidate's do not: stable must go on
    metrics: dict[str, RequestMetrics] = field(default_factory=dict)  # by endpoint; made by the first request


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """A public model name: arms with the upper edges of their intervals, in order."""

    name: str
    salt: bytes
    arms: tuple[tuple[float, Target], ...]
    testers: Mapping[bytes, Target] = field(default_factory=dict)  # pinned units, by their hash
    by_name: Mapping[bytes, Target] = field(default_factory=dict)  # what x-understudy-arm may say
    mirror: Mirror | None = None


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Everything one request is routed by. Replaced whole, never changed."""

    snapshot: Snapshot
    routes: Mapping[str, CompiledRoute]
    pinned: Mapping[str, Target]
    base_name: str
    base: Target
    rules: tuple[TaskRule, ...]

    @property
    def public_names(self) -> tuple[str, ...]:
        """Model names that any client may ask for, routes first."""
        return (*self.routes, self.base_name)

    def targets(self) -> list[Target]:
        """Everything that may answer."""
        arms = [target for route in self.routes.values() for _, target in route.arms]
        by_hand = [t for route in self.routes.values() for t in (*route.testers.values(), *route.by_name.values())]
        mirrored = [mirror.target for mirror in self.mirrors()]
        return [*arms, *by_hand, *mirrored, *self.pinned.values(), self.base]

    def mirrors(self) -> list[Mirror]:
        """The shadows of all routes."""
        return [mirror for route in self.routes.values() if route.mirror is not None for mirror in route.mirror.all]


def bucket(salt: bytes, unit: bytes) -> float:
    """sha256(salt ‖ 0 ‖ unit) as a number in [0, 1): the same on every worker, host and day."""
    return int.from_bytes(hashlib.sha256(b"%b\0%b" % (salt, unit)).digest()[:8], "big") * _SCALE


def pick_arm(route: CompiledRoute, unit: bytes | None) -> Target:
    """A tester's arm, or the one whose interval holds the unit's bucket; without a unit every request is drawn anew."""
    arms = route.arms
    if route.testers and unit is not None and unit in route.testers:
        return route.testers[unit]
    if len(arms) == 1:
        return arms[0][1]
    point = bucket(route.salt, os.urandom(8) if unit is None else unit)
    for high, target in arms:
        if point < high:
            return target
    return arms[-1][1]  # the bucket's float may round up to 1.0


def resolve(
    table: RouteTable, request: ParsedRequest, headers: Mapping[bytes, bytes], unit: bytes | None, operator: bool
) -> Target:
    """The version that answers. Raises ApiError: 404 for an unknown name, 403 for a version without the right to it."""
    name = request.model
    route = table.routes.get(name)
    if route is not None:
        return _arm(route, headers, unit, operator) if b"x-understudy-arm" in headers else pick_arm(route, unit)
    if name == "auto":
        return _by_task(table, request, headers, unit, operator)
    if name == table.base_name:
        return table.base
    if VERSION_PATTERN.fullmatch(name):
        if not operator:
            raise forbidden("a pinned version needs a key with the operator scope: ask for the route instead")
        if name in table.pinned:
            return table.pinned[name]
    raise model_not_found(name)


def _arm(route: CompiledRoute, headers: Mapping[bytes, bytes], unit: bytes | None, operator: bool) -> Target:
    """By the unit, unless an operator names the arm."""
    wanted = headers.get(b"x-understudy-arm")
    if wanted is None:
        return pick_arm(route, unit)
    if not operator:
        raise forbidden("x-understudy-arm needs a key with the operator scope: leave it out")
    target = route.by_name.get(wanted)
    if target is None and wanted == b"candidate":
        raise bad_request(f"{route.name} has no candidate now: leave x-understudy-arm out", "x-understudy-arm")
    if target is None:
        raise bad_request("x-understudy-arm must be candidate or stable", "x-understudy-arm")
    return target


def _by_task(
    table: RouteTable, request: ParsedRequest, headers: Mapping[bytes, bytes], unit: bytes | None, operator: bool
) -> Target:
    text = last_user_text(request.fields)[:RULE_TEXT]
    for rule in table.rules:
        if rule.route in table.routes and rule.matches(request.fields, headers, text):
            return _arm(table.routes[rule.route], headers, unit, operator)
    return table.base
