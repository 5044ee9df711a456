"""The root command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.cli import COMMANDS
from tests.support.serving import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


def test_help_lists_everything_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom gateway.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'sqlalchemy', 'fastapi', 'pydantic', 'uvicorn', 'httpx', 'torch', 'numpy'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize("name", [*COMMANDS])
def test_every_command_loads_and_has_help(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0 and "Usage:" in done.stdout, done.stderr


def test_wrong_usage_is_2_and_an_error_is_1_in_one_line() -> None:
    assert run("nope").returncode == 2
    assert run("route", "list", "--nope").returncode == 2
    done = run("route", "list", "-c", "/nonexistent.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_version() -> None:
    assert run("--version").stdout.strip()[0].isdigit()
