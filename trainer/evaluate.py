"""Runs a suite against one version: ask, grade, measure. The result is plain JSON and never updated.

    asks ──▶ Answering (gateway or transformers) ──▶ answers, kept in a file as they come ──▶ Grading ──▶ measures

Killed in between, the answers that came are there: the same evaluation goes on with the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.errors import ConfigError, EngineError
from adapters.evaluation_store import Evaluation
from trainer.evaluation import environment
from trainer.evaluation.answers import Answer, Answering, Ask, asks
from trainer.evaluation.comparison import mean_of_slices
from trainer.evaluation.failures import clusters, worst_prompts
from trainer.evaluation.grading import Grading, Judged
from trainer.evaluation.measures import measure
from trainer.suite import MEAN, Suite, split_north_star

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found. `judged`: every answer with its grade, by slice."""

    evaluation: Evaluation
    judged: Mapping[str, Sequence[Judged]]


class Answers:
    """Answers by key, each written to a file as it comes, so that a killed evaluation loses nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found = _read(path)

    def add(self, ask: Ask, answer: Answer) -> None:
        """Keep one. Raises ConfigError when the disk refuses."""
        self.found[ask.key] = answer
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": ask.key, **asdict(answer)}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}") from None

    def forget(self) -> None:
        """Delete the file: the evaluation is stored."""
        self._path.unlink(missing_ok=True)


def evaluate(
    suite: Suite,
    grading: Grading,
    answering: Answering,
    *,
    version: str,
    source: str,
    kept: Path,
    progress: Progress = lambda done, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> Evaluated:
    """Ask what is not answered yet, grade and measure. `kept`: a folder for answers while they come in.

    Raises GraderError, EngineError, TrainingError, ConfigError: then nothing is concluded.
    """
    grading.check(suite)
    grading.prepare()
    pinned = environment.environment(suite, grading.graders, source)
    digest = environment.digest(pinned)
    answers = _open(kept, version, digest)
    wanted = asks(suite)
    missing = [ask for ask in wanted if ask.key not in answers.found]
    if len(missing) < len(wanted):
        say(f"going on after {len(wanted) - len(missing)} answers of an evaluation that was interrupted")
    began = time.monotonic()
    _take(answering, missing, answers, progress, len(wanted))
    seconds = time.monotonic() - began
    say("grading")
    judged = {
        part.name: grading.judge(part, [(a, answers.found[a.key]) for a in wanted if a.part is part]) for part in suite
    }
    body = _body(suite, pinned, judged, seconds)
    answers.forget()
    return Evaluated(Evaluation(version, suite.name, digest, source, body), judged)


def _open(kept: Path, version: str, digest: str) -> Answers:
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{kept} cannot be made: {error.strerror}") from None
    return Answers(kept / f"{version}-{digest[:12]}.jsonl")


def _take(answering: Answering, missing: Sequence[Ask], answers: Answers, progress: Progress, total: int) -> None:
    done = total - len(missing)
    progress(done, total)

    def answered(ask: Ask, answer: Answer) -> None:
        nonlocal done
        answers.add(ask, answer)
        done += 1
        progress(done, total)

    if missing:
        answering.run(missing, answered)
    if all(answer.error for answer in answers.found.values()):
        reason = next(iter(answers.found.values())).error
        answers.forget()
        raise EngineError(f"every single prompt was refused, the first with {reason}")


def _body(
    suite: Suite, pinned: Mapping[str, Any], judged: Mapping[str, Sequence[Judged]], seconds: float
) -> dict[str, Any]:
    slices = {
        part.name: measure(part, judged[part.name], confidence=suite.settings.confidence) for part in suite
    }
    return {
        "suite": {"name": suite.name, "north_star": suite.settings.north_star, "confidence": suite.settings.confidence},
        "environment": pinned,
        "north_star": north_star(suite.settings.north_star, slices),
        "slices": slices,
        "failures": clusters(judged),
        "worst": worst_prompts(judged),
        "cost": _cost(suite, judged),
        "wall_seconds": seconds,
    }


def north_star(name: str, slices: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The deciding metric with its interval; None where it was not measured."""
    part, metric = split_north_star(name)
    if part == MEAN:
        found = mean_of_slices([measured["pass_at_1"] for measured in slices.values()])
        return {"name": MEAN, **found} if found else None
    estimate = slices[part][metric]
    return {"name": f"{part}.{metric}", **estimate} if estimate else None


def _cost(suite: Suite, judged: Mapping[str, Sequence[Judged]]) -> float | None:
    """Price of a thousand answers; None without prices."""
    prices = suite.settings
    every = [one.answer for answers in judged.values() for one in answers]
    if not (prices.price_input or prices.price_output) or not every:
        return None
    paid = sum(a.input_tokens * prices.price_input + a.output_tokens * prices.price_output for a in every)
    return paid / 1e6 / len(every) * 1000


def _read(path: Path) -> dict[str, Answer]:
    """Whole lines only: the last may be torn."""
    found: dict[str, Answer] = {}
    if not path.exists():
        return found
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for line in lines:
        try:
            values = json.loads(line)
            key = values.pop("key")
            found[key] = Answer(**values)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    if lines[-1]:  # the next line must not be glued to a torn one
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    return found
