"""Grades answers: the suite's graders weighed as one score, refusals, and what kind of failure each wrong one is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from adapters.errors import ConfigError, GraderError, TrainingError
from monitors.rewards.build import build_graders, prepare
from monitors.rewards.composite import Composite, Graded, scored
from monitors.rewards.types import FindVersion, Grader, Sample
from monitors.text import duplicate_ngram_fraction
from trainer.evaluation.answers import Answer, Ask
from trainer.refusal import compile_patterns, is_refusal
from trainer.suite import Slice, Suite

CLOSE = 1e-9             # weights that do not add up exactly must not make a right answer wrong
REPETITIVE = 0.5         # duplicate 4-grams from which an answer is called repetitive
_LOOK_AT = {"exact": None, "number": None, "regex": None, "json_schema": None, "code": 1}  # rows; None: all
_TOKEN = re.compile(r"\w+|[^\w\s]")
_SHAPES = ("json_schema", "regex", "code")  # graders of form: what fails them is called malformed


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer with its grade. `score` in 0..1; None: a grader could not tell, so the answer is missing."""

    ask: Ask
    answer: Answer
    score: float | None
    right: bool
    parts: Mapping[str, float | None] = field(default_factory=dict)   # by grader
    refused: bool = False
    duplicates: float = 0.0            # share of 4-grams of words and signs that occurred before
    kind: str = ""                     # of the failure; empty when right or missing


class Grading:
    """The graders of a suite by slice. Building them loads nothing. Raises ConfigError.

    `find_version`: the files of registered versions, for reward models.
    """

    def __init__(self, suite: Suite, find_version: FindVersion | None = None) -> None:
        self.graders: dict[str, list[Grader]] = {}
        self._composites: dict[str, Composite] = {}
        self._refusals = compile_patterns(suite.settings.refusals)
        for part in suite:
            specs = [spec.model_copy(update={"gold": False}) for spec in part.settings.graders]
            if not specs:
                continue
            self.graders[part.name] = build_graders(specs, suite.folder, find_version=find_version)
            self._composites[part.name] = Composite(self.graders[part.name], specs, part.name)

    def prepare(self) -> None:
        """Load weights, ask judges. Raises GraderError and GraderUnavailable."""
        for graders in self.graders.values():
            prepare(graders)

    def check(self, suite: Suite) -> None:
        """Find rows that a required verifier cannot grade, before anything is asked. Raises TrainingError, GraderError.

        Verifiers see an empty answer to every row; what runs code or the user's own function, to the first row.
        """
        for part in suite:
            rows = [row for row in part.rows if row.should_refuse is not True]
            for spec, grader in zip(part.settings.graders, self.graders.get(part.name, ()), strict=True):
                looked_at = rows[: _LOOK_AT.get(spec.name, 1 if ":" in spec.name else 0)]
                found = scored(grader, [Sample(row.prompt, "", row.columns) for row in looked_at])
                blind = next((row for row, score in zip(looked_at, found, strict=True) if score is None), None)
                if blind is not None and spec.required:
                    columns = ", ".join(sorted(blind.columns)) or "none"
                    raise TrainingError(
                        f"{blind.where}: {grader.name} cannot grade this row: a column is missing (it has {columns})"
                    )

    def judge(self, part: Slice, answers: Sequence[tuple[Ask, Answer]]) -> list[Judged]:
        """Grade the answers of one slice. Raises GraderError, and ConfigError when no answer could be graded."""
        samples = [Sample(ask.row.prompt, answer.text, ask.row.columns) for ask, answer in answers]
        composite = self._composites.get(part.name)
        graded = composite.graded(samples) if composite and samples else Graded([None] * len(samples), {})
        _check_range(part, graded)
        judged = [
            self._judged(part, ask, answer, graded.total[i], {name: parts[i] for name, parts in graded.parts.items()})
            for i, (ask, answer) in enumerate(answers)
        ]
        if judged and all(one.score is None for one in judged):
            names = ", ".join(self.graders[part.name][i].name for i in range(len(self.graders[part.name])))
            raise ConfigError(f"slice {part.name}: no answer could be graded by {names}: do its rows have the columns?")
        return judged

    def _judged(
        self, part: Slice, ask: Ask, answer: Answer, total: float | None, parts: dict[str, float | None]
    ) -> Judged:
        refused = is_refusal(answer.text, self._refusals)
        score = _score(ask.row.should_refuse, refused, answer, total, bool(part.settings.graders))
        right = score is not None and score >= part.settings.threshold - CLOSE
        duplicates = duplicate_ngram_fraction(_TOKEN.findall(answer.text))
        judged = Judged(ask, answer, score, right, parts, refused, duplicates)
        return judged if right or score is None else replace(judged, kind=_kind(judged))


def _check_range(part: Slice, graded: Graded) -> None:
    for name, scores in graded.parts.items():
        for score in scores:
            if score is not None and not 0 <= score <= 1:
                raise GraderError(f"slice {part.name}: {name} gave {score}: scores of a suite lie in 0..1")


def _score(label: bool | None, refused: bool, answer: Answer, total: float | None, graded: bool) -> float | None:
    """No answer is wrong. A row that should be refused is right when it was; one that should not, when it was not."""
    if answer.error:
        return 0.0
    if label is True:
        return float(refused)
    if label is False and (refused or not graded):
        return float(not refused)
    return total


def _kind(judged: Judged) -> str:
    """What went wrong, coarsely: the first that holds."""
    answer, label = judged.answer, judged.ask.row.should_refuse
    failed = [name for name, value in judged.parts.items() if value is not None and value < 1]
    checks = (
        (bool(answer.error), "error"),
        (not answer.text.strip(), "empty"),
        (label is True, "not refused"),
        (judged.refused, "refused"),
        (judged.duplicates >= REPETITIVE, "repetitive"),
        (answer.finish == "length", "cut off"),
        (any(name.startswith(_SHAPES) for name in failed), "malformed"),
    )
    return next((kind for holds, kind in checks if holds), "wrong")
