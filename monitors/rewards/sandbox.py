"""Runs an untrusted program for a moment: limits, walls, and its output. The walls are sandbox_launcher.py's.

What a program may do: use the interpreter and the system's libraries, write a few MiB into /box, compute for a few
seconds. What it may not: reach the network, see the machine's files, processes or environment, outlive its run.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from adapters.errors import ConfigError, GraderError
from monitors.rewards import sandbox_launcher

_LAUNCHER = sandbox_launcher.__file__
_GRACE = 5.0          # seconds beyond the wall limit after which the launcher itself is killed
_CHUNK = 1 << 16
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/box", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
_WHERE = "import json, sys; print(json.dumps([sys.executable, sys.prefix, sys.base_prefix, sys.version_info[:2]]))"


@dataclass(frozen=True)
class Limits:
    """Of one run."""

    wall: float = 10.0            # seconds
    cpu: int = 5                  # seconds of each process
    memory_mib: int = 512         # address space of each process
    disk_mib: int = 16            # of /box, and of one file
    processes: int = 16           # threads included
    output_kib: int = 64          # more output ends the run


@dataclass(frozen=True)
class Ran:
    """How a run ended. `status` is the program's exit status, 128 + n after signal n, 124 at the wall limit."""

    status: int
    output: bytes                 # standard output, not more than the limit
    flooded: bool                 # it wrote more than the limit


class Sandbox:
    """Starts programs in Python. Safe in any number of threads."""

    def __init__(self, limits: Limits, *, python: str = "", walls: bool = True) -> None:
        self._limits = limits
        self._walls = walls
        self._python, self._prefixes, self._version = _interpreter(python)

    def check(self) -> None:
        """Run one program. Raises ConfigError with the reason when this machine cannot."""
        try:
            ran = self.run({"hello.py": "print(6 * 7)"}, "hello.py")
        except GraderError as error:
            if not self._walls:
                raise ConfigError(f"untrusted code cannot be run here: {error}") from None
            raise ConfigError(
                f"untrusted code cannot be walled in here: {error}; allow unprivileged user namespaces (`unshare -rn "
                "true` must work), or set options.allow_network = true to do without walls"
            ) from None
        if ran.output != b"42\n":
            raise ConfigError(f"the interpreter {self._python} does not run in the sandbox (status {ran.status})")

    @property
    def version(self) -> str:
        """Of the interpreter: path and files aside, what decides how programs behave."""
        return self._version

    def run(
        self, files: Mapping[str, str], program: str, stdin: bytes = b"", late: tuple[bytes, bytes] | None = None
    ) -> Ran:
        """Run files[program] with these files beside it. Raises GraderError when the sandbox itself fails.

        late = (mark, data): once the program has written `mark`, `data` follows on its standard input.
        """
        with tempfile.TemporaryDirectory(prefix="understudy-box-") as folder, tempfile.TemporaryFile() as orders:
            orders.write(json.dumps(self._orders(files, program, folder)).encode())
            orders.seek(0)
            command = [sys.executable, "-I", "-S", "-B", _LAUNCHER, str(orders.fileno())]
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(orders.fileno(),),
                env={},
                cwd="/",
                start_new_session=True,
            ) as process:
                return self._converse(process, stdin, late)

    def _converse(self, process: subprocess.Popen[bytes], stdin: bytes, late: tuple[bytes, bytes] | None) -> Ran:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        last_resort = threading.Timer(self._limits.wall + _GRACE, process.kill)
        last_resort.start()
        try:
            writer = threading.Thread(target=_write, args=(process.stdin, stdin, late is None), daemon=True)
            writer.start()
            output, flooded = self._read(process.stdout, process.stdin, late)
            if flooded:
                process.terminate()
            process.stdout.close()
            complaint = process.stderr.read(_CHUNK)
            status = process.wait()
            writer.join()
        finally:
            last_resort.cancel()
            process.kill()
        if status == sandbox_launcher.FAILED and complaint:
            raise GraderError("the sandbox fails: " + " ".join(complaint.decode(errors="replace").split())[:300])
        return Ran(status, output, flooded)

    def _read(self, stdout: IO[bytes], stdin: IO[bytes], late: tuple[bytes, bytes] | None) -> tuple[bytes, bool]:
        """Everything up to the limit; was there more?"""
        output, limit = b"", self._limits.output_kib * 1024
        while piece := os.read(stdout.fileno(), _CHUNK):
            output += piece
            if late is not None and late[0] in output:
                threading.Thread(target=_write, args=(stdin, late[1], True), daemon=True).start()
                late = None
            if len(output) > limit:
                return output[:limit], True
        if late is not None:
            with contextlib.suppress(OSError):
                stdin.close()
        return output, False

    def _orders(self, files: Mapping[str, str], program: str, folder: str) -> dict[str, Any]:
        limits = self._limits
        home = "/box" if self._walls else f"{folder}/box"
        return {
            "walls": self._walls,
            "folder": folder,
            "files": dict(files),
            "command": [self._python, "-I", "-B", f"{home}/{program}"],
            "environment": {**_ENVIRONMENT, "HOME": home, "TMPDIR": home},
            "read_only": list(self._prefixes),
            "wall": limits.wall,
            "cpu": limits.cpu,
            "memory": limits.memory_mib << 20,
            "disk": limits.disk_mib << 20,
            "processes": limits.processes,
        }


def _write(stream: IO[bytes], data: bytes, close: bool) -> None:
    """A program that does not read, or has ended, is no error."""
    with contextlib.suppress(OSError, ValueError):
        stream.write(data)
        stream.flush()
    if close:
        with contextlib.suppress(OSError):
            stream.close()


def _interpreter(python: str) -> tuple[str, tuple[str, ...], str]:
    """(interpreter, folders it needs, version). Empty: the one that runs this, without installed packages."""
    if not python:
        base = getattr(sys, "_base_executable", "") or sys.executable
        return str(Path(base).resolve()), (sys.base_prefix,), _dotted(sys.version_info[:2])
    try:
        done = subprocess.run([python, "-I", "-c", _WHERE], check=True, capture_output=True, timeout=30)
        executable, prefix, base_prefix, release = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(f"options.python: {python} is no Python interpreter: {error}") from None
    return executable, (prefix, base_prefix), _dotted(release)


def _dotted(release: Sequence[int]) -> str:
    return ".".join(map(str, release))
