"""HTTP at the level of bytes: requests and answers as they stand on the wire, and engines that script every packet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.serving import ASK, CHAT, Asked, Gateway, Script, scripted_engine
from tests.support.waiting import PATIENCE, soon


@dataclass(frozen=True)
class Answer:
    """One answer: its head as received (lower case), and the body without framing."""

    head: bytes
    body: bytes
    ended: str  # how the body ended: length, chunked, close, none

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name: value for name, _, value in (line.partition(": ") for line in lines if line)}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """Of an enveloped error: its code; a body that is not the envelope is an AssertionError."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"], error
        return error["code"]


class Wire:
    """A client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def trickle(self, *packets: bytes, gap: float = 0.002) -> None:
        """Each in a packet of its own."""
        for packet in packets:
            self.writer.write(packet)
            await self.writer.drain()
            await asyncio.sleep(gap)

    async def answer(self, method: str = "POST") -> Answer:
        """The next answer, interim ones skipped. Raises IncompleteReadError when there is none."""
        async with asyncio.timeout(PATIENCE):
            while True:
                head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
                if not head.startswith(b"http/1.1 1"):
                    return await _body(self.reader, head, method)

    async def rest(self) -> bytes:
        """Everything until the other side closes; what a reset cuts off is missing."""
        received = b""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(1 << 20):
                    received += piece
        return received


async def _body(reader: asyncio.StreamReader, head: bytes, method: str) -> Answer:
    if method == "HEAD" or head[9:12] in (b"204", b"304"):
        return Answer(head, b"", "none")
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        pieces = []
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            pieces.append(await reader.readexactly(size))
            assert await reader.readexactly(2) == b"\r\n"
        while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
            pass
        return Answer(head, b"".join(pieces), "chunked")
    if b"\r\ncontent-length: " in head:
        size = int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        return Answer(head, await reader.readexactly(size), "length")
    return Answer(head, await reader.read(), "close")


@contextlib.asynccontextmanager
async def wire(gateway: Gateway | int) -> AsyncIterator[Wire]:
    """A connection to a gateway, or to a port."""
    port = gateway if isinstance(gateway, int) else gateway.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def post(body: bytes, *lines: bytes, path: str = CHAT) -> bytes:
    """A POST with its Content-Length; `lines`: further header lines."""
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (
        path.encode(), b"".join(line + b"\r\n" for line in lines), len(body), body,
    )  # fmt: skip


def ask(**fields: Any) -> bytes:
    """A small chat request's body."""
    return json.dumps(ASK | fields).encode()


async def once(gateway: Gateway | int, request: bytes, method: str = "POST") -> Answer:
    """One request on a connection of its own."""
    async with wire(gateway) as connection:
        connection.send(request)
        return await connection.answer(method)


@contextlib.asynccontextmanager
async def engine(script: Script, **options: Any) -> AsyncIterator[tuple[str, int, list[Asked]]]:
    """A scripted engine: (url, port, what it was asked)."""
    asked: list[Asked] = []

    async def noted(request: Asked, writer: asyncio.StreamWriter) -> None:
        asked.append(request)
        await script(request, writer)

    async with scripted_engine(noted, **options) as url:
        yield url, int(url.rpartition(":")[2]), asked


def again(request: Asked) -> bytes:
    """The same request once more, for asking the engine directly."""
    lines = [f"{name}: {value}".encode() for name, value in request.headers.items() if name != "content-length"]
    return b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (
        request.path.encode(), b"".join(line + b"\r\n" for line in lines), len(request.body), request.body,
    )  # fmt: skip


def workers_of(gateway: Gateway) -> list[int]:
    """Process ids of the workers (and multiprocessing's own helper)."""
    assert gateway.process is not None
    parent = gateway.process.pid
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def resident(gateway: Gateway) -> int:
    """Resident bytes of all workers."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in workers_of(gateway))
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def unharmed(gateway: Gateway) -> Iterator[Gateway]:
    """Afterwards the same workers live, nothing is in flight, and the log tells of no bug."""
    before = workers_of(gateway)
    yield gateway
    assert workers_of(gateway) == before, gateway.log.read_text()
    soon(lambda: gateway.metric("understudy_requests_in_flight") == 0)  # an answer is accounted for once it has left
    log = gateway.log.read_text()
    assert "Traceback" not in log and "bug" not in log, log
