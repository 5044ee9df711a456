"""Where peers run, and what is known of one that does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Site:
    """Where peers run."""

    upstream: str  # URL of the stand-in
    folder: Path  # for logs and configuration
    core: int | None  # the relay's core
    side_core: int | None  # for what a peer needs beside the relay itself


@dataclass(frozen=True)
class Running:
    """A started peer, and what to send it."""

    url: str
    pid: int  # root of the process tree that relays; 0: none
    model: str = "base"
    key: str = ""


Start = Callable[[Site], AbstractContextManager[Running]]
