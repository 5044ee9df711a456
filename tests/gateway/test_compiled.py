"""Machine code only where it was made from exactly the sources that are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import compiled
from tests.support.tree import ROOT

COMPILED = compiled.why_not() == ""
needs_it = pytest.mark.skipif(not COMPILED, reason=f"the hot path is not compiled here: {compiled.why_not()}")
WHERE = """
from gateway.compiled import prefer, UNIT
print("reason:", prefer())
from importlib import import_module
print(*sorted({import_module(module).__file__.rpartition(".")[2] for module in UNIT}))
"""


def python(code: str, tree: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120, cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), compiled.SWITCH: "1", **environment},
    )  # fmt: skip


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The packages, to be changed."""
    for package in ("adapters", "monitors", "gateway"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_unit_is_what_there_is() -> None:
    assert all(compiled.source(module).is_file() for module in compiled.UNIT)
    assert list(compiled.UNIT) == sorted(set(compiled.UNIT))


@needs_it
def test_all_of_it_or_none() -> None:
    assert python(WHERE).stdout == "reason: \nso\n"
    done = python(WHERE, UNDERSTUDY_COMPILED="0")
    assert done.stdout == "reason: UNDERSTUDY_COMPILED is 0\npy\n"


@needs_it
def test_an_edited_source_never_meets_the_machine_code_of_an_older_one(copied: Path) -> None:
    assert python(WHERE, copied).stdout == "reason: \nso\n", "the same sources elsewhere are the same"
    with (copied / "gateway" / "data_plane" / "sse.py").open("a") as file:
        file.write("\n# one more line\n")
    done = python(WHERE, copied)
    assert done.stdout == "reason: it is not compiled for these sources: run `make install`, with a C compiler\npy\n"


@needs_it
def test_too_late_is_said_before_half_of_each_is_mixed() -> None:
    done = python("import monitors.metrics\n" + WHERE)
    assert done.returncode == 1
    assert "imported before they could be loaded as machine code: monitors.metrics" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.long
def test_without_machine_code_the_same_bytes_pass() -> None:
    """What is compiled is tested everywhere else: here what an installation without a C compiler runs."""
    files = [f"tests/gateway/data_plane/test_{name}.py" for name in
             ("byte_for_byte", "fuzz", "framing", "hot_path", "ids", "protocol", "sse")]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not under_fire", *files],
        check=False, capture_output=True, text=True, timeout=840, cwd=ROOT,
        env={**os.environ, compiled.SWITCH: "0", "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
