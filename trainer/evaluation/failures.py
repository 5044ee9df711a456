"""Error analysis: failures grouped by slice, grader and kind, the worst prompts, and rows to learn from.

Kinds are coarse (refused, malformed, repetitive, …) and come from grading; groups are listed by how many prompts they
hold, because fixing the largest pays most.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.errors import ConfigError
from monitors.rewards.types import text_of
from trainer.evaluation.grading import Judged

EXAMPLES = 3
WORST = 10


def clusters(judged: Mapping[str, Sequence[Judged]]) -> list[dict[str, Any]]:
    """Groups of failing answers, largest first: slice, grader, kind, prompts, answers, share of the slice, examples."""
    found = []
    for name, answers in judged.items():
        total = len({one.ask.row_index for one in answers})
        groups: dict[tuple[str, str], list[Judged]] = defaultdict(list)
        for one in answers:
            if one.kind:
                groups[one.kind, _blame(one)].append(one)
        for (kind, grader), members in groups.items():
            prompts = {one.ask.row_index for one in members}
            examples = [example(one) for one in members[:EXAMPLES]]
            found.append({
                "slice": name, "kind": kind, "grader": grader, "prompts": len(prompts), "answers": len(members),
                "share": len(prompts) / total, "examples": examples,
            })  # fmt: skip
    return sorted(found, key=lambda group: (-group["prompts"], group["slice"], group["kind"], group["grader"]))


def worst_prompts(judged: Mapping[str, Sequence[Judged]]) -> list[dict[str, Any]]:
    """The prompts with the lowest mean score, every slice's worst first: where, question, score, one wrong answer."""
    found = []
    for name, answers in judged.items():
        rows: dict[int, list[Judged]] = defaultdict(list)
        for one in answers:
            rows[one.ask.row_index].append(one)
        for members in rows.values():
            scores = [one.score for one in members if one.score is not None]
            wrong = next((one for one in members if one.kind), None)
            if scores and wrong:
                found.append({"slice": name, "score": sum(scores) / len(scores), **example(wrong)})
    return sorted(found, key=lambda row: (row["score"], row["slice"], row["where"]))[:WORST]


def example(one: Judged) -> dict[str, Any]:
    """One failing answer, shortened for a listing."""
    question = next((text_of(m) for m in reversed(one.ask.row.prompt) if m.get("role") == "user"), "")
    where = Path(one.ask.row.where).name
    return {"where": where, "question": _short(question), "answer": _short(one.answer.error or one.answer.text)}


def counterexamples(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """One row per failing answer: the suite's row with completion, kind and label false, as KTO and GRPO read rows."""
    return [
        {
            **one.ask.row.columns,
            "prompt": list(one.ask.row.prompt),
            "completion": [{"role": "assistant", "content": one.answer.text}],
            "label": False,
            "slice": one.ask.part.name,
            "kind": one.kind,
        }
        for one in judged
        if one.kind and not one.answer.error
    ]


def write_counterexamples(path: Path, judged: Iterable[Judged]) -> int:
    """Write them as JSONL; how many. Raises ConfigError."""
    rows = counterexamples(judged)
    try:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    return len(rows)


def _blame(one: Judged) -> str:
    """The graders that did not give full marks."""
    return ", ".join(name for name, value in one.parts.items() if value is not None and value < 1)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:117] + "..."
