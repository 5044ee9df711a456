"""Training data from the demo's world, run files, and runs in this process."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from trainer.config import Algorithm
from trainer.demo import world
from trainer.installation import open_registry
from trainer.plan import Plan, plan_run
from trainer.run import train

STEPS: Mapping[Algorithm, int] = {"sft": 25, "dpo": 30, "kto": 30, "reward-model": 40}
RATES: Mapping[Algorithm, float] = {"sft": 1e-3, "dpo": 5e-4, "kto": 1e-3, "reward-model": 2e-3}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def wrong_reply(rng: random.Random, example: world.Example) -> str:
    """A reply as the base gives it, that is not the answer."""
    while (said := world.base_reply(rng, example)) == example.answer:
        continue
    return said


def rows_for(algorithm: Algorithm, n: int = 800, seed: int = 1000, split: world.Split = "train") -> list[dict[str, Any]]:
    """Rows of the demo's tasks in the algorithm's own form; every one carries its `answer`."""
    rng = random.Random(f"{algorithm}/{seed}")
    made = []
    for number, example in enumerate(world.examples(n, seed, split)):
        row: dict[str, Any] = {"prompt": example.prompt, "answer": example.answer}
        wrong = wrong_reply(rng, example)
        if algorithm == "sft":
            row |= {"completion": example.answer}
        elif algorithm == "kto":
            row |= {"completion": wrong if number % 2 else example.answer, "label": number % 2 == 0}
        elif algorithm in ("dpo", "reward-model"):
            row |= {"chosen": example.answer, "rejected": wrong}
        made.append(row)
    return made


def run_file(folder: Path, algorithm: Algorithm, name: str = "", data: str = "", text: str = "", **options: Any) -> Path:
    """A run's TOML file in `folder`. `data`: lines of [data]; `text`: further sections; `options`: of [trainer]."""
    name = name or algorithm
    folder.mkdir(parents=True, exist_ok=True)
    if not data:
        write_rows(folder / f"{name}.jsonl", rows_for(algorithm))
        data = f'train = "{name}.jsonl"'
    settings = {
        "learning_rate": RATES.get(algorithm, 1e-3), "max_steps": STEPS.get(algorithm, 10),
        "per_device_train_batch_size": 32, "seed": 0, **options,
    }  # fmt: skip
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    path = folder / f"{name}.toml"
    path.write_text(
        f'route = "support"\nbase = "demo"\noutput_dir = "runs/{name}"\nthreads = 1\n'
        f"[data]\n{data}\n[trainer]\n{lines}{text}\n"
    )
    return path


def installation(folder: Path, engine: str = "") -> Path:
    """An understudy.toml with a database of its own."""
    path = folder / "understudy.toml"
    if not path.exists():
        path.write_text(f'data_dir = "data"\n[engine]\nbase_model = "demo"\n{engine}\n')
    return path


def plan(algorithm: Algorithm, file: Path) -> Plan:
    """The checked run of a file, registering in its folder. Keeps torch to one thread, as the run itself does."""
    made = plan_run(algorithm, file, installation(file.parent), quiet=True)
    torch.set_num_threads(1)
    return made


def plan_here(file: Path) -> Plan:
    """The plan of a file that asks for more processes than this one: to find its run directory."""
    alone = file.with_name(f"alone-{file.name}")
    alone.write_text(file.read_text().replace("processes = 2", "processes = 0"))
    return plan("sft", alone)


def run(algorithm: Algorithm, file: Path, *, resume: bool = False) -> tuple[Plan, str]:
    """Train it here, quietly; returns the plan and the version's name."""
    made = plan(algorithm, file)
    with open_registry(made.job.installation) as registry:
        return made, train(made, registry, resume=resume, say=lambda text: None)


@dataclass(frozen=True)
class Paired:
    """A paired comparison: prompts that only the second, or only the first, answers right; McNemar's exact p."""

    gained: int
    lost: int
    p: float


def mcnemar(before: Sequence[str], after: Sequence[str], asked: Sequence[world.Example]) -> Paired:
    """Strict exact match of two lists of replies to the same prompts (McNemar 1947, exact two-sided)."""
    right = [(b == e.answer, a == e.answer) for b, a, e in zip(before, after, asked, strict=True)]
    gained, lost = sum(a > b for b, a in right), sum(a < b for b, a in right)
    return Paired(gained, lost, float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0)
