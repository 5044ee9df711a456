"""Which version answers a request: an immutable RouteTable compiled from one snapshot, and the bucket of a unit.

Live state of the engines (requests in flight, ejection) outlives a table: see gateway.data_plane.upstreams.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from adapters.snapshot import RouteState, Snapshot
from adapters.types import VERSION_PATTERN
from gateway.config import RouteSettings
from gateway.data_plane.protocol import ParsedRequest, last_user_text
from gateway.errors import forbidden, model_not_found

if TYPE_CHECKING:
    from gateway.data_plane.upstreams import Upstream

RULE_TEXT = 8192  # characters of a message that task-type rules look at: an operator's pattern may be slow
_SCALE = 2.0**-64


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
    share: float = 1.0  # of the route's traffic


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """A public model name: arms with the upper edges of their intervals, in order."""

    name: str
    salt: bytes
    arms: tuple[tuple[float, Target], ...]


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
        return [*(t for route in self.routes.values() for _, t in route.arms), *self.pinned.values(), self.base]


@dataclass(frozen=True, slots=True)
class TaskRule:
    """One compiled rule of `[[route]].match`; all its conditions must hold."""

    route: str
    metadata: tuple[tuple[str, str], ...]
    header: tuple[tuple[bytes, bytes], ...]
    keyword: re.Pattern[str] | None
    regex: re.Pattern[str] | None

    def matches(self, fields: Mapping[str, Any], headers: Mapping[bytes, bytes], text: str) -> bool:
        """True when every condition holds."""
        metadata = fields.get("metadata")
        given = metadata if isinstance(metadata, dict) else {}
        return (
            all(given.get(key) == value for key, value in self.metadata)
            and all(headers.get(name) == value for name, value in self.header)
            and (self.keyword is None or self.keyword.search(text) is not None)
            and (self.regex is None or self.regex.search(text) is not None)
        )


def compile_rules(routes: tuple[RouteSettings, ...]) -> tuple[TaskRule, ...]:
    """Task-type rules in file order."""
    return tuple(
        TaskRule(
            route.name,
            tuple(rule.metadata.items()),
            tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in rule.header.items()),
            _any_word(rule.keyword),
            re.compile(rule.regex) if rule.regex else None,
        )
        for route in routes
        for rule in route.match
    )


def _any_word(words: tuple[str, ...]) -> re.Pattern[str] | None:
    if not words:
        return None
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", re.IGNORECASE)


def compile_table(
    snapshot: Snapshot, base_name: str, rules: tuple[TaskRule, ...], upstream: Callable[[str], Upstream | None]
) -> RouteTable:
    """Compile a snapshot; `upstream` gives the live state of a replica by name (None: unknown here)."""

    def target(route: str, arm: str, entry: Any, share: float) -> Target:
        holders = tuple(found for name in entry.replicas if (found := upstream(name)) is not None)
        name = orjson.dumps(entry.model)
        return Target(
            route=route,
            version=entry.version,
            arm=arm,
            assignment=entry.assignment,
            model=name,
            stamped=(b'"model":' + name, b'"model": ' + name),
            upstreams=holders,
            headers=((b"x-understudy-version", entry.version.encode()), (b"x-understudy-route", route.encode())),
            share=share,
        )

    def compiled(route: RouteState) -> CompiledRoute:
        arms = tuple((a.high, target(route.name, a.arm, a, a.high - a.low)) for a in route.arms if a.high > a.low)
        return CompiledRoute(route.name, route.salt.encode(), arms)

    return RouteTable(
        snapshot=snapshot,
        routes={route.name: compiled(route) for route in snapshot.routes},
        pinned={p.version: target(p.version.split("@")[0], "pinned", p, 1.0) for p in snapshot.pinned},
        base_name=base_name,
        base=target(base_name, "base", snapshot.base, 1.0),
        rules=rules,
    )


def bucket(salt: bytes, unit: bytes) -> float:
    """sha256(salt ‖ 0 ‖ unit) as a number in [0, 1): the same on every worker, host and day."""
    return int.from_bytes(hashlib.sha256(salt + b"\0" + unit).digest()[:8], "big") * _SCALE


def pick_arm(route: CompiledRoute, unit: bytes | None) -> Target:
    """The arm whose interval holds the unit's bucket; without a unit every request is drawn anew."""
    arms = route.arms
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
        return pick_arm(route, unit)
    if name == "auto":
        return _by_task(table, request, headers, unit)
    if name == table.base_name:
        return table.base
    if VERSION_PATTERN.fullmatch(name):
        if not operator:
            raise forbidden("a pinned version needs a key with the operator scope: ask for the route instead")
        if name in table.pinned:
            return table.pinned[name]
    raise model_not_found(name)


def _by_task(table: RouteTable, request: ParsedRequest, headers: Mapping[bytes, bytes], unit: bytes | None) -> Target:
    text = last_user_text(request.fields)[:RULE_TEXT]
    for rule in table.rules:
        if rule.route in table.routes and rule.matches(request.fields, headers, text):
            return pick_arm(table.routes[rule.route], unit)
    return table.base
