"""The command `understudy reward` itself; tests/gateway/scoring runs the service."""

from __future__ import annotations

from tests.support.commands import failed


def test_relative_files_are_beside_the_configuration(cli, cli_config):
    (cli_config.parent / "answer.json").write_text('{"type": "objekt"}')
    table = '[[rewards.grader]]\nname = "json_schema"\noptions = { file = "answer.json" }\n[[route]]'
    cli_config.write_text(cli_config.read_text().replace("[[route]]", table, 1))
    assert "not a JSON schema" in failed(cli("reward", "--check"))


def test_wrong_usage(cli):
    assert "No such option" in failed(cli("reward", "--chek"), code=2)
