"""Rollouts on the demo's stack: a plan whose steps last seconds, users in a process of their own, and what they saw."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.demo.stack import ROOT, Stack

USERS = 400
RATE = 25.0              # requests per second

_HEAD = """\
name = "demo"
alpha = 0.05
harm_alpha = 0.001
tuning_units = 400       # the confidence sequences are tightest there
"""

_SHADOW = """\
[shadow]
sample = {sample}
min_pairs = 40
min_duration = "3s"
max_duration = "90s"
"""

_STEPS = """\
[[step]]
weight = "{weights[0]}"
min_units = 20
min_duration = "4s"
max_duration = "{longest:.0f}s"
[[step]]
weight = "{weights[1]}"
min_units = 100
min_duration = "8s"
max_duration = "{longest:.0f}s"
advance = "evidence"
"""

# Margins for a few hundred users and a minute; the shipped plan has those for thousands and days.
_METRICS = """\
[[metric]]
name = "error"
margin = 0.05
[[metric]]
name = "truncated"
margin = 0.05
[[metric]]
name = "empty"
margin = 0.05
[[metric]]
name = "non_finite"
margin = 0.05
[[metric]]
name = "slow_duration"
objective = {objective}
warmup = 2
floor = 0.05
[[metric]]
name = "thumbs_down"
floor = 0.05
[[metric]]
name = "satisfaction"
role = "primary"
margin = 0.1
[[metric]]
name = "reward"
margin = 0.1
margin_unit = "absolute"
[[metric]]
name = "tokens"
role = "exploratory"
"""


def plan_text(
    sample: float = 0.3, objective: float = 5.0, weights: tuple[str, str] = ("10%", "50%"), longest: float = 120.0
) -> str:
    """A plan file.

    `sample`: share of stable's requests that is mirrored in the shadow, 0: there is none. In seconds: `objective`, a
    slow answer; `longest`, a step.
    """
    shadow = _SHADOW.format(sample=sample) if sample else ""
    return _HEAD + shadow + _STEPS.format(weights=weights, longest=longest) + _METRICS.format(objective=objective)


@contextlib.contextmanager
def crowd(
    stack: Stack, out: Path, seed: int, *, seconds: float, rare: float = 0.0, users: int = USERS,
    fixed: Sequence[str] = (),
) -> Iterator[None]:
    """Users until the block ends (`seconds` at most); each request is a line of `out`.

    `fixed`: prompts that some of them ask at temperature 0, see trainer.demo.fixed.
    """
    command = [
        sys.executable, "-m", "trainer.demo.crowd", "--url", stack.url, "--out", str(out), "--rate", str(RATE),
        "--users", str(users), "--rare", str(rare), "--seed", str(seed), "--seconds", str(seconds),
    ]  # fmt: skip
    if fixed:
        (prompts := out.with_suffix(".prompts.json")).write_text(json.dumps(list(fixed)), encoding="utf-8")
        command += ["--fixed", str(prompts)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=os.environ | {"UNDERSTUDY_KEY": stack.key})
    try:
        yield
    finally:
        process.terminate()
        process.wait(90)


def follow(stack: Stack, route: str, longest: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The newest rollout's row once it has ended, or is held by itself, or `longest` seconds have passed."""
    deadline = time.monotonic() + longest
    shown = ""
    while True:
        (row,) = stack.operator("GET", f"/api/v1/rollouts?route={route}&limit=1")["rollouts"]
        where = f"{row['phase']} {row['step']} at {row['weight']:.3g}" + (" held" if row["hold"] else "")
        if where != shown:
            say(f"{where}: {row['reason'][:150]}")
            shown = where
        held = row["hold"] and row["hold"]["kind"] != "stable_arm"
        if row["ended_at"] is not None or held or time.monotonic() > deadline:
            return dict(row)
        time.sleep(0.2)
