"""The log of one managed engine: kept by size, and read for the line that says what went wrong."""

from __future__ import annotations

import re
from pathlib import Path

ROTATE_AT = 16 * 1024**2   # bytes; checked at each start of the engine
KEPT = 3                   # older logs: engine-0.log.1 … .3
_TAIL = 64 * 1024          # bytes read from the end
_LINE_LIMIT = 300          # characters of a line that are repeated elsewhere

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STAMP = re.compile(r"^\([\w-]+ pid=\d+\)\s*|^(?:INFO|WARNING|ERROR|DEBUG) \d\d-\d\d [\d:]+ (?:\[[^\]]*\] ?)?")
_TELLING = re.compile(r"^(?:[\w.]+(?:Error|Exception|Interrupt)\b.*|.*\berror: .*|Value error, .*|Killed.*)$")
_DETAIL = re.compile(r" \[type=\w+, input_value=.*")   # what pydantic adds behind its reason
# Wrappers that only say that something else went wrong.
_HOLLOW = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|See root cause above|EngineCore encountered"
)


def open_log(path: Path) -> int:
    """Rotate `path` if it is large, and return how many bytes it holds: where the next run's lines will start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = path.stat().st_size if path.exists() else 0
    if size < ROTATE_AT:
        return size
    for number in range(KEPT, 0, -1):
        older = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    return 0


def last_line(path: Path, start: int = 0) -> str:
    """The last line that is not empty, written after byte `start`; '' when there is none."""
    return next(iter(reversed(_lines(path, start))), "")


def telling_line(path: Path, start: int = 0) -> str:
    """The line after byte `start` that best says what went wrong: the last error with a cause, else the last line."""
    lines = _lines(path, start)
    errors = [line for line in lines if _TELLING.match(line)]
    causes = [line for line in errors if not _HOLLOW.search(line)]
    return next(iter(reversed(causes or errors or lines)), "")


def _lines(path: Path, start: int) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [clean for line in text.splitlines() if (clean := _clean(line))]


def _clean(line: str) -> str:
    """Without colours, process names and time stamps."""
    line = _COLOUR.sub("", line).strip()
    line = _DETAIL.sub("", line)
    for _ in range(3):  # the stamps come one behind the other
        line = _STAMP.sub("", line).strip()
    return line if len(line) <= _LINE_LIMIT else line[: _LINE_LIMIT - 3] + "..."
