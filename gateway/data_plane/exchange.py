"""What is known about a request once it is admitted, and the account of it once it is over."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.data_plane.auth import Principal
from gateway.data_plane.protocol import ParsedRequest
from gateway.data_plane.push import Headers
from gateway.data_plane.routing import Target
from gateway.data_plane.sse import Usage
from monitors.conventions import Outcome


@dataclass(slots=True)
class Exchange:
    """What is known about a request once it has been admitted and routed."""

    request: ParsedRequest
    target: Target
    response_id: str  # without the endpoint's prefix
    request_id: bytes  # echoed to the client
    unit: bytes  # 8 bytes, HMAC
    received: float  # monotonic seconds
    trace: bytes  # header lines passed on to the engine
    limit_headers: Headers
    principal: Principal
    reserved_tokens: int  # 0: no token limit to settle


@dataclass(slots=True)
class Finished:
    """The account of one request, given to whoever counts. Times are seconds."""

    exchange: Exchange
    status: int
    outcome: Outcome
    duration: float
    ttft: float | None
    overhead: float
    usage: Usage
