"""The engine client against real sockets, most of which misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.data_plane.call import Timeouts
from gateway.data_plane.sink import Failure
from gateway.data_plane.upstreams import MAX_POOLED, Upstream, choose
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, at_rest

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Heard:
    """A Sink that remembers."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.failure: Failure | None = None
        self.over = asyncio.Event()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        assert not self.status and not self.over.is_set()
        self.status, self.headers = status, dict(headers)

    def on_data(self, data: bytes) -> None:
        assert self.status and not self.over.is_set()
        self.pieces.append(data)

    def on_chunk(self, data: bytes, at: int) -> None:
        size = len(data) - at - 2
        assert int(data[: at - 2], 16) == size and data.endswith(b"\r\n")
        self.on_data(data[at:-2])

    def on_end(self) -> None:
        assert not self.over.is_set()
        self.over.set()

    def on_failure(self, failure: Failure) -> None:
        assert not self.over.is_set()
        self.failure = failure
        self.over.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return head, await reader.readexactly(length)


@contextlib.asynccontextmanager
async def engine(peer: Peer, **timeouts: float) -> AsyncIterator[Upstream]:
    async def careful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await peer(reader, writer)
        writer.close()

    server = await asyncio.start_server(careful, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream("e", f"http://127.0.0.1:{port}", "", Timeouts(**{"connect": PATIENCE} | timeouts))
    try:
        yield upstream
    finally:
        upstream.close()
        server.close()


async def ask(upstream: Upstream, body: bytes = b"{}") -> Heard:
    heard = Heard()
    upstream.call(b"/v1/chat/completions", b"x-request-id: r\r\n", body, heard)
    await asyncio.wait_for(heard.over.wait(), PATIENCE)
    assert upstream.in_flight == 0
    return heard


def always(answer: bytes, close: bool = False) -> Peer:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()
            if close:
                return

    return peer


async def test_connections_are_reused_and_requests_are_whole() -> None:
    seen: list[tuple[int, bytes, bytes]] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append((id(writer), *await read_request(reader)))
            writer.write(OK)

    async with engine(peer) as upstream:
        for size in (0, 1, 300_000):
            heard = await ask(upstream, b"x" * size)
            assert (heard.status, heard.body, heard.failure) == (200, b"{}", None)
    assert len({connection for connection, _, _ in seen}) == 1
    assert [len(body) for _, _, body in seen] == [0, 1, 300_000]
    assert b"\r\nx-request-id: r\r\n" in seen[0][1]


@pytest.mark.parametrize(
    ("answer", "close", "body"),
    [
        (OK, False, b"{}"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, False, b"{}"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, False, b"{}"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;ext=1\r\nbc\r\n0\r\nTrailer: x\r\n\r\n",
            False,
            b"abc",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the close", True, b"until the close"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", True, b"old"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", True, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, b""),
    ],
)
async def test_every_way_to_end_a_body(answer: bytes, close: bool, body: bytes) -> None:
    async with engine(always(answer, close)) as upstream:
        for _ in range(2):
            heard = await ask(upstream)
            assert (heard.failure, heard.body) == (None, body)
            assert b"trailer" not in heard.headers


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"", Failure.RESET),
        (b"HTTP/1.1 200", Failure.TRUNCATED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", Failure.TRUNCATED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", Failure.TRUNCATED),
        (b"rubbish\r\n\r\n", Failure.PROTOCOL),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Failure.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\n" + b"a: " + b"b" * 70_000 + b"\r\n\r\n", Failure.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Failure.PROTOCOL),
    ],
)
async def test_every_way_to_fail(answer: bytes, failure: Failure) -> None:
    async with engine(always(answer, close=True)) as upstream:
        assert (await ask(upstream)).failure is failure


async def test_nobody_listens() -> None:
    upstream = Upstream("e", f"http://127.0.0.1:{free_port()}", "", Timeouts())
    begun = asyncio.get_running_loop().time()
    assert (await ask(upstream)).failure is Failure.CONNECT
    assert not upstream.usable("v", begun)  # passed over from then on; for how long: see below
    assert (await ask(Upstream("u", "unix:/nonexistent/engine.sock", "", Timeouts()))).failure is Failure.CONNECT


