"""How commands report errors and print things."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from adapters.errors import ConfigError
from adapters.types import ApiKey
from gateway.cli_support import actor, command_group, print_fields, print_json, print_table, reported, when


def run(function, monkeypatch=None):
    app = command_group("Test.")
    app.command("one")(reported(function))
    app.command("two")(lambda: None)
    return CliRunner().invoke(app, ["one"])


def fail(error):
    def command():
        typer.echo("before")
        raise error

    return command


def test_a_known_error_is_one_line_and_status_1():
    result = run(fail(ConfigError("the first line\nand the second")))
    assert (result.exit_code, result.stdout) == (1, "before\n")
    assert result.stderr == "error: the first line and the second\n"


def test_an_unknown_error_names_a_private_file_with_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run(fail(ZeroDivisionError("oops")))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: internal error: ZeroDivisionError: oops; please report it with ")
    log = Path(result.stderr.strip().rsplit(" ", 1)[1])
    assert log.parent == tmp_path
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_without_a_place_for_the_log_the_message_still_comes(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert "UNDERSTUDY_DEBUG=1" in run(fail(ZeroDivisionError("oops"))).stderr


@pytest.mark.parametrize("error", [ConfigError("x"), ZeroDivisionError("x")])
def test_debug_shows_the_traceback(monkeypatch, error):
    monkeypatch.setenv("UNDERSTUDY_DEBUG", "1")
    assert run(fail(error)).exception is error


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (typer.Exit(3), 3), (typer.BadParameter("wrong"), 2), (typer.Abort(), 1)],
)
def test_exit_statuses(error, code):
    assert run(fail(error)).exit_code == code


def test_results_pass_through():
    assert reported(lambda x, y=2: x + y)(1, y=5) == 6


def test_tables(capsys):
    rows = [{"name": "a", "bytes": 5, "more": 1}, {"name": "longer", "bytes": None}]
    print_table(rows, ("name", "bytes", "absent_one"), False)
    assert capsys.readouterr().out == "NAME    BYTES  ABSENT ONE\na       5      -\nlonger  -      -\n"
    print_table(rows, ("name",), True)
    assert json.loads(capsys.readouterr().out) == rows
    print_table([], ("name", "x"), False)
    assert capsys.readouterr().out == "NAME  X\n"


def test_fields(capsys):
    print_fields({"a_b": 1, "long name": "x\x1b", "none": None})
    assert capsys.readouterr().out == "a b        1\nlong name  x?\nnone       -\n"


def test_json_of_our_own_types(capsys):
    print_json([ApiKey("k", "ä", b"\x01", frozenset({"b", "a"}), frozenset())])
    text = capsys.readouterr().out
    assert "ä" in text
    assert json.loads(text)[0]["scopes"] == ["a", "b"]
    assert json.loads(text)[0]["secret_hash"] == "01"


def test_times():
    assert when(None) == when(0.0) == ""
    assert len(when(1e9)) == len("2001-09-09 03:46")


def test_the_actor_without_a_user_name(monkeypatch):
    assert "@" in actor()

    def nobody():
        raise KeyError("uid")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert actor().startswith(f"{os.getuid()}@")
