from __future__ import annotations

import json

from adapters.snapshot import from_json, to_json
from adapters.types import Route
from gateway.control_plane.publish import Base, Serving, assignment_keys, compose, routed_pairs

A, B = "r@00000000000a", "s@00000000000b"
BASE = Base("base@123456789abc", "base")
HOLDERS = {A: ("e0", "e1"), B: ("e1",)}


def serving(**urls: str) -> Serving:
    return Serving(urls or {"e1": "unix:/1", "e0": "unix:/0"}, lambda v: HOLDERS.get(v, ()), (A, B))


def make(*routes: Route, fleet: Serving | None = None):
    fleet = fleet or serving()
    ids = {key: number for number, key in enumerate(assignment_keys(routes, BASE, fleet), 1)}
    return compose(routes, BASE, fleet, ids), ids


def test_one_stable_arm_per_route():
    snapshot, ids = make(Route("s", version=B), Route("r", version=A), Route("plain"))
    assert [r.name for r in snapshot.routes] == ["plain", "r", "s"]
    plain, r, s = (route.arms[0] for route in snapshot.routes)
    assert (plain.version, plain.model, plain.replicas) == ("base@123456789abc", "base", ("e0", "e1"))
    assert (r.version, r.model, r.replicas, r.low, r.high, r.arm) == (A, A, ("e0", "e1"), 0.0, 1.0, "stable")
    assert s.replicas == ("e1",)
    assert len({plain.assignment, r.assignment, s.assignment, *(p.assignment for p in snapshot.pinned)}) == 5
    assert set(ids.values()) >= {plain.assignment, r.assignment, s.assignment}


def test_it_survives_the_database():
    snapshot, _ = make(Route("r", version=A))
    body = json.loads(json.dumps(to_json(snapshot)))
    assert from_json(0, 0.0, body) == snapshot


def test_a_version_that_nobody_holds_gets_no_replicas():
    gone = Serving({"e0": "unix:/0"}, lambda v: (), ())
    snapshot, _ = make(Route("r", version=A), fleet=gone)
    assert snapshot.routes[0].arms[0].version == A and snapshot.routes[0].arms[0].replicas == ()


def test_without_engines_there_is_still_a_snapshot():
    snapshot, _ = make(Route("r"), fleet=Serving({}, lambda v: (), ()))
    assert snapshot.endpoints == () and snapshot.base.replicas == ()


def test_what_is_routed_where():
    snapshot, _ = make(Route("r", version=A))
    assert {pair for pair in routed_pairs(snapshot) if "base" not in pair[1]} == {("e0", A), ("e1", A), ("e1", B)}
