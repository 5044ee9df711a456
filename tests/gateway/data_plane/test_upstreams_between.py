"""What may stand between the gateway and an engine: TLS with an authority of one's own, and a real nginx."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.left_out import find_program
from tests.support.ports import free_port
from tests.support.raw_http import again, ask, engine, once, post, wire
from tests.support.serving import (
    SSE_HEAD,
    Asked,
    Gateway,
    completion,
    event,
    http_chunk,
    json_answer,
    obliging,
    routed,
    serving,
)
from tests.support.tls import Authority
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Gateway]:
    """A gateway that trusts the authority, as docs/engine.md says."""
    with serving(tmp_path_factory.mktemp("serve")) as gateway:
        gateway.environment["SSL_CERT_FILE"] = str(authority.file)
        gateway.publish({})
        yield gateway.start()


async def large_or_streamed(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """As long a text as was asked for; a stream is given in single events."""
    if not asked.json.get("stream"):
        writer.write(json_answer(completion(asked, text="x" * asked.json["seed"])))
        return
    writer.write(SSE_HEAD)
    for number in range(asked.json["seed"]):
        writer.write(event(asked, f" {number}"))
        await writer.drain()
    writer.write(http_chunk(b"data: [DONE]\n\n") + http_chunk(b""))


def said(stream: bytes) -> str:
    events = [json.loads(line[6:]) for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(e["choices"][0]["delta"]["content"] for e in events)


async def test_tls_to_an_engine_whose_authority_is_trusted(gateway: Gateway, authority: Authority) -> None:
    peers = set()

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        await large_or_streamed(asked, writer)

    async with engine(script, tls=authority.context("127.0.0.1")) as (url, _, _), wire(gateway) as connection:
        await routed(gateway, {"e0": url})
        for size in (1, 70_000, 2_000_000, 1):
            connection.send(post(ask(seed=size)))
            answer = await connection.answer()
            assert answer.json["choices"][0]["message"]["content"] == "x" * size
        connection.send(post(ask(seed=200, stream=True)))
        answer = await connection.answer()
        assert said(answer.body) == "".join(f" {n}" for n in range(200)) and answer.body.endswith(b"data: [DONE]\n\n")
        assert len(peers) == 1


async def test_a_certificate_that_is_not_right_is_refused_and_said(
    gateway: Gateway, authority: Authority, tmp_path: Path
) -> None:
    """Another's name, another's authority, one that has expired: no request is sent, and the log says why."""
    yesterday = datetime.timedelta(days=-1)
    for tls, reason in (
        (authority.context("engine.example"), "IP address mismatch"),
        (Authority(tmp_path, "stranger").context("127.0.0.1"), "unable to get local issuer certificate"),
        (authority.context("127.0.0.1", lasts=yesterday), "certificate has expired"),
    ):
        async with engine(obliging, tls=tls) as (url, _, asked):
            await routed(gateway, {f"e-{len(reason)}": url.replace("http:", "https:")})
            answer = await once(gateway, post(ask()))
            assert (answer.status, answer.code) == (503, "no_replica") and not asked
            said_why = [line for line in gateway.log.read_text().splitlines() if reason in line]
            assert len(said_why) == 1, gateway.log.read_text()[-1500:]
            assert f"engine e-{len(reason)} cannot be reached at 127.0.0.1:" in said_why[0]


NGINX = """\
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;
  upstream engine {{ server {engine}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{tls_port} ssl;
    ssl_certificate {certificate}; ssl_certificate_key {key};
    keepalive_requests 7;
    client_max_body_size 1m;
    location / {{ proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
"""


async def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


@contextlib.asynccontextmanager
async def nginx(folder: Path, authority: Authority, port: int):
    """A plain proxy in front of an engine on `port`, that closes connections after seven requests; (url, TLS url)."""
    ports = free_port(), free_port()
    certificate, key = authority.issue("127.0.0.1")
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(
        folder=folder, engine=f"127.0.0.1:{port}", port=ports[0], tls_port=ports[1], certificate=certificate, key=key
    ))  # fmt: skip
    program = find_program("nginx")
    assert program is not None
    process = subprocess.Popen([program, "-e", str(folder / "error.log"), "-c", str(config), "-g", "daemon off;"])
    try:
        async with asyncio.timeout(PATIENCE):
            while not await _listens(ports[0]):
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{ports[0]}", f"https://127.0.0.1:{ports[1]}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


@pytest.mark.needs("nginx")
async def test_an_engine_behind_nginx(gateway: Gateway, authority: Authority, tmp_path: Path) -> None:
    """It closes every connection after seven requests and would compress if it were asked to: nobody notices."""
    tmp_path.chmod(0o755)  # nginx's worker is another user where the tests run as root

    async def user(number: int) -> None:
        async with wire(gateway) as connection:
            for turn in range(20):
                size = 1 + (number * turn) % 50
                connection.send(post(ask(seed=size, stream=turn % 2 == 0)))
                answer = await connection.answer()
                assert answer.status == 200, answer
                if turn % 2:
                    assert answer.json["choices"][0]["message"]["content"] == "x" * size
                else:
                    assert said(answer.body) == "".join(f" {n}" for n in range(size))

    async with engine(large_or_streamed) as (_, port, asked), nginx(tmp_path, authority, port) as (plain, tls):
        for name, url in (("plain", plain), ("tls", tls)):
            await routed(gateway, {name: url})
            await asyncio.gather(*(user(number) for number in range(8)))
            assert not {"accept-encoding"} & set(asked[-1].headers)
            through = await once(gateway, post(ask(seed=300_000)))
            direct = await once(port, again(asked[-1]))
            assert through.body == direct.body.replace(b'"support@aaaaaaaaaaaa"', b'"support"')
            refused = await once(gateway, post(ask(seed=1, x="y" * 2_000_000)))  # nginx's own limit, in HTML
            assert (refused.status, refused.code) == (413, "body_too_large")
    async with nginx(tmp_path, authority, free_port()) as (url, _):
        await routed(gateway, {"dead": url})
        answer = await once(gateway, post(ask()))
        assert (answer.status, answer.code) == (502, "upstream_error")
