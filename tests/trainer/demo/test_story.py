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
@pytest.mark.timeout(1200)
@pytest.mark.long
def test_the_demo_keeps_its_claims(tmp_path: Path) -> None:
    """A better version is promoted by itself, a reward-hacked one is rolled back: on a real vLLM, by real training."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "gateway.cli", "demo", "--exit", "--report", str(report), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1180, check=False)
    broken = [line for line in done.stdout.splitlines() if "✗" in line]
    # Others use these cores, too: how soon the last request leaves is measured by `make demo` on a machine of its own.
    assert all("later than 1 s after the deciding evidence" in line for line in broken), done.stdout + done.stderr
    assert done.returncode == bool(broken) and "the story took" in done.stdout, done.stdout + done.stderr
    print(done.stdout)
    told = json.loads(report.read_text())
    assert list(told) == [
        "versions", "base", "sft", "grpo", "promotion", "hacked", "rollback", "requests", "wall_seconds"
    ]  # fmt: skip
    exact = [told[name]["held_out_accuracy"] for name in ("base", "sft", "grpo")]
    assert 0.2 < exact[0] < exact[1] < exact[2]
    assert told["promotion"]["outcome"] == "promoted"
    assert [phase["phase"] for phase in told["promotion"]["phases"]] == ["preparing", "shadow", "ramp", "ramp"]
    assert told["hacked"]["gate"] == "failed" and told["hacked"]["training_reward"] > 0.9
    assert told["hacked"]["held_out_accuracy"] < 0.1 < told["hacked"]["duplicate_4gram"]
    assert (told["rollback"]["candidate_responses_after_reroute"] == 0) == (not broken)
    assert told["rollback"]["fired"]["cause"] and told["rollback"]["fired"]["collapse"]["verdict"] != "ok"
    assert told["requests"]["total"] > 500
    asked = told["requests"]
    assert (asked["failed"], asked["wrong_version"]) == (0, 0)
    assert asked["judged_by_id"] == asked["total"] and asked["judged_by_content"] > 0.1 * asked["total"]
    assert (tmp_path / "report.svg").read_text().count("<path") > 4
