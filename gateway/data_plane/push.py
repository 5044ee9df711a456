"""The push interface between the relay and whatever speaks HTTP with the client. No await per chunk.

    client ⇄ Downstream ⇄ Producer (the relay) ⇄ engine

ASGI is one Downstream (gateway.data_plane.asgi); a protocol class of its own can be another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Headers = list[tuple[bytes, bytes]]


class Producer(Protocol):
    """Who writes the answer. Called by the Downstream, never after `finish` or `abort`."""

    def disconnected(self) -> None:
        """The client went away: stop producing, cancel upstream."""

    def pause(self) -> None:
        """The client reads slowly: stop reading upstream until `resume`."""

    def resume(self) -> None:
        """The client caught up."""


class Downstream(Protocol):
    """The client's side of one exchange."""

    producer: Producer | None

    def start(self, status: int, headers: Headers) -> None:
        """Send the head. Once."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body; an empty one is none. Never blocks; obey `Producer.pause`."""

    def chunks(self) -> Callable[[bytes], None] | None:
        """Once the head was sent: what takes pieces that are framed as chunks already; None: only `write` takes any."""

    def finish(self) -> None:
        """The answer is complete."""
