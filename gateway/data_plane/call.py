"""One exchange with one engine, from the choice of a connection to its end: deadlines, back-pressure, one retry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.data_plane.connection import Connection
from gateway.data_plane.push import Headers
from gateway.data_plane.sink import Failure, Sink
from gateway.errors import ApiError, bad_gateway, gateway_timeout, no_replica

if TYPE_CHECKING:
    from gateway.data_plane.upstreams import Upstream

TIMEOUTS: Final = (Failure.FIRST_BYTE, Failure.IDLE, Failure.TOTAL)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. See the settings of the same names."""

    connect: float = 2.0
    first_byte: float = 120.0
    idle: float = 60.0
    total: float = 600.0


class Call:
    """The sink of a connection, and the handle of whoever asked: see the module's docstring."""

    __slots__ = (
        "_begun", "_blames", "_connection", "_paused", "_request", "_retried", "_sink", "_upstream", "headed", "last",
        "on_chunk", "on_data",
    )  # fmt: skip

    def __init__(self, upstream: Upstream, request: bytes, sink: Sink, now: float, blames: bool = True) -> None:
        self._upstream = upstream
        self._request = request
        self._sink: Sink | None = sink
        self.on_data: Callable[[bytes], None] = sink.on_data  # a chunk's way through here would be a step for nothing
        self.on_chunk: Callable[[bytes, int], None] = sink.on_chunk
        self._connection: Connection | None = None
        self._begun = self.last = now
        self._blames = blames
        self._paused = False
        self._retried = False
        self.headed = False

    def attach(self, connection: Connection) -> None:
        """Send on this connection."""
        self._connection = connection
        connection.send(self._request, self)
        if self._paused:
            self.pause()

    def cancel(self) -> None:
        """The answer is no longer wanted: the engine sees the connection close and stops."""
        if self._sink is not None:
            self._end()
            if self._connection is not None:
                self._connection.close()

    def pause(self) -> None:
        """Stop reading: the engine's socket fills, its memory is not ours. Once ended, the connection is another's."""
        if self._sink is None:
            return
        self._paused = True
        if self._connection is not None and self._connection.transport is not None:
            self._connection.paused = True
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._sink is None:
            return
        self._paused = False
        self.last = self._upstream.loop.time()
        if self._connection is not None and self._connection.transport is not None:
            self._connection.paused = False
            self._connection.transport.resume_reading()

    def overdue(self, now: float, timeouts: Timeouts) -> Failure | None:
        """Which limit has passed, if any. A reader that is slow of its own accord is not the engine's silence.

        Data only leaves a mark (`heard`); when it came is known as exactly as this is asked.
        """
        if self._connection is not None and self._connection.heard:
            self._connection.heard = False
            self.last = now
        if now - self._begun > timeouts.total:
            return Failure.TOTAL
        if not self.headed:
            return Failure.FIRST_BYTE if now - self._begun > timeouts.first_byte else None
        return Failure.IDLE if not self._paused and now - self.last > timeouts.idle else None

    def expire(self, failure: Failure) -> None:
        """A deadline passed."""
        if self._connection is not None and self._connection.sink is self:
            self._connection.fail(failure)
        else:
            self.on_failure(failure)

    @property
    def live(self) -> bool:
        """False once ended or cancelled."""
        return self._sink is not None

    # -- Sink ---------------------------------------------------------------------------------------------------

    def on_head(self, status: int, headers: Headers) -> None:
        """Pass on."""
        self.headed = True
        self.last = self._upstream.succeeded()
        if self._sink is not None:
            self._sink.on_head(status, headers)

    def on_end(self) -> None:
        """Pass on."""
        sink = self._end()
        if sink is not None:
            sink.on_end()

    def on_failure(self, failure: Failure) -> None:
        """A pooled connection that the engine had closed meanwhile is no failure: once more, on a new one."""
        stale = self._connection is not None and self._connection.exchanges > 1
        if failure is Failure.RESET and stale and not self._retried and self._sink is not None:
            self._retried = True
            self._upstream.connect(self)
            return
        if failure is Failure.CONNECT or (failure is Failure.RESET and self._blames):
            self._upstream.failed()
        sink = self._end()
        if sink is not None:
            sink.on_failure(failure)

    def _end(self) -> Sink | None:
        sink, self._sink = self._sink, None
        if sink is not None:
            self.on_data, self.on_chunk = _nobody, _nobody  # no cycle of references is left behind
            self._upstream.done(self)
        return sink


def _nobody(_data: bytes, _at: int = 0) -> None:
    """Whoever asked is gone."""


def as_error(failure: Failure) -> ApiError:
    """The client's view of a failure."""
    if failure in TIMEOUTS:
        return gateway_timeout(failure.value)
    if failure is Failure.CONNECT:
        return no_replica("")
    return bad_gateway(failure.value)
