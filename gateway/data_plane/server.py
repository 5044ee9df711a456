"""`understudy serve`: a parent that owns the listening socket and the metrics port, and N uvicorn workers.

The parent imports as little as it can: it is up in a moment, and its workers begin to import the data plane.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from adapters.errors import ConfigError
from gateway.config import Settings, ensure_data_dir, load_settings, parse_duration
from gateway.data_plane.spawned import work
from gateway.lifetime import LAME_DUCK
from gateway.logs import configure
from monitors.metrics_server import start_metrics_server

RESTART_AFTER = (0.0, 0.5, 1.0, 2.0, 5.0)  # seconds; a worker that dies again and again is not started in a frenzy
STABLE_AFTER = 30.0  # seconds after which a worker's earlier deaths are forgotten
LONGEST_REST = 5.0  # seconds between two looks at workers that live
UNSTARTABLE = 3  # exit status of a worker whose start failed (uvicorn's)

logger = logging.getLogger("understudy.serve")


def serve_command(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="understudy.toml")] = None,
) -> None:
    """Answer OpenAI clients: the data plane, with its workers and its private metrics port."""
    serve(load_settings(config))


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises UnderstudyError for whatever keeps it from starting."""
    ensure_data_dir(settings)
    configure("serve")
    _refuse_openness(settings)
    listener = _listen(settings.gateway.host, settings.gateway.port)
    port = settings.gateway.metrics_port
    metrics = start_metrics_server(settings.data_dir / "metrics", port) if port else None
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    try:
        Supervisor(settings, listener).run()
    finally:
        listener.close()
        if metrics is not None:
            metrics.close()


class Supervisor:
    """Starts the workers, replaces those that die, passes signals on."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._context = multiprocessing.get_context("spawn")
        self._stopping = threading.Event()
        self._woken, self._waker = socket.socketpair()  # a signal ends a wait
        self._slots: list[_Slot] = []

    def run(self) -> None:
        """Returns when all workers have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._slots = slots = [_Slot(self._start()) for _ in range(self._settings.gateway.workers)]
        while not self._stopping.is_set():
            self._rest(slots)
            for slot in slots:
                self._look_after(slot)
        self._listener.close()  # or the kernel would go on queueing connections that nobody accepts
        for slot in slots:
            slot.process.terminate()
        self._join(slots)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()
        self._waker.send(b".")

    def _rest(self, slots: list[_Slot]) -> None:
        """Until a worker has ended, the next one is due, or a signal came."""
        due = min((slot.restart_at for slot in slots if slot.restart_at is not None), default=float("inf"))
        alive = [slot.process.sentinel for slot in slots if slot.restart_at is None]
        wait([self._woken, *alive], max(0.0, min(due - time.monotonic(), LONGEST_REST)))

    def _start(self) -> SpawnProcess:
        process = self._context.Process(target=work, args=(self._settings, self._listener), name="worker")
        process.start()
        return process

    def _look_after(self, slot: _Slot) -> None:
        """Give up only when no worker can be started: one that serves goes on, say while the database is away."""
        now = time.monotonic()
        if slot.process.is_alive():
            slot.unstartable = slot.unstartable and now - slot.started < STABLE_AFTER
            return
        if slot.restart_at is None:
            slot.unstartable = slot.process.exitcode == UNSTARTABLE
            if all(other.unstartable for other in self._slots):
                self._stopping.set()
                return
            slot.deaths = slot.deaths + 1 if now - slot.started < STABLE_AFTER else 0
            delay = RESTART_AFTER[min(slot.deaths, len(RESTART_AFTER) - 1)]
            logger.error("worker %s ended with %s; next in %.1f s", slot.process.pid, slot.process.exitcode, delay)
            slot.restart_at = now + delay
        if now >= slot.restart_at:
            slot.process, slot.started, slot.restart_at = self._start(), now, None

    def _join(self, slots: list[_Slot]) -> None:
        deadline = time.monotonic() + LAME_DUCK + parse_duration(self._settings.gateway.drain) + 10.0
        for slot in slots:
            slot.process.join(max(0.0, deadline - time.monotonic()))
            if slot.process.is_alive():
                logger.error("worker %s did not end in time and is killed", slot.process.pid)
                slot.process.kill()


class _Slot:
    """One worker and its history."""

    def __init__(self, process: SpawnProcess) -> None:
        self.process = process
        self.started = time.monotonic()
        self.deaths = 0
        self.restart_at: float | None = None
        self.unstartable = False


def _refuse_openness(settings: Settings) -> None:
    """Nobody may listen beyond loopback without keys. Raises ConfigError."""
    if not settings.keys_required:
        return
    from adapters.database import open_database
    from adapters.keys import list_keys

    database = open_database(settings.database, settings.data_dir)
    try:
        usable = [key for key in list_keys(database) if key.revoked_at is None]
    finally:
        database.close()
    if not usable:
        raise ConfigError(
            f"gateway.host is {settings.gateway.host} and keys are required, but there is none: "
            "create one with `understudy key create --scope inference`"
        )


def _listen(host: str, port: int) -> socket.socket:
    """A bound, inheritable socket. Raises ConfigError when the port is taken or the address is not ours."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; set gateway.host and gateway.port") from None
    listener.set_inheritable(True)
    return listener
