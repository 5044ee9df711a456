"""The hot paths without ASGI: a uvicorn HTTP protocol that is itself the Downstream of the relay.

uvicorn keeps what it is good at: workers, sockets, TLS, keep-alive, shutdown, and every request that is not a POST to
an inference endpoint, which goes to the ASGI application as ever. What this saves is a task, two events and an awaited
`send` per chunk: see docs/benchmarks.md. Pipelined requests take the ASGI way too.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.data_plane.asgi import BODY_TIMEOUT
from gateway.data_plane.endpoints import ENDPOINTS, Endpoint
from gateway.data_plane.envelope import render
from gateway.data_plane.push import Headers, Producer
from gateway.data_plane.worker import Worker
from gateway.errors import ApiError, body_too_large, request_timeout

LINGER = 2.0  # seconds a refused client may go on sending

_PATHS = {path.encode(): endpoint for path, endpoint in ENDPOINTS.items()}
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


class HotCycle:
    """One inference request on one connection. Has the attributes that uvicorn's protocol expects of a cycle."""

    __slots__ = (
        "_chunked", "_head", "_protocol", "body", "disconnected", "endpoint", "http_1_0", "keep_alive",
        "message_event", "more_body", "producer", "response_complete", "size",
    )  # fmt: skip

    def __init__(self, protocol: HotProtocol, endpoint: Endpoint, keep_alive: bool, http_1_0: bool) -> None:
        self._protocol = protocol
        self._chunked = False
        self._head = b""
        self.endpoint = endpoint
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.producer: Producer | None = None
        self.body: list[bytes] = []
        self.size = 0
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS

    # -- Downstream ---------------------------------------------------------------------------------------------

    def start(self, status: int, headers: Headers) -> None:
        """See Downstream."""
        if self.disconnected:
            return
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        sized = False
        for name, value in (*headers, *self._protocol.server_state.default_headers):
            if name == b"content-length":
                sized = True
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if not sized and self.http_1_0:
            self.keep_alive = False  # the end of the body is the end of the connection
        elif not sized:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        self._head = b"".join(lines)
        if not sized:
            self._flush_head()  # a stream's client learns at once that it was accepted

    def write(self, data: bytes) -> None:
        """See Downstream."""
        if data and not self.disconnected:
            head, self._head = self._head, b""  # one system call for a whole answer
            self._protocol.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else head + data)

    def finish(self) -> None:
        """See Downstream."""
        self.producer = None
        if self.response_complete or self.disconnected:
            return
        self._flush_head()
        if self._chunked:
            self._protocol.transport.write(b"0\r\n\r\n")
        self.response_complete = True
        if self.more_body:
            self._protocol.linger()
            return
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.on_response_complete()

    def _flush_head(self) -> None:
        head, self._head = self._head, b""
        if head:
            self._protocol.transport.write(head)

    # -- for the protocol -----------------------------------------------------------------------------------------

    def leave(self) -> None:
        """The client is gone."""
        self.disconnected = True
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.disconnected()

    def refuse(self, error: ApiError) -> None:
        """Answer before the body is complete; what still comes is not looked at."""
        status, headers, body = render(error)
        self.keep_alive = False
        self.start(status, headers)
        self.write(body)
        self.finish()


class _NobodyWaits:
    """Stands in for the asyncio.Event that uvicorn sets to wake an ASGI application."""

    def set(self) -> None:
        """There is none to wake."""


_NOBODY_WAITS = _NobodyWaits()


class HotProtocol(HttpToolsProtocol):
    """One client connection. Make the class with `hot_protocol(worker)`."""

    worker: Worker

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._body_timer: asyncio.TimerHandle | None = None
        self._lingering = False
        self._limit = self.worker.settings.gateway.max_body_bytes

    # -- parser callbacks -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Only what every request needs; an ASGI scope is made when it turns out to be wanted."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Take the request, or leave it to uvicorn."""
        endpoint = _PATHS.get(self.url)
        busy = self.cycle is not None and not self.cycle.response_complete
        if endpoint is None or busy or self.parser.get_method() != b"POST" or self.parser.should_upgrade():
            url, headers, expect = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expect
            self.headers.extend(headers)
            super().on_headers_complete()
            return
        old = self.parser.get_http_version() == "1.0"
        cycle = HotCycle(self, endpoint, not old and self.parser.should_keep_alive(), old)
        self.cycle = cast(RequestResponseCycle, cycle)
        if self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect, up to the limit."""
        cycle: object = self.cycle
        if not isinstance(cycle, HotCycle):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.size += len(body)
            cycle.body.append(body)
            if cycle.size > self._limit:
                cycle.refuse(body_too_large(self._limit))

    def on_message_complete(self) -> None:
        """The request is whole: answer it."""
        cycle: object = self.cycle
        if not isinstance(cycle, HotCycle):
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.more_body = False
            body = cycle.body[0] if len(cycle.body) == 1 else b"".join(cycle.body)
            cycle.body = []
            self.worker.handler.handle(cycle.endpoint, self.headers, body, time.monotonic(), cycle)

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a body that is still on its way has a deadline."""
        if self._lingering:
            return
        super().data_received(data)
        cycle: object = self.cycle
        waiting = isinstance(cycle, HotCycle) and cycle.more_body and not cycle.response_complete
        if waiting and self._body_timer is None:
            self._body_timer = self.loop.call_later(BODY_TIMEOUT, self._body_late)
        elif not waiting and self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the relay."""
        if self._body_timer is not None:
            self._body_timer.cancel()
        cycle: object = self.cycle
        if isinstance(cycle, HotCycle) and not cycle.response_complete:
            cycle.leave()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client's socket is full: the engine waits."""
        super().pause_writing()
        cycle: object = self.cycle
        if isinstance(cycle, HotCycle) and cycle.producer is not None:
            cycle.producer.pause()

    def resume_writing(self) -> None:
        """The client caught up."""
        super().resume_writing()
        cycle: object = self.cycle
        if isinstance(cycle, HotCycle) and cycle.producer is not None:
            cycle.producer.resume()

    def linger(self) -> None:
        """Close a little later: closing on a client that is still sending resets it before it has read the answer."""
        self._lingering = True
        self.loop.call_later(LINGER, self.transport.close)

    def _body_late(self) -> None:
        self._body_timer = None
        cycle: object = self.cycle
        if isinstance(cycle, HotCycle) and cycle.more_body:
            cycle.refuse(request_timeout(BODY_TIMEOUT))


def hot_protocol(worker: Worker) -> type[HotProtocol]:
    """The protocol class bound to a worker; uvicorn makes the instances."""
    return cast(type[HotProtocol], type("BoundHotProtocol", (HotProtocol,), {"worker": worker}))
