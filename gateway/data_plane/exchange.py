"""What is known about a request once it is admitted, and the account of it once it is over."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.types import Flag
from gateway.data_plane.auth import Principal
from gateway.data_plane.connection import Failure
from gateway.data_plane.envelope import translate
from gateway.data_plane.protocol import ParsedRequest
from gateway.data_plane.push import Headers
from gateway.data_plane.routing import Target
from gateway.data_plane.sse import Usage
from gateway.data_plane.upstreams import Upstream
from gateway.errors import ApiError
from monitors.conventions import Outcome
from monitors.metrics import RequestMetrics

# As plain numbers: the operators of an IntFlag cost a microsecond.
_DOWN, _BAD = int(Flag.ENGINE_DOWN), int(Flag.EMPTY | Flag.NON_FINITE | Flag.GUARD)


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
    flags: int = 0  # adapters.types.Flag, as far as they are known when it is admitted
    metrics: RequestMetrics | None = None  # what counts it; None: nothing does, as for mirrored requests
    selected: int = 0  # gateway.data_plane.watch: what is done with the answer's text; 0: nothing, it is not kept

    @property
    def public(self) -> bytes:
        """The client's own spelling of the model, as it stands in answers."""
        first, end = self.request.span
        return b'"model":' + self.request.body[first:end]

    def headers(self, sent: float) -> Headers:
        """What every answer carries; `sent` (monotonic seconds): when the engine was asked."""
        overhead = b"%.2f" % ((sent - self.received) * 1e3)
        own = ((b"x-request-id", self.request_id), (b"x-understudy-overhead-ms", overhead))
        return [*self.target.headers, *own, *self.limit_headers]

    def translate(self, status: int, body: bytes) -> ApiError:
        """An engine's error in the client's terms."""
        return translate(status, body, self.request.model, self.target.model.strip(b'"').decode())


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
    flags: int = 0  # adapters.types.Flag
    upstream: Upstream | None = None  # who answered, or failed to; None: nobody could
    suspect: Failure | None = None  # the engine may be gone, or only this answer: `upstream.check` tells
    guard_score: float | None = None  # of a screened answer: the guard's P(unsafe), 0..1
    benign: bool = False  # the guard called the prompt safe
    answer: bytes = b""  # of a selected exchange: the body, or the events, as far as they were kept

    @property
    def failed(self) -> bool:
        """An answer that is the gateway's or the engine's failure, not the client's or nobody's."""
        return self.outcome is Outcome.TRUNCATED or (
            self.outcome is Outcome.ERROR and (self.status >= 500 or self.status == 200)
        )

    @property
    def bad(self) -> bool:
        """A bad event of the version that answered: it may end a rollout (docs/statistics.md)."""
        if self.flags & _DOWN:
            return False
        return self.failed or self.flags & _BAD != 0
