"""What `understudy doctor` says: one finding per thing looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from adapters.errors import UnderstudyError


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` is the case, and `mend` says what to do about it (empty where all is well)."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    what: str
    mend: str = ""


def ok(subject: str, what: str) -> Finding:
    """As it should be."""
    return Finding("ok", subject, what)


def warn(subject: str, what: str, mend: str) -> Finding:
    """It works, but not for long, or not as one may think."""
    return Finding("warn", subject, what, mend)


def fail(subject: str, what: str, mend: str) -> Finding:
    """It does not work."""
    return Finding("fail", subject, what, mend)


def looked_at(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """A check's findings; the error it raises is one as well, and its own advice stands behind its first colon."""
    try:
        yield from check()
    except UnderstudyError as error:
        yield fail(subject, str(error), "")
    except OSError as error:
        yield fail(subject, f"{error.filename or subject}: {error.strerror or error}", "")
