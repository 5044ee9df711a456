"""The keeper as a real process: what it ends, when, and with which status."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.engines.sessions import first_child, session_members
from gateway.subprocesses import module_command, module_environment
from tests.support.waiting import PATIENCE, soon

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); " + SLEEP
FAMILY = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); " + SLEEP


@pytest.fixture
def keep(tmp_path: Path):
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, *arguments: str, grace: float = PATIENCE) -> subprocess.Popen[bytes]:
        argv = module_command("gateway.engines.keeper", str(grace), "--", sys.executable, "-c", code, *arguments)
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=module_environment(), cwd="/", start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for member in session_members(process.pid):
            with contextlib.suppress(ProcessLookupError):  # it went with the one before
                os.kill(member, signal.SIGKILL)
        process.kill()
        process.wait(PATIENCE)


def up(process: subprocess.Popen[bytes], lines: int = 1) -> None:
    for _ in range(lines):
        assert process.stdout.readline() == b"up\n"


def test_the_commands_status_is_its_own(keep):
    assert keep("import sys; sys.exit(7)").wait(PATIENCE) == 7
    assert keep("import os; os.kill(os.getpid(), 9)").wait(PATIENCE) == 128 + 9
    assert keep("pass").wait(PATIENCE) == 0


def test_a_command_that_does_not_exist():
    argv = module_command("gateway.engines.keeper", "1", "--", "/no/such/program")
    done = subprocess.run(
        argv, check=False, stdin=subprocess.PIPE, capture_output=True, text=True, env=module_environment(),
        start_new_session=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 127 and done.stderr == "error: /no/such/program cannot be started: No such file or directory\n"


def test_it_ends_the_family_when_the_supervisor_goes(keep):
    process = keep(FAMILY, STUBBORN)
    up(process, 2)
    assert len(session_members(process.pid)) == 3
    assert first_child(process.pid) in session_members(process.pid)
    process.stdin.close()
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert session_members(process.pid) == []


def test_it_ends_the_family_when_the_command_ends(keep):
    process = keep(FAMILY, STUBBORN)
    up(process, 2)
    os.kill(first_child(process.pid), signal.SIGKILL)
    assert process.wait(PATIENCE) == 128 + signal.SIGKILL
    assert session_members(process.pid) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stubborn_command_is_killed_after_its_grace(keep, number):
    process = keep(STUBBORN, grace=0.5)
    up(process)
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + signal.SIGKILL
    assert time.monotonic() - began >= 0.5
    assert session_members(process.pid) == []


def test_a_killed_keeper_takes_the_command_along(keep):
    process = keep(SLEEP)
    up(process)
    child = first_child(process.pid)
    process.kill()
    soon(lambda: child not in session_members(process.pid))
    assert session_members(process.pid) == []


def test_orphans_are_waited_for(keep):
    """A grandchild whose parent ended must not stay a zombie for as long as the engine lives."""
    orphaning = (
        "import os, subprocess, sys, time\n"
        "inner = 'import subprocess, sys; subprocess.Popen([sys.executable, \"-c\", \"pass\"])'\n"
        "subprocess.run([sys.executable, '-c', inner]); print('up', flush=True); time.sleep(600)"
    )
    process = keep(orphaning)
    up(process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    soon(lambda: len(children.read_text().split()) == 1)
