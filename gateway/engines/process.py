"""One life of one managed vLLM: start it, wait until it really answers, stop all of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from adapters.errors import EngineError, EngineUnavailable
from gateway.engines.client import EngineClient
from gateway.engines.command import Command
from gateway.engines.logfile import last_line, open_log, telling_line
from gateway.engines.sessions import SessionRecord, end_session, record_session
from gateway.subprocesses import module_command, module_environment

Report = Callable[[str], None]

GRACE = 15.0                 # seconds between SIGTERM and SIGKILL
POLL = 0.25                  # seconds between looks at a starting engine
PROGRESS_EVERY = 5.0         # seconds between lines of progress
_WARM_UP = ((1,),)           # token ids; every vocabulary has a token 1


class EngineProcess:
    """A vLLM under a keeper (see keeper.py), which ends it when this process goes.

    `name` is for messages; the engine's output is appended to `log`.
    """

    def __init__(self, name: str, command: Command, url: str, log: Path) -> None:
        self.name = name
        self.url = url
        self.log = log
        self._command = command
        self._log_start = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> SessionRecord:
        """Start it, and return what identifies its processes later. Raises EngineUnavailable."""
        try:
            output = await asyncio.to_thread(self._prepare)
        except OSError as error:
            raise EngineUnavailable(f"{self.name}: {error.filename} cannot be written: {error.strerror}") from None
        with output:
            self._process = await asyncio.create_subprocess_exec(
                *module_command("gateway.engines.keeper", str(GRACE), "--", *self._command.argv),
                stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output,
                env=module_environment(self._command.environment), start_new_session=True,
            )
        try:
            return record_session(self._process.pid)
        except ProcessLookupError:
            raise self._failed("ended at once") from None

    def _prepare(self) -> BinaryIO:
        if self.url.startswith("unix:"):
            Path(self.url.removeprefix("unix:")).unlink(missing_ok=True)  # vLLM does not bind to an existing one
        self._log_start = open_log(self.log)
        return self.log.open("ab")

    @property
    def exit_status(self) -> int | None:
        """How it ended (negative or 128 + n: by signal n); None while it runs."""
        return self._process.returncode if self._process else None

    async def wait(self) -> int:
        """Wait for its end. What is left of its session is ended too."""
        assert self._process is not None
        status = await self._process.wait()
        await asyncio.to_thread(end_session, self._process.pid, 1.0)  # the keeper itself may have been killed
        return status

    async def wait_ready(self, patience: float, report: Report) -> None:
        """Return when it is well, lists its models and has answered a completion with logprobs.

        The first request for logprobs stalls a vLLM for seconds, once: users should not be the ones to meet that.
        Raises EngineUnavailable when it ends first or is not ready within `patience` seconds.
        """
        started = time.monotonic()
        async with EngineClient(self.url) as client:
            watcher = asyncio.create_task(self._answers(client, started, report))
            ended = asyncio.create_task(self.wait())
            try:
                await asyncio.wait({watcher, ended}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if watcher.done():
                    return watcher.result()
                if ended.done():
                    raise self._failed(f"ended during its start (status {ended.result()})")
                raise self._failed(f"is not ready after {patience:.0f} s (engine.ready_timeout)")
            finally:
                for task in (watcher, ended):
                    task.cancel()
                await asyncio.gather(watcher, ended, return_exceptions=True)

    async def stop(self) -> None:
        """SIGTERM, a grace period, then SIGKILL for all of it. Returns when nothing is left."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), GRACE + 5.0)
        await asyncio.to_thread(end_session, process.pid, 0.0)
        if process.returncode is None:
            process.kill()
            await process.wait()

    async def _answers(self, client: EngineClient, started: float, report: Report) -> None:
        reported, warming = started, False
        while True:
            with contextlib.suppress(EngineError):
                await client.health()
                base = next((m.name for m in (await client.models()).values() if m.parent is None), "")
                if not warming:
                    report(f"{self.name}: warming up after {time.monotonic() - started:.0f} s")
                    warming = True
                await client.probe(base, _WARM_UP)
                return
            now = time.monotonic()
            if now - reported >= PROGRESS_EVERY:
                reported = now
                report(f"{self.name}: starting, {now - started:.0f} s: {last_line(self.log, self._log_start)[:100]}")
            await asyncio.sleep(POLL)

    def _failed(self, what: str) -> EngineUnavailable:
        line = telling_line(self.log, self._log_start)
        said = f"; its log says: {line}" if line else ""
        return EngineUnavailable(f"{self.name} {what}{said} (whole log: {self.log})")

