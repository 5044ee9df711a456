"""What is counted of all requests of the story: how many failed, and how many another version answered than is said.

Three witnesses are held against the version that a response's header names: the versions that exist, the assignment
signed into the response's id, and, where the prompt was a fixed one, the answer itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.demo.crowd import Asked
from trainer.demo.fixed import Answer, Judgement, answers, choose, judge
from trainer.demo.signed import Signatures, signatures
from trainer.demo.stack import Stack

NEAR = 1.0               # seconds around a change of weights that count as during it
SHOWN = 5                # wrong answers that the report shows


@dataclass
class Tally:
    """Of one route of a stack, over all its rollouts."""

    stack: Stack
    route: str
    known: dict[str, dict[str, Answer]] = field(default_factory=dict)  # version → prompt → its answer
    total: int = 0
    failed: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)
    by_id: int = 0
    by_content: int = 0
    near_changes: int = 0

    def learn(self, version: str) -> None:
        """Fix what a version answers, before it serves anybody: its name, or the base's `served_name`."""
        self.known[version] = asyncio.run(answers(self.stack.engines()[0]["url"], version))

    def prompts(self, stable: str, candidate: str) -> list[str]:
        """What users are to ask while these two serve."""
        return choose(self.known, stable, candidate)

    def count(self, seen: Sequence[Asked], between: Sequence[str], changes: Iterable[float]) -> Judgement:
        """Count what users saw while the versions `between` served; `changes`: when weights changed."""
        found = judge(seen, self.known, between)
        with signatures(self.stack.config) as signed:
            self._count(seen, found, signed, between)
        times = list(changes)
        self.near_changes += sum(
            any(one.at <= at + NEAR and one.ended >= at - NEAR for at in times) for one in found.judged
        )
        return found

    def by_step(self, seen: Iterable[Asked], rollout: int, version: str) -> Counter[int]:
        """A version's answers by the step of the rollout that they were signed for: exact also where steps change."""
        with signatures(self.stack.config) as signed:
            rows = [signed.row(one.response_id) for one in seen if one.status == 200 and one.version == version]
        return Counter(int(row["step"]) for row in rows if row is not None and row["rollout"] == rollout)

    def report(self) -> dict[str, Any]:
        """For the demo's report."""
        counted = {
            "total": self.total, "failed": self.failed, "wrong_version": len(self.wrong), "judged_by_id": self.by_id,
            "judged_by_content": self.by_content, "judged_by_content_near_a_change": self.near_changes,
        }  # fmt: skip
        return counted | ({"wrong": self.wrong[:SHOWN]} if self.wrong else {})

    def _count(self, seen: Sequence[Asked], found: Judgement, signed: Signatures, between: Sequence[str]) -> None:
        answered = [one for one in seen if one.status == 200 and not one.error]
        self.total += len(seen)
        self.failed += len(seen) - len(answered)
        self.by_id += len(answered)
        self.by_content += len(found.judged)
        by_content = {id(one) for one in found.wrong}
        for one in answered:
            version = signed.version(one.response_id, self.route)
            if version != one.version or one.version not in between or id(one) in by_content:
                said = {"header": one.version, "signed": version, "prompt": one.fixed, "text": one.text}
                self.wrong.append({"at": one.at, "response_id": one.response_id, **said})
