"""Gates: the newest verdict counts, overrides need reasons, and an operator's hand is on record."""

from __future__ import annotations

import pytest

from adapters.errors import Conflict
from adapters.gates import (
    AGAINST_THE_GATE,
    WITHOUT_A_GATE,
    GateStatus,
    GateVerdict,
    gate_history,
    gate_status,
    gate_statuses,
    override_unless_cleared,
    record_gate,
    require_cleared,
)
from adapters.types import Stage

V, W = "support@0123456789ab", "support@ffffffffffff"


def record(database, version, verdict, **fields):
    with database.begin() as connection:
        return record_gate(connection, version, verdict, **fields)


def test_no_gate_is_no_pass(database):
    assert gate_status(database, V) == GateStatus()
    assert not GateStatus().cleared
    with pytest.raises(Conflict, match=rf"no gate has passed version {V}: run `understudy eval {V}"):
        require_cleared(database, V)


def test_the_newest_counts(database):
    record(database, V, GateVerdict.PASSED, against=W)
    failed = record(database, V, GateVerdict.FAILED, reason="slice math", body={"rules": []})
    record(database, W, GateVerdict.PASSED)
    assert gate_status(database, V) == failed and not failed.cleared
    with pytest.raises(Conflict, match="failed its gate: slice math; override it with"):
        require_cleared(database, V)
    overridden = record(database, V, GateVerdict.OVERRIDDEN, reason="known", actor="me")
    assert require_cleared(database, V) == overridden and overridden.cleared
    assert str(overridden) == "overridden (known)"
    with database.read() as connection:
        assert gate_status(connection, V) == overridden
    assert {v: s.verdict for v, s in gate_statuses(database).items()} == {V: "overridden", W: "passed"}
    assert set(gate_statuses(database, [W])) == {W}
    assert [row["verdict"] for row in gate_history(database, V)] == ["overridden", "failed", "passed"]


@pytest.mark.parametrize("reason", ["", " \n"])
def test_an_override_needs_a_reason(database, reason):
    with pytest.raises(Conflict, match="needs a reason"):
        record(database, V, GateVerdict.OVERRIDDEN, reason=reason)
    assert gate_history(database, V) == []


@pytest.mark.parametrize(("before", "reason"), [(None, WITHOUT_A_GATE), (GateVerdict.FAILED, AGAINST_THE_GATE)])
def test_an_operator_who_sets_a_route_is_on_record(database, routes, registry, push, before, reason):
    version = push().name
    if before:
        record(database, version, before, reason="slice math")
    routes.set_target("support", version, actor="ann@host")
    found = gate_status(database, version)
    assert (found.verdict, found.reason, found.actor) == ("overridden", reason, "ann@host")
    routes.commit_target("support", 0, 0)
    assert registry.get(version).stage is Stage.RELEASED


def test_a_passed_version_needs_no_override(database, routes, push):
    version = push().name
    passed = record(database, version, GateVerdict.PASSED)
    routes.set_target("support", version)
    with database.begin() as connection:
        assert override_unless_cleared(connection, version, "me") == passed
    assert len(gate_history(database, version)) == 1


def test_a_gate_that_fails_before_the_switch_stops_it(database, routes, registry, push):
    version = push().name
    routes.set_target("support", version)
    record(database, version, GateVerdict.FAILED, reason="slice math")
    route = routes.commit_target("support", 0, 0)
    assert (route.version, route.target) == (None, None)
    assert route.error == f"{version}: its gate failed meanwhile"
    assert registry.get(version).stage is Stage.CANDIDATE
