"""A real HTTP server in a thread that answers POSTs as a test's function says: judges, scoring services, rubbish."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


class Scripted:
    """`answer(path, body)` gives (status, JSON or bytes[, headers]). `asked` has (path, headers, body) of every POST."""

    def __init__(self, answer: Callable[[str, Any], Reply]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.most_at_once = 0
        self.closed = False
        self._now = 0
        self._lock = threading.Lock()
        self.url = ""

    def handle(self, path: str, headers: dict[str, str], raw: bytes) -> Reply:
        body = json.loads(raw)
        with self._lock:
            self.asked.append((path, headers, body))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self.answer(path, body)
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def scripted(answer: Callable[[str, Any], Reply]) -> Iterator[Scripted]:
    """The server, on a port of its own."""
    script = Scripted(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            if script.closed:  # a connection that was kept open; the server is gone
                self.close_connection = True
                return
            raw = self.rfile.read(int(self.headers["content-length"]))
            status, body, *more = script.handle(self.path, {k.lower(): v for k, v in self.headers.items()}, raw)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_args: None  # type: ignore[method-assign]  # a client that gave up is the test's wish
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield script
    finally:
        script.closed = True
        server.shutdown()
        server.server_close()
        thread.join()


def slow(seconds: float, reply: Reply) -> Reply:
    """The reply, later."""
    time.sleep(seconds)
    return reply
