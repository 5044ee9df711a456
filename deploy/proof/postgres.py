"""A real PostgreSQL server: made, started, frozen, stopped, started again and removed. For proofs and tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

START_TIMEOUT = 60.0  # seconds


@dataclass
class Postgres:
    """A running server, reached through a Unix socket in `folder` only."""

    folder: Path
    program: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)
    process: subprocess.Popen[bytes] | None = None

    def url(self, name: str) -> str:
        """The URL of a database, as `[database].url` takes it."""
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def create(self, like: str = "template1") -> str:
        """The URL of a new database: an empty one, or a copy of the database `like`, to which nobody is connected."""
        name = f"test_{next(self.numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database that `create` made, whoever is still connected: each takes 8 MB of disk."""
        self.execute(f"DROP DATABASE {url.split('@/')[1].split('?', maxsplit=1)[0]} WITH (FORCE)")

    def start(self) -> None:
        """Start it, or start it again."""
        self.process = _start(self.program, self.folder)

    def stop(self) -> None:
        """Away at once, whatever is under way: connections break. It recovers when it is started again."""
        if self.process is not None:
            _stop(self.process)
        self.process = None

    def freeze(self) -> None:
        """It answers nothing any more, and no connection breaks; until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """As if nothing had happened."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        """To the server and to all its backends, which are in sessions of their own."""
        assert self.process is not None, "it runs"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in [self.process.pid, *map(int, children)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def execute(self, statement: str) -> None:
        """Run one statement as superuser."""
        with psycopg.connect(f"host={self.folder} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new server, removed at the end."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="understudy-pg-", dir="/tmp"))  # socket paths are at most 107 bytes long
    server = Postgres(folder, programs / "postgres")
    try:
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
        _run([programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"])
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.thaw()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """Where initdb and postgres are; Debian keeps them out of PATH. Raises RuntimeError."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = shutil.which("initdb") or (newest[-1] if newest else None)
    if found is None:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    return Path(found).parent


def _command(arguments: list[object]) -> list[str]:
    """PostgreSQL refuses to run as root; and it ends when this process does, even by SIGKILL."""
    as_user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *as_user, "--pdeathsig=QUIT", *map(str, arguments)]


def _run(arguments: list[object]) -> None:
    done = subprocess.run(_command(arguments), check=False, cwd="/", capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr)


def _start(program: Path, folder: Path) -> subprocess.Popen[bytes]:
    settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "max_connections": 100}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    command = _command([program, "-D", folder / "data", *options])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            psycopg.connect(f"host={folder} user=postgres dbname=postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return process
    _stop(process)
    raise RuntimeError(f"PostgreSQL did not start: {(folder / 'log').read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGQUIT is PostgreSQL's immediate shutdown: its files are deleted anyway. What is left of its group is killed."""
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)
