"""Keeps one managed vLLM alive: start, watch, restart with backoff, stop. `understudy engine` is this."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.errors import ConfigError, EngineRefused, EngineUnavailable
from gateway.config import EngineSettings, parse_duration
from gateway.engines.backoff import Backoff
from gateway.engines.client import EngineClient
from gateway.engines.command import Command, VllmPackage, build_command, device_of, socket_path
from gateway.engines.local import LocalEngine, read_state, replica_name, supervise, take_restart_request, write_state
from gateway.engines.plugins import install
from gateway.engines.process import EngineProcess, Report
from gateway.engines.sessions import end_recorded, first_child

_LOOK_EVERY = 0.5            # seconds between looks at a running engine
_SILENCE = 60.0              # seconds without any answer to /health after which an engine is taken for hung
_FIRST_STARTS = 3            # how often an engine that is killed before it was ever ready is tried


@dataclass(frozen=True, slots=True)
class EngineSite:
    """Where and what to run: the same for every life of the replica. `base` is a local path or a hub id."""

    settings: EngineSettings
    package: VllmPackage
    base: str
    data_dir: Path
    number: int

    @property
    def log(self) -> Path:
        """The engine's own output."""
        return self.data_dir / "logs" / f"{replica_name(self.number)}.log"


class EngineSupervisor:
    """Runs one replica until told to stop. `report` gets lines for people."""

    def __init__(self, site: EngineSite, report: Report, backoff: Backoff | None = None) -> None:
        self._site = site
        self._report = report
        self._backoff = backoff or Backoff()
        self._state = LocalEngine(replica_name(site.number), "", "starting", os.getpid())
        self._was_ready = False

    async def run(self, stop: asyncio.Event) -> None:
        """Supervise until `stop` is set; then nothing of the engine is left.

        Raises EngineUnavailable when the very first start fails: that is a mistake in the settings, and trying again
        would only hide it. After the first success it is restarted for ever.
        """
        site = self._site
        with supervise(site.data_dir, site.number):
            await asyncio.to_thread(self._end_earlier_run)
            while not stop.is_set():
                started = time.monotonic()
                error = await self._one_life(stop)
                if stop.is_set():
                    break
                delay = self._backoff.after(time.monotonic() - started)
                self._write(state="down", pid=0, error=error)
                self._report(f"{self._state.name}: {error}; starting again in {delay:.1f} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), delay)
            self._write(state="stopped", session=None, boot="", pid=0)

    async def _one_life(self, stop: asyncio.Event) -> str:
        """Start, watch, end. Returns why it ended."""
        site, url = self._site, self._address()
        command = await asyncio.to_thread(_command, site, url)
        process = EngineProcess(self._state.name, command, url, site.log)
        self._report(f"{self._state.name}: starting {site.package.name} {site.package.version}, log in {site.log}")
        stopping = asyncio.create_task(stop.wait())
        life = asyncio.create_task(self._live(process))
        try:
            await asyncio.wait({life, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await life if life.done() else "stopped"
        finally:
            for task in (life, stopping):
                task.cancel()
            await asyncio.gather(life, stopping, return_exceptions=True)
            await process.stop()

    async def _live(self, process: EngineProcess) -> str:
        self._write(url=process.url, state="starting", boot="", pid=0, error="")
        try:
            session = await process.start()
            self._write(session=session)
            await process.wait_ready(parse_duration(self._site.settings.ready_timeout), self._report)
        except EngineUnavailable as error:
            killed = process.exit_status is not None and not 0 <= process.exit_status < 128
            if self._was_ready or (killed and self._backoff.failures + 1 < _FIRST_STARTS):
                return str(error)
            self._write(state="down", error=str(error))
            raise
        async with EngineClient(process.url) as client:
            boot = (await client.metrics()).boot
            self._was_ready = True
            self._write(state="ready", boot=boot, pid=first_child(session.leader))
            self._report(f"{self._state.name}: ready at {process.url}")
            ended = asyncio.create_task(process.wait())
            try:
                return await self._watch(client, boot, ended)
            finally:
                ended.cancel()
                await asyncio.gather(ended, return_exceptions=True)

    async def _watch(self, client: EngineClient, boot: str, ended: asyncio.Task[int]) -> str:
        """Return why this life has to end, or ended."""
        answered, refusals = time.monotonic(), 0
        while True:
            await asyncio.wait({ended}, timeout=_LOOK_EVERY)
            if ended.done():
                return f"ended with status {ended.result()} (log: {self._site.log})"
            reason = take_restart_request(self._site.data_dir, self._site.number, boot)
            if reason:
                return f"restarted: {reason}"
            try:
                await client.health()
                answered, refusals = time.monotonic(), 0
            except EngineRefused as error:  # the API server lives on without its engine
                refusals += 1
                if refusals >= 3:
                    return f"its engine is dead (/health says {error.status}; log: {self._site.log})"
            except EngineUnavailable:
                if time.monotonic() - answered > _SILENCE:
                    return f"has not answered for {_SILENCE:.0f} s (log: {self._site.log})"

    def _end_earlier_run(self) -> None:
        """A supervisor and its keeper that were both killed leave a vLLM behind: find it by its record."""
        earlier = read_state(self._site.data_dir, self._site.number)
        if earlier is None or earlier.session is None:
            return
        ended = end_recorded(earlier.session)
        if ended:
            self._report(f"{earlier.name}: ended {len(ended)} process(es) left over from an earlier run")

    def _address(self) -> str:
        path = socket_path(self._site.data_dir, self._site.number)
        if path is not None:
            return f"unix:{path}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"http://127.0.0.1:{probe.getsockname()[1]}"

    def _write(self, **changes: object) -> None:
        self._state = replace(self._state, since=time.time(), **changes)  # type: ignore[arg-type]  # fields by name
        with contextlib.suppress(ConfigError):  # a full disk must not end a running engine
            write_state(self._site.data_dir, self._site.number, self._state)


def _command(site: EngineSite, url: str) -> Command:
    cores = len(os.sched_getaffinity(0))
    command = build_command(
        site.settings, site.package, site.base, url, replica=site.number, environ=os.environ, cores=cores
    )
    if device_of(site.settings, site.package) != "cpu":
        return command
    try:
        plugin = install(site.data_dir / "engines" / "plugins", {**os.environ, **command.environment})
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be written: {error.strerror}") from None
    return replace(command, environment={**command.environment, **plugin})


def check_site(site: EngineSite) -> None:
    """Fail before anything is started when the command cannot be built. Raises ConfigError."""
    build_command(site.settings, site.package, site.base, "unix:", replica=site.number, environ=os.environ)
