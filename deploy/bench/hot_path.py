"""The hot path of one worker without sockets: real protocols, parsers and accounting between two wires that go nowhere.

What is left out is what the kernel and the event loop do. So the work is the same every time, and its instructions can
be counted: see deploy.bench.instructions.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import uvicorn
from uvicorn.server import ServerState

from adapters.keys import hash_secret
from adapters.snapshot import Arm, Endpoint, PinnedVersion, RouteState, Snapshot
from adapters.types import ApiKey
from deploy.bench.load import Work
from deploy.bench.upstream import COMPLETION, DELTA, LAST, STREAM_HEAD, answer, event, head, usage
from gateway.data_plane.accounting import Accountant
from gateway.data_plane.auth import Authenticator
from gateway.data_plane.breaker import Breakers
from gateway.data_plane.call import Timeouts
from gateway.data_plane.connection import Connection
from gateway.data_plane.events import EventWriter, Row
from gateway.data_plane.evidence import Evidence
from gateway.data_plane.handler import Handler, Services
from gateway.data_plane.hot_protocol import HotProtocol, hot_protocol
from gateway.data_plane.ids import IdMinter
from gateway.data_plane.limits import Limiter
from gateway.data_plane.route_table import TableCompiler
from gateway.data_plane.shadow import Shadows
from gateway.data_plane.upstreams import Upstream
from gateway.data_plane.worker import Worker
from monitors.metrics import Recorder
from monitors.shared_values import SharedValues

ROUTE, KEY, CHUNKS = "bench", "us-bench", 64
VERSIONS = ("bench@aaaaaaaaaaaa", "bench@bbbbbbbbbbbb")
RARELY = 10**9  # as if so many workers shared the allowance: no answer is looked at, which would hang on the clock


class Wire:
    """A transport that forgets what is written to it."""

    def __init__(self) -> None:
        self.last = b""
        self.bytes = 0

    def write(self, data: bytes) -> None:
        """Remember the latest piece, so that a driver can look at it."""
        self.last = data
        self.bytes += len(data)

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_extra_info(self, _name: str) -> None:
        """Nothing is known of it."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    pause_reading = close = abort = resume_reading


class NoEvents:
    """Takes records as the writer's queue does; nobody writes them."""

    def __init__(self) -> None:
        self.rows = 0

    def response(self, _row: Row) -> None:
        """One answered request."""
        self.rows += 1

    def hurry(self) -> None:
        """Nobody hurries."""


class HotPath:
    """A client's connection and an engine's. Make it inside a running loop."""

    def __init__(self, folder: Path) -> None:
        self.events = NoEvents()
        self.client, self.engine = Wire(), Wire()
        self._upstream = Upstream("engine", "http://engine", "", Timeouts())
        self.values = SharedValues(folder / "metrics")
        self.limiter = Limiter(folder / "limits")
        worker = SimpleNamespace(
            handler=Handler(self._services()), settings=SimpleNamespace(gateway=SimpleNamespace(max_body_bytes=1 << 20))
        )
        config = uvicorn.Config(app=lambda: None, log_config=None, access_log=False)
        self.protocol: HotProtocol = hot_protocol(cast(Worker, worker))(config, ServerState(), {})
        self.protocol.connection_made(cast(asyncio.Transport, self.client))
        self._connection = Connection(self._upstream._release, self._upstream._forget)
        self._connection.connection_made(cast(asyncio.Transport, self.engine))
        self._upstream._release(self._connection, True)
        work = Work("", model=ROUTE, key=KEY)
        self._request, work.stream = work.request(1), True
        self._stream_request = work.request(1)

    def _services(self) -> Services:
        recorder = Recorder(self.values)
        events = cast(EventWriter, self.events)
        minter = IdMinter(b"0" * 32)
        shadows = Shadows(minter, lambda: 0, recorder.shadow, False)
        accountant = Accountant(self.limiter, recorder, events, Evidence(events, recorder, None), shadows, print)
        key = ApiKey("1", "bench", hash_secret(KEY), frozenset({"inference"}), frozenset())
        services = Services(Authenticator([key], True, True), self.limiter, minter, recorder, events, accountant, 16)
        breakers = Breakers()
        snapshot = _snapshot()
        breakers.adopt(snapshot.routes)
        compiler = TableCompiler("base", (), lambda _name: self._upstream, breakers, 0.1, RARELY)
        services.table = compiler.compile(snapshot)
        return services

    def ask(self, stream: bool = False) -> tuple[bytes, bytes]:
        """Send a request; returns the id and the model that the engine was asked with."""
        self.protocol.data_received(self._stream_request if stream else self._request)
        sent = self.engine.last
        model = sent.partition(b'"model":"')[2].partition(b'"')[0]
        return sent.partition(b"x-request-id: ")[2].partition(b"\r\n")[0], model

    def answer(self, request_id: bytes, model: bytes) -> None:
        """The engine's whole answer."""
        self._connection.data_received(answer(head(b"chat.completion", request_id, model) + COMPLETION))

    def begin_stream(self) -> None:
        """The engine's head of a stream."""
        self._connection.data_received(STREAM_HEAD)

    def chunk(self, data: bytes) -> None:
        """What the engine sends in one piece."""
        self._connection.data_received(data)

    def requests(self, count: int) -> None:
        """Whole answers, one after the other."""
        for _ in range(count):
            self.answer(*self.ask())

    def streams(self, count: int, chunks: int = CHUNKS) -> None:
        """Streams, one after the other, each event in a chunk and a read of its own."""
        for _ in range(count):
            request_id, model = self.ask(stream=True)
            self.begin_stream()
            first = head(b"chat.completion.chunk", request_id, model)
            delta = event(first + DELTA)
            for _ in range(chunks):
                self.chunk(delta)
            end = event(first + LAST) + event(first + b'"choices":[],' + usage(chunks) + b"}")
            self.chunk(end + event(b"[DONE]") + b"0\r\n\r\n")

    def close(self) -> None:
        """Give back what is open."""
        self.values.close()
        self.limiter.close()


def _snapshot() -> Snapshot:
    """A rollout at 10 %: stable and candidate on one engine."""
    stable = Arm(1, "stable", VERSIONS[0], VERSIONS[0], 0.1, 1.0, ("engine",))
    candidate = Arm(2, "candidate", VERSIONS[1], VERSIONS[1], 0.0, 0.1, ("engine",))
    base = PinnedVersion(3, "base@000000000000", "base", ("engine",))
    route = RouteState(ROUTE, "salt", (candidate, stable), rollout=1)
    return Snapshot(1, 0.0, base, (route,), (), (Endpoint("engine", "http://engine"),))


@contextmanager
def hot_path() -> Iterator[HotPath]:
    """One, with files in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="understudy-hot-path-") as folder:
        path = HotPath(Path(folder))
        try:
            yield path
        finally:
            path.close()
