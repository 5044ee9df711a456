"""`understudy rollout …` on a database where no controller runs: what the commands write, say and refuse."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from adapters.gates import GateVerdict, record_gate
from adapters.rollout_store import RolloutStore
from adapters.rollouts import Phase, RolloutEvent
from adapters.snapshot import PinnedVersion, Snapshot, to_json
from gateway import cli_rollout_view
from tests.support.commands import failed, good

BASE = "base@000000000000"


@pytest.fixture
def store(cli_database) -> RolloutStore:
    return RolloutStore(cli_database)


@pytest.fixture
def cleared(cli, pushed, cli_database, store) -> list[str]:
    """The two versions; the first has passed its gate. The base's name is published."""
    with cli_database.begin() as connection:
        record_gate(connection, pushed[0], GateVerdict.PASSED, actor="test")
    from adapters.fleet_store import FleetStore

    snapshot = Snapshot(0, 0.0, PinnedVersion(1, BASE, "base", ()), (), (), ())
    FleetStore(cli_database).publish(to_json(snapshot), time.time())
    return pushed


@pytest.fixture
def ramping(cli, cleared, store):
    """An open rollout at 5 %."""
    good(cli("rollout", "start", "support", cleared[0]))
    row = store.open_on("support")
    moved = RolloutEvent("moved", "the candidate is loaded")
    return store.change(row, moved, phase=Phase.RAMP.value, step=2, weight=0.05)


def test_start(cli, cleared, store, pushed, tmp_path):
    assert "no gate has passed" in failed(cli("rollout", "start", "support", pushed[1]))
    assert "cannot be read" in failed(cli("rollout", "start", "support", cleared[0], "--plan", "none.toml"))
    wrong = tmp_path / "plan.toml"
    wrong.write_text('[[step]]\nweight = "5%"\nadvance = "evidence"\n[[metric]]\nname = "erorr"\nrole = "primary"\n')
    assert "'error'" in failed(cli("rollout", "start", "support", cleared[0], "--plan", wrong))
    body = json.loads(good(cli("rollout", "start", "support", cleared[0], "--json")))
    assert (body["phase"], body["stable"], body["plan"]) == ("preparing", BASE, "default")
    line = failed(cli("rollout", "start", "support", cleared[0]))
    assert "has rollout 1" in line and "rollout rollback support" in line
    assert "rollout 1" in failed(cli("route", "set", "support", cleared[0], "--no-wait"))


def test_start_says_when_no_controller_has_ever_run(cli, pushed, cli_database):
    with cli_database.begin() as connection:
        record_gate(connection, pushed[0], GateVerdict.PASSED, actor="test")
    assert "start `understudy up` first" in failed(cli("rollout", "start", "support", pushed[0]))


def test_a_weight_needs_its_percent_sign(cli, ramping, store):
    assert "10" in failed(cli("rollout", "weight", "support", "10"), code=2)
    assert store.open_on("support").weight == 0.05
    result = cli("rollout", "weight", "support", "10%", "--reason", "looks fine")
    assert result.exit_code == 0 and "0.05 → 0.1 by hand: looks fine" in result.stderr
    assert "no controller is running" in result.stderr
    assert store.open_on("support").weight == 0.1
    assert "use promote" in failed(cli("rollout", "weight", "support", "100%"))
    assert "more than 100%" in failed(cli("rollout", "weight", "support", "101%"), code=2)


def test_generations_are_compared(cli, ramping, store):
    seen = ramping.generation
    good(cli("rollout", "pause", "support", "--generation", seen, "--reason", "lunch"))
    assert "changed meanwhile" in failed(cli("rollout", "resume", "support", "--generation", seen))
    good(cli("rollout", "resume", "support"))
    assert store.open_on("support").generation == seen + 2


def test_promote_rollback_and_history(cli, ramping, store):
    good(cli("rollout", "promote", "support", "--reason", "sure"))
    body = json.loads(good(cli("rollout", "rollback", "support", "--reason", "not sure", "--json")))
    assert body["phase"] == "rolled_back" and body["reason"] == "not sure"
    assert "no rollout that could be rolled back" in failed(cli("rollout", "rollback", "support"))
    (listed,) = json.loads(good(cli("rollout", "history", "support", "--json")))
    assert [e["kind"] for e in listed["events"]] == ["started", "moved", "released", "rolled_back"]
    assert "@" in listed["events"][-1]["actor"]
    table = good(cli("rollout", "history"))
    assert "not sure" in table and "rolled_back" in table and "operator" in table
    assert json.loads(good(cli("adapter", "show", ramping.candidate, "--json")))["stage"] == "quarantined"


