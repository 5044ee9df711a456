"""Watches a run on held-out prompts: reward against gold, KL, entropy, repetition; keeps the best checkpoint by gold.

A look samples the same prompts each time, scores the answers with the reward that is trained on (the proxy) and with
the gold graders, and judges all looks so far (health_rule). What was seen goes to metrics.jsonl (split "health",
names health.*), samples.jsonl, and through TRL's log to `report_to` (held_out/*). TRL trainers are watched by
HealthCallback (health_callback); `outcome` then says which weights to publish, and with which marks.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError
from monitors.rewards.types import Grader, Scores, text_of
from monitors.text import duplicate_ngram_fraction
from trainer.health_rule import Look, Verdict, alignment_tax, judge, spread
from trainer.job import Outcome
from trainer.reward_function import RewardFunction, distinct_4, rows_as_samples, scores
from trainer.rl_settings import HealthSettings
from trainer.run_directory import RunDirectory
from trainer.sampling import Answer, movement, render, sample
from trainer.session import is_first

STATE = "health.json"
"""In every checkpoint: what a resumed run must know of the looks before it."""

Row = Mapping[str, Any]
Proxy = Callable[[Any], Sequence[float | None]]
"""model → one value per watched row, for algorithms without a reward: DPO's pair accuracy."""


@dataclass(frozen=True)
class Watched:
    """What a run is watched on. `reward`: what is trained on; `gold`: what is only measured; either may be missing.

    `max_tokens`: longest answer; `template`: keywords of the chat template; `reference`: PEFT adapter that KL is
    measured to ("ref"), None: the base.
    """

    rows: Sequence[Row]
    reward: Grader | Proxy | None = None
    gold: Grader | None = None
    max_tokens: int = 256
    template: Mapping[str, Any] | None = None
    reference: str | None = None


