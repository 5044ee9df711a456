"""The controller process: `understudy controller`. The leader's loop, the operator API and housekeeping on one loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import uvicorn

from adapters.artifacts import ArtifactStore
from adapters.base import read_base, resolve_base
from adapters.collapse_store import CollapseStore
from adapters.database import Database, open_database
from adapters.errors import ConfigError
from adapters.evidence_store import EvidenceStore
from adapters.evidence_sums import EvidenceSums
from adapters.fleet_store import FleetStore
from adapters.keys import server_secret
from adapters.registry import Registry
from adapters.response_store import ResponseStore
from adapters.rollout_store import RolloutStore
from adapters.routes import RouteStore
from gateway.config import Settings, ensure_data_dir, is_loopback
from gateway.control_plane.app import create_app
from gateway.control_plane.awareness import Awareness
from gateway.control_plane.controller import Controller
from gateway.control_plane.housekeeping import keep_house
from gateway.control_plane.lease import Lease
from gateway.control_plane.metrics import ControlMetrics
from gateway.control_plane.publish import Base
from gateway.control_plane.resources import Services
from gateway.control_plane.token import operator_token
from gateway.control_plane.view import Stores
from gateway.data_plane.ids import IdMinter
from gateway.logs import configure

LAST_ANSWERS = 5           # seconds that requests in flight get at the end

log = logging.getLogger("understudy.controller")


def run_controller(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises UnderstudyError for whatever keeps it from starting."""
    data_dir = ensure_data_dir(settings)
    configure("controller")
    base = read_base(resolve_base(settings.engine.base_model), data_dir / "cache")
    listener = _listen(settings)
    database = open_database(settings.database, data_dir)
    try:
        metrics = ControlMetrics(data_dir / "metrics", _release())
        stores = _open_stores(settings, database)
        for route in settings.route:
            stores.routes.create(route.name, route.description, exist_ok=True)
        token = operator_token(settings, create=True)
        lease = Lease(stores.fleet, f"{socket.gethostname()[:60]}:{os.getpid()}-{secrets.token_hex(4)}")
        named = Base(base.version, settings.engine.served_name)
        hash_unit = IdMinter(server_secret(database)).unit_hash
        controller = Controller(settings, stores, named, lease, metrics=metrics, hash_unit=hash_unit)
        asyncio.run(_serve(Services(settings, database, stores, controller), token, listener))
        metrics.close()
    finally:
        database.close()
        listener.close()


async def _serve(services: Services, token: str, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    config = uvicorn.Config(
        create_app(services, token),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LAST_ANSWERS,
    )
    server = _Server(config)
    controller = services.controller
    awareness = Awareness(services.stores.fleet, lambda: _in_loop(loop, controller.wake))
    awareness.start()
    log.info("operator API on http://%s:%d", *listener.getsockname()[:2])
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(controller.run(stop))
            tasks.create_task(keep_house(services.settings, services.stores, controller, stop))
            serving = tasks.create_task(server.serve([listener]))
            await stop.wait()
            server.should_exit = True
            await serving
    finally:
        awareness.stop()


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: shutting down
        loop.call_soon_threadsafe(call)


class _Server(uvicorn.Server):
    """Leaves the signals to `_serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing to capture."""
        yield


def _open_stores(settings: Settings, database: Database) -> Stores:
    artifacts = ArtifactStore(settings.artifacts, settings.data_dir)
    return Stores(
        Registry(database, artifacts), RouteStore(database), FleetStore(database), artifacts, ResponseStore(database),
        RolloutStore(database), EvidenceStore(database), EvidenceSums(database), CollapseStore(database),
    )  # fmt: skip


def _listen(settings: Settings) -> socket.socket:
    """A bound socket. Raises ConfigError when the port is taken or the address is not ours."""
    control = settings.control
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(control.host, control.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"the operator API cannot listen on {control.host}:{control.port}: {reason}; "
            "set control.host and control.port"
        ) from None
    if not is_loopback(control.host):
        log.warning("the operator API listens on %s: put TLS in front of it, its token is sent in clear", control.host)
    return listener


def _release() -> str:
    try:
        return version("understudy")
    except PackageNotFoundError:
        return "unknown"
