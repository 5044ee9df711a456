"""Compiles the hot path (gateway.compiled.UNIT) with mypyc, for the interpreter that runs this: part of `make install`.

Nothing is done when it is compiled already. Needs a C compiler and Python's headers; without them the gateway runs all
the same, interpreted, at twice the CPU a request.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gateway import compiled

TYPES = ("--config-file=", "--ignore-missing-imports", "--follow-imports=silent")  # strictness is `make lint`'s
OPTIMISE = "1"  # -O2 and -O3 take longer to compile and run no faster: the time goes into Python's own library


LOG = "compile.log"  # beside what was compiled


class CouldNotCompile(Exception):
    """The message says why, and what to do."""


def compile_unit() -> Path:
    """Where the compiled hot path lies. Raises CouldNotCompile."""
    home = compiled.home()
    if home.is_dir():
        return home
    compiler = os.environ.get("CC", "cc").split()[0]
    if shutil.which(compiler) is None:
        raise CouldNotCompile("there is no C compiler: install gcc or clang")
    print("note: compiling the hot path, about half a minute", flush=True)
    try:
        home.parent.mkdir(exist_ok=True)
        # Beside its place, so that it can be moved there whole.
        with tempfile.TemporaryDirectory(prefix=".building-", dir=home.parent) as scratch:
            with _said_to(home.parent / LOG):
                _build(Path(scratch))
            _put(Path(scratch) / "lib", home)
    except OSError as error:
        raise CouldNotCompile(f"{home.parent} cannot be written: {error.strerror}") from error
    for other in home.parent.iterdir():  # of sources that are gone; whoever runs it has it open
        if other != home and other.is_dir() and not other.name.startswith("."):
            shutil.rmtree(other, ignore_errors=True)
    return home


def _build(scratch: Path) -> None:
    from mypyc.build import mypycify
    from setuptools import Distribution

    sources = [str(compiled.source(module)) for module in compiled.UNIT]
    try:
        extensions = mypycify([*TYPES, *sources], opt_level=OPTIMISE, debug_level="0", target_dir=str(scratch / "c"))
        command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(scratch / "lib"), str(scratch / "temp")
        command.ensure_finalized()
        command.run()
    except SystemExit as error:  # mypyc's way to say that it does not like the sources
        raise CouldNotCompile(f"mypyc refuses the sources (see {compiled.home().parent / LOG})") from error
    except Exception as error:  # what setuptools raises for a compiler that fails has no common base
        reason = f"the C compiler failed ({error}; see {compiled.home().parent / LOG})"
        raise CouldNotCompile(f"{reason}: are Python's headers there (python3-dev)?") from error


@contextlib.contextmanager
def _said_to(log: Path) -> Iterator[None]:
    """Everything that is printed, by the compilers too, goes to `log`: a page for each module."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
    finally:
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)


def _put(built: Path, home: Path) -> None:
    """Another process may have been faster."""
    try:
        built.rename(home)
    except OSError:
        if not home.is_dir():
            raise


def main() -> int:
    """Say what came of it; a hot path that cannot be compiled is worth a word, not a failure."""
    started = time.monotonic()
    os.chdir(Path(__file__).parents[1])
    try:
        home = compile_unit()
    except CouldNotCompile as error:
        print(f"note: the hot path runs interpreted, at twice the CPU a request: {error}; then `make install` again")
        return 0
    if (took := time.monotonic() - started) > 1:
        print(f"note: compiled the hot path in {took:.0f} s: {home.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
