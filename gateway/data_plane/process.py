"""Body of a worker process: uvicorn as the data plane needs it."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import socket
import sys
from typing import Any, cast

import uvicorn

from gateway.config import Settings, parse_duration
from gateway.data_plane.app import DataPlane
from gateway.data_plane.draining import DrainingServer
from gateway.data_plane.hot_protocol import hot_protocol
from gateway.lifetime import die_with_parent
from gateway.logs import configure

KEEP_ALIVE = 75  # seconds an idle client connection is kept: longer than clients keep theirs
BACKLOG = 4096
COLLECT_EVERY = 20_000  # objects made and not yet freed; Python's own default, 700, is less than 64 requests hold
SWITCH = 0.0005  # seconds a thread may go on while the loop waits for the interpreter: a tenth of Python's own default

logger = logging.getLogger("understudy.worker")


def run_worker(settings: Settings, listener: socket.socket, interpreted: str) -> None:
    """Serve until a signal. The supervisor may have been killed while this process was still importing.

    `interpreted`: why the hot path is not machine code, if it is not.
    """
    die_with_parent()
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and os.getppid() != supervisor.pid:
        return
    configure("worker")
    logger.info("the hot path runs %s", f"interpreted: {interpreted}" if interpreted else "as machine code")
    sys.setswitchinterval(SWITCH)
    app = DataPlane(settings)
    spare_collector()
    server = DrainingServer(worker_config(settings, app), app.worker)
    server.run(sockets=[listener])


def spare_collector() -> None:
    """What is there now stays: the collector need not look at it again. Nor at every 700th object a request makes.

    Requests leave no cycles of references behind (tests/gateway/data_plane/test_hot_path.py); this is for exceptions'.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, 20, 50)


def worker_config(settings: Settings, app: DataPlane) -> uvicorn.Config:
    """uvicorn as the data plane needs it."""
    return uvicorn.Config(
        app=app,
        http=cast(Any, hot_protocol(app.worker)),  # uvicorn calls it, whatever it is
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
