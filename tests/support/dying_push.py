"""Pushes adapters in child processes that die by SIGKILL. Run as a program, so that forking is clean and quick.

Reads one JSON list per line, [url, data_dir, folder, base folder, step, delay], and answers with the child's exit code.
The child dies before its `step`th system call that opens, makes, renames or removes something, or database statement
(0: none), or after `delay` seconds, wherever it is then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy  # noqa: F401 (imported before the fork, so that importing it is none of the steps)
import psycopg  # noqa: F401 (likewise)
import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401 (likewise)
from sqlalchemy import event

from adapters.artifacts import ArtifactStore
from adapters.base import read_base
from adapters.database import open_database
from adapters.registry import Registry
from adapters.settings import ArtifactSettings, DatabaseSettings

STEPS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def push(url: str, data_dir: str, folder: str, base_folder: str, step: int, delay: float) -> None:
    """The child: push, and die at the appointed time."""
    database = open_database(DatabaseSettings(url=url), Path(data_dir))
    registry = Registry(database, ArtifactStore(ArtifactSettings(), Path(data_dir)))
    base = read_base(Path(base_folder))
    seen = 0

    def one_more(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(database._reader, "before_cursor_execute", one_more)
    event.listen(database._reader, "commit", one_more)
    sys.addaudithook(lambda name, _: one_more() if name in STEPS else None)
    if delay:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action of SIGALRM ends a process at once
        signal.setitimer(signal.ITIMER_REAL, delay)
    registry.push(Path(folder), "support", base=base, max_rank=16)


def main() -> None:
    """Fork a child per line."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                push(*json.loads(line))
                status = 0
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
