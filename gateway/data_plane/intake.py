"""What every client connection is held to, whoever answers: framing, sizes, deadlines, and one voice for refusals.

uvicorn's protocol sets no limit to a request's head, waits for the rest of a message for ever, lets trailers pass for
headers, drops the body of a request that offers an upgrade (as Java's own client does: h2c), and says what is not HTTP
in plain text, even in the middle of an answer. Here all of that has one place, below the hot paths.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.data_plane.asgi import BODY_TIMEOUT
from gateway.data_plane.envelope import render
from gateway.errors import ApiError, bad_request, head_too_large, request_timeout

LINGER = 2.0  # seconds a refused client may go on sending
MAX_HEAD: Final = 64 * 1024  # bytes of a head, beyond the packet it begins in
MAX_HEADERS: Final = 256
PIPELINED: Final = 16  # requests that may wait behind another before the connection is no longer read
FRAMING: Final = 8  # bytes of framing that each byte of a body may bring: it may come in chunks of one byte

STATUS_LINES: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_BETWEEN, _HEAD, _BODY = range(3)  # where in a message the connection is
_LOOKED_AT: Final = frozenset({b"expect", b"transfer-encoding"})
_HOP: Final = frozenset({b"connection", b"upgrade", b"http2-settings"})


class Intake(HttpToolsProtocol):
    """One client connection, as far as receiving goes. Subclasses take the requests: `begin`, `on_body`, `complete`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.answering: RequestResponseCycle | None = None  # `cycle` is the newest: it may wait behind this one
        self._stage = _BETWEEN
        self._surplus = 0  # bytes of the message under way that are neither body nor fair framing
        self._timer: asyncio.TimerHandle | None = None
        self._lingering = False
        self._fault: ApiError | None = None
        self._offer = b""  # the request line of a message that offers an upgrade

    def begin(self, headers: list[tuple[bytes, bytes]], version: str) -> None:
        """A head is complete."""
        raise NotImplementedError

    def complete(self) -> None:
        """A message is complete."""
        raise NotImplementedError

    # -- parser callbacks -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Only what every request needs; an ASGI scope is made when it turns out to be wanted."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._stage = _HEAD
        self._surplus = 0
        if self.timeout_keep_alive_task is not None:  # of a request before it in the same packet
            self._unset_keepalive_if_required()

    def on_url(self, url: bytes) -> None:
        """Collect."""
        self.url = self.url + url  # += is more than mypyc can do with an attribute of uvicorn

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect; two of them matter here."""
        name = name.lower()
        if name in _LOOKED_AT:
            if name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue" and self.parser.get_http_version() == "1.1"
            elif value.lower() != b"chunked" or self.parser.get_http_version() != "1.1":
                self._raise("no transfer-encoding but chunked is understood, and only in HTTP/1.1")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check what no parser checks; whatever headers come after this are trailers, and nobody's."""
        self._stage, self._surplus = _BODY, 0
        parser = self.parser
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._raise("only HTTP/1.1 and 1.0 are spoken here")
        headers, self.headers = self.headers, []
        if len(headers) > MAX_HEADERS:
            self._fault = head_too_large(MAX_HEAD, MAX_HEADERS)
            raise ValueError
        if parser.should_upgrade():
            self._decline(parser.get_method(), headers)
            return
        self.begin(headers, version)

    def on_message_complete(self) -> None:
        """The deadline is met."""
        self._stage = _BETWEEN
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._offer:
            self.complete()

    def earned(self, size: int) -> None:
        """`size` bytes of a body have come. To be called by on_body when `_surplus` is not 0."""
        self._surplus = max(0, self._surplus - FRAMING * size)

    def to_asgi(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Leave the request to the application, or in the queue behind others."""
        url, expect = self.url, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()
        self.headers = []
        if self.pipeline and len(self.pipeline) < PIPELINED:
            self.flow.resume_reading()  # who is not read from leaves unnoticed

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client that never asks is not kept longer than one that no longer does."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is still on its way has a deadline and a size."""
        if self._lingering:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if self._stage:
            self._surplus += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            offered, self._offer = self._offer, b""
            self.data_received(offered + data[pause.args[0] :])
            return
        except httptools.HttpParserError:
            fault, self._fault = self._fault, None
            self.reject(fault or bad_request("the request is not valid HTTP/1.1"))
            return
        if self._stage:
            self._unfinished()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the newest request; the one that is being answered must know too."""
        if self._timer is not None:
            self._timer.cancel()
        running = self.answering
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    # -- refusals -------------------------------------------------------------------------------------------------

    def reject(self, error: ApiError) -> None:
        """Refuse the message that is being received and end the connection; never in the middle of an answer."""
        running = self.answering
        if running is not None and not running.response_complete:
            if running is not self.cycle or not running.more_body or running.response_started:
                self.transport.close()
                return
            running.disconnected = True
            running.message_event.set()
        status, headers, body = render(error)
        lines = [STATUS_LINES[status], *(b"%b: %b\r\n" % header for header in headers if header[0] != b"connection")]
        self.transport.write(b"".join([*lines, b"connection: close\r\n\r\n", body]))
        self._lingering = True  # closing on a client that is still sending resets it before it has read the answer
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)

    def _raise(self, message: str) -> None:
        """End parsing. The parser wraps what callbacks raise."""
        self._fault = bad_request(message)
        raise ValueError(message)

    def _unfinished(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(BODY_TIMEOUT, self._late)
        if self._surplus > MAX_HEAD:
            self.reject(head_too_large(MAX_HEAD, MAX_HEADERS))

    def _late(self) -> None:
        self._timer = None
        running = self.answering
        if self._stage == _BODY and self.cycle is not None and self.cycle.response_complete:
            self.transport.close()  # answered long ago
        elif running is not None and not running.response_complete and running is not self.cycle:
            self._timer = self.loop.call_later(BODY_TIMEOUT, self._late)  # what waits behind an answer is not read
        else:
            self.reject(request_timeout(BODY_TIMEOUT))

    def _decline(self, method: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """An upgrade that is not taken is no reason to refuse: the same request is parsed again, without the offer."""
        if method == b"CONNECT":
            self._raise("CONNECT is not served here")
        lines = [b"%b: %b\r\n" % header for header in headers if header[0] not in _HOP]
        close = any(name == b"connection" and b"close" in value.lower() for name, value in headers)
        lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
        self._offer = b"".join([b"%b %b HTTP/1.1\r\n" % (method, self.url), *lines])

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.answering = cycle
        super()._start_asgi_task(cycle, app)
