"""Starts servers for a benchmark, waits until they answer, and ends them with all they started."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from deploy.bench import cpu
from trainer.demo.stack import free_ports

START_LIMIT = 60.0  # seconds
STOP_LIMIT = 10.0
# Servers end with this program even if it is killed outright.
WITH_PARENT = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


class CouldNotStart(Exception):
    """A server did not come up; the message says why."""


def free_port() -> int:
    """See trainer.demo.stack.free_ports."""
    return free_ports(1)[0]


def named_ports(*names: str) -> dict[str, int]:
    """A free port for each name, all different."""
    return dict(zip(names, free_ports(len(names)), strict=True))


@contextlib.contextmanager
def started(
    command: list[str], log: Path, core: int | None, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in a session of its own on one core; end the whole session afterwards."""
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                cpu.pinned(core, [*WITH_PARENT, *command]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
    except OSError as error:
        raise CouldNotStart(f"{command[0]}: {error.strerror}") from None
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the leader, then SIGKILL to whatever is left of its session."""
    below = cpu.tree(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_LIMIT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pid in below - {process.pid}:  # children that began a session of their own
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_ready(process: subprocess.Popen[bytes], log: Path, url: str, path: str, key: str = "") -> None:
    """Return when GET `path` answers 200. Raises CouldNotStart with the end of the log otherwise."""
    address = url.removeprefix("http://")
    deadline, last = time.monotonic() + START_LIMIT, "it does not listen"
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {key}"} if key else {})
            answer = connection.getresponse()
            if answer.status == 200:
                return
            last = f"GET {path} answers {answer.status}: {answer.read(200).decode(errors='replace')}"
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    if process.poll() is not None:
        last = f"it ended with status {process.returncode}"
    lines = log.read_text(errors="replace").strip().splitlines()
    raise CouldNotStart(f"{last}; its last words: {lines[-1] if lines else 'none'}")
