"""Clients that ask once and then wait, or stop reading: for streams and connections in great numbers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

from deploy.bench.site import Running

PATIENCE = 60.0  # seconds to wait for answers


class Waiting(asyncio.Protocol):
    """A client that sends one request, and then waits for as many bytes as it is told; it may stop reading."""

    def __init__(self, request: bytes, enough: Callable[[bytes], bool]) -> None:
        self.request, self.enough = request, enough
        self.seen, self.lost = b"", False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # what TCP gives
        """Ask."""
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the request (again)."""
        self.seen, self.done = b"", asyncio.get_running_loop().create_future()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self.seen = (self.seen + data)[-4096:]
        if not self.done.done() and self.enough(self.seen):
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self.lost = True
        if not self.done.done():
            self.done.set_result(None)


def request(gateway: Running, text: str, stream: bool) -> bytes:
    """One request with this prompt."""
    body = {"model": gateway.model, "messages": [{"role": "user", "content": text}], "user": "u", "stream": stream}
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {gateway.key}\r\n"
    return head.encode() + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)


async def connections(
    url: str, count: int, text: bytes, enough: Callable[[bytes], bool], buffer: int = 0
) -> list[Waiting]:
    """Open `count` connections one after the other, each answered before the next. Raises OSError, TimeoutError.

    `buffer`: bytes of the sockets' receive buffers; 0 = what the kernel chooses.
    """
    loop, (host, port) = asyncio.get_running_loop(), url.removeprefix("http://").split(":")
    clients = []
    for _ in range(count):
        connection = socket.socket()
        connection.setblocking(False)
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await loop.sock_connect(connection, (host, int(port)))
        _, client = await loop.create_connection(lambda: Waiting(text, enough), sock=connection)
        await asyncio.wait_for(client.done, PATIENCE)
        clients.append(client)
    return clients
