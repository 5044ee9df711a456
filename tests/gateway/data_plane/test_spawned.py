"""Which form of the hot path a worker runs, as its log says it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import compiled
from gateway.data_plane import spawned
from tests.support.serving import serving


def said(log: Path) -> list[str]:
    entries = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [entry["message"] for entry in entries if entry["message"].startswith("the hot path runs ")]


def test_nothing_of_the_hot_path_is_imported_before_its_form_is_decided() -> None:
    code = f"import sys, {spawned.__name__}; print([m for m in {compiled.UNIT!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("switch", ["1", "0"])
def test_a_worker_says_which_form_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setenv(compiled.SWITCH, switch)
    with serving(tmp_path) as gateway:
        gateway.start()
    reason = compiled.why_not()
    wanted = f"the hot path runs interpreted: {reason}" if reason else "the hot path runs as machine code"
    assert said(tmp_path / "serve.log") == [wanted]
