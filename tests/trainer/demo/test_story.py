"""The demo as a user runs it, from the command line to its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.demo.stack import ROOT, free_ports


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(5))) == 5


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_keeps_its_claims(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "gateway.cli", "demo", "--exit", "--report", str(report), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert told["sft"]["held_out_accuracy"] > told["base"]["held_out_accuracy"] > 0.2
    assert told["requests"]["total"] > 100
    assert (told["requests"]["failed"], told["requests"]["wrong_version"]) == (0, 0)
    assert told["sft"]["version"].startswith("support@") and told["wall_seconds"] > 0
    print(done.stdout)
