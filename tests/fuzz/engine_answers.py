"""A fuzzer of the engine's side: answers in chunks, cut and spelled in every way, against the parser alone."""

from __future__ import annotations

import asyncio
import random
from typing import cast

import httptools

from gateway.data_plane.call import Call, Timeouts
from gateway.data_plane.connection import Connection
from gateway.data_plane.push import Headers
from gateway.data_plane.sink import Failure
from gateway.data_plane.upstreams import Upstream
from tests.fuzz.mutate import Mutator

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SIZES = [b"5\r\n", b"a\r\n", b"0\r\n", b"00\r\n", b"\r\n5", b"5;x=\"\r\n\"\r\n", b"f" * 17, b"-1\r\n", b"+5\r\n", b"5 \r\n", b"\r"]
BODIES = (b"data: {}\n\n", b"a", b"\r\n", b"5\r\n", b"0\r\n\r\n", b"x" * 15, b"x" * 16, b"x" * 255, b"data: y\n\n\r\n")


class Alone:
    """What the parser says by itself, given everything at once."""

    def __init__(self, whole: bytes) -> None:
        self.body, self.ended, self.valid = b"", False, True
        try:
            httptools.HttpResponseParser(self).feed_data(whole)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.valid = False

    def on_body(self, body: bytes) -> None:
        """A piece."""
        self.body += b"" if self.ended else body

    def on_message_complete(self) -> None:
        """The first answer is the answer."""
        self.ended = True


class Heard:
    """A Sink that remembers."""

    def __init__(self) -> None:
        self.body, self.ended, self.short_ways = b"", False, 0
        self.failure: Failure | None = None

    def on_head(self, status: int, headers: Headers) -> None:
        """Nothing of interest."""

    def on_data(self, data: bytes) -> None:
        """A piece."""
        assert not self.ended and self.failure is None
        self.body += data

    def on_chunk(self, data: bytes, at: int) -> None:
        """A piece that was a chunk."""
        assert data[at - 2 : at] == data[-2:] == b"\r\n" and int(data[: at - 2], 16) == len(data) - at - 2
        self.short_ways += 1
        self.on_data(data[at:-2])

    def on_end(self) -> None:
        """Complete."""
        assert not self.ended and self.failure is None
        self.ended = True

    def on_failure(self, failure: Failure) -> None:
        """Broken."""
        assert not self.ended and self.failure is None
        self.failure = failure


class Wire(asyncio.Transport):
    """Where the request goes."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nowhere."""

    def abort(self) -> None:
        """Likewise."""

    close = abort

    def is_closing(self) -> bool:
        """Never."""
        return False


async def heard(pieces: list[bytes], sink: Heard | None = None) -> Heard:
    """What a sink is told of an answer that arrives so."""
    upstream, sink = Upstream("engine", "http://127.0.0.1:1", "", Timeouts()), sink or Heard()
    connection = Connection(lambda _connection, _reusable: None, lambda _connection: None)
    connection.connection_made(cast(asyncio.BaseTransport, Wire()))
    Call(upstream, b"", sink, 0.0).attach(connection)
    for piece in pieces:
        if piece and connection.sink is not None:
            connection.data_received(piece)
    return sink


def chunk(draw: random.Random) -> bytes:
    """One, most often as engines write it."""
    body = b"".join(draw.choice(BODIES) for _ in range(draw.randint(1, 3)))
    size = b"%x" % len(body)
    kind = draw.random()
    if kind > 0.8:
        size = draw.choice((size.upper(), b"0" + size, b"000000" + size, size + b";a=b", size + b" ", size + b";\r"))
    return b"%b\r\n%b\r\n" % (size, body)


def framed_answer(mutator: Mutator) -> None:
    """However chunks arrive, the sink is told what the parser reads in all of it."""
    draw = mutator.random
    chunks = [chunk(draw) for _ in range(draw.randint(1, 8))]
    if draw.random() < 0.7:
        chunks.append(draw.choice((b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\na: b\r\n\r\n", b"0\r\n\r\nHTTP/1.1 200 OK\r\n")))
    if draw.random() < 0.4:
        at = draw.randrange(len(chunks))
        chunks[at] = mutator.change(chunks[at])
    whole = HEAD + b"".join(chunks)
    alone = Alone(whole)
    cut = mutator.cut(whole)
    for pieces in ([HEAD, *chunks], [whole], cut, [HEAD, *(half for c in chunks for half in (c[:4], c[4:]))]):
        sink = asyncio.run(heard(pieces))
        assert sink.body == alone.body and sink.ended == alone.ended, (pieces, sink.body, alone.body)
        if not alone.ended:
            assert (sink.failure is Failure.PROTOCOL) == (not alone.valid), pieces
