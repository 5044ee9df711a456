"""Real Python processes running a few lines: for what only shows between processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start_python(code: str, *args: object) -> "subprocess.Popen[str]":
    """Run `code` with `args` in sys.argv[1:]; standard input and output are pipes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def finish(process: "subprocess.Popen[str]", timeout: float = 60.0) -> str:
    """Wait for the end and return what it printed; fails when it failed."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, output
    return output


def kill(process: "subprocess.Popen[str]") -> str:
    """kill -9, and the whole lines it had still printed. (communicate() would miss what readline() had buffered.)"""
    process.kill()
    assert process.stdout is not None
    rest = process.stdout.read()
    process.communicate()
    return rest[: rest.rfind("\n") + 1]
