"""Writes the demo's evaluation suite: one behavioural slice per task, held-out prompts, strict exact match.

    python -m trainer.demo.suite --out DIR [--prompts 60] [--samples 4]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainer.demo import world
from trainer.demo.measure import MAX_NEW_TOKENS

PROMPTS = 60
"""A task. Different ones: a prompt that is there twice would count twice."""

SAMPLES = 4
"""Answers for each prompt at temperature 1."""

HEAD = """\
[suite]
name = "demo"
north_star = "mean"
max_tokens = {tokens}
temperature = 1.0
seed = {seed}
"""

SLICE = """
[[slice]]
name = "{task}"
file = "{task}.jsonl"
graders = ["exact"]
k = {samples}
margin = 0.1
"""


def write_suite(folder: Path, prompts: int = PROMPTS, samples: int = SAMPLES, seed: int = 7) -> Path:
    """Write suite.toml and a JSONL file for each task into `folder`; returns the suite's path."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [HEAD.format(tokens=MAX_NEW_TOKENS, seed=seed)]
    for task in world.TASKS:
        drawn = {example.prompt: example for example in world.examples(20 * prompts, seed, "held_out", task)}
        lines = [json.dumps(example.row()) + "\n" for example in list(drawn.values())[:prompts]]
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
        parts.append(SLICE.format(task=task, samples=samples))
    path = folder / "suite.toml"
    path.write_text("".join(parts), encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Write it from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo.suite", description="Writes the demo's suite.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="a task (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="answers a prompt (default: %(default)s)")
    options = parser.parse_args(arguments)
    sys.stdout.write(f"{write_suite(options.out, options.prompts, options.samples)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
