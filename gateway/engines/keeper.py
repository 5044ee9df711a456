"""Stands between a supervisor and one vLLM, and ends the whole vLLM when either of them goes.

`python -m gateway.engines.keeper GRACE -- COMMAND…`, as the leader of a session of its own and with a pipe from the
supervisor as standard input. Nothing is ever written to that pipe: it ends when the supervisor closes it or dies, even
by SIGKILL. Then, or on SIGTERM or SIGINT, the command gets SIGTERM, GRACE seconds to finish, and SIGKILL with every
process it left behind. When the command ends by itself, what it left behind is ended too. The keeper's exit status is
the command's (128 + signal number for one that was killed).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from types import FrameType

from gateway.engines.sessions import adopt_orphans, end_session
from gateway.lifetime import die_with_parent

_LEFTOVER_GRACE = 1.0  # seconds that processes without their parent get


def main(arguments: list[str]) -> int:
    """Run the command of `arguments` (GRACE, --, COMMAND…) to its end."""
    grace, command = float(arguments[0]), arguments[2:]
    adopt_orphans()
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            # One thread so far, so running Python between fork and exec is safe.
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the keeper has no threads
        )
    except OSError as error:
        sys.stderr.write(f"error: {command[0]} cannot be started: {error.strerror}\n")
        return 127
    _wait(child, stop)
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    end_session(os.getsid(0), 0.0 if child.poll() is None else _LEFTOVER_GRACE)
    status = child.wait()
    return status if status >= 0 else 128 - status


def _wait(child: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """Return when the command ended, a signal came, or the supervisor went."""
    supervised = True
    while child.poll() is None and not stop.is_set():
        _reap_adopted(child.pid)
        if not supervised:
            return
        readable, _, _ = select.select([0], [], [], 0.2)
        supervised = not readable or os.read(0, 1) != b""


def _reap_adopted(child: int) -> None:
    """Collect adopted processes that ended; the command itself is left to `child.poll()`."""
    with contextlib.suppress(ChildProcessError):
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is not None and info.si_pid != child:
            os.waitpid(info.si_pid, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
