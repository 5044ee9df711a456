"""Where a worker process begins: before it imports the data plane, it decides in which form."""

from __future__ import annotations

import socket

from gateway.compiled import prefer
from gateway.config import Settings


def work(settings: Settings, listener: socket.socket) -> None:
    """Body of a worker process: what it needs is imported here, and not by the supervisor."""
    interpreted = prefer()
    from gateway.data_plane.process import run_worker

    run_worker(settings, listener, interpreted)
