"""What the hot path costs, in instructions: a guard against regressions that no other load can disturb."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from deploy.bench import instructions
from gateway.compiled import why_not
from tests.support.tree import ROOT

# In rounds of the reference; see docs/profile.md. Lower them when something got faster, raise them only for a reason.
BUDGETS = (
    {"request": 3.9, "stream": 5.6, "chunk": 0.08}  # as machine code
    if not why_not()
    else {"request": 5.7, "stream": 8.3, "chunk": 0.31}  # a size is read digit by digit, which only machine code does fast
)


@pytest.mark.slow
@pytest.mark.needs("valgrind")
def test_the_hot_path_keeps_its_budget():
    counts = instructions.count()
    spent = {name: counts[name] / counts["reference"] for name in BUDGETS}
    over = {name: round(value, 3) for name, value in spent.items() if value > BUDGETS[name]}
    assert not over, (
        f"the hot path takes more instructions than its budget {BUDGETS} allows: {over}. `python -m "
        "deploy.bench.instructions --profile FOLDER` and callgrind_annotate say where; docs/profile.md says what helped"
    )
    under = {name: round(value, 3) for name, value in spent.items() if value < 0.8 * BUDGETS[name]}
    assert not under, f"it became a lot cheaper, or something is no longer measured: lower the budget to {under}"


def test_the_reference_does_the_same_every_time():
    assert instructions.reference(3) == 3 * instructions.reference(1) > 0


def test_without_valgrind_the_command_says_what_to_do(tmp_path):
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "deploy.bench.instructions"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60)
    assert done.returncode == 1 and done.stderr == "error: valgrind is not installed: apt-get install valgrind\n"


def test_a_failure_under_valgrind_is_said(tmp_path, monkeypatch):
    fake = tmp_path / "valgrind"
    fake.write_text("#!/bin/sh\necho 'valgrind: no such tool' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert shutil.which("valgrind") == str(fake)
    with pytest.raises(instructions.CouldNotCount, match="valgrind failed: valgrind: no such tool"):
        instructions.count()


def test_sums_are_read_from_the_end_of_a_tools_file(tmp_path):
    file = tmp_path / "cachegrind.1"
    file.write_text("events: Ir\nfn=a\n1 2\nsummary: 12345\n")
    assert instructions._total(file) == 12345
    file.write_text("events: Ir\n")
    with pytest.raises(instructions.CouldNotCount, match="holds no sum"):
        instructions._total(file)