class HealthMonitor:
    """Looks at a run. `verdict` is the newest; `collapse` the first "collapsed", with the step it was found at."""

    def __init__(
        self,
        watched: Watched,
        settings: HealthSettings,
        run: RunDirectory,
        tokenizer: Any,
        *,
        seed: int,
        function: RewardFunction | None = None,
    ) -> None:
        self.settings = settings
        self.watched = watched
        self.function = function
        self.looks: list[Look] = []
        self.verdict = Verdict("unknown", "there has been no look yet")
        self.collapse: dict[str, Any] | None = None
        self.values: dict[str, float] = {}
        self._run = run
        self._tokenizer = tokenizer
        self._seed = seed
        self._prompts = [render(tokenizer, row["prompt"], watched.template) for row in watched.rows]

    @property
    def ended(self) -> bool:
        """True when the run has stopped for good before its last step: it collapsed, or there is nothing to learn."""
        stopped = self.collapse is not None and self.settings.on_collapse == "stop"
        return stopped or bool(self.function and self.function.exhausted)

    @property
    def best_step(self) -> int | None:
        """The step of the best look by gold, the start left out; None without gold."""
        scored = [(gold, look.step) for look in self.looks if look.step and (gold := look.mean("gold")) is not None]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def look(self, model: Any, step: int) -> Verdict:
        """Sample, score, judge, and write down. Every rank samples; only the first scores and writes."""
        settings, watched = self.settings, self.watched
        answers = sample(
            model, self._tokenizer, self._prompts, max_tokens=settings.max_tokens or watched.max_tokens,
            samples=settings.samples, temperature=settings.temperature, seed=self._seed, batch=settings.batch,
        )  # fmt: skip
        flat = [answer for several in answers for answer in several]
        moved = movement(model, flat, reference=watched.reference, temperature=settings.temperature)
        if not is_first():
            return self.verdict
        rewards = self._rewards(model, flat)
        gold = self._score(watched.gold, flat, "gold")
        signs = text_signs(flat) | {"entropy": moved.entropy}
        self.looks.append(Look(step, self._by_prompt(rewards), self._by_prompt(gold), signs))
        self.verdict = judge(self.looks, settings)
        if self.verdict.status == "collapsed" and self.collapse is None:
            self.collapse = {"step": step, "since": self.verdict.since, "reason": self.verdict.reason}
        self.values = self._numbers(moved.kl)
        self._run.log(step, "health", {f"health.{name}": value for name, value in self.values.items()})
        self._keep_samples(step, flat, rewards, gold)
        return self.verdict

    def best_folder(self, step: int | None = None) -> Path:
        """Where the adapter of the best look (or of `step`) is kept."""
        return self._run.path / "best" / f"step-{self.best_step if step is None else step}"

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {
            "looks": [asdict(look) for look in self.looks],
            "collapse": self.collapse,
            "best": self.best_step,
            "function": self.function.state() if self.function else None,
        }

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint; adapters kept after it are measured again. Raises TrainingError."""
        try:
            state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
            self.looks = [
                Look(seen["step"], tuple(seen["reward"]), tuple(seen["gold"]), seen["signs"]) for seen in state["looks"]
            ]
            self.collapse = state["collapse"]
            if self.function and state["function"]:
                self.function.restore(state["function"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{checkpoint / STATE} cannot be read: {error}") from None
        if self.looks:
            self.verdict = judge(self.looks, self.settings)
        kept = {look.step for look in self.looks}
        for folder in (self._run.path / "best").glob("step-*") if is_first() else ():
            if int(folder.name.removeprefix("step-")) not in kept:
                shutil.rmtree(folder)

    def outcome(self, last: Path, step: int) -> Outcome:
        """Which weights to publish: the best by gold, or those in `last` (of `step`), with marks and facts.

        Raises TrainingError when the run collapsed and gold was never better than at the start.
        """
        best = self.best_step
        chosen, folder = step, last
        if self.settings.publish == "best" and best is not None:
            self._refuse_worse_than_start(best)
            chosen, folder = best, self.best_folder()
        marks: dict[str, Any] = {}
        if self.collapse is not None:
            marks = {"run_collapsed": dict(self.collapse)}
            if chosen > self.collapse["since"]:
                marks |= {"collapsed": True, "reason": self.collapse["reason"]}
        if self.function and self.function.exhausted:
            marks["stopped"] = self.function.exhausted
        return Outcome(folder, chosen, marks, self.facts(chosen))

    def facts(self, step: int) -> dict[str, Any]:
        """Numbers of the start and of the look at or before `step`, for lineage and report."""
        found: dict[str, Any] = {"steps": step, "health": self.verdict.status}
        before = [look for look in self.looks if look.step <= step]
        for when, look in (("start", before[:1]), ("published", before[-1:])):
            for of in ("reward", "gold"):
                if look and (mean := look[0].mean(of)) is not None:
                    found[f"{of}_{when}"] = mean
        return found

    def _refuse_worse_than_start(self, best: int) -> None:
        golds = {look.step: look.mean("gold") for look in self.looks}
        start, found = self.looks[0].mean("gold"), golds[best]
        if self.collapse is not None and start is not None and found is not None and found <= start:
            raise TrainingError(
                f"the run collapsed: {self.collapse['reason']}; no checkpoint has more gold than the start "
                f'({found:.3f}, start {start:.3f}): none is published (health.publish = "last" takes the last, marked)'
            )

    def _rewards(self, model: Any, flat: Sequence[Answer]) -> Scores:
        reward = self.watched.reward
        if reward is None or hasattr(reward, "score"):
            return self._score(reward, flat, "reward")  # type: ignore[arg-type]  # what has `score` is a grader
        return [value for value in reward(model) for _ in range(self.settings.samples)]

    def _score(self, grader: Grader | None, flat: Sequence[Answer], what: str) -> Scores:
        if grader is None:
            return [None] * len(flat)
        rows = [row for row in self.watched.rows for _ in range(self.settings.samples)]
        asked = list(rows_as_samples(rows, [answer.text for answer in flat]))
        return scores(grader, asked, where=f"on held-out prompts ({what})")

    def _by_prompt(self, values: Scores) -> tuple[float | None, ...]:
        """Mean over the answers of each prompt that were scored."""
        size = self.settings.samples
        means = []
        for start in range(0, len(values), size):
            scored = [value for value in values[start : start + size] if value is not None]
            means.append(sum(scored) / len(scored) if scored else None)
        return tuple(means)

    def _numbers(self, kl: float) -> dict[str, float]:
        """The newest look by its names in metrics.jsonl, without "health."."""
        first, now = self.looks[0], self.looks[-1]
        found: dict[str, float | None] = {"kl": kl, "alignment_tax": alignment_tax(first, now), **now.signs}
        found |= {"reward": now.mean("reward"), "gold": now.mean("gold")}
        if found["reward"] is not None:
            found["reward_std"] = spread(now.reward, smallest=0.0)
            if found["gold"] is not None:
                found["reward_gap"] = found["reward"] - found["gold"]
        return {name: value for name, value in found.items() if value is not None}

    def _keep_samples(self, step: int, flat: Sequence[Answer], rewards: Scores, gold: Scores) -> None:
        size = self.settings.samples
        for place in range(0, min(len(flat), self.settings.sample_rows * size), size):
            row = {
                "step": step,
                "split": "health",
                "prompt": "\n".join(text_of(message) for message in self.watched.rows[place // size]["prompt"]),
                "completion": flat[place].text,
                "reward": rewards[place],
                "gold": gold[place],
                "tokens": len(flat[place].ids),
            }
            self._run.append(self._run.samples, row)


def text_signs(answers: Sequence[Answer]) -> dict[str, float]:
    """Length and repetition of answers, in tokens: means over answers, distinct_4 over all of them together."""
    ids = [answer.ids for answer in answers]
    repeats = [duplicate_ngram_fraction(list(one), 4) for one in ids]
    return {
        "completion_tokens": sum(map(len, ids)) / len(ids),
        "duplicate_4gram": sum(repeats) / len(repeats),
        "distinct_4": distinct_4(ids),
    }


def say(text: str, who: str = "health") -> None:
    """A line for whoever watches the run."""
    sys.stderr.write(f"{who}: {text}\n")
