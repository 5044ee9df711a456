"""One HTTP/1.1 connection to an engine: httptools over an asyncio protocol, one exchange at a time, pushed both ways.

An own client, because it is what the figures ask for: on two cores a relay over aiohttp costs about three times the
CPU per request of one over this (docs/benchmarks.md). It does what an engine's answers need and no more: no redirects,
no cookies, no compression, no upgrade.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import httptools

from gateway.data_plane.framing import whole_chunk
from gateway.data_plane.push import Headers
from gateway.data_plane.sink import Failure

if TYPE_CHECKING:
    from gateway.data_plane.call import Call

MAX_HEAD: Final = 64 * 1024  # bytes of response headers; an engine's are a few hundred
_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})  # how the end of a body is told

logger = logging.getLogger("understudy.connection")


class Connection(asyncio.Protocol):
    """A connection that is idle (`sink` is None) or carries one exchange."""

    __slots__ = (
        "_between", "_feed", "_head_size", "_headers", "_interim", "_lost", "_over", "_pieces", "_released",
        "_reusable", "_status", "_until_close", "answered", "exchanges", "heard", "idle_since", "parser", "paused",
        "sink", "transport",
    )  # fmt: skip

    def __init__(self, released: Callable[[Connection, bool], None], lost: Callable[[Connection], None]) -> None:
        self._released = released  # (connection, reusable) when an exchange ended
        self._lost = lost  # when the connection is gone
        self.transport: asyncio.Transport | None = None
        self.sink: Call | None = None
        self._over: Call | None = None  # whose answer is complete, until the packet with its last byte is read
        self._reusable = False
        self.answered = False  # any byte of the current answer has arrived
        self.heard = False  # … since somebody last looked and took this back
        self.paused = False  # its sink wants no more for now
        self.exchanges = 0
        self.idle_since = 0.0
        self.parser = httptools.HttpResponseParser(self)
        self._feed: Callable[[bytes], None] = self.parser.feed_data  # found once, not for every chunk
        self._reset()

    def _reset(self) -> None:
        self._headers: Headers = []
        self._head_size = 0
        self._status = 0
        self._interim = False
        self._until_close = False
        self._pieces: list[bytes] = []  # of the body, in what is being read
        self._between = False  # one chunk of the body is over, and the parser has seen nothing of the next

    # -- exchange -----------------------------------------------------------------------------------------------

    def send(self, request: bytes, sink: Call) -> None:
        """Begin an exchange. The connection must be idle."""
        assert self.transport is not None
        self.sink = sink
        self.answered = False
        self.exchanges += 1
        self.transport.write(request)

    def close(self) -> None:
        """End the connection at once; the current sink hears nothing more. The engine aborts the request."""
        self.sink = None
        if self.transport is not None:
            self.transport.abort()

    def fail(self, failure: Failure) -> None:
        """End the connection and tell the sink why."""
        sink, self.sink = self.sink, None
        if self.transport is not None:
            self.transport.abort()
        if sink is not None:
            sink.on_failure(failure)

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; bytes that nobody asked for end the connection."""
        current = self.sink
        if current is None:
            self.close()
            return
        self.answered = self.heard = True
        if self._between:
            at = whole_chunk(data)
            if at:  # past the parser, which stands where it stood
                try:
                    current.on_chunk(data, at)
                except Exception as error:
                    self._bug(error)
                return
            self._between = False
        valid = self._parse(data)
        if self._pieces:
            self._pass_on(current)
        if not valid:
            self._reusable = False
            self.fail(Failure.PROTOCOL)
        if self._between:
            self._between = data.endswith(b"\r\n")  # if not, the next chunk's size has begun
        if not self._status:  # no head yet; what is left of one in a read is less than that read
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self.fail(Failure.PROTOCOL)
        sink, self._over = self._over, None
        if sink is not None:  # only now: what follows an answer in its last packet must not become the next one's
            self._reset()
            self._released(self, self._reusable)
            sink.on_end()

    def _parse(self, data: bytes) -> bool:
        """False when it is not valid HTTP."""
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            self._bug(error)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return False
        return True

    def _pass_on(self, sink: Call) -> None:
        """All of the body that was in one read, at once: what the sink writes is one system call."""
        pieces, self._pieces = self._pieces, []
        try:
            sink.on_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        except Exception as error:
            self._bug(error)

    def _bug(self, error: Exception) -> None:
        """Ours, not the engine's: it must not go unseen."""
        logger.error("bug while relaying", exc_info=error)
        self._reusable = False
        self.fail(Failure.PROTOCOL)

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """A body that lasts until the close is complete; anything else under way has failed."""
        self._lost(self)
        sink, self.sink = self.sink, None
        self.transport = None
        if sink is None:
            return
        if self._until_close and exc is None:
            sink.on_end()
        elif self._status or self.answered:
            sink.on_failure(Failure.TRUNCATED)
        else:
            sink.on_failure(Failure.RESET)

    # -- httptools callbacks ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer, or something that nobody asked for."""
        if self.sink is None:
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect; trailers come here too and are dropped with the next reset."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Interim answers (1xx) are skipped."""
        status = self.parser.get_status_code()
        self._interim = status < 200
        if self._interim:
            self._headers = []
            return
        self._status = status
        headers, self._headers = self._headers, []  # trailers must not end up in the head
        known = dict(headers)
        size = 0
        for value in known.values():
            size += len(value)
        if size > MAX_HEAD:
            self.fail(Failure.PROTOCOL)
        self._until_close = status not in (204, 304) and _LENGTHS.isdisjoint(known)
        if known.get(b"content-encoding", b"identity").lower() != b"identity":
            self.fail(Failure.PROTOCOL)  # never asked for, and cannot be restamped
        if self.sink is not None:
            self.sink.on_head(status, headers)

    def on_chunk_header(self) -> None:
        """A chunk's size is known; the rest of it is the parser's."""
        self._between = False

    def on_chunk_complete(self) -> None:
        """What comes next may be taken without the parser."""
        self._between = True

    def on_body(self, body: bytes) -> None:
        """Pass on."""
        if self.sink is not None:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The exchange is over; the connection may serve another."""
        if self._interim:
            self._interim = False
            return
        if self.sink is not None:
            self._over, self.sink = self.sink, None
            self._reusable = self.parser.should_keep_alive() and not self._until_close
