"""A test that is left out is named last and never counted as passed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.tree import ROOT

TESTS = """
import pytest

@pytest.mark.needs("nginx")
def test_with_nginx(): pass

@pytest.mark.needs("no-such-program")
def test_with_missing(): pass

@pytest.mark.long
def test_of_minutes(): pass

def test_plain(): pass
"""


@pytest.fixture
def run(tmp_path):
    """Run TESTS under the plugin, with the given variables; returns the exit status and the lines printed."""
    (tmp_path / "test_sample.py").write_text(TESTS)

    def run(*arguments: str, **variables: str) -> tuple[int, list[str]]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("UNDERSTUDY_TEST_")}
        command = [sys.executable, "-m", "pytest", "-p", "tests.support.left_out", "-p", "no:cacheprovider", "-o", "markers=long", *arguments]
        done = subprocess.run(
            command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env=environment | variables | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return done.returncode, done.stdout.splitlines()

    return run


def test_left_out_tests_are_named_last_with_the_reason(run):
    status, lines = run(
        UNDERSTUDY_TEST_WITHOUT="nginx,no-such-program", UNDERSTUDY_TEST_WITHOUT_REASON="neither root nor sudo"
    )
    assert status == 0
    assert "2 passed, 2 skipped" in lines[-1]
    assert lines[-3:-1] == [
        "test_sample.py::test_with_nginx: without nginx (neither root nor sudo)",
        "test_sample.py::test_with_missing: without no-such-program (neither root nor sudo)",
    ]
    assert any("2 LEFT OUT: not run" in line for line in lines[-6:-3])


def test_a_missing_program_is_a_failure(run):
    status, lines = run("-k", "missing or plain")
    assert status == 1
    assert "1 passed" in lines[-1] and "1 error" in lines[-1]
    assert any("set UNDERSTUDY_TEST_WITHOUT=no-such-program" in line for line in lines)


def test_nothing_is_said_when_nothing_is_left_out(run):
    status, lines = run("-k", "plain")
    assert status == 0
    assert not any("LEFT OUT" in line for line in lines)


def test_long_tests_are_left_to_another_command_and_named(run):
    status, lines = run("-k", "plain or minutes", UNDERSTUDY_TEST_LONG="later")
    assert status == 0 and "1 passed, 1 skipped" in lines[-1]
    assert lines[-2] == "test_sample.py::test_of_minutes: long: `make test-long` runs it"
    assert run("-m", "long")[1][-1].startswith("=") and "1 passed" in run("-m", "long")[1][-1]
