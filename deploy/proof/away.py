"""`python -m deploy.proof.away [--frozen N] [--stopped N] [--out FILE]`: the database away in the middle of a rollout.

A real vLLM, two workers, a controller, PostgreSQL, users in a process of their own. At 50 % of a rollout PostgreSQL is
frozen (SIGSTOP), later stopped, and started again. Exit status 0 only if users were served by the last snapshot as if
nothing had happened, nothing was decided meanwhile, that it is held was said, every answer is recorded once, and the
rollout then went on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import psycopg

from deploy.proof.postgres import Postgres, running_postgres
from deploy.proof.scenarios import make_adapters
from trainer.demo.crowd import read
from trainer.demo.rollout import crowd
from trainer.demo.stack import Stack

# A step that cannot end while we look: nobody has a million users here.
PLAN = """\
name = "away"
[[step]]
weight = "50%"
min_units = 1000000
max_duration = "24h"
advance = "evidence"
[[metric]]
name = "error"
role = "primary"
"""
SAID = {"frozen": "the database has not answered", "stopped": "holding everything as it is: database"}
CATCHES_UP = 60.0    # seconds for the records to arrive once the database is back


def prove(stack: Stack, server: Postgres, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """What was measured."""
    plan, observed = stack.directory / "plan.toml", stack.directory / "asked.jsonl"
    plan.write_text(PLAN)
    stack.understudy("route", "set", "support", stack.versions["good"])
    stack.understudy("gate", stack.versions["same"], "--override", "a proof")
    with crowd(stack, observed, 0, seconds=options.frozen + options.stopped + 600):
        stack.understudy("rollout", "start", "support", stack.versions["same"], "--plan", str(plan))
        _until(lambda: _row(stack)["phase"] == "ramp" and len(read(observed)) > 50, 120, "the ramp")
        before = _row(stack)
        server.freeze()
        frozen = _spell(options.frozen)
        server.thaw()
        time.sleep(5.0)
        server.stop()
        stopped = _spell(options.stopped)
        server.start()
        back = time.time()
        _until(lambda: _seen_again(stack, before), 60, "the controller to look again")
        after = _row(stack)
        time.sleep(5.0)
    seen = read(observed)
    answered = sum(o.status == 200 for o in seen)
    _until(lambda: _recorded(url)[0] >= answered, CATCHES_UP, "the records")
    arrived = time.time()
    stack.understudy("rollout", "promote", "support", "--reason", "the proof is over")
    _until(lambda: _row(stack)["phase"] == "promoted", 60, "the promotion")
    rows, ids = _recorded(url)
    log = stack.log.read_text()
    return {
        "frozen": _told(seen, *frozen, stack), "stopped": _told(seen, *stopped, stack),
        "requests": len(seen), "failed": sum(o.status != 200 or bool(o.error) for o in seen), "answered": answered,
        "recorded": rows, "recorded_once": ids, "seconds_until_recorded": round(arrived - back, 1),
        "generation": [before["generation"], after["generation"]], "weight": [before["weight"], after["weight"]],
        "said": {name: text in log for name, text in SAID.items()},
    }  # fmt: skip


def _spell(seconds: float) -> tuple[float, float]:
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


def _told(seen: list[Any], began: float, ended: float, stack: Stack) -> dict[str, Any]:
    """What users were told who asked within a spell, and by whom."""
    asked = [o for o in seen if began <= o.at < ended]
    names = {version: name for name, version in stack.versions.items()}
    return {
        "seconds": round(ended - began, 1), "requests": len(asked),
        "statuses": dict(Counter(o.status for o in asked)),
        "by": dict(Counter(names.get(o.version, o.version) for o in asked)),
    }  # fmt: skip


def _row(stack: Stack) -> dict[str, Any]:
    (row,) = stack.operator("GET", "/api/v1/rollouts?route=support&limit=1")["rollouts"]
    return dict(row)


def _seen_again(stack: Stack, before: dict[str, Any]) -> bool:
    try:
        return bool(_row(stack)["seconds_in_step"] > before["seconds_in_step"])
    except (RuntimeError, httpx.HTTPError):
        return False


def _recorded(url: str) -> tuple[int, int]:
    """(answers, distinct response ids) with status 200 in the database."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        query = "SELECT count(*), count(DISTINCT response_id) FROM responses WHERE status = 200"
        row = connection.execute(query).fetchone()
    assert row is not None, "an aggregate has one row"
    return row[0], row[1]


def _until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Raises RuntimeError when it does not come true in time."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if true():
            return
        time.sleep(0.2)
    raise RuntimeError(f"waited {seconds:g} s in vain for {what}")


def broken(report: dict[str, Any]) -> list[str]:
    """The claims that did not hold. A user who left just before the end may be recorded and not counted."""
    spells = [report["frozen"], report["stopped"]]
    claims = [
        (report["failed"] == 0, "a request failed"),
        (all(set(s["statuses"]) == {200} and set(s["by"]) == {"good", "same"} for s in spells), "not served as before"),
        (report["generation"][0] == report["generation"][1], "something was decided"),
        (all(report["said"].values()), "that it is held was not said"),
        (report["recorded"] == report["recorded_once"], "an answer is recorded twice"),
        (0 <= report["recorded"] - report["answered"] <= 50, "records were lost"),
    ]
    return [text for holds, text in claims if not holds]


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frozen", type=float, default=20.0, help="seconds")
    parser.add_argument("--stopped", type=float, default=60.0, help="seconds")
    parser.add_argument("--adapters", help="folder where the adapters are, or will be kept")
    parser.add_argument("--out", type=Path, help="write the report here as JSON")
    options = parser.parse_args()
    temporary = tempfile.TemporaryDirectory(prefix="understudy-", ignore_cleanup_errors=True)
    with temporary as name, running_postgres() as server:
        folder, url = Path(name), server.create()
        adapters = make_adapters(Path(options.adapters) if options.adapters else folder / "adapters")
        with patch.dict(os.environ, {"UNDERSTUDY_DATABASE__URL": url}):
            stack = Stack(folder / "stack", workers=2)
            try:
                stack.understudy("db", "upgrade")
                for adapter in ("good", "same"):
                    stack.push(adapter, adapters[adapter], "support")
                stack.start()
                report = prove(stack, server, url, options)
            finally:
                stack.stop()
    report["broken_claims"] = broken(report)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["broken_claims"] else 0


if __name__ == "__main__":
    sys.exit(main())
