"""Limits between real processes: exact, whoever is killed or stopped."""

import signal
import time
from pathlib import Path

import pytest

from adapters.errors import ConfigError
from gateway.data_plane.auth import Principal
from gateway.data_plane.limits import Limiter
from tests.support.python import finish, kill, start_python

WHO = Principal("owner", b"aaaa", "key-1", frozenset({"inference"}), frozenset(), 5, 0)
ANOTHER = Principal("owner", b"aaaa", "key-2", frozenset({"inference"}), frozenset(), 5, 0)

HAMMER = """
import sys
from pathlib import Path
from gateway.data_plane import limits
from gateway.data_plane.auth import Principal
limits._TRIES = 100_000  # a holder that is not scheduled is waited for: exact is what keeps to the lock
who = Principal("o", b"aaaa", "key-1", frozenset(), frozenset(), int(sys.argv[2]), int(sys.argv[3]))
limiter = limits.Limiter(Path(sys.argv[1]), lambda: 1000.0)
print("ready", flush=True)
sys.stdin.readline()
allowed = 0
for turn in range(int(sys.argv[4])):
    decision = limiter.reserve(who, 3)
    allowed += decision.allowed
    if turn % 100 == 0:
        print(allowed, flush=True)
print(allowed, flush=True)
"""


def test_exact_across_processes(tmp_path: Path) -> None:
    processes = [start_python(HAMMER, tmp_path / "limits", 2000, 0, 1500) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    counts = [int(finish(process).split()[-1]) for process in processes]
    assert sum(counts) == 2000
    assert sum(count > 0 for count in counts) > 1


def test_exact_for_tokens_although_one_process_is_killed(tmp_path: Path) -> None:
    killed = start_python(HAMMER, tmp_path / "limits", 0, 30_000, 10**9)
    assert killed.stdin is not None
    assert killed.stdout is not None
    assert killed.stdout.readline() == "ready\n"
    killed.stdin.write("go\n")
    killed.stdin.flush()
    said = 0
    while said < 1000:
        said = int(killed.stdout.readline())
    said = int([said, *kill(killed).split()][-1])
    process = start_python(HAMMER, tmp_path / "limits", 0, 30_000, 11_000)
    output, _ = process.communicate("go\n", timeout=120)
    left = int(output.split()[-1])
    assert 10_000 - 101 - said <= left <= 10_000 - said  # what the killed one took after its last word is taken


LOCKER = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_holder_that_is_killed_or_stopped_stops_nobody(tmp_path: Path, stop: signal.Signals) -> None:
    limiter = Limiter(tmp_path / "limits", lambda: 1000.0)  # nothing is refilled while the holder starts
    limiter.reserve(WHO, 0)
    holder = start_python(LOCKER, tmp_path / "limits")
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        holder.send_signal(stop)
        if stop == signal.SIGKILL:
            holder.wait()
        assert [limiter.reserve(WHO, 0).allowed for _ in range(5)] == [True] * 4 + [False]
        limiter.reserve(ANOTHER, 0)
    finally:
        holder.kill()
        holder.communicate()


def test_the_clock_is_shared_by_all_processes() -> None:
    before = time.monotonic()
    said = float(finish(start_python("import time; print(time.monotonic())")))
    assert before <= said <= time.monotonic()


def test_a_disk_that_is_really_full_is_one_clear_line(small_disk: Path) -> None:
    kept = Limiter(small_disk / "kept")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(ConfigError, match=r"rate limits cannot be kept in .*: No space left on device"):
        Limiter(small_disk / "limits")
    assert [kept.reserve(WHO, 0).allowed for _ in range(6)] == [True] * 5 + [False]
