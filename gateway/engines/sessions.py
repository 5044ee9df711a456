"""Finds and ends every process of a session, from /proc.

A vLLM is several processes (API server, EngineCore, workers), and the others outlive a killed API server. They stay
in the session they were started in, so the session is what has to end. Standard library only: the keeper imports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PR_SET_CHILD_SUBREAPER = 36
_STATE, _SESSION, _START_TIME = 0, 3, 19  # positions in /proc/PID/stat after the command's closing bracket


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session that can be recognised later, although process ids are used again."""

    leader: int       # process id of the leader, which is the session's id
    started: str      # the leader's start time, clock ticks since the machine's boot
    machine: str      # identifies the machine's boot


def record_session(leader: int) -> SessionRecord:
    """Describe the session that process `leader` leads. Raises ProcessLookupError when it is gone already."""
    fields = _stat(leader)
    if fields is None:
        raise ProcessLookupError(leader)
    return SessionRecord(leader, fields[_START_TIME], _machine_boot())


def end_recorded(record: SessionRecord, grace: float = 5.0) -> list[int]:
    """End what is left of a session from an earlier run; returns the ids of the processes that were ended.

    Nothing is touched when the id belongs to somebody else by now: another boot, or another start time.
    """
    if record.machine != _machine_boot():
        return []
    leader = _stat(record.leader)
    if leader is not None and leader[_START_TIME] != record.started:
        return []
    return end_session(record.leader, grace)


def end_session(session: int, grace: float = 5.0) -> list[int]:
    """SIGTERM to every process of the session except this one, SIGKILL after `grace` seconds. Returns who was there."""
    found = session_members(session)
    _signal_all(found, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while session_members(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(100):  # again, because a process may fork while the list is read
        left = session_members(session)
        if not left:
            break
        _signal_all(left, signal.SIGKILL)
        time.sleep(0.02)
    return found


def session_members(session: int) -> list[int]:
    """Ids of the living processes of a session, this process and zombies left out."""
    members = []
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        fields = _stat(int(entry.name))
        if fields is not None and int(fields[_SESSION]) == session and fields[_STATE] not in "ZX":
            members.append(int(entry.name))
    return members


def adopt_orphans() -> None:
    """Make grandchildren whose parent dies children of this process, so that they can be waited for."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def first_child(process: int) -> int:
    """The process that `process` started first; 0 when there is none."""
    try:
        listed = (_PROC / str(process) / "task" / str(process) / "children").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(listed[0]) if listed else 0


def _signal_all(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _stat(process: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None when there is no such process."""
    try:
        text = (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _machine_boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
