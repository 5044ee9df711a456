"""The errors of the HTTP side. `ApiError` carries what the OpenAI envelope needs; data_plane/envelope.py renders it.

UnderstudyError             (adapters/errors.py)
└── ApiError                an answer with a status, a type and a code; made by the functions below

One function per case, so that the wording and the code of each exist once:

    bad_request             400 null or the given code   the body or a field is wrong
    invalid_key             401 invalid_api_key          no key, or an unknown or revoked one; WWW-Authenticate
    forbidden               403 permission_denied        the key may not do this
    model_not_found         404 model_not_found          no such route, version or base
    not_found               404 not_found                no such path, or a response id that is not ours
    method_not_allowed      405 method_not_allowed       Allow
    request_timeout         408 request_timeout          the request took too long to arrive
    conflict                409 conflict                 it changed meanwhile
    body_too_large          413 body_too_large
    unprocessable           422 out_of_range             well-formed, but not a possible value
    head_too_large          431 headers_too_large        or what surrounds the body
    rate_limited            429 rate_limit_exceeded      Retry-After
    client_gone             499 client_closed_request    never sent: what logs and metrics call it
    internal_error          500 internal_error           a bug of ours
    bad_gateway             502 upstream_error or given  the engine broke, or broke off
    no_replica              503 no_replica               no engine holds it now; Retry-After
    unavailable             503 unavailable              the gateway itself cannot answer now; Retry-After
    gateway_timeout         504 upstream_timeout         connect, first byte, silence or total
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapters.errors import UnderstudyError

Headers = Sequence[tuple[str, str]]

_SHOWN = 100                       # characters of a client's own text that a message repeats


class ApiError(UnderstudyError):
    """A request is answered with an error: `str()` is the message for the client, `detail` is for the log only."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Headers = (),
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.headers = tuple(headers)
        self.detail = detail

    @property
    def message(self) -> str:
        """What the client reads: one line that says what to do."""
        return str(self)


def shorten(text: str) -> str:
    """A client's text as it may stand in a message: quoted, escaped, and not too long."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the body or one of its fields is wrong."""
    return ApiError(400, message, param=param, code=code)


def invalid_key(presented: bool) -> ApiError:
    """401: no key, or one that is unknown or revoked."""
    message = (
        "this API key is unknown or revoked: ask the operator for another one"
        if presented
        else "an API key is needed: send it as `Authorization: Bearer KEY`"
    )
    headers = [("www-authenticate", "Bearer")]
    return ApiError(401, message, type="authentication_error", code="invalid_api_key", headers=headers)


def forbidden(message: str, param: str | None = None) -> ApiError:
    """403: the key may not do this."""
    return ApiError(403, message, type="permission_error", code="permission_denied", param=param)


def model_not_found(model: str) -> ApiError:
    """404: no route, version or base of this name that this key may see."""
    message = f"the model {shorten(model)} does not exist: GET /v1/models lists those that do"
    return ApiError(404, message, param="model", code="model_not_found")


def not_found(message: str, param: str | None = None) -> ApiError:
    """404: no such path or object."""
    return ApiError(404, message, param=param, code="not_found")


def method_not_allowed(allowed: Sequence[str]) -> ApiError:
    """405, with Allow."""
    names = ", ".join(allowed)
    return ApiError(405, f"this path takes {names}", code="method_not_allowed", headers=[("allow", names)])


def request_timeout(seconds: float) -> ApiError:
    """408: the request took longer than `seconds` to arrive. The connection cannot be used again."""
    message = f"the request did not arrive whole within {seconds:g} seconds: send it again"
    return ApiError(408, message, code="request_timeout", headers=[("connection", "close")])


def conflict(message: str) -> ApiError:
    """409: the thing changed meanwhile."""
    return ApiError(409, message, code="conflict")


def body_too_large(limit: int) -> ApiError:
    """413: more than `limit` bytes. The rest of the body is not read, so the connection ends."""
    message = f"the body is larger than {limit} bytes: send less"
    return ApiError(413, message, code="body_too_large", headers=[("connection", "close")])


def head_too_large(limit: int, count: int) -> ApiError:
    """431: a head of more than `limit` bytes or `count` headers, or as much around the body. The connection ends."""
    message = f"the headers are more than {limit} bytes or {count} lines: send less"
    return ApiError(431, message, code="headers_too_large", headers=[("connection", "close")])


def unprocessable(message: str, param: str | None = None) -> ApiError:
    """422: well-formed, but not a possible value."""
    return ApiError(422, message, param=param, code="out_of_range")


def rate_limited(message: str, retry_after: float, kind: str = "requests", headers: Headers = ()) -> ApiError:
    """429. `retry_after` in seconds; `kind` (the envelope's type): requests or tokens; `headers`: x-ratelimit-*."""
    headers = [*retry_headers(retry_after), *headers]
    return ApiError(429, message, type=kind, code="rate_limit_exceeded", headers=headers)


def client_gone() -> ApiError:
    """499: never sent; what logs and metrics call a request whose client went away."""
    return ApiError(499, "the client closed the connection", code="client_closed_request")


def bad_gateway(reason: str, code: str = "upstream_error", detail: str = "") -> ApiError:
    """502: the engine answered nonsense, refused the gateway itself, or broke off. `reason`: a few words."""
    return ApiError(502, f"the engine failed ({reason}): try again", type="server_error", code=code, detail=detail)


def no_replica(model: str, retry_after: float = 1.0) -> ApiError:
    """503: no engine can answer for `model` now (empty: whatever was asked for)."""
    message = f"no engine can serve {shorten(model) if model else 'this model'} right now: try again shortly"
    return ApiError(503, message, type="server_error", code="no_replica", headers=retry_headers(retry_after))


def unavailable(message: str, retry_after: float = 1.0, detail: str = "") -> ApiError:
    """503: the gateway itself cannot answer now (starting, shutting down, or its database is away)."""
    headers = retry_headers(retry_after)
    return ApiError(503, message, type="server_error", code="unavailable", headers=headers, detail=detail)


def gateway_timeout(reason: str) -> ApiError:
    """504: a time limit ran out. `reason`: which, in a few words."""
    message = f"the engine took too long ({reason}): try again, or ask for fewer tokens"
    return ApiError(504, message, type="server_error", code="upstream_timeout")


def internal_error() -> ApiError:
    """500: a bug of ours; the log says more."""
    message = "the gateway failed: its log says how"
    return ApiError(500, message, type="server_error", code="internal_error")


def retry_headers(seconds: float) -> list[tuple[str, str]]:
    """Retry-After knows whole seconds only: rounded up, at least one. OpenAI's clients prefer milliseconds."""
    seconds = seconds if 0 < seconds < 86400 else 1.0
    return [("retry-after", str(math.ceil(seconds))), ("retry-after-ms", str(math.ceil(seconds * 1000)))]
