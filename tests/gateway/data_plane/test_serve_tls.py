"""A gateway that speaks TLS itself: the same protocol class over another transport, which cannot close by halves."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest

from tests.support.raw_http import Wire, ask, engine, post, unharmed
from tests.support.serving import CHAT, Gateway, client, obliging, routed, serving
from tests.support.tls import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


async def test_clients_over_tls(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))  # of the support's own clients
    certificate, key = authority.issue("127.0.0.1")
    with serving(tmp_path, config=f'[gateway]\ntls_cert = "{certificate}"\ntls_key = "{key}"\n') as gateway:
        gateway.url = gateway.url.replace("http:", "https:")
        gateway.publish({})
        with unharmed(gateway.start()):
            async with engine(obliging) as (url, _, asked), client(gateway) as http:
                await routed(gateway, {"e0": url})
                plain = await http.post(CHAT, content=ask())
                stream = await http.post(CHAT, content=ask(stream=True))
                large = await http.post(CHAT, content=ask(x="y" * 3_000_000))
                assert (plain.status_code, stream.status_code, large.status_code) == (200, 200, 200)
                assert stream.text.endswith("data: [DONE]\n\n") and len(asked[-1].body) > 3_000_000
                refused = await http.post(CHAT, content=b"x" * (8 * 1024**2 + 1))
                assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
                await _raw(gateway, authority)


async def _raw(gateway: Gateway, authority: Authority) -> None:
    """A pipeline, what is not HTTP behind it, and no TLS at all."""
    context = ssl.create_default_context(cafile=str(authority.file))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context)
    connection = Wire(reader, writer)
    connection.send(post(ask()) + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert ((await connection.answer()).status, (await connection.answer()).status) == (200, 200)
    connection.send(b"nonsense\r\n\r\n")
    answer = await connection.answer()
    assert (answer.status, answer.code, answer.headers["connection"]) == (400, None, "close")
    assert await connection.rest() == b""
    writer.transport.abort()
    with pytest.raises(httpx.TransportError):
        httpx.get(gateway.url.replace("https:", "http:") + "/healthz")
