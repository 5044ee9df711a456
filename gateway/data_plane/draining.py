"""The way out of a worker: nobody who was let in is turned away.

On the first signal it answers on with `connection: close`, so that keep-alive clients leave by themselves; then it
takes in whoever already stands in the queue, stops listening, and lets requests in flight finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

from gateway.data_plane.worker import Worker
from gateway.lifetime import LAME_DUCK


class DrainingServer(uvicorn.Server):
    """One worker's server. The first signal begins the drain; a second SIGINT ends it at once."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker
        self._leave_at = float("inf")
        self._signalled = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Until it is time to leave. uvicorn's own looks ten times a second whether it is; here a signal says so."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._leave_at - time.monotonic() if self._worker.draining else None):
                    await self._signalled.wait()
            self._signalled.clear()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain instead of closing at once."""
        self._begin_or_hasten(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._signalled.set)

    def _begin_or_hasten(self, sig: int, frame: FrameType | None) -> None:
        if self._worker.draining:
            if sig == signal.SIGINT:
                super().handle_exit(sig, frame)
                super().handle_exit(sig, frame)
            return
        self._worker.draining = True
        close = (b"connection", b"close")
        self.config.encoded_headers.append(close)
        self.server_state.default_headers = [*self.server_state.default_headers, close]
        self._leave_at = time.monotonic() + LAME_DUCK

    async def on_tick(self, counter: int) -> bool:
        """Leave once the keep-alive clients had their chance."""
        if time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in whoever is already in the queue, stop listening, answer them, then close what is idle.

        A connection that the kernel accepted and nobody served would be reset; so would one whose request is still on
        its way when idle connections are closed.
        """
        loop = asyncio.get_running_loop()
        for listener in sockets or []:
            for connection in _pending(listener):
                await loop.connect_accepted_socket(self._protocol, connection)
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        await asyncio.sleep(LAME_DUCK)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # a union of classes
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def _pending(listener: socket.socket) -> Iterator[socket.socket]:
    """Connections that are waiting to be accepted."""
    listener.setblocking(False)
    while True:
        try:
            yield listener.accept()[0]
        except OSError:
            return
