"""The demo's three training runs, as anybody would write them: data in JSONL, one TOML each, `understudy train`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.demo import world

ROUTE = "support"
WRONG = 0.3              # share of the demonstrations that are wrong
DEMONSTRATIONS = 1000
PROMPTS = 600
WATCHED = 120            # held-out prompts that the health monitors look at

_HEAD = """\
route = "{route}"
base = "demo"
{init}output_dir = "{folder}/run"
threads = 1              # nearly as fast at this size, and an engine shares the cores
[data]
train = "{folder}/{train}"
eval = "{folder}/held-out.jsonl"
"""

SFT = (
    _HEAD
    + """\
[lora]
r = 8
lora_alpha = 16
[trainer]
learning_rate = 1e-3
max_steps = 25
per_device_train_batch_size = 32
seed = {seed}
"""
)

GRPO = (
    _HEAD
    + """\
[trainer]
learning_rate = 1e-3
max_steps = 30
per_device_train_batch_size = 64
num_generations = 8
max_completion_length = 16
seed = {seed}
[[reward]]
name = "exact"
[[reward]]
name = "exact"
label = "truth"
gold = true
"""
)

HACKED = (
    _HEAD
    + """\
[lora]
r = 8
lora_alpha = 16
[trainer]
learning_rate = 2e-3
max_steps = 40
per_device_train_batch_size = 64
num_generations = 8
max_completion_length = 24
beta = 0.0
seed = {seed}
[[reward]]
name = "trainer.demo.gameable:helpfulness"
label = "helpfulness"
[[reward]]
name = "exact"
label = "truth"
gold = true
[health]
on_collapse = "mark"
publish = "last"
"""
)


def write_run(folder: Path, kind: str, seed: int, init_from: str = "") -> Path:
    """Writes data and configuration of "sft", "grpo" or "hacked" into `folder`; returns the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "demonstrations.jsonl", demonstrations(seed))
    _write(folder / "prompts.jsonl", world.rows(PROMPTS, 5000 + seed, "train"))
    watched = demonstrations(seed + 1, WATCHED, 0.0, "held_out") if kind == "sft" else _watched(seed)
    _write(folder / "held-out.jsonl", watched)
    text = {"sft": SFT, "grpo": GRPO, "hacked": HACKED}[kind].format(
        route=ROUTE, folder=folder, seed=seed, init=f'init_from = "{init_from}"\n' if init_from else "",
        train="demonstrations.jsonl" if kind == "sft" else "prompts.jsonl",
    )  # fmt: skip
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def demonstrations(
    seed: int, n: int = DEMONSTRATIONS, wrong: float = WRONG, split: world.Split = "train"
) -> list[dict[str, Any]]:
    """Demonstrations of which a share is wrong: people make mistakes, and SFT cannot exceed what it was shown."""
    rng = random.Random(f"demonstrations/{seed}")
    return [
        {
            "prompt": [{"role": "user", "content": example.prompt}],
            "completion": [
                {"role": "assistant", "content": example.slip if rng.random() < wrong else example.answer}
            ],
        }
        for example in world.examples(n, 4000 + seed, split)
    ]


def _watched(seed: int) -> list[dict[str, Any]]:
    return world.rows(WATCHED, 6000 + seed, "held_out")


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
