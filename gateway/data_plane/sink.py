"""What is heard of an exchange with an engine, and how it may fail."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from gateway.data_plane.push import Headers


class Failure(Enum):
    """Why an exchange ended without a complete answer."""

    CONNECT = "it cannot be reached"
    RESET = "it closed the connection before it answered"
    TRUNCATED = "it broke off in the middle of its answer"
    FIRST_BYTE = "it did not begin to answer in time"
    IDLE = "it fell silent in the middle of its answer"
    TOTAL = "the request took longer than allowed"
    PROTOCOL = "its answer is not valid HTTP"


class Sink(Protocol):
    """Who receives an engine's answer. After on_end or on_failure nothing follows."""

    def on_head(self, status: int, headers: Headers) -> None:
        """Status and headers; names in lower case."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body, as it arrived."""

    def on_chunk(self, data: bytes, at: int) -> None:
        """The same for a piece that was a chunk of its own: `data[at:-2]`, with its size in front and a CRLF behind."""

    def on_end(self) -> None:
        """The answer is complete."""

    def on_failure(self, failure: Failure) -> None:
        """There will be no complete answer."""
