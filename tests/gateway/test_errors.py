import inspect
import re

import pytest

from adapters.errors import UnderstudyError
from gateway import errors
from gateway.errors import ApiError

CASES = [
    (errors.bad_request("the body must be an object"), 400, None),
    (errors.bad_request("`n` is wrong", "n", "out_of_range"), 400, "out_of_range"),
    (errors.invalid_key(True), 401, "invalid_api_key"),
    (errors.invalid_key(False), 401, "invalid_api_key"),
    (errors.forbidden("no"), 403, "permission_denied"),
    (errors.model_not_found("support"), 404, "model_not_found"),
    (errors.not_found("nothing here"), 404, "not_found"),
    (errors.method_not_allowed(["POST"]), 405, "method_not_allowed"),
    (errors.request_timeout(30), 408, "request_timeout"),
    (errors.conflict("changed"), 409, "conflict"),
    (errors.body_too_large(1024), 413, "body_too_large"),
    (errors.unprocessable("too much"), 422, "out_of_range"),
    (errors.rate_limited("too many", 1.5), 429, "rate_limit_exceeded"),
    (errors.client_gone(), 499, "client_closed_request"),
    (errors.internal_error(), 500, "internal_error"),
    (errors.bad_gateway("broke off"), 502, "upstream_error"),
    (errors.no_replica("support"), 503, "no_replica"),
    (errors.unavailable("starting"), 503, "unavailable"),
    (errors.gateway_timeout("first byte"), 504, "upstream_timeout"),
]


@pytest.mark.parametrize(("error", "status", "code"), CASES, ids=lambda value: str(value)[:30])
def test_every_case_has_its_status_and_code(error: ApiError, status: int, code: str | None) -> None:
    assert isinstance(error, UnderstudyError)
    assert (error.status, error.code) == (status, code)
    assert "\n" not in error.message


def test_the_docstring_draws_every_case_and_no_other() -> None:
    drawn = {(name, int(status)) for name, status in re.findall(r"^    (\w+) +(\d{3}) ", errors.__doc__ or "", re.M)}
    made = {
        (name, call().status)
        for name, call in {
            "bad_request": lambda: errors.bad_request("x"),
            "invalid_key": lambda: errors.invalid_key(True),
            "forbidden": lambda: errors.forbidden("x"),
            "model_not_found": lambda: errors.model_not_found("x"),
            "not_found": lambda: errors.not_found("x"),
            "method_not_allowed": lambda: errors.method_not_allowed(["GET"]),
            "request_timeout": lambda: errors.request_timeout(1),
            "conflict": lambda: errors.conflict("x"),
            "body_too_large": lambda: errors.body_too_large(1),
            "head_too_large": lambda: errors.head_too_large(1, 1),
            "unprocessable": lambda: errors.unprocessable("x"),
            "rate_limited": lambda: errors.rate_limited("x", 1),
            "client_gone": errors.client_gone,
            "internal_error": errors.internal_error,
            "bad_gateway": lambda: errors.bad_gateway("x"),
            "no_replica": lambda: errors.no_replica("x"),
            "unavailable": lambda: errors.unavailable("x"),
            "gateway_timeout": lambda: errors.gateway_timeout("x"),
        }.items()
    }
    assert drawn == made
    public = {
        name
        for name, value in vars(errors).items()
        if inspect.isfunction(value) and value.__module__ == errors.__name__ and not name.startswith("_")
    }
    assert public - {"shorten", "retry_headers"} == {name for name, _ in made}


@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"),
    [
        (0.001, 1, 1),
        (1.0, 1, 1000),
        (1.2, 2, 1200),
        (59.9, 60, 59900),
        (-5, 1, 1000),
        (float("inf"), 1, 1000),
        (float("nan"), 1, 1000),
    ],
)
def test_retry_after_is_rounded_up_and_never_absurd(seconds: float, whole: int, milliseconds: int) -> None:
    headers = dict(errors.rate_limited("x", seconds).headers)
    assert headers["retry-after"] == str(whole)
    assert headers["retry-after-ms"] == str(milliseconds)


def test_a_clients_text_is_quoted_escaped_and_bounded() -> None:
    message = errors.model_not_found("a\r\nSet-Cookie: x\x00" + "b" * 10_000).message
    assert len(message) < 300
    assert not re.search(r"[\x00-\x1f]", message)
