"""One child process of `understudy up`: started, listened to, restarted with backoff, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

from adapters.errors import UnderstudyError
from gateway.engines.backoff import Backoff
from gateway.engines.logfile import open_log
from gateway.lifetime import die_with_parent
from gateway.subprocesses import module_environment

Show = Callable[[str, str], None]      # (name, line)

_SHOWN_LEVELS = frozenset({"warning", "error", "critical"})
_USAGE, _ERROR = 2, 1                  # exit statuses of a command that says why in one line
_LONGEST_LINE = 1024 * 1024            # bytes; a longer one is shown in pieces


class ChildFailed(UnderstudyError):
    """A child could not even start: its own line says why."""


class Child:
    """`argv` under the name `name`. Its output goes to `log`; what people should see, to `show`.

    It has a session of its own, so that Ctrl-C reaches only the supervisor, which stops children in order; and it gets
    SIGTERM when the supervisor dies.
    """

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, show: Show, sign: str = "", *, backoff: Backoff | None = None
    ) -> None:
        self.name = name
        self.spoke = not sign          # it logged the message that begins with `sign`
        self._sign = sign
        self.settled = False           # set by the supervisor once the child did its work for the first time
        self._argv = tuple(argv)
        self._log = log
        self._show = show
        self._backoff = backoff or Backoff(0.5, 30.0, 30.0)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._last_error = ""

    async def run(self) -> None:
        """Keep it running until `stop`. Raises ChildFailed when it ends with an error before it was ever settled."""
        while not self._stopping.is_set():
            began = time.monotonic()
            status = await self._once()
            if self._stopping.is_set():
                return
            if not self.settled and status in (_ERROR, _USAGE):
                raise ChildFailed(self._last_error or f"{self.name} ended with status {status} (log: {self._log})")
            delay = self._backoff.after(time.monotonic() - began)
            self._show(self.name, f"ended with status {status}; starting again in {delay:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def stop(self, patience: float) -> None:
        """SIGTERM, then SIGKILL after `patience` seconds."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience)
        if process.returncode is None:
            self._show(self.name, f"did not end within {patience:.0f} s and is killed")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _once(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=module_environment({"PYTHONUNBUFFERED": "1"}),
            start_new_session=True,
            preexec_fn=die_with_parent,
            limit=_LONGEST_LINE,
        )
        if self._stopping.is_set():  # stopped between two lives
            self._process.terminate()
        assert self._process.stdout is not None
        pump = asyncio.create_task(self._pump(self._process.stdout))
        status = await self._process.wait()
        with contextlib.suppress(TimeoutError):  # a grandchild may hold the pipe open
            await asyncio.wait_for(pump, 1.0)
        return status

    async def _pump(self, output: asyncio.StreamReader) -> None:
        """Every line to the log; warnings and what is no structured log, to people."""
        with contextlib.ExitStack() as stack:
            log: FileIO | None = None
            with contextlib.suppress(OSError):  # a full disk must not stop the child
                await asyncio.to_thread(open_log, self._log)
                log = stack.enter_context(self._log.open("ab", buffering=0))
            while True:
                try:
                    line = await output.readline()
                except ValueError:  # longer than the limit: the reader has dropped it
                    continue
                if not line:
                    return
                with contextlib.suppress(OSError):
                    if log is not None:
                        log.write(line)
                self._pass_on(line.decode(errors="replace").rstrip())

    def _pass_on(self, line: str) -> None:
        if line.startswith("error: "):
            self._last_error = line.removeprefix("error: ")
        level, message = _parse(line)
        if self._sign and message.startswith(self._sign):
            self.spoke = True
        if not level:
            self._show(self.name, message)
        elif level in _SHOWN_LEVELS:
            self._show(self.name, f"{level}: {message}")


def _parse(line: str) -> tuple[str, str]:
    """(level, message) of a structured log line; ('', the line) of any other."""
    if not line.startswith("{"):
        return "", line
    try:
        entry = json.loads(line)
        return str(entry["level"]), str(entry["message"])
    except (ValueError, KeyError, TypeError):
        return "", line
