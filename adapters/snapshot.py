"""The routing state that every worker serves from: published by the controller, immutable, complete in itself.

A snapshot is one row of the `snapshots` table. Workers poll its id, and all switch at `effective_at`, so that two
workers of one host never disagree about a user: nobody is moved back while a change spreads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Arm:
    """One version's part of a route's traffic: units whose bucket lies in [low, high) are served by it."""

    assignment: int                # row of `assignments`; response ids are minted from it
    arm: str                       # stable, candidate, control, treatment, holdout (monitors.conventions.ArmName)
    version: str                   # public name: route@… or base@<12 hex>
    model: str                     # the engine's name for it: the version, or the base's served name
    low: float
    high: float
    replicas: tuple[str, ...]      # names of the replicas that hold it, ready


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that answers a sample of the route's prompts for evidence only."""

    assignment: int
    version: str
    model: str
    replicas: tuple[str, ...]
    sample: float                  # share of the stable arm's requests that are mirrored, 0..1
    concurrency: int               # mirrored requests under way at once, per worker
    ceiling: int                   # requests in flight per worker above which nothing is mirrored
    timeout: float = 60.0          # seconds after which a mirrored request is given up


@dataclass(frozen=True, slots=True)
class Tester:
    """A pinned unit: always served by `arm`, and left out of the statistics.

    `arm` is one of the route's arms, or "candidate" for the version of its shadow.
    """

    unit: str                      # hex of HMAC(owner ‖ unit), as in response ids
    assignment: int                # a row with arm "tester"
    arm: str


@dataclass(frozen=True, slots=True)
class RouteState:
    """One public model name. The arms' intervals partition [0, 1); one arm may own several of them."""

    name: str
    salt: str                      # of the bucket hash; changes only when assignments may be redrawn
    arms: tuple[Arm, ...]
    rollout: int = 0               # rollouts.id; 0: none is open
    shadow: Shadow | None = None
    testers: tuple[Tester, ...] = ()
    breaker: int = 5               # failures in a row of a candidate after which a worker serves stable by itself
    rivals: tuple[Shadow, ...] = ()  # further shadows, of the other candidates of the same rollout

    @property
    def mirrored(self) -> tuple[Shadow, ...]:
        """All shadows."""
        return (*((self.shadow,) if self.shadow else ()), *self.rivals)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One engine process that may get traffic."""

    name: str
    url: str
    api_key: str = ""              # filled from the worker's own settings, never stored


@dataclass(frozen=True, slots=True)
class PinnedVersion:
    """A version that operators may ask for by its full name, loaded somewhere."""

    assignment: int
    version: str
    model: str
    replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a worker needs to route, except keys and secrets."""

    id: int                        # row of `snapshots`; 0 = nothing published yet
    effective_at: float            # seconds since the epoch
    base: PinnedVersion            # the base model, asked for by its served name
    routes: tuple[RouteState, ...]
    pinned: tuple[PinnedVersion, ...]
    endpoints: tuple[Endpoint, ...]


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """The stored body. `id` and `effective_at` are columns of their own; engine keys are left out."""
    body = asdict(snapshot)
    del body["id"], body["effective_at"]
    for endpoint in body["endpoints"]:
        del endpoint["api_key"]
    return body


def from_json(row_id: int, effective_at: float, body: dict[str, Any]) -> Snapshot:
    """Inverse of to_json. Raises ValueError when a route's arms do not partition [0, 1)."""
    routes = tuple(_route(r) for r in body["routes"])
    for route in routes:
        check_partition(route)
    pinned = tuple(_pinned(p) for p in body["pinned"])
    endpoints = tuple(Endpoint(**e) for e in body["endpoints"])
    return Snapshot(row_id, effective_at, _pinned(body["base"]), routes, pinned, endpoints)


def _route(body: dict[str, Any]) -> RouteState:
    arms = tuple(Arm(**{**a, "replicas": tuple(a["replicas"])}) for a in body["arms"])
    mirror = body.get("shadow")
    shadow, rivals = _shadow(mirror) if mirror else None, tuple(_shadow(m) for m in body.get("rivals", ()))
    testers = tuple(Tester(**t) for t in body.get("testers", ()))
    return RouteState(**{**body, "arms": arms, "shadow": shadow, "rivals": rivals, "testers": testers})


def _shadow(body: dict[str, Any]) -> Shadow:
    return Shadow(**{**body, "replicas": tuple(body["replicas"])})


def _pinned(body: dict[str, Any]) -> PinnedVersion:
    return PinnedVersion(**{**body, "replicas": tuple(body["replicas"])})


def check_partition(route: RouteState) -> None:
    """Weights that do not add up are an error, never repaired. Raises ValueError."""
    edge = 0.0
    for arm in route.arms:
        if arm.low != edge or arm.high < arm.low:
            raise ValueError(f"route {route.name}: arm {arm.version} covers [{arm.low}, {arm.high}) after {edge}")
        edge = arm.high
    if edge != 1.0:
        raise ValueError(f"route {route.name}: the arms cover [0, {edge}), not [0, 1)")