async def test_a_pooled_connection_that_the_engine_closed_is_no_failure() -> None:
    """The engine closes after each answer without saying so: the second request meets a dead connection."""
    requests = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        writer.write(OK)
        if requests % 2:
            await read_request(reader)  # takes the next request and hangs up without a byte

    async with engine(peer) as upstream:
        for _ in range(4):
            heard = await ask(upstream)
            assert (heard.failure, heard.body) == (None, b"{}")
        assert upstream.usable("v", asyncio.get_running_loop().time())


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async with engine(always(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")) as upstream:
        for _ in range(3):
            heard = await ask(upstream)
            assert heard.failure is None and heard.body == b"{}"
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("limits", "failure"),
    [({"first_byte": 0.1}, Failure.FIRST_BYTE), ({"total": 0.1}, Failure.TOTAL)],
)
async def test_an_engine_that_never_answers(limits: dict[str, float], failure: Failure) -> None:
    closed = asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await read_request(reader)
            await reader.read()
        finally:  # a process that stood still gives up before it has asked
            closed.set()

    async with engine(peer, **limits) as upstream:
        sweeper = asyncio.create_task(_sweep(upstream))
        assert (await ask(upstream)).failure is failure
        await asyncio.wait_for(closed.wait(), PATIENCE)
        sweeper.cancel()


async def test_silence_in_the_middle() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(head)
        await reader.read()

    async with engine(peer, idle=0.1) as upstream:
        sweeper = asyncio.create_task(_sweep(upstream))
        heard = await ask(upstream)
        assert (heard.failure, heard.body) == (Failure.IDLE, b"a")
        sweeper.cancel()


async def _sweep(upstream: Upstream) -> None:
    while True:
        await asyncio.sleep(0.02)
        upstream.sweep(asyncio.get_running_loop().time())


async def test_cancel_reaches_the_engine_and_the_sink_hears_no_more() -> None:
    gone = asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.read()
        gone.set()

    async with engine(peer) as upstream:
        heard = Heard()
        call = upstream.call(b"/", b"", b"", heard)
        while not heard.pieces:
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait_for(gone.wait(), PATIENCE)
        assert upstream.in_flight == 0 and not heard.over.is_set()
        call.cancel()


async def test_cancel_while_connecting() -> None:
    async with engine(always(OK)) as upstream:
        heard = Heard()
        upstream.call(b"/", b"", b"", heard).cancel()
        await asyncio.sleep(0.1)
        assert upstream.in_flight == 0 and not heard.over.is_set() and not upstream._idle


async def test_a_slow_reader_costs_the_engine_not_us() -> None:
    sent = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(400):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with engine(peer, idle=0.2) as upstream:
        heard = Heard()
        call = upstream.call(b"/", b"", b"", heard)
        while not heard.pieces:
            await asyncio.sleep(0.01)
        call.pause()
        sweeper = asyncio.create_task(_sweep(upstream))
        assert await at_rest(lambda: sent) < 40_000_000  # for longer than the idle limit: the silence is ours
        assert heard.failure is None
        sweeper.cancel()  # if this process stands still from here on, that is silence
        now = asyncio.get_running_loop().time()
        call.resume()
        upstream.sweep(now)
        await asyncio.wait_for(heard.over.wait(), PATIENCE)
        assert len(heard.body) == 40_000_000


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    server = await asyncio.start_unix_server(always(OK), path)  # type: ignore[arg-type]  # its callback may be a coroutine
    upstream = Upstream("e", f"unix:{path}", "secret", Timeouts())
    assert (await ask(upstream)).body == b"{}"
    upstream.close()
    server.close()


async def test_the_least_busy_usable_replica_is_chosen() -> None:
    now = asyncio.get_running_loop().time()
    a, b, c = (Upstream(name, "http://127.0.0.1:1", "", Timeouts()) for name in "abc")
    a.in_flight, b.in_flight, c.in_flight = 2, 1, 1
    assert {choose([a, b, c], "v", now) for _ in range(50)} == {b, c}
    assert choose([a, b, c], "v", now, tried=[b, c]) is a
    c.failed()
    b.denied("v")
    assert choose([a, b, c], "v", now) is a
    assert choose([b, c], "w", now) is b
    assert choose([c], "v", now) is None
    assert choose([c], "v", now + 60) is c
    c.succeeded()
    assert choose([c], "v", now) is c


async def test_ejection_doubles_and_ends() -> None:
    upstream = Upstream("e", "http://127.0.0.1:1", "", Timeouts())
    loop = asyncio.get_running_loop()
    for span in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 6.4, 6.4):
        upstream.ejected_until, before = 0.0, loop.time()
        upstream.failed()
        assert before - 1e-6 <= upstream.ejected_until - span <= loop.time() + 1e-6
    assert MAX_POOLED >= 64
