"""Sees every attempt to reach another machine, and refuses it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any
from unittest import mock


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """Yields the list of 'host:port' that anything in this process, in any thread, tried to resolve or connect to.

    Sockets of this machine (Unix, loopback) work as ever.
    """
    attempts: list[str] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def is_local(host: object) -> bool:
        return host in ("localhost", "127.0.0.1", "::1", None, "")

    def watched_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            attempts.append(f"{address[0]}:{address[1]}")
            raise OSError("no network in this test")
        connect(self, address)

    def watched_resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if not is_local(host):
            attempts.append(f"{host}:{port}")
            raise OSError("no network in this test")
        return resolve(host, port, *rest, **more)

    with (
        mock.patch.object(socket.socket, "connect", watched_connect),
        mock.patch.object(socket, "getaddrinfo", watched_resolve),
    ):
        yield attempts
