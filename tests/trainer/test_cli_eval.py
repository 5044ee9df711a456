"""`understudy eval` and `understudy gate`, as an operator runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.keys import list_keys
from gateway.cli import app
from tests.support.commands import failed, good
from tests.support.stack import Stack
from trainer.demo.suite import write_suite


def command(config, *arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "-c", str(config)])


@pytest.fixture
def demo_config(tmp_path):
    path = tmp_path / "understudy.toml"
    path.write_text('data_dir = "data"\n[engine]\nbase_model = "demo"\n')
    return path


@pytest.mark.slow
def test_from_a_local_evaluation_to_a_passed_gate(demo_config, tmp_path, made):
    """The demo's SFT adapter beats its base on every slice, and the gate says so; torch, no engine."""
    suite = write_suite(tmp_path / "suite", prompts=25, samples=2)
    version = good(command(demo_config, "adapter", "push", made["sft"], "--route", "support")).splitlines()[-1]
    refused = command(demo_config, "gate", version)
    assert refused.exit_code == 3 and "neither version was evaluated" in refused.stdout
    good(command(demo_config, "eval", "base", "--suite", suite, "--local"))
    failures, a_run = tmp_path / "failures.jsonl", tmp_path / "run"
    a_run.mkdir()
    (a_run / "run.json").write_text("{}")
    run = command(
        demo_config, "eval", version, "--suite", suite, "--local", "--against", "base", "--failures", failures, "--json",
        "--run", a_run,
    )  # fmt: skip
    found = json.loads(good(run))
    assert found["north_star"]["value"] > 0.55 and found["comparison"]["north_star"]["interval"][0] > 0.1
    assert found["slices"]["add"]["ece"]["upper"] < 1 and found["slices"]["add"]["k"] == 2
    rows = [json.loads(line) for line in failures.read_text().splitlines()]
    assert rows and all(row["label"] is False and row["answer"] for row in rows)
    assert "reverse: " in (a_run / "report.html").read_text() and version in (a_run / "report.html").read_text()
    stored = json.loads(Path(found["file"]).read_text())
    assert len(stored["answers"]) == 300 and stored["answers"][0]["text"]
    passed = command(demo_config, "gate", version)
    assert "north star mean" in good(passed) and passed.stdout.splitlines()[-1].endswith("gate passed")
    listed = json.loads(good(command(demo_config, "adapter", "list", "--json")))
    assert listed[0]["gate"]["verdict"] == "passed"
    again = command(demo_config, "eval", version, "--suite", suite, "--local", "--json")
    assert json.loads(good(again))["slices"]["sort"]["values"] == found["slices"]["sort"]["values"]


def test_what_eval_refuses_before_anything_is_asked(cli, pushed, tmp_path):
    suite = write_suite(tmp_path / "suite", prompts=2, samples=1)
    assert "does not exist" in failed(cli("eval", "support@0123456789ab", "--suite", suite))
    assert "has not been evaluated" in failed(cli("eval", pushed[0], "--suite", suite, "--against", pushed[1]))
    assert "does not exist" in failed(cli("eval", pushed[0], "--suite", tmp_path / "none.toml"))
    assert "operator.token cannot be read: start the controller" in failed(cli("eval", pushed[0], "--suite", suite))
    assert "is no run directory" in failed(cli("eval", pushed[0], "--suite", suite, "--run", tmp_path))
    assert cli("eval", pushed[0]).exit_code == 2


@pytest.mark.engine
def test_through_the_gateway(stack: Stack, tmp_path: Path) -> None:
    """The marker adapter answers `A: …`: evaluated as it is served, pinned, with a key made for it."""
    suite = write_suite(tmp_path / "suite", prompts=8, samples=1)
    found = json.loads(stack.understudy("eval", stack.versions["B"], "--suite", str(suite), "--json"))
    assert found["version"] == stack.versions["B"] and found["environment"]["source"] == "gateway"
    assert found["north_star"]["value"] == 0.0 and found["slices"]["sort"]["errors"] == 0
    stored = json.loads(Path(found["file"]).read_text())
    assert all(answer["text"].startswith("B:") for answer in stored["answers"])
    assert all(answer["logprob"] < 0 and answer["logprob_tokens"] == answer["output_tokens"] for answer in stored["answers"])
    base = json.loads(stack.understudy("eval", "base", "--suite", str(suite), "--json"))
    assert base["version"].startswith("base@") and 0.1 < base["north_star"]["value"] < 0.8
    again = json.loads(stack.understudy("eval", "base", "--suite", str(suite), "--json"))
    same = [a["values"] == b["values"] for a, b in zip(base["slices"].values(), again["slices"].values(), strict=True)]
    assert sum(same) >= 4  # seeded; batches of other sizes may flip a sample
    assert "understudy eval" in stack.understudy("key", "list")


@pytest.mark.parametrize("given", ["", "an-operators-key"])
def test_a_key_is_made_only_where_none_is_given(cli, cli_config, pushed, cli_database, tmp_path, monkeypatch, given):
    """The controller is not there, so nothing is asked; the key that was made is revoked all the same."""
    monkeypatch.setenv("UNDERSTUDY_API_KEY", given)
    cli_config.write_text(cli_config.read_text() + "[gateway]\nrequire_keys = true\n")
    suite = write_suite(tmp_path / "suite", prompts=2, samples=1)
    failed(cli("eval", pushed[0], "--suite", suite))
    keys = list_keys(cli_database)
    assert len(keys) == (not given) and all(key.revoked_at for key in keys)
