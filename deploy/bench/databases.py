"""Databases for benchmarks: SQLite in a folder, or a PostgreSQL server of our own with its defaults (fsync on)."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from deploy.bench import cpu
from deploy.bench.processes import CouldNotStart

KINDS = ("sqlite", "postgresql")
START_LIMIT = 60.0  # seconds
STOP_LIMIT = 20.0


@contextlib.contextmanager
def database_url(kind: str) -> Iterator[str]:
    """What `[database].url` takes for a new, empty database of this kind. Raises CouldNotStart."""
    if kind == "sqlite":
        yield "sqlite"
        return
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="understudy-bench-pg-", dir="/tmp"))  # socket paths are at most 107 bytes
    process = None
    try:
        if os.getuid() == 0:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
        initdb = _as_user([programs / "initdb", "-D", folder / "data", *options])
        done = subprocess.run(initdb, check=False, cwd="/", capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise CouldNotStart(f"initdb: {done.stderr.strip()[-300:]}")
        process = _start(programs, folder)
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        if process is not None:
            _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def servers_seconds() -> float:
    """CPU seconds of the PostgreSQL server below this process, ended connections included; 0 without one."""
    used = 0.0
    for pid in cpu.tree(os.getpid()):
        with contextlib.suppress(OSError):  # a connection that ended just now: its parent counts it
            name, _, rest = Path("/proc", str(pid), "stat").read_text().rpartition(")")
            if name.endswith("(postgres"):
                fields = rest.split()
                used += (int(fields[13]) + int(fields[14])) * cpu.TICK + cpu.process_seconds(pid)
    return used


def _programs() -> Path:
    """The folder with PostgreSQL's server programs; Debian keeps them off the path. Raises CouldNotStart."""
    found = [Path(path).parent for path in (shutil.which("initdb"),) if path]
    found += sorted((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), reverse=True)
    if not found:
        raise CouldNotStart("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    return found[0]


def _as_user(arguments: list[object]) -> list[str]:
    """PostgreSQL refuses to run as root; and it ends when this process does."""
    user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *user, "--pdeathsig=QUIT", *map(str, arguments)]


def _start(programs: Path, folder: Path) -> subprocess.Popen[bytes]:
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
    command = _as_user([programs / "postgres", "-D", folder / "data", *options])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(f"host={folder} user=postgres dbname=postgres", connect_timeout=2).close()
            return process
        time.sleep(0.05)
    _stop(process)
    raise CouldNotStart(f"PostgreSQL: {(folder / 'log').read_text(errors='replace').strip()[-300:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGQUIT is PostgreSQL's immediate shutdown: its files are deleted anyway."""
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
