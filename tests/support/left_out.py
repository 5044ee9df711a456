"""Tests that are left out: they are named last, never as passed.

`@pytest.mark.needs("nginx")` are tests that need a system program, `@pytest.mark.long` those that take minutes on a slow
machine: `make test` sets UNDERSTUDY_TEST_LONG=later and so leaves them to `make test-long`, where they are chosen by `-m long`.

UNDERSTUDY_TEST_WITHOUT lists programs to do without, with commas; UNDERSTUDY_TEST_WITHOUT_REASON says why. `make test`
sets both when it cannot install a program. A program that is merely missing is a failure, not a skip.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest


def programs_of(item: pytest.Item) -> list[str]:
    """What a test needs: the arguments of its `needs` marks, and postgres for the `postgres` mark."""
    programs = [str(name) for mark in item.iter_markers("needs") for name in mark.args]
    return programs + ["postgres"] * (item.get_closest_marker("postgres") is not None)


def find_program(name: str) -> str | None:
    """Where a program is. Debian keeps PostgreSQL's out of PATH, and servers in /usr/sbin, which users lack."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if name == "alertmanager":  # Debian calls it by another name
        return shutil.which("prometheus-alertmanager", path=path) or shutil.which(name, path=path)
    if name != "postgres":
        return shutil.which(name, path=path)
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    return shutil.which("initdb", path=path) or (str(newest[-1]) if newest else None)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line("markers", "needs(*programs): system programs the test starts, such as nginx")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what was left out on purpose; fail what lacks its program."""
    without = [name.strip() for name in os.environ.get("UNDERSTUDY_TEST_WITHOUT", "").split(",")]
    why = os.environ.get("UNDERSTUDY_TEST_WITHOUT_REASON") or "listed in UNDERSTUDY_TEST_WITHOUT"
    if item.get_closest_marker("long") and os.environ.get("UNDERSTUDY_TEST_LONG") == "later":
        pytest.skip("long: `make test-long` runs it")
    for name in programs_of(item):
        if name in without:
            pytest.skip(f"without {name} ({why})")
        if find_program(name) is None:
            pytest.fail(
                f"{name} is not installed: `make test` installs it where it may; to do without, set "
                f"UNDERSTUDY_TEST_WITHOUT={name}",
                pytrace=False,
            )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Name every skipped test and why, as the last thing before pytest's own last line."""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section(f"{len(skipped)} LEFT OUT: not run, so not known to pass", yellow=True)
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.write_line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
