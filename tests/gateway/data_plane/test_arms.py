"""Who gets which arm: intervals, testers, operators' wishes; the same for every worker."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from adapters import tables
from adapters.keys import create_key
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Shadow, Snapshot, check_partition
from adapters.snapshot import Tester as PinnedUnit
from gateway.data_plane import routing
from gateway.data_plane.breaker import Breakers
from gateway.data_plane.endpoints import CHAT as CHAT_ENDPOINT
from gateway.data_plane.ids import IdMinter
from gateway.data_plane.protocol import parse
from gateway.data_plane.route_table import TableCompiler
from gateway.errors import ApiError
from tests.support.rollouts import Published, rows
from tests.support.serving import ASK, CHAT, OTHER, STABLE, obliging, scripted_engine, serving
from tests.support.waiting import PATIENCE

UNIT = b"\x01\x02\x03\x04\x05\x06\x07\x08"


def table(*arms: Arm, **state: Any) -> routing.RouteTable:
    route = RouteState("support", "salt", arms, **state)
    check_partition(route)
    base = PinnedVersion(9, "base@" + "0" * 12, "base", ())
    pinned = (PinnedVersion(4, STABLE, STABLE, ()), PinnedVersion(5, OTHER, OTHER, ()))
    snapshot = Snapshot(1, 0.0, base, (route,), pinned, (Endpoint("e0", "http://x"),))
    return TableCompiler("base", (), lambda _: None, Breakers()).compile(snapshot)


def arm(name: str, low: float, high: float, assignment: int, version: str = STABLE) -> Arm:
    return Arm(assignment, name, version, version, low, high, ())


@st.composite
def blocks(draw: st.DrawFn) -> list[Arm]:
    """A/B/n in repeated blocks: edges anywhere, arms in any order, some of no width, a holdout at the end."""
    edges = sorted({0.0, 1.0, *draw(st.lists(st.floats(0, 1, allow_subnormal=False), max_size=12))})
    names = [draw(st.sampled_from(["control", "treatment", "treatment-2"])) for _ in edges[1:]]
    names[-1] = "holdout"
    number = {"control": 1, "treatment": 2, "treatment-2": 3, "holdout": 4}
    return [arm(n, low, high, number[n]) for n, low, high in zip(names, edges, edges[1:], strict=False)]


@given(blocks(), st.binary(min_size=8, max_size=8))
def test_a_unit_gets_the_arm_of_the_interval_that_holds_its_bucket(arms: list[Arm], unit: bytes) -> None:
    route = table(*arms).routes["support"]
    point = routing.bucket(b"salt", unit)
    expected = next((a for a in arms if a.low <= point < a.high), arms[-1])
    assert routing.pick_arm(route, unit).assignment == expected.assignment


@given(st.floats(0.001, 0.9), st.floats(1.0, 3.0), st.binary(min_size=8, max_size=8))
def test_a_ramp_only_widens_and_the_holdout_never_moves(share: float, growth: float, unit: bytes) -> None:
    def at(width: float) -> str:
        edges = [("candidate", 0.0, width), ("stable", width, 0.95), ("holdout", 0.95, 1.0)]
        arms = [arm(n, low, high, k) for k, (n, low, high) in enumerate(edges, 1)]
        return routing.pick_arm(table(*arms).routes["support"], unit).arm

    before, after = at(min(share, 0.95)), at(min(share * growth, 0.95))
    assert before != "candidate" or after == "candidate"
    assert (before == "holdout") == (after == "holdout")


def test_the_arms_shares_are_those_of_the_snapshot() -> None:
    """Chi-square over repeated blocks; fixed units, so the test cannot flicker."""
    arms = [arm(["control", "treatment", "treatment-2"][k % 3], k / 12, (k + 1) / 12, k % 3 + 1) for k in range(12)]
    route = table(*arms).routes["support"]
    minter = IdMinter(b"x" * 32)
    counts = Counter(routing.pick_arm(route, minter.unit_hash("team", f"user-{n}")).arm for n in range(12_000))
    assert set(counts) == {"control", "treatment", "treatment-2"}
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_intervals_of_one_arm_share_a_target() -> None:
    route = table(arm("control", 0, 0.25, 1), arm("treatment", 0.25, 0.5, 2, OTHER), arm("control", 0.5, 1, 1)).routes
    targets = [target for _, target in route["support"].arms]
    assert targets[0] is targets[2] and targets[0] is not targets[1]


SHADOW = Shadow(8, OTHER, OTHER, (), 0.1, 2, 10)


def test_a_tester_gets_the_candidate_and_is_no_evidence() -> None:
    testers = (PinnedUnit(UNIT.hex(), 7, "candidate"), PinnedUnit("00" * 8, 6, "stable"))
    for arms, shadow in (
        ((arm("candidate", 0, 0.1, 2, OTHER), arm("stable", 0.1, 1, 1)), None),
        ((arm("stable", 0, 1, 1),), SHADOW),  # before the ramp the version is known from the shadow
    ):
        route = table(*arms, rollout=1, testers=testers, shadow=shadow).routes["support"]
        target = routing.pick_arm(route, UNIT)
        assert (target.version, target.arm, target.assignment, target.watch) == (OTHER, "tester", 7, None)
        assert routing.pick_arm(route, bytes(8)).assignment == 6
    unknown = table(arm("stable", 0, 1, 1), rollout=1, testers=testers).routes["support"]
    assert routing.pick_arm(unknown, UNIT).arm == "stable"


def ask(found: routing.RouteTable, wanted: bytes, operator: bool = True) -> routing.Target:
    request = parse(CHAT_ENDPOINT, json.dumps({"model": "support"}).encode(), 16)
    return routing.resolve(found, request, {b"x-understudy-arm": wanted}, UNIT, operator)


def test_an_operator_may_name_the_arm() -> None:
    arms = (arm("candidate", 0, 0.1, 2, OTHER), arm("stable", 0.1, 1, 1))
    running = table(*arms, rollout=1)
    assert (ask(running, b"candidate").version, ask(running, b"candidate").assignment) == (OTHER, 5)
    assert (ask(running, b"stable").version, ask(running, b"stable").assignment) == (STABLE, 4)
    tested = table(*arms, rollout=1, testers=(PinnedUnit("", 7, "candidate"),))
    assert (ask(tested, b"candidate").assignment, ask(tested, b"candidate").arm) == (7, "tester")
    for found, wanted, operator, status in (
        (running, b"candidate", False, 403), (running, b"stable", False, 403), (running, b"best", True, 400),
        (table(arm("stable", 0, 1, 1)), b"candidate", True, 400),
    ):  # fmt: skip
        with pytest.raises(ApiError) as caught:
            ask(found, wanted, operator)
        assert caught.value.status == status
    assert ask(table(arm("stable", 0, 1, 1)), b"stable").version == STABLE


async def test_workers_agree_testers_are_theirs_and_only_operators_choose(tmp_path: Path) -> None:
    """Two real workers, every request on its own connection."""
    async with scripted_engine(obliging) as url:
        with serving(tmp_path, workers=2) as gateway:
            _, team = create_key(gateway.database, "team", ["inference"])
            _, boss = create_key(gateway.database, "boss", ["inference", "operator"])
            gateway.start()
            from adapters.keys import server_secret

            tester = IdMinter(server_secret(gateway.database)).unit_hash("team", "tess")
            published = Published(gateway, {"e0": url})
            published.publish(0.3, testers=(tester.hex(),))
            await published.settled()
            limits = httpx.Limits(max_keepalive_connections=0)
            async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, limits=limits) as http:

                async def version(unit: str, key: str = team, **headers: str) -> str:
                    given = {"authorization": f"Bearer {key}", "x-understudy-unit": unit} | headers
                    answer = await http.post(CHAT, json=ASK, headers=given)
                    return answer.headers.get("x-understudy-version") or str(answer.status_code)

                seen = [{await version(f"u{n}") for _ in range(6)} for n in range(30)]
                assert all(len(versions) == 1 for versions in seen)
                assert {v for versions in seen for v in versions} == {STABLE, OTHER}
                assert {await version("tess") for _ in range(10)} == {OTHER}
                wish = {"x-understudy-arm": "candidate"}
                assert {await version(f"u{n}", boss, **wish) for n in range(10)} == {OTHER}
                assert {await version(f"u{n}", boss, **{"x-understudy-arm": "stable"}) for n in range(10)} == {STABLE}
                assert await version("u1", team, **wish) == "403"
            assert gateway.stop() == 0
            arms = {a["id"]: a["arm"] for a in rows(gateway, tables.assignments)}
            by_arm = Counter(arms[r["assignment"]] for r in rows(gateway, tables.responses))
            assert by_arm["tester"] == 20 and by_arm["pinned"] == 10
