"""`understudy gate`, as an operator runs it. A pass is shown in test_cli_eval.py, after an evaluation."""

from __future__ import annotations

import json

from adapters.gates import gate_status
from tests.support.commands import failed, good


def test_a_gate_is_overridden_with_a_reason_only(cli, pushed, cli_database):
    assert "needs a reason" in failed(cli("gate", pushed[0], "--override", " "))
    assert gate_status(cli_database, pushed[0]).verdict == "none"
    refused = cli("gate", pushed[0], "--json")
    assert refused.exit_code == 3
    found = json.loads(refused.stdout)
    assert (found["verdict"], found["passed"]) == ("failed", False) and found["against"].startswith("base@")
    assert {rule["verdict"] for rule in found["rules"]} == {"pass", "no data"}
    assert gate_status(cli_database, pushed[0]).verdict == "failed"
    text = good(cli("gate", pushed[0], "--override", "pilot customer"))
    assert text.splitlines()[-1].endswith("gate overridden: pilot customer")
    status = gate_status(cli_database, pushed[0])
    assert (status.verdict, status.reason) == ("overridden", "pilot customer") and "@" in status.actor


def test_what_a_gate_is_asked_about(cli, pushed):
    assert "does not exist" in failed(cli("gate", "support@0123456789ab"))
    assert "is not a version" in failed(cli("gate", "support"))
    assert "name another version with --against" in failed(cli("gate", pushed[0], "--against", pushed[0]))
    assert "the engines serve base@" in failed(cli("gate", pushed[0], "--against", "base@0123456789ab"))


def test_a_bad_rules_file(cli, pushed, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("max_rnk = 8")
    assert "nearest known one is 'max_rank'" in failed(cli("gate", pushed[0], "--rules", rules))
