"""`understudy up`: engines, controller and data plane of this machine as children, supervised and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from adapters.errors import UnderstudyError
from gateway.config import Settings, ensure_data_dir, parse_duration
from gateway.control_plane.children import Child, ChildFailed, Show
from gateway.engines.local import read_state, replica_name
from gateway.engines.process import GRACE
from gateway.subprocesses import module_command

_POLL = 0.25                   # seconds
_COLOURS = ("36", "35", "32", "33", "34")
_MARGIN = 10.0                 # seconds a child gets beyond what it needs to stop

SERVE, CONTROLLER, REWARD, GUARD = "serve", "controller", "reward", "guard"
# What each logs once it has its port.
_SIGNS = {SERVE: "listening on ", CONTROLLER: "operator API on ", REWARD: "scoring on ", GUARD: "guarding on "}


def run_up(settings: Settings, config: Path | None, write: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT. Raises ChildFailed with the child's own line when one cannot even start."""
    ensure_data_dir(settings)
    asyncio.run(_Up(settings, config, write).run())


class _Up:
    def __init__(self, settings: Settings, config: Path | None, write: Callable[[str], None]) -> None:
        self._settings = settings
        self._write = write
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._began = time.monotonic()
        options = ["-c", str(config.resolve())] if config else []
        show = shower(write, sys.stdout.isatty())

        def child(name: str, *command: str) -> Child:
            argv = module_command("gateway.cli", *command, *options)
            return Child(name, argv, settings.data_dir / "logs" / f"{name}.up.log", show, _SIGNS.get(name, ""))

        replicas = range(settings.engine.replicas if settings.engine.managed else 0)
        self._engines = [child(replica_name(n), "engine", "--replica", str(n)) for n in replicas]
        self._controller = child(CONTROLLER, "controller")
        self._serve = child(SERVE, "serve")
        self._scorers = [child(REWARD, "reward")] if settings.rewards.served_here else []
        self._guards = [child(GUARD, "guard")] if settings.screening.served_here else []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        running = {child.name: asyncio.create_task(child.run()) for child in self._children()}
        waiting = asyncio.create_task(self._announce())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            tasks = {*running.values(), stopping}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            stopping.cancel()
            await self._stop_all()
            results = await asyncio.gather(*running.values(), return_exceptions=True)
            await asyncio.gather(waiting, stopping, return_exceptions=True)
        for name, result in zip(running, results, strict=True):
            if isinstance(result, ChildFailed):
                raise UnderstudyError(f"{name}: {result}") from None
            if isinstance(result, BaseException):
                raise result
        self._write("everything has stopped")

    def _children(self) -> list[Child]:
        return [*self._engines, *self._scorers, *self._guards, self._controller, self._serve]

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
            return
        self._write("stopping: answers in flight are finished first (once more to hurry)")
        self._stop.set()

    async def _stop_all(self) -> None:
        """The data plane drains first, then what it asks goes: scoring, the guard, the controller, the engines last."""
        drain = parse_duration(self._settings.gateway.drain)
        steps = (
            ([self._serve], drain + _MARGIN),
            ([*self._scorers, *self._guards, self._controller], _MARGIN),
            (self._engines, GRACE + _MARGIN),
        )
        for children, patience in steps:
            stops = [asyncio.create_task(child.stop(patience)) for child in children]
            hurry = asyncio.create_task(self._hurry.wait())
            everything = asyncio.create_task(_all(stops))
            await asyncio.wait({everything, hurry}, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not everything.done():
                await asyncio.gather(*(child.stop(1.0) for child in children))
            await everything

    async def _announce(self) -> None:
        """Mark children as settled when they first do their work, and say when all do."""
        gateway, control = self._settings.gateway, self._settings.control
        scheme = "https" if gateway.tls_cert else "http"
        base = f"{scheme}://{_callable(gateway.host)}:{gateway.port}"
        operator = f"http://{_callable(control.host)}:{control.port}"
        scoring, guarding = self._settings.rewards.scoring_url, self._settings.screening.guard_url
        async with httpx.AsyncClient(timeout=2.0, verify=False, trust_env=False) as http:  # noqa: S501 - our own health
            await asyncio.gather(
                *(self._settle(child, self._engine_ready(number)) for number, child in enumerate(self._engines)),
                self._settle(self._controller, lambda: _answers(http, f"{operator}/readyz")),
                self._settle(self._serve, lambda: _answers(http, f"{base}/healthz")),
                *(self._settle(one, lambda: _answers(http, f"{scoring}/healthz")) for one in self._scorers),
                *(self._settle(one, lambda: _answers(http, f"{guarding}/healthz")) for one in self._guards),
            )
            await _until(lambda: _answers(http, f"{base}/readyz"))
        self._write(f"ready after {time.monotonic() - self._began:.0f} s")
        for line in self._urls(base, operator):
            self._write(line)

    def _engine_ready(self, number: int) -> Callable[[], Awaitable[bool]]:
        began = time.time()

        async def ready() -> bool:
            state = await asyncio.to_thread(read_state, self._settings.data_dir, number)
            return state is not None and state.state == "ready" and state.since >= began

        return ready

    async def _settle(self, child: Child, ready: Callable[[], Awaitable[bool]]) -> None:
        """Settled: it says itself that it is there, and it is. Another program on its port would only do the second."""

        async def both() -> bool:
            return child.spoke and await ready()

        await _until(both)
        child.settled = True

    def _urls(self, base: str, operator: str) -> list[str]:
        settings = self._settings
        model = settings.route[0].name if settings.route else settings.engine.served_name
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]})
        key = ' -H "authorization: Bearer $KEY"' if settings.keys_required else ""
        lines = [
            f"  OpenAI API    {base}/v1",
            f"  operator API  {operator}  (token: {settings.data_dir / 'operator.token'})",
        ]
        if self._scorers:
            lines.append(f"  rewards       {settings.rewards.scoring_url}/v1/score")
        if self._guards:
            lines.append(f"  guard         {settings.screening.guard_url}/v1/screen")
        if settings.gateway.metrics_port:
            lines.append(f"  metrics       http://127.0.0.1:{settings.gateway.metrics_port}/metrics")
        lines.append(f"  try: curl {base}/v1/chat/completions -H 'content-type: application/json'{key} -d '{body}'")
        if settings.keys_required:
            lines.append("       (make a key with `understudy key create --scope inference`)")
        return lines


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await condition():
            return
        await asyncio.sleep(_POLL)


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return (await http.get(url)).status_code == 200
    return False


def _callable(host: str) -> str:
    """The address to call for an address to listen on."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    return f"[{host}]" if ":" in host else host


def shower(write: Callable[[str], None], colours: bool) -> Show:
    """Prefixes lines with the child's name, in a colour of its own on a terminal."""
    given: dict[str, str] = {}

    def show(name: str, line: str) -> None:
        colour = given.setdefault(name, _COLOURS[len(given) % len(_COLOURS)])
        safe = "".join(char if char.isprintable() or char == "\t" else "?" for char in line)
        text = safe.removeprefix(f"{name}: ")
        prefix = f"{name:<10} |"
        write(f"\x1b[{colour}m{prefix}\x1b[0m {text}" if colours else f"{prefix} {text}")

    return show
