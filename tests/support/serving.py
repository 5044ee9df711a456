"""A real data plane in a process of its own, in front of engines that a test scripts over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from adapters import tables
from adapters.database import insert_new, open_database
from adapters.fleet_store import FleetStore
from adapters.settings import DatabaseSettings
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Snapshot, to_json
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
STABLE, OTHER = "support@aaaaaaaaaaaa", "support@bbbbbbbbbbbb"
BASE = "base@000000000000"
CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}


class Gateway:
    """One `understudy serve` with its own data_dir and hand-published snapshots; on SQLite, or the PostgreSQL at `url`."""

    def __init__(self, directory: Path, workers: int = 1, config: str = "", url: str = "sqlite") -> None:
        self.data_dir = directory / "data"
        self.data_dir.mkdir(exist_ok=True)
        self.port, self.metrics_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = directory / "understudy.toml"
        self.config.write_text(
            f'data_dir = "{self.data_dir}"\n{config}\n' + ("" if "[gateway]" in config else "[gateway]\n")
        )
        overrides: dict[str, Any] = {"PORT": self.port, "METRICS_PORT": self.metrics_port, "WORKERS": workers}
        overrides["CONNECT_TIMEOUT"] = f"{PATIENCE:.0f}s"  # the tests' own engines may be slow to say hello
        self.environment = os.environ | {f"UNDERSTUDY_GATEWAY__{k}": str(v) for k, v in overrides.items()}
        self.environment |= {"PYTHONPATH": str(ROOT), "UNDERSTUDY_DATABASE__URL": url}
        self.log = directory / "serve.log"
        self.database = open_database(DatabaseSettings(url=url), self.data_dir, upgrade=True)
        self.fleet = FleetStore(self.database)
        with self.database.begin() as connection:  # a drawn one would now and then put all of few users into one arm
            insert_new(connection, tables.secrets, name="response-id", value=bytes(range(32)))
        self.process: subprocess.Popen[bytes] | None = None

    def publish(self, engines: dict[str, str], version: str = STABLE, share: float = 0.0, delay: float = 0.0) -> int:
        """Route `support` to `version` on all engines; `share` of it to OTHER."""
        names = tuple(engines)
        assign = self.fleet.assignment
        arms = [Arm(assign("support", version, "stable", 1 - share), "stable", version, version, share, 1.0, names)]
        if share:
            arms.insert(
                0, Arm(assign("support", OTHER, "candidate", share), "candidate", OTHER, OTHER, 0.0, share, names)
            )
        base = PinnedVersion(assign("base", BASE, "base", 1.0), BASE, "base", names)
        pinned = (PinnedVersion(assign("support", STABLE, "pinned", 1.0), STABLE, STABLE, names),)
        endpoints = tuple(Endpoint(name, url) for name, url in engines.items())
        snapshot = Snapshot(0, 0.0, base, (RouteState("support", "salt", tuple(arms)),), pinned, endpoints)
        return self.fleet.publish(to_json(snapshot), time.time() + delay)

    def start(self, ready: str = "/healthz") -> Gateway:
        """Start and wait until it answers."""
        command = [
            sys.executable,
            "-c",
            "import typer; from gateway.data_plane.server import serve_command as s; typer.run(s)",
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-c", str(self.config)],
                env=self.environment,
                stderr=log,
                stdout=log,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + 2 * PATIENCE  # a process, and then its workers
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}: {self.log.read_text()}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.url + ready, timeout=20).status_code == 200:
                    return self
            time.sleep(0.05)
        raise AssertionError(f"serve did not become ready: {self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM, wait: float = PATIENCE) -> int:
        """Signal the parent and wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(wait)

    def close(self) -> None:
        """End what is left."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)
        self.database.close()

    def metric(self, name: str, **labels: str) -> float:
        """Sum over the series of a metric that carry these labels."""
        return sum(self._values(name, labels))

    def confirmed(self) -> float:
        """When the worker that looked for a snapshot longest ago did so at the earliest (time.monotonic())."""
        now = time.monotonic()
        return now - max(self._values("understudy_route_snapshot_age_seconds", {}), default=now)

    def _values(self, name: str, labels: dict[str, str]) -> list[float]:
        text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=PATIENCE).text
        samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
        return [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]


@contextlib.contextmanager
def serving(directory: Path, **options: Any) -> Iterator[Gateway]:
    """A Gateway that is ended whatever happens. Not yet started."""
    gateway = Gateway(directory, **options)
    try:
        yield gateway
    finally:
        gateway.close()


Script = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


class Asked:
    """A request as a scripted engine received it."""

    def __init__(self, head: bytes, body: bytes, reader: asyncio.StreamReader) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.path = lines[0].split(" ")[1]
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:] if line)}
        self.body = body
        self.reader = reader

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextlib.asynccontextmanager
async def scripted_engine(script: Script, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """An engine that does as scripted; yields its url."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked = Asked(head, b"", reader)
                asked.body = await reader.readexactly(int(asked.headers.get("content-length", "0")))
                await script(asked, writer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def json_answer(body: Any, status: str = "200 OK") -> bytes:
    """A whole JSON answer."""
    text = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status.encode(),
        len(text),
        text,
    )


def completion(asked: Asked, text: str = "hello") -> dict[str, Any]:
    """What vLLM answers to a chat request."""
    return {
        "id": f"chatcmpl-{asked.headers['x-request-id']}",
        "object": "chat.completion",
        "model": asked.json["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def http_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; empty data ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(asked: Asked, content: str | None, usage: bool = False) -> bytes:
    """One SSE event of a chat stream, as an HTTP chunk."""
    body: dict[str, Any] = {"id": f"chatcmpl-{asked.headers['x-request-id']}", "model": asked.json["model"]}
    body["choices"] = [] if content is None else [{"index": 0, "delta": {"content": content}, "finish_reason": None}]
    if usage:
        body["usage"] = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return http_chunk(b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n")


async def obliging(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answers everything, as vLLM would."""
    if not asked.json.get("stream"):
        writer.write(json_answer(completion(asked)))
        return
    writer.write(SSE_HEAD + event(asked, "he"))
    writer.write(event(asked, "llo"))
    if asked.json.get("stream_options", {}).get("include_usage"):
        writer.write(event(asked, None, usage=True))
    writer.write(http_chunk(b"data: [DONE]\n\n") + http_chunk(b""))


def client(gateway: Gateway, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, **{"timeout": PATIENCE} | options)


async def adopted(gateway: Gateway) -> None:
    """Every worker has looked for a snapshot since now, and switched to the one it found."""
    async with asyncio.timeout(PATIENCE):
        for _ in range(2):  # the look that ends first may have begun before now
            since = time.monotonic()
            while gateway.confirmed() <= since:
                await asyncio.sleep(0.02)


async def routed(gateway: Gateway, engines: dict[str, str], **options: Any) -> None:
    """Publish, and wait until every worker has switched."""
    gateway.publish(engines, **options)
    await adopted(gateway)
