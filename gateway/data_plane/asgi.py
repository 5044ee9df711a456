"""The ASGI side of the push interface: reads a body, pumps what the relay writes, reports a client that leaves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.data_plane.push import Headers, Producer
from gateway.errors import body_too_large, request_timeout

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HIGH_WATER = 256 * 1024  # bytes waiting for a slow client before the engine is no longer read
BODY_TIMEOUT = 60.0  # seconds a client may take to send its body


class ClientLeft(Exception):
    """The client closed the connection while sending its request: there is nobody to answer."""


class AsgiDownstream:
    """A Downstream whose messages one coroutine sends: `pump`, which returns when all is sent or the client left."""

    __slots__ = ("_done", "_paused", "_queue", "_queued", "_waiter", "producer")

    def __init__(self) -> None:
        self.producer: Producer | None = None
        self._queue: deque[Message] = deque()
        self._queued = 0
        self._done = False
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    def start(self, status: int, headers: Headers) -> None:
        """See Downstream."""
        self._put({"type": "http.response.start", "status": status, "headers": headers})

    def write(self, data: bytes) -> None:
        """See Downstream."""
        if not data:
            return
        self._queued += len(data)
        if self._queued > HIGH_WATER and not self._paused and self.producer is not None:
            self._paused = True
            self.producer.pause()
        self._put({"type": "http.response.body", "body": data, "more_body": True})

    def chunks(self) -> None:
        """See Downstream."""

    def finish(self) -> None:
        """See Downstream."""
        self._done = True
        self.producer = None
        self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def pump(self, receive: Receive, send: Send) -> None:
        """Send until the end. The watcher of the client's departure lives as long."""
        watcher = asyncio.ensure_future(self._watch(receive))
        try:
            while True:
                while self._queue:
                    await self._send_next(send)
                if self._done:
                    return
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        except (asyncio.CancelledError, OSError):
            self._leave()
            raise
        finally:
            watcher.cancel()

    async def _send_next(self, send: Send) -> None:
        message = self._queue.popleft()
        await send(message)
        self._queued -= len(message.get("body", b""))
        if self._paused and self._queued <= HIGH_WATER // 2:
            self._paused = False
            if self.producer is not None:
                self.producer.resume()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.disconnected()
        self._done = True
        self._queue.clear()
        self._wake()

    def _put(self, message: Message) -> None:
        self._queue.append(message)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises ApiError (413, 408) or ClientLeft."""
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                piece = message.get("body", b"")
                size += len(piece)
                if size > limit:
                    raise body_too_large(limit)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except TimeoutError:
        raise request_timeout(BODY_TIMEOUT) from None


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """One complete answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
