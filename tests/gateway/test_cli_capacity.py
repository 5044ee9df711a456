"""`understudy capacity` as an operator uses it."""

from __future__ import annotations

import json

from tests.support.commands import failed, good
from tests.support.records import Records

GIVEN = ("--rps", 100, "--input-tokens", 300, "--output-tokens", 100, "--ttft", "60s", "--tpot", "20ms")
ENGINE = ("--engine", "1:50:0.1", "--engine", "50:2500:0.1")


def test_by_hand(cli):
    shown = good(cli("capacity", *GIVEN, *ENGINE))
    assert "engines           6: 5 for the traffic, and 1 to spare" in shown
    found = json.loads(good(cli("capacity", *GIVEN, *ENGINE, "--json")))
    assert (found["plan"]["replicas"], found["plan"]["concurrency"]) == (6, 50)
    assert found["versions"] == {"served": 1, "loaded": 2, "rank": 8}
    assert found["points"][1] == {"concurrency": 50.0, "tokens_per_second": 2500.0, "first_token": 0.1}


def test_it_makes_nothing(cli, cli_config):
    good(cli("capacity", *GIVEN, *ENGINE))
    assert not (cli_config.parent / "data").exists()


def test_traffic_and_versions_of_this_installation(cli, cli_database):
    records = Records(cli_database)
    failed(cli("capacity", *ENGINE, "--tpot", "20ms"))
    for number in range(600):
        records.answer(1, number, at=6000.0 + number % 60, input_tokens=300, output_tokens=100)
    result = cli("capacity", *ENGINE, "--tpot", "20ms", "--json")
    assert "the last 600 records" not in good(result)
    found = json.loads(result.stdout)
    assert found["demand"]["rps"] == 10.0 and found["demand"]["variation"] == 0.0 and found["records"] == 600
    assert "the busiest minute of the last 600 records" in cli("capacity", *ENGINE, "--tpot", "20ms").stderr


def test_errors_are_one_line(cli):
    assert "give one of --engine, --measure and --watch" in failed(cli("capacity", *GIVEN))
    assert "give one of" in failed(cli("capacity", *GIVEN, *ENGINE, "--measure", "1,4"))
    assert "--rps" in failed(cli("capacity", *ENGINE))
    assert "no number of engines" in failed(cli("capacity", *GIVEN, "--engine", "1:10"))
    assert "cannot be measured" in failed(cli("capacity", *GIVEN, "--measure", "1", "--url", "http://127.0.0.1:1"))
    assert "shows no metrics" in failed(cli("capacity", *GIVEN, "--watch", "1s", "--url", "http://127.0.0.1:1"))
    assert "no engine is known here" in failed(cli("capacity", *GIVEN, "--measure", "1"))
    assert "KV cache" in failed(cli("capacity", *GIVEN, *ENGINE, "--gpu-memory", 80))
    failed(cli("capacity", "--rps", "many"), code=2)
