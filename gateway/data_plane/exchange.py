"""What is known about a request once it is admitted, and the account of it once it is over."""

from __future__ import annotations

from typing import Final

from adapters.types import Flag
from gateway.data_plane.auth import Principal
from gateway.data_plane.envelope import translate
from gateway.data_plane.protocol import ParsedRequest
from gateway.data_plane.push import Headers
from gateway.data_plane.routing import Target
from gateway.data_plane.sink import Failure
from gateway.data_plane.sse import Usage
from gateway.data_plane.upstreams import Upstream
from gateway.errors import ApiError
from monitors.conventions import Outcome
from monitors.metrics import RequestMetrics

OK: Final = Outcome.OK  # an enum's member costs two look-ups
# As plain numbers: the operators of an IntFlag cost a microsecond.
_DOWN, _BAD = int(Flag.ENGINE_DOWN), int(Flag.EMPTY | Flag.NON_FINITE | Flag.GUARD)


class Exchange:
    """What is known about a request once it has been admitted and routed.

    No dataclass: theirs are made by a method that mypyc cannot compile, and one is made for each request.
    """

    __slots__ = (
        "flags", "limit_headers", "metrics", "principal", "received", "request", "request_id", "reserved_tokens",
        "response_id", "selected", "target", "trace", "unit",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 (keywords cost time here)
        self, request: ParsedRequest, target: Target, response_id: str, request_id: bytes, unit: bytes,
        received: float, trace: bytes, limit_headers: Headers, principal: Principal, reserved_tokens: int,
        flags: int = 0, metrics: RequestMetrics | None = None, selected: int = 0,
    ) -> None:  # fmt: skip
        self.request = request
        self.target = target
        self.response_id = response_id  # without the endpoint's prefix
        self.request_id = request_id  # echoed to the client
        self.unit = unit  # 8 bytes, HMAC
        self.received = received  # monotonic seconds
        self.trace = trace  # header lines passed on to the engine
        self.limit_headers = limit_headers
        self.principal = principal
        self.reserved_tokens = reserved_tokens  # 0: no token limit to settle
        self.flags = flags  # adapters.types.Flag, as far as they are known when it is admitted
        self.metrics = metrics  # what counts it; None: nothing does, as for mirrored requests
        self.selected = selected  # gateway.data_plane.watch: what is done with the answer's text; 0: it is not kept

    def mirrored(self, target: Target, response_id: str, flags: int) -> Exchange:
        """The same request for a shadow: nobody's tokens, and nothing counts it."""
        return Exchange(
            self.request, target, response_id, self.request_id, self.unit, self.received, self.trace,
            self.limit_headers, self.principal, 0, flags, None, self.selected,
        )  # fmt: skip

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


class Finished:
    """The account of one request, given to whoever counts. Times are seconds."""

    __slots__ = (
        "answer", "benign", "duration", "exchange", "flags", "guard_score", "outcome", "overhead", "status", "suspect",
        "ttft", "upstream", "usage",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 (keywords cost time here)
        self, exchange: Exchange, status: int, outcome: Outcome, duration: float, ttft: float | None, overhead: float,
        usage: Usage, flags: int = 0,
    ) -> None:  # fmt: skip
        self.exchange = exchange
        self.status = status
        self.outcome = outcome
        self.duration = duration
        self.ttft = ttft
        self.overhead = overhead
        self.usage = usage
        self.flags = flags  # adapters.types.Flag
        self.upstream: Upstream | None = None  # who answered, or failed to; None: nobody could
        self.suspect: Failure | None = None  # the engine may be gone, or only this answer: `upstream.check` tells
        self.guard_score: float | None = None  # of a screened answer: the guard's P(unsafe), 0..1
        self.benign = False  # the guard called the prompt safe
        self.answer = b""  # of a selected exchange: the body, or the events, as far as they were kept

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
