"""Ports for servers that tests start: other ones in each test process, and none that the kernel gives to clients.

A port from bind(0), given back until the server binds it, may be somebody else's connection or server by then.
"""

from __future__ import annotations

import itertools
import os
import socket

FIRST, EACH = 10_000, 2_500  # 2,500 ports for each of up to 8 test processes; clients get 32,768 and more
_turns = itertools.count(os.getpid() * 37)  # where it begins differs between runs; no port comes again soon


def free_port() -> int:
    """A port on which nobody listens, and which no other test of this run gets."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")) % 8
    for turn in itertools.islice(_turns, EACH):
        port = FIRST + worker * EACH + turn % EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("all ports are taken")
