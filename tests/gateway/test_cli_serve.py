"""The long-running commands' refusals, `doctor` and `adapter verify`; test_up and test_real_vllm run the rest."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.commands import failed, good

VERSION = "support@3f2a9c1b7d20"


def test_engines_that_are_elsewhere_are_not_started(cli, cli_config):
    cli_config.write_text(cli_config.read_text().replace("[engine]", '[engine]\nmanaged = false\nurls = ["http://h:1"]'))
    assert "engine.managed is false" in failed(cli("engine"))


def test_a_replica_that_is_not_configured(cli):
    assert "engine.replicas is 1, so the last one is 0" in failed(cli("engine", "--replica", "3"))


@pytest.mark.parametrize("command", ["engine", "controller"])
def test_a_base_that_does_not_exist(cli, cli_config, command):
    cli_config.write_text('data_dir = "data"\n[engine]\nbase_model = "/no/such/base"\n')
    assert "/no/such/base" in failed(cli(command))


def test_a_reserved_argument(cli, cli_config):
    cli_config.write_text(cli_config.read_text().replace("[engine]", '[engine]\nextra_args = ["--port", "1"]'))
    assert "engine.extra_args may not set --port" in failed(cli("engine"))


def test_without_vllm(cli, monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert "vLLM is not installed" in failed(cli("engine"))


def test_wrong_usage_is_2(cli):
    failed(cli("engine", "--replica", "x"), code=2)
    failed(cli("up", "--nonsense"), code=2)
    failed(cli("adapter", "verify"), code=2)


def test_doctor_lists_findings_and_fails_when_something_is_wrong(cli, cli_config):
    config = cli_config.read_text().replace("[engine]", '[engine]\nmanaged = false\nurls = ["http://127.0.0.1:1"]')
    cli_config.write_text(config)
    result = cli("doctor")
    assert result.exit_code == 1 and "FAIL  127.0.0.1:1: " in result.stdout and "      → start it" in result.stdout
    listed = json.loads(cli("doctor", "--json").stdout)
    assert {"level": "ok", "subject": "configuration"}.items() <= listed[0].items()


def test_doctor_with_a_broken_file(cli, cli_config):
    cli_config.write_text("[engine\n")
    result = cli("doctor")
    assert result.exit_code == 1 and "not valid TOML" in result.stdout


@pytest.fixture
def operator(cli_config):
    """An operator API that answers what `answers` says; asked holds what came."""
    answers, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, self.headers["authorization"]))
            status, body = answers.pop(0)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    control = f'[control]\nport = {server.server_port}\noperator_token = "t"\n[[route]]'
    cli_config.write_text(cli_config.read_text().replace("[[route]]", control, 1))
    yield answers, asked
    server.shutdown()
    server.server_close()


def row(engine: str, ok: bool, verdict: str, **probe: float) -> dict:
    return {"engine": engine, "ok": ok, "verdict": verdict, "error": "" if ok else "why not", "probe": probe}


def test_verify_prints_a_row_per_engine(cli, operator):
    answers, asked = operator
    rows = [row("e0", True, "match", max_difference=0.01, tolerance=0.15), row("e1", True, "none")]
    answers.append((200, {"version": VERSION, "ok": True, "engines": rows}))
    result = cli("adapter", "verify", VERSION)
    lines = good(result).splitlines()
    assert lines[1].split() == ["e0", "match", "0.0100", "0.1500", "-", "-"]
    assert "without probes.json" in result.stderr
    assert asked == [(f"/api/v1/adapters/{VERSION}/verify".replace("@", "%40"), "Bearer t")]


@pytest.mark.parametrize("rows", [[], [row("e0", True, "match"), row("e1", False, "ignored")]])
def test_verify_fails_unless_all_match(cli, operator, rows):
    operator[0].extend([(200, {"version": VERSION, "ok": all(r["ok"] for r in rows), "engines": rows})] * 2)
    assert cli("adapter", "verify", VERSION).exit_code == 1
    result = cli("adapter", "verify", VERSION, "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["engines"] == rows


def test_verify_repeats_the_apis_reason(cli, operator):
    operator[0].append((409, {"error": {"message": "version x is archived"}}))
    assert failed(cli("adapter", "verify", VERSION)) == "error: version x is archived"


def test_verify_checks_the_name_first(cli, operator):
    assert "is not a version" in failed(cli("adapter", "verify", "../../keys"))
    assert operator[1] == []
