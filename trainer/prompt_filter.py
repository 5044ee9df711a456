"""Leaves out prompts that teach nothing: those the starting policy always solves, or never.

TRL has no dynamic sampling: a group whose answers all score alike has zero advantage and wastes its place in the
batch. So every prompt is answered a few times before training, and kept where the pass rate lies in between (k = 8,
0.1 to 0.9 by default). The filter sees the starting policy only; what it kept is written to prompts.json, and a
resumed run reads it from there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError
from monitors.rewards.types import Grader, Scores
from trainer.health import Row
from trainer.ranks import gathered
from trainer.reward_function import rows_as_samples, scores
from trainer.rl_settings import PromptFilterSettings
from trainer.sampling import Answer
from trainer.session import world_size

FILE = "prompts.json"
SOLVED = 0.5
"""A graded reward from here on counts as a pass."""

Sampler = Callable[[Sequence[Sequence[int]], int], list[list[Answer]]]
"""(prompts as token ids, answers for each) → answers."""


@dataclass(frozen=True)
class Filtered:
    """What was found. `kept`: indices of rows, ascending; `pass_rates`: of the tried rows, in the order of `tried`."""

    rows: int
    tried: tuple[int, ...]
    kept: tuple[int, ...]
    pass_rates: tuple[float | None, ...]
    unsolved: int
    solved: int
    missing: int

    def __str__(self) -> str:
        left = f", {self.missing} without a reward" if self.missing else ""
        untried = f", {self.rows - len(self.tried)} not tried" if self.rows > len(self.tried) else ""
        hard = f"{self.unsolved} too hard, {self.solved} too easy{left}{untried}"
        return f"prompts: {len(self.kept)} of {self.rows} kept; {hard}"

    def write(self, folder: Path, write_json: Callable[[Path, Any], None]) -> None:
        """Keep it in the run directory."""
        write_json(folder / FILE, asdict(self))


def from_json(value: Any) -> Filtered:
    """What `write` wrote. Raises TrainingError when it is something else."""
    try:
        lists = {name: tuple(value[name]) for name in ("tried", "kept", "pass_rates")}
        return Filtered(**{**value, **lists})
    except (KeyError, TypeError) as error:
        raise TrainingError(f"{FILE} is not what this version writes ({error}): start the run anew") from None


def filter_prompts(
    rows: Sequence[Row],
    prompts: Sequence[Sequence[int]],
    reward: Grader,
    settings: PromptFilterSettings,
    *,
    sampler: Sampler,
    seed: int,
    needed: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
    batch: int = 64,
) -> Filtered:
    """Answers prompts `settings.samples` times each, in random order, and keeps those solved sometimes.

    Ends when `needed` are kept (None: all are wanted) or `settings.limit` were tried. Ranks share the work, and all get
    the same result. Raises TrainingError when none is left, with what was found.
    """
    order = list(range(len(rows)))
    random.Random(f"filter/{seed}").shuffle(order)
    order = order[: settings.limit]
    found: dict[int, Scores] = {}
    for start in range(0, len(order), batch * world_size()):
        chunk = order[start : start + batch * world_size()]
        mine = chunk[int(os.environ.get("RANK", "0")) :: world_size()]
        found.update(gathered(_answered(rows, prompts, mine, reward, settings.samples, sampler=sampler)))
        progress(len(found))
        result = judge(len(rows), found, settings)
        if needed is not None and len(result.kept) >= needed:
            break
    if not found or not result.kept:
        raise TrainingError(
            f"no prompt is left to train on: of {len(found)} tried with {settings.samples} answers each, the starting "
            f"policy never solves {result.unsolved}, always {result.solved}, and {result.missing} have no reward "
            "(prompt_filter.low, prompt_filter.high; start from a better adapter, or check the reward)"
        )
    return result


def _answered(
    rows: Sequence[Row],
    prompts: Sequence[Sequence[int]],
    places: Sequence[int],
    reward: Grader,
    samples: int,
    *,
    sampler: Sampler,
) -> list[tuple[int, Scores]]:
    """Rewards of the answers to the rows at `places`."""
    if not places:
        return []
    answers = sampler([prompts[place] for place in places], samples)
    flat = [answer.text for several in answers for answer in several]
    repeated = [rows[place] for place in places for _ in range(samples)]
    found = scores(reward, list(rows_as_samples(repeated, flat)), where="while prompts were filtered")
    return [(place, found[i * samples :][:samples]) for i, place in enumerate(places)]


def judge(count: int, rewards: Mapping[int, Scores], settings: PromptFilterSettings) -> Filtered:
    """Sorts prompts by their rewards. `rewards`: row → those of its answers; other rows were not tried."""
    tried = sorted(rewards)
    rates = [pass_rate(rewards[place]) for place in tried]
    graded = any(value not in (0.0, 1.0, None) for found in rewards.values() for value in found)
    kept, unsolved, solved, missing = [], 0, 0, 0
    for place, rate in zip(tried, rates, strict=True):
        found = rewards[place]
        if rate is None:
            missing += 1
        elif settings.low <= rate <= settings.high or (graded and _varies(found)):
            kept.append(place)
        elif rate < settings.low:
            unsolved += 1
        else:
            solved += 1
    return Filtered(count, tuple(tried), tuple(kept), tuple(rates), unsolved, solved, missing)


def pass_rate(rewards: Scores) -> float | None:
    """Share of the scored answers that pass; None where fewer than two were scored: there is no group then."""
    present = [reward for reward in rewards if reward is not None]
    return sum(reward >= SOLVED for reward in present) / len(present) if len(present) > 1 else None


def _varies(rewards: Scores) -> bool:
    """A graded reward that differs between answers has an advantage to learn from, wherever it lies."""
    present = [reward for reward in rewards if reward is not None]
    return max(present) - min(present) > 1e-6
