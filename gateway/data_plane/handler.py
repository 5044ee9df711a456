"""Admission: from a complete request to a Relay under way. Synchronous; every refusal is an enveloped answer."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from adapters.types import Flag
from gateway.data_plane.accounting import Accountant
from gateway.data_plane.auth import Authenticator, Principal, check_route
from gateway.data_plane.endpoints import Endpoint
from gateway.data_plane.envelope import meaning, render
from gateway.data_plane.events import EventWriter
from gateway.data_plane.exchange import Exchange, Finished
from gateway.data_plane.ids import IdMinter
from gateway.data_plane.limits import Decision, Limiter
from gateway.data_plane.protocol import ParsedRequest, parse
from gateway.data_plane.push import Downstream
from gateway.data_plane.relay import Relay
from gateway.data_plane.routing import RouteTable, Target, resolve
from gateway.data_plane.sse import Usage
from gateway.errors import ApiError, bad_request, internal_error, unavailable
from monitors.conventions import Outcome
from monitors.metrics import Recorder, RequestMetrics

logger = logging.getLogger("understudy.handler")

_TRACE: Final = frozenset({b"traceparent", b"tracestate", b"baggage"})
_NO_UNIT: Final = int(Flag.NO_UNIT)
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class Services:
    """What the hot path needs of a worker. `table` and `authenticator` are replaced whole when they change."""

    authenticator: Authenticator
    limiter: Limiter
    minter: IdMinter
    recorder: Recorder
    events: EventWriter
    accountant: Accountant
    max_n: int
    table: RouteTable | None = None


class Handler:
    """Admits requests. One per worker."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def handle(
        self, endpoint: Endpoint, headers: Iterable[tuple[bytes, bytes]], body: bytes, received: float, down: Downstream
    ) -> None:
        """Answer one request through `down`: by an engine, or with an error. Never raises ApiError."""
        given = dict(headers)
        request_id = given.get(b"x-request-id", b"")
        try:
            exchange = self._admit(endpoint, given, body, received)
            target, services = exchange.target, self._services
            metrics = target.metrics.get(endpoint.name) or self._metrics(target, endpoint.name)
            exchange.metrics = metrics
            account = services.accountant.request
            screen = target.screen
            gate = None if screen is None else screen.gate(exchange, down, account)
            failover = services.recorder.failover
            if gate is None:
                relay = Relay(exchange, down, account, failover)
            else:
                relay = Relay(exchange, gate, gate.finished, failover)
            metrics.started()
            try:
                relay.begin()
            except ApiError as error:
                account(_refused(exchange, error))
                raise
            if gate is not None:
                gate.begin()
        except ApiError as error:
            self._refuse(error, request_id, down)
        except Exception:
            logger.exception("bug while admitting a request")
            self._refuse(internal_error(), request_id, down)

    def _metrics(self, target: Target, endpoint: str) -> RequestMetrics:
        """Kept with the routing state: looking it up takes longer than counting."""
        found = self._services.recorder.child(target.route, target.version, target.arm, endpoint)
        return target.metrics.setdefault(endpoint, found)

    # -- admission ----------------------------------------------------------------------------------------------

    def _admit(self, endpoint: Endpoint, headers: dict[bytes, bytes], body: bytes, received: float) -> Exchange:
        services = self._services
        try:
            principal = services.authenticator.authenticate(headers.get(b"authorization"), headers.get(b"x-api-key"))
            table = services.table
            if table is None:
                raise unavailable("No routing state has been published yet: is `understudy controller` running?")
            _check_content(headers)
            request = parse(endpoint, body, services.max_n)
            unit, unit_hash = self._unit(request, headers, principal)
            target = resolve(table, request, headers, unit, principal.operator)
            check_route(principal, target.route)
        except ApiError as error:
            services.recorder.refused(endpoint.name, error.status)
            raise
        decision, reserved = self._limit(principal, request, target) if principal.limited else (None, 0)
        if unit is None:
            services.recorder.without_unit(target.route)
        watch = target.watch
        minted = services.minter.mint(target.assignment, principal.owner_tag, unit_hash, time.time())
        return Exchange(  # in the order of its fields: keywords would cost three times as much
            request, target, minted, _echo(headers) or minted.encode(), unit_hash, received,
            b"" if _TRACE.isdisjoint(headers) else _trace(headers),
            list(decision.headers) if decision else [],
            principal, reserved, 0 if unit is not None else _NO_UNIT, None,
            0 if watch is None else watch.select(received),
        )  # fmt: skip

    def _unit(
        self, request: ParsedRequest, headers: dict[bytes, bytes], principal: Principal
    ) -> tuple[bytes | None, bytes]:
        """(what the bucket is computed from, its hash); None and a random one when the request names none."""
        named = headers.get(b"x-understudy-unit") or (request.unit or "").encode()
        if not named:
            return None, self._services.minter.random_unit()
        hashed = self._services.minter.unit_hash(principal.owner, named)
        return hashed, hashed

    def _limit(self, principal: Principal, request: ParsedRequest, target: Target) -> tuple[Decision, int]:
        tokens = request.estimated_tokens()
        decision = self._services.limiter.reserve(principal, tokens)
        if not decision.allowed:
            self._services.recorder.rate_limited(decision.reason or "requests")
            self._services.recorder.refused(request.endpoint.name, 429)
            raise decision.refusal()
        return decision, decision.reserved

    def _refuse(self, error: ApiError, request_id: bytes, down: Downstream) -> None:
        status, headers, body = render(error)
        if request_id and _REQUEST_ID.fullmatch(request_id):
            headers.append((b"x-request-id", request_id))
        down.start(status, headers)
        down.write(body)
        down.finish()


def _echo(headers: dict[bytes, bytes]) -> bytes:
    """The client's own request id, if it is one that may stand in a header and a log line."""
    given = headers.get(b"x-request-id")
    return given if given and _REQUEST_ID.fullmatch(given) else b""


def _trace(headers: dict[bytes, bytes]) -> bytes:
    """The header lines of a trace, as they are passed on."""
    return b"".join([b"%b: %b\r\n" % (name, headers[name]) for name in sorted(_TRACE.intersection(headers))])


def _check_content(headers: dict[bytes, bytes]) -> None:
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding != b"identity":
        raise bad_request("Send the body without content-encoding")
    kind = headers.get(b"content-type")
    if kind is None or kind == b"application/json":
        return
    kind = kind.partition(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise bad_request("content-type must be application/json")


def _refused(exchange: Exchange, error: ApiError) -> Finished:
    elapsed = time.monotonic() - exchange.received
    flags = exchange.flags | meaning(error)
    return Finished(exchange, error.status, Outcome.ERROR, elapsed, None, elapsed, Usage(), flags)
