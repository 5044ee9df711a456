"""The one reward function that TRL gets, made of the project's own graders.

One, because TRL adds up several and counts a missing score among them as 0. Here a sample whose required score is
missing has no reward (None), and TRL leaves it out of its group's baseline. What nothing can be learned from ends the
run with the reason: a grader that raises, a reward that is not finite, one that never varies, one that never comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapters.errors import TrainingError, UnderstudyError
from monitors.rewards.types import Grader, Sample, Scores, text_of
from monitors.text import duplicate_ngram_fraction
from trainer.ranks import gathered
from trainer.rl_settings import HealthSettings

INDEX = "_row"
"""The dataset's only column beside the prompt: which row it is. The others never go through Arrow, which would give
every row's schema (or any other table) the keys of all rows."""


class RewardFunction:
    """Callable as TRL calls a reward function; `name` is how its logs call it (rewards/<name>/mean).

    `exhausted` says why nothing is left to learn, once a reward that used to vary has stopped to; "" until then.
    """

    def __init__(
        self, grader: Grader, settings: HealthSettings, *, num_generations: int, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        self.__name__ = "reward"  # TRL asks for it
        self.exhausted = ""
        self._grader = grader
        self._settings = settings
        self._rows = rows
        self._group = num_generations
        self._varied = False
        self._flat: tuple[float, int] = (math.nan, 0)    # the reward of the last steps, and of how many
        self._missing = 0

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] = (),
        **columns: Any,
    ) -> Scores:
        """One reward per completion, None where it is missing; `_row` says whose. Raises TrainingError, GraderError."""
        log = columns.get("log_metric") or _unheard
        rows = [self._rows[place] for place in columns[INDEX]]
        texts = [completion_text(completion) for completion in completions]
        rewards = scores(self._grader, list(rows_as_samples(rows, texts)), where="during training")
        everywhere = gathered(rewards)
        log("health.zero_variance_ratio", zero_variance_ratio(everywhere, self._group))
        log("health.missing_ratio", sum(reward is None for reward in everywhere) / len(everywhere))
        if completion_ids:
            repeats = [duplicate_ngram_fraction(list(ids), 4) for ids in completion_ids]
            log("health.duplicate_4gram", sum(repeats) / len(repeats))
            log("health.distinct_4", distinct_4(completion_ids))
        self._check(everywhere)
        return rewards

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        value, steps = self._flat
        flat = [None if math.isnan(value) else value, steps]
        return {"varied": self._varied, "flat": flat, "missing": self._missing, "exhausted": self.exhausted}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self._varied, self._missing = bool(state["varied"]), int(state["missing"])
        self.exhausted = str(state["exhausted"])
        value, steps = state["flat"]
        self._flat = (math.nan if value is None else float(value), int(steps))

    def _check(self, rewards: Scores) -> None:
        present = [reward for reward in rewards if reward is not None]
        self._missing = 0 if present else self._missing + 1
        if self._missing >= self._settings.missing_steps:
            raise TrainingError(
                f"all {len(rewards)} rewards of {_steps(self._missing)} are missing: is a column misspelt in the data, "
                "or a judge or reward model away?"
            )
        if not present:
            return
        low, high = min(present), max(present)
        if low != high:
            self._varied, self._flat = True, (math.nan, 0)
            return
        value, steps = self._flat
        self._flat = (low, steps + 1 if low == value else 1)
        if self._flat[1] >= self._settings.constant_steps:
            self._end_constant(low)

    def _end_constant(self, value: float) -> None:
        said = f"every reward of {_steps(self._flat[1])} is {value:g}: a constant reward teaches nothing"
        if not self._varied:
            raise TrainingError(f"{said}; it has not varied since the start: check the grader and its columns")
        self.exhausted = said


def indexed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What TRL's dataset is made of: each prompt, and which row it is."""
    return [{"prompt": list(row["prompt"]), INDEX: place} for place, row in enumerate(rows)]


def completion_text(completion: Any) -> str:
    """The text of TRL's completion: a text, or a list with one assistant message."""
    return completion if isinstance(completion, str) else "\n".join(text_of(message) for message in completion)


def scores(grader: Grader, asked: Sequence[Sample], *, where: str) -> Scores:
    """The grader's scores, checked: one per sample, a finite number or None. Raises TrainingError, GraderError.

    `where` is for the message: "during training".
    """
    try:
        found = grader.score(asked)
    except UnderstudyError:
        raise
    except Exception as error:  # a user's own function may raise anything
        raise TrainingError(f"reward {grader.name!r} raised {type(error).__name__} {where}: {error}") from error
    if len(found) != len(asked):
        raise TrainingError(f"reward {grader.name!r} gave {len(found)} scores for {len(asked)} answers {where}")
    for score, sample in zip(found, asked, strict=True):
        if score is not None and not (isinstance(score, int | float) and math.isfinite(score)):
            said = sample.completion if len(sample.completion) <= 60 else sample.completion[:57] + "..."
            raise TrainingError(f"reward {grader.name!r} is {score!r}, no finite number, for {said!r} {where}")
    return [None if score is None else float(score) for score in found]


def zero_variance_ratio(rewards: Scores, group: int) -> float:
    """Share of groups that teach nothing: all raw rewards equal, or fewer than two of them there. 0 for no group.

    Counted from raw rewards: TRL's own frac_reward_zero_std includes RLOO's KL penalty, and counts a group without any
    reward as one with spread.
    """
    groups = [[r for r in rewards[i : i + group] if r is not None] for i in range(0, len(rewards), group)]
    return sum(len(found) < 2 or min(found) == max(found) for found in groups) / len(groups) if groups else 0.0


def distinct_4(texts: Sequence[Sequence[int]]) -> float:
    """Share of different ones among the 4-grams of all texts together: falls when they resemble each other.

    1 where there is no 4-gram. Over a set of texts as Li et al. (NAACL 2016) use distinct-n.
    """
    grams = [tuple(ids[i : i + 4]) for ids in texts for i in range(len(ids) - 3)]
    return len(set(grams)) / len(grams) if grams else 1.0


def rows_as_samples(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> Iterator[Sample]:
    """Rows of a dataset with one answer each, as graders take them."""
    for row, text in zip(rows, texts, strict=True):
        columns = {name: value for name, value in row.items() if name != "prompt" and value is not None}
        yield Sample(tuple(row["prompt"]), text, columns)


def _steps(count: int) -> str:
    return "this step" if count == 1 else f"the last {count} steps"


def _unheard(name: str, value: float) -> None:
    """Where TRL offers no log."""
