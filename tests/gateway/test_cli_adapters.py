"""`understudy adapter|route|key|db`, as an operator runs them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from adapters.evaluation_store import Evaluation, EvaluationStore
from adapters.fleet_store import FleetStore
from adapters.gates import GateVerdict, record_gate
from adapters.routes import RouteStore
from adapters.types import Holding, HoldingState
from gateway.cli import app
from tests.support import peft
from tests.support.commands import failed, good


def test_push_prints_the_version_last(cli, cli_base, tmp_path):
    folder = peft.write_adapter(tmp_path / "a", cli_base)
    result = cli("adapter", "push", folder, "--route", "support", "--lineage", "run=7", "--lineage", "data=a=b")
    version = good(result).splitlines()[-1]
    assert version.startswith("support@")
    assert "no probes.json" in result.stderr
    assert good(cli("adapter", "push", folder, "--route", "support")).strip() == version
    [listed] = json.loads(good(cli("adapter", "list", "--json")))
    assert listed["version"] == version
    assert listed["lineage"]["run"] == "7"
    assert listed["lineage"]["data"] == "a=b"
    assert "@" in listed["lineage"]["pushed_by"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--route", "support"], "nowhere is not a directory"),
        (["{adapter}", "--route", "Support"], "'Support' is not a route name"),
        (["{adapter}", "--route", "auto"], "is reserved"),
        (["{adapter}", "--route", "base"], "is the base's own name|is reserved"),
    ],
)
def test_push_refuses_in_one_line(cli, cli_base, tmp_path, arguments, message):
    folder = str(peft.write_adapter(tmp_path / "a", cli_base))
    line = failed(cli("adapter", "push", *[argument.replace("{adapter}", folder) for argument in arguments]))
    assert any(part in line for part in message.split("|"))
    assert json.loads(good(cli("adapter", "list", "--json"))) == []


def test_push_checks_against_the_configured_engine(cli, cli_base, tmp_path):
    folder = peft.write_adapter(tmp_path / "a", cli_base, rank=16)
    line = failed(cli("adapter", "push", folder, "--route", "support"))
    assert "r is 16, the engines take up to 8" in line


def test_push_against_a_base_that_is_not_there(cli, tmp_path, cli_base):
    other = tmp_path / "other.toml"
    other.write_text('[engine]\nbase_model = "no/such-model"\n')
    folder = peft.write_adapter(tmp_path / "a", cli_base)
    line = failed(cli("adapter", "push", folder, "--route", "support", config=other))
    assert "run `hf download no/such-model` first" in line


def test_listings_and_show(cli, pushed, cli_database):
    lines = good(cli("adapter", "list")).splitlines()
    assert lines[0].split() == ["VERSION", "STAGE", "GATE", "RANK", "BYTES", "CREATED", "REASON"]
    assert [line.split()[0] for line in lines[1:]] == pushed
    assert json.loads(good(cli("adapter", "list", "--json", "--route", "other"))) == []
    FleetStore(cli_database).upsert_holding(Holding("engine-0", pushed[0], HoldingState.FAILED, "b", 0.0, "no room"))
    text = good(cli("adapter", "show", pushed[0]))
    assert "registered" in text
    assert "engine-0  failed  no room" in text
    shown = json.loads(good(cli("adapter", "show", pushed[0], "--json")))
    assert shown["holdings"][0]["error"] == "no room"
    assert [event["stage"] for event in shown["events"]] == ["candidate"]
    assert "no engine holds it" in good(cli("adapter", "show", pushed[1]))


def test_stages_by_command(cli, pushed):
    assert "is candidate already" in failed(cli("adapter", "release", pushed[0], "--reason", "x"))
    result = cli("adapter", "archive", pushed[0], "--reason", "worse")
    good(result)
    assert "its files are deleted" in result.stderr
    assert "archived already" in failed(cli("adapter", "archive", pushed[0]))
    [archived] = json.loads(good(cli("adapter", "list", "--json", "--stage", "archived")))
    assert (archived["version"], archived["reason"]) == (pushed[0], "worse")


@pytest.mark.parametrize(
    "arguments",
    [
        ["adapter", "list", "--stage", "nonsense"], ["adapter", "release", "support@0123456789ab"],
        ["adapter", "push", "x"], ["adapter", "push", "x", "--route", "a", "--lineage", "novalue"],
        ["route", "set", "a", "b", "--timeout", "0"], ["key", "create"], ["adapter", "nonsense"], ["db", "nonsense"],
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2(cli, arguments):
    failed(cli(*arguments), code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapter", "show", "support"], "'support' is not a version"),
        (["adapter", "show", "support@0123456789ab"], "does not exist: see `understudy adapter list`"),
        (["adapter", "archive", "support@0123456789ab"], "does not exist"),
        (["route", "show", "nowhere"], "route nowhere does not exist: see `understudy route list`"),
        (["route", "set", "nowhere", "base"], "route nowhere does not exist"),
        (["route", "set", "declared", "x"], "'x' is not a version"),
        (["route", "create", "A"], "is not a route name"),
        (["route", "delete", "declared"], "declared in the configuration file"),
        (["key", "create", "--scope", "admin"], "scopes are inference and operator"),
        (["key", "create", "--scope", "inference", "--routes", "typo"], "route typo does not exist"),
        (["key", "create", "--scope", "inference", "--rpm", "-1"], "limits per minute"),
        (["key", "revoke", "key-nobody"], "see `understudy key list`"),
    ],
)
def test_mistakes_give_one_line(cli, arguments, message):
    assert message in failed(cli(*arguments))


def test_a_missing_configuration_file(cli, tmp_path):
    assert "write one with `understudy init`" in failed(cli("adapter", "list", config=tmp_path / "nowhere.toml"))


def test_stored_text_cannot_steer_a_terminal(cli):
    good(cli("route", "create", "evil", "--description", "\x1b[2Jboo\nfake line"))
    shown = good(cli("route", "show", "evil"))
    assert "\x1b" not in shown
    assert "?[2Jboo?fake line" in shown


def test_a_folder_without_configuration_says_which_data_it_uses(tmp_path, monkeypatch):
    """Else a tired operator in the wrong folder sees an empty list and believes it."""
    monkeypatch.chdir(tmp_path)
    first, second = (CliRunner().invoke(app, ["adapter", "list"]) for _ in range(2))
    assert f"no understudy.toml in this folder: using the defaults, with data in {tmp_path}/.understudy" in first.stderr
    assert second.stderr == ""


def test_paths_that_no_system_call_takes(cli):
    assert "cannot be read: File name too long" in failed(cli("adapter", "push", "x" * 5000, "--route", "support"))


def test_what_the_gate_said_is_shown_wherever_the_version_is(cli, pushed, cli_database):
    first, second = pushed
    with cli_database.begin() as connection:
        record_gate(connection, first, GateVerdict.PASSED, actor="ann@host")
        record_gate(connection, second, GateVerdict.OVERRIDDEN, reason="pilot customer", actor="bob@host")
    listed = {row["version"]: row["gate"] for row in json.loads(good(cli("adapter", "list", "--json")))}
    assert listed[first]["verdict"] == "passed" and listed[second]["reason"] == "pilot customer"
    assert "overridden" in good(cli("adapter", "list"))
    shown = good(cli("adapter", "show", second))
    assert "overridden (pilot customer)" in shown and "by bob@host" in shown
    star = {"name": "mean", "value": 0.75, "lower": 0.7, "upper": 0.8}
    EvaluationStore(cli_database).add(Evaluation(second, "demo", "d" * 64, "gateway", {"north_star": star}))
    assert "mean 0.750 [0.700, 0.800]" in good(cli("adapter", "show", second))
    assert json.loads(good(cli("adapter", "show", second, "--json")))["evaluations"][0]["north_star"] == star
    assert json.loads(good(cli("adapter", "show", first, "--json")))["evaluations"] == []
    RouteStore(cli_database).set_target("support", second)
    RouteStore(cli_database).commit_target("support", 0, 0)
    assert "overridden (pilot customer)" in good(cli("route", "show", "support"))
    assert json.loads(good(cli("route", "show", "support", "--json")))["gate"]["verdict"] == "overridden"
    rows = {row["name"]: row["gate"] for row in json.loads(good(cli("route", "list", "--json")))}
    assert rows["support"]["reason"] == "pilot customer" and rows["declared"] is None
