"""Files through which the engine supervisor and the controller of one machine know of each other: data_dir/engines.

N.json      written by `understudy engine`: url, state, boot, and what identifies the processes
N.restart   written by the controller: end this boot, because its memory cannot be trusted any more
N.lock      held by the supervisor of replica N
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.errors import ConfigError
from gateway.engines.sessions import SessionRecord


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """What the supervisor of a replica says about it."""

    name: str
    url: str
    state: str                       # starting, ready, down, stopped
    supervisor: int                  # process id
    pid: int = 0                     # of the vLLM's API server, once it is ready
    boot: str = ""                   # of the running vLLM, once it is ready
    since: float = 0.0               # seconds since the epoch
    error: str = ""
    session: SessionRecord | None = None


def replica_name(number: int) -> str:
    """0 → 'engine-0'."""
    return f"engine-{number}"


def write_state(data_dir: Path, number: int, engine: LocalEngine) -> None:
    """Replace N.json at once. Raises ConfigError when the disk refuses."""
    _replace(_file(data_dir, number, "json"), asdict(engine))


def read_state(data_dir: Path, number: int) -> LocalEngine | None:
    """N.json, None when there is none or it cannot be read as one."""
    data = _read(_file(data_dir, number, "json"))
    try:
        session = SessionRecord(**data["session"]) if data and data.get("session") else None
        return LocalEngine(**{**data, "session": session}) if data else None
    except TypeError:
        return None


def request_restart(data_dir: Path, number: int, boot: str, reason: str) -> None:
    """Ask the supervisor to end the vLLM of this boot. Nothing happens when another boot runs by then."""
    _replace(_file(data_dir, number, "restart"), {"boot": boot, "reason": reason})


def take_restart_request(data_dir: Path, number: int, boot: str) -> str:
    """The reason why this boot has to end, '' when it need not. The request is removed."""
    path = _file(data_dir, number, "restart")
    request = _read(path)
    if request is None:
        return ""
    path.unlink(missing_ok=True)
    return str(request.get("reason", "asked to")) if request.get("boot") == boot else ""


@contextlib.contextmanager
def supervise(data_dir: Path, number: int) -> Iterator[None]:
    """Be the only supervisor of replica `number` until the block, or the process, ends. Raises ConfigError."""
    path = _file(data_dir, number, "lock")
    _make_folder(path.parent)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            state = read_state(data_dir, number)
            who = f" (process {state.supervisor})" if state else ""
            raise ConfigError(
                f"{replica_name(number)} is supervised already{who}: stop that `understudy engine` or `up`, "
                f"or use another data_dir"
            ) from None
        yield


def _file(data_dir: Path, number: int, ending: str) -> Path:
    return data_dir / "engines" / f"{number}.{ending}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _replace(path: Path, data: dict[str, Any]) -> None:
    _make_folder(path.parent)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be created: {error.strerror}") from None