def test_history_links_the_report(cli, ramping, store, cli_config, cli_database):
    from adapters.evidence_store import EvidenceStore
    from gateway.rollout.incident import write_incident

    good(cli("rollout", "rollback", "support"))
    folder = cli_config.parent / "data" / "incidents"
    path = write_incident(folder, store.newest()[0], store, EvidenceStore(cli_database))
    assert str(path) in good(cli("rollout", "history"))
    assert str(path) in good(cli("rollout", "status", "support"))


def test_status(cli, ramping, store):
    assert "ramp 2/4" in good(cli("rollout", "status"))
    finding = {"metric": "error", "test": "attribution", "verdict": "inconclusive", "reason": "error: 3 of 4",
               "log_e": 4.1, "threshold": 8.3, "n": 4}  # fmt: skip
    effect = {**finding, "test": "sequential", "effect": 0.01, "lower": -0.02, "upper": 0.04, "tolerated": 0.05,
              "metric": "satisfaction", "p": None}  # fmt: skip
    analysis = {"verdict": "inconclusive", "reason": "not enough", "findings": [effect], "decision": "continue"}
    seen = {"harm": [finding], "analysis": analysis, "units": {"candidate": 12, "stable": 230}}
    store.remember(store.open_on("support"), {"seen": seen, "credited": 75.0})
    shown = good(cli("rollout", "status", "support"))
    for text in ("ramp 2/4", "5.0%", "units 12 / 230", "4.10", "8.30", "satisfaction", "[-0.02, +0.04]", "75 s"):
        assert text in shown, shown
    (body,) = json.loads(good(cli("rollout", "status", "support", "--json")))
    assert body["harm"] == [finding]
    assert json.loads(good(cli("rollout", "status", "declared", "--json"))) == []
    assert "has had no rollout" in cli("rollout", "status", "declared").stderr
    assert "does not exist" in failed(cli("rollout", "status", "none"))


def test_several_candidates(cli, cleared, store, cli_database, cli_config):
    first, second = cleared
    with cli_database.begin() as connection:
        record_gate(connection, second, GateVerdict.PASSED, actor="test")
    assert "is named twice" in failed(cli("rollout", "start", "support", first, second, first))
    body = json.loads(good(cli("rollout", "start", "support", first, second, "--json")))
    assert [(c["version"], c["state"], c["share"]) for c in body["candidates"]] == [(first, "open", 0.0), (second, "open", 0.0)]
    moved = store.change(store.open_on("support"), RolloutEvent("moved", "x"), phase=Phase.RAMP.value, step=2, weight=0.5)
    assert "name the version" in failed(cli("rollout", "promote", "support"))
    assert "is no candidate" in failed(cli("rollout", "rollback", "support", "--version", "support@999999999999"))
    result = cli("rollout", "rollback", "support", "--version", first, "--reason", "too terse")
    assert result.exit_code == 0 and f"{first}: too terse" in result.stderr and store.open_on("support").id == moved.id
    shown = good(cli("rollout", "status", "support"))
    for text in (f"({first}), {second} against", "dropped: too terse", "25.0%", "50.0%", "ramp 2/4"):
        assert text in shown, shown
    assert f"({first}), {second}" in good(cli("rollout", "status"))
    assert "dropped" in good(cli("rollout", "history")) and "promotion asked for" not in good(cli("rollout", "history"))
    good(cli("rollout", "promote", "support", "--version", second))
    assert f"promotion asked for of {second}" in good(cli("rollout", "history"))
    line = failed(cli("adapter", "archive", second))
    assert "is in rollout 1" in line
    good(cli("rollout", "rollback", "support"))
    stages = {v["version"]: v["stage"] for v in json.loads(good(cli("adapter", "list", "--json")))}
    assert stages == {first: "quarantined", second: "quarantined"}


def test_watch_follows_it_to_its_end(cli, ramping, store, monkeypatch):
    from gateway.rollout.operations import roll_back

    def meanwhile(_seconds: float) -> None:  # between the first look and the next
        roll_back(store, "support", actor="bob", reason="enough seen")

    monkeypatch.setattr(cli_rollout_view, "time", SimpleNamespace(sleep=meanwhile))
    shown = good(cli("rollout", "status", "--watch"))
    assert "rolled_back" in shown and "enough seen" in shown
    assert "name the route to watch: no rollout is open" in failed(cli("rollout", "status", "--watch"))
