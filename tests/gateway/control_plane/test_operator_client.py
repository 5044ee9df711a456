from __future__ import annotations

import json

import httpx
import pytest

from adapters.errors import ConfigError, Conflict, EngineUnavailable, NotFound, UnderstudyError
from gateway.config import ControlSettings, Settings
from gateway.control_plane import operator_client
from gateway.control_plane.operator_client import OperatorClient


def client(data_dir, **control) -> OperatorClient:
    return OperatorClient(Settings(data_dir=data_dir, control=ControlSettings(operator_token="t", **control)))


def answering(monkeypatch, status: int, content: bytes) -> list[httpx.Request]:
    asked = []

    def request(method, url, **more):
        asked.append(httpx.Request(method, url, headers=more["headers"]))
        return httpx.Response(status, content=content, request=asked[-1])

    monkeypatch.setattr(operator_client.httpx, "request", request)
    return asked


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (409, Conflict), (503, EngineUnavailable), (401, UnderstudyError)]
)
def test_errors_carry_the_apis_words(data_dir, monkeypatch, status, kind):
    answering(monkeypatch, status, json.dumps({"error": {"message": "do this instead"}}).encode())
    with pytest.raises(kind, match=r"^do this instead$"):
        client(data_dir).call("GET", "/x")


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"error": "x"}'])
def test_something_else_on_the_port(data_dir, monkeypatch, content):
    answering(monkeypatch, 404, content)
    with pytest.raises(NotFound, match="is it Understudy's operator API"):
        client(data_dir).call("GET", "/x")


def test_answers(data_dir, monkeypatch):
    asked = answering(monkeypatch, 200, b'{"a": 1}')
    assert client(data_dir).call("GET", "/x") == {"a": 1}
    assert asked[0].headers["authorization"] == "Bearer t"
    answering(monkeypatch, 204, b"")
    assert client(data_dir).call("DELETE", "/x") is None


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:5"), ("0.0.0.0", "http://127.0.0.1:5"), ("::", "http://[::1]:5"), ("h", "http://h:5")],
)
def test_the_address_to_call(data_dir, host, url):
    assert client(data_dir, host=host, port=5).url == url


def test_nobody_there(data_dir):
    with pytest.raises(EngineUnavailable, match="start `understudy up`"):
        client(data_dir, port=1).call("GET", "/x")
    with pytest.raises(ConfigError, match="start the controller"):
        OperatorClient(Settings(data_dir=data_dir))
