"""Ports for servers that tests start: other ones in each test process, and none that the kernel gives to clients.

A port from bind(0), given back until the server binds it, may be somebody else's connection or server by then.
"""

from __future__ import annotations

import itertools
import os
import socket

# 1,250 ports for each of up to 8 test processes: below and above those of trainer.demo.stack.free_ports (15,000 to
# 27,000). Clients get 32,768 and more.
FIRST, EACH = (10_000, 27_000), 1_250
_turns = itertools.count(os.getpid() * 37)  # where it begins differs between runs; no port comes again soon


def free_port() -> int:
    """A port on which nobody listens, and which no other test of this run gets."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")) % 8
    for turn in itertools.islice(_turns, EACH):
        port = FIRST[worker // 4] + worker % 4 * EACH + turn % EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("all ports are taken")
