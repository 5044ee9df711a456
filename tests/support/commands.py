"""Runs commands as an operator does, on an installation of its own with a tiny base."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from adapters.database import open_database
from adapters.settings import DatabaseSettings
from gateway.cli import app
from tests.support import peft


@pytest.fixture
def cli_base(tmp_path):
    """The base of that installation."""
    return peft.small_base(tmp_path / "base")


@pytest.fixture
def cli_config(tmp_path, cli_base):
    """Its understudy.toml."""
    path = tmp_path / "understudy.toml"
    path.write_text(
        f'data_dir = "data"\n[engine]\nbase_model = "{cli_base.path}"\nmax_lora_rank = 8\n'
        '[[route]]\nname = "declared"\ndescription = "from the file"\n'
    )
    return path


@pytest.fixture
def cli(cli_config):
    """Run a command; returns its result with .exit_code, .stdout and .stderr."""

    def invoke(*arguments, config=cli_config):
        return CliRunner().invoke(app, [*map(str, arguments), "-c", str(config)])

    return invoke


@pytest.fixture
def cli_database(cli_config):
    """Its database."""
    opened = open_database(DatabaseSettings(), cli_config.parent / "data")
    yield opened
    opened.close()


@pytest.fixture
def pushed(cli, cli_base, tmp_path):
    """The names of two versions of the route support."""
    names = []
    for seed in (1, 2):
        folder = peft.write_adapter(tmp_path / f"a{seed}", cli_base, seed=seed)
        names.append(cli("adapter", "push", folder, "--route", "support").stdout.strip())
    return names


def good(result):
    """The standard output of a command that succeeded."""
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(result, *, code=1):
    """What a command that failed said: one line on standard error, nothing on standard output."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    if code == 1:
        lines = result.stderr.strip().splitlines()
        assert lines[-1].startswith("error: "), result.stderr
        assert "Traceback" not in result.stderr
        return lines[-1]
    return result.stderr
