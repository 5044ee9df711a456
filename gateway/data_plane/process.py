"""Body of a worker process: uvicorn as the data plane needs it."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys

import uvicorn

from gateway.config import Settings, parse_duration
from gateway.data_plane.app import DataPlane
from gateway.data_plane.draining import DrainingServer
from gateway.data_plane.hot_protocol import hot_protocol
from gateway.lifetime import die_with_parent
from gateway.logs import configure

KEEP_ALIVE = 75  # seconds an idle client connection is kept: longer than clients keep theirs
BACKLOG = 4096
SWITCH = 0.0005  # seconds a thread may go on while the loop waits for the interpreter: a tenth of Python's own default


def run_worker(settings: Settings, listener: socket.socket) -> None:
    """Serve until a signal. The supervisor may have been killed while this process was still importing."""
    die_with_parent()
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and os.getppid() != supervisor.pid:
        return
    configure("worker")
    sys.setswitchinterval(SWITCH)
    app = DataPlane(settings)
    server = DrainingServer(worker_config(settings, app), app.worker)
    server.run(sockets=[listener])


def worker_config(settings: Settings, app: DataPlane) -> uvicorn.Config:
    """uvicorn as the data plane needs it."""
    return uvicorn.Config(
        app=app,
        http=hot_protocol(app.worker),
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=round(parse_duration(settings.gateway.drain)),
        ssl_certfile=settings.gateway.tls_cert or None,
        ssl_keyfile=settings.gateway.tls_key or None,
    )
