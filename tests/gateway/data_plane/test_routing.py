"""Who is answered by which version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scipy.stats import chisquare

from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Snapshot
from gateway.config import MatchRule, RouteSettings
from gateway.data_plane import routing
from gateway.data_plane.breaker import Breakers
from gateway.data_plane.endpoints import CHAT
from gateway.data_plane.protocol import parse
from gateway.data_plane.route_table import TableCompiler
from gateway.data_plane.task_rules import compile_rules
from gateway.errors import ApiError

STABLE, CANDIDATE = "support@" + "a" * 12, "support@" + "b" * 12


def snapshot(share: float = 0.05) -> Snapshot:
    arms = (
        Arm(2, "candidate", CANDIDATE, CANDIDATE, 0.0, share, ("e0",)),
        Arm(1, "stable", STABLE, STABLE, share, 1.0, ("e0",)),
    )
    routes = (
        RouteState("support", "salt", arms),
        RouteState("math", "s", (Arm(3, "stable", STABLE, STABLE, 0.0, 1.0, ()),)),
    )
    base = PinnedVersion(9, "base@" + "0" * 12, "base", ("e0",))
    return Snapshot(1, 0.0, base, routes, (PinnedVersion(4, STABLE, STABLE, ("e0",)),), (Endpoint("e0", "http://x"),))


def table(share: float = 0.05, rules: tuple[RouteSettings, ...] = ()) -> routing.RouteTable:
    return TableCompiler("base", compile_rules(rules), lambda _: None, Breakers()).compile(snapshot(share))


def ask(
    model: str, table_: routing.RouteTable, operator: bool = False, headers: Any = None, **fields: Any
) -> routing.Target:
    request = parse(CHAT, json.dumps({"model": model} | fields).encode(), 16)
    return routing.resolve(table_, request, headers or {}, b"unit", operator)


def test_a_unit_stays_where_it_is_and_a_ramp_moves_nobody_back() -> None:
    units = [str(i).encode() for i in range(3000)]
    before: set[bytes] = set()
    for share in (0.01, 0.05, 0.25, 0.5, 1.0):
        route = table(share).routes["support"]
        now = {unit for unit in units if routing.pick_arm(route, unit).version == CANDIDATE}
        assert now == {
            unit for unit in units if routing.pick_arm(table(share).routes["support"], unit).version == CANDIDATE
        }
        assert before <= now
        before = now
    assert len(before) == len(units)


def test_buckets_are_uniform_and_the_same_everywhere() -> None:
    counts = [0] * 20
    for i in range(20_000):
        counts[int(routing.bucket(b"salt", str(i).encode()) * 20)] += 1
    assert chisquare(counts).pvalue > 1e-4
    assert routing.bucket(b"salt", b"unit") == pytest.approx(0.9264938009903189)  # from a shell: sha256 of "salt\0unit"
    assert routing.bucket(b"other", b"unit") != routing.bucket(b"salt", b"unit")


def test_without_a_unit_requests_are_split_by_share() -> None:
    route = table(0.5).routes["support"]
    hits = sum(routing.pick_arm(route, None).version == CANDIDATE for _ in range(4000))
    assert 1800 < hits < 2200  # ±6 standard deviations


def test_names() -> None:
    assert ask("base", table()).version.startswith("base@")
    assert ask(STABLE, table(), operator=True).arm == "pinned"
    for model, operator, status in (
        (STABLE, False, 403),
        (CANDIDATE, True, 404),
        ("nope", True, 404),
        ("Support", False, 404),
    ):
        with pytest.raises(ApiError) as caught:
            ask(model, table(), operator)
        assert caught.value.status == status


RULES = (
    RouteSettings(name="math", match=(MatchRule(keyword=("add", "c++")), MatchRule(regex=r"\d+\s*\+\s*\d+"))),
    RouteSettings(name="support", match=(MatchRule(metadata={"task": "help"}, header={"X-Team": "cs"}),)),
)


@pytest.mark.parametrize(
    ("text", "metadata", "headers", "route"),
    [
        ("please ADD these", {}, {}, "math"), ("1 + 2?", {}, {}, "math"), ("in c++ please", {}, {}, "math"),
        ("addendum", {}, {}, "base"), ("hi", {"task": "help"}, {b"x-team": b"cs"}, "support"),
        ("hi", {"task": "help"}, {}, "base"), ("hi", ["task"], {}, "base"), ("hi", {"task": 1}, {b"x-team": b"cs"}, "base"),
    ],
)  # fmt: skip
def test_auto_routes_by_task_type(text: str, metadata: Any, headers: dict[bytes, bytes], route: str) -> None:
    messages = [{"role": "user", "content": text}]
    target = ask("auto", table(rules=RULES), headers=headers, messages=messages, metadata=metadata)
    assert target.route == route


def test_a_rule_for_a_route_that_does_not_exist_is_passed_over() -> None:
    rules = (RouteSettings(name="gone", match=(MatchRule(keyword=("hi",)),)),)
    assert ask("auto", table(rules=rules), messages=[{"role": "user", "content": "hi"}]).route == "base"
