"""How processes end. Ties a child's life to its parent's, so that a killed supervisor leaves nothing behind."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

LAME_DUCK = 0.5           # seconds in which a worker's keep-alive clients are told to leave
_PR_SET_PDEATHSIG = 1     # linux/prctl.h


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent ends. Does nothing where there is no prctl."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:  # it ended meanwhile
        os.kill(os.getpid(), number)
