"""From items to results: what is asked of the guard for one text, and what its scores say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from monitors.llama_guard.conversation import Turn, Unreadable, Who, alternating, turns
from monitors.llama_guard.prompt import LEAD, Template
from monitors.llama_guard.taxonomy import INJECTION, INJECTION_CATEGORIES, by_number
from monitors.llama_guard.types import GuardError, Item, Prompt, Result, Scored, Tokenizer
from monitors.llama_guard.verdict import parse
from monitors.llama_guard.windows import Window, windows

_VERDICT = 72            # tokens that a verdict may take, its two newlines included
_LEAST = 64              # tokens a context must leave for the conversation
_FIRST = ("q", "the", "1", "é", "(", "\n", " ")
"""Texts that begin differently: what their prompts have in common, all prompts have."""



@dataclass(frozen=True, slots=True)
class Policy:
    """What counts as unsafe. Thresholds are on the calibrated probability, 0..1; `thresholds` by category.

    `temperature` divides margins: above 1 the guard is less sure than it says (Guo et al. 2017, "On Calibration of
    Modern Neural Networks", section 4.2).
    """

    threshold: float = 0.5
    thresholds: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    injection: bool = True
    named_from: float = 1.0
    """Categories are asked for from this probability on in any case: somebody else may have lower thresholds."""

    @property
    def ask_above(self) -> float:
        """The margin from which categories are asked for: that of the lowest threshold."""
        lowest = min(self.threshold, self.named_from, *self.thresholds.values())
        return self.temperature * _logit(lowest)

    def probability(self, margin: float) -> float:
        """Calibrated P(unsafe), given that it is safe or unsafe."""
        return probability(margin, self.temperature)

    def crossed(self, label: str, score: float) -> bool:
        """True when this score makes a text unsafe by this category."""
        return score > self.thresholds.get(label, self.threshold)


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt of an item. `injection`: it asks whether data gives orders."""

    prompt: Prompt
    injection: bool = False


class Judge:
    """Renders items, reads scores, for one checkpoint. `context`: tokens it can take. Raises GuardError if too few."""

    def __init__(self, tokenizer: Tokenizer, policy: Policy, *, context: int, most_windows: int,
                 categories: Mapping[str, str] | None = None) -> None:  # fmt: skip
        self._tokenizer = tokenizer
        self._template = Template(tokenizer)
        self.policy = policy
        """What counts as unsafe."""
        self._lead = self._ids(LEAD)
        self.categories = self._template.wanted(categories) if categories else dict(self._template.categories)
        """What it judges by: code → name."""
        self._custom = self.categories if categories else None
        self._heads = {
            (role, injection): self._head(role, injection)
            for role, injection in (("user", False), ("assistant", False), ("user", True))
        }
        empty = max(len(self._rendered([Turn("user", _FIRST[0])], injection)) for injection in (False, True))
        self._bounds = Window(context - empty - _VERDICT, most_windows)
        if self._bounds.size < _LEAST:
            raise GuardError(f"a context of {context} tokens leaves {self._bounds.size} for a text: give it more")
        self._context = context

    @property
    def heads(self) -> list[tuple[int, ...]]:
        """What prompts begin with: token ids."""
        return [head for (_, injection), head in self._heads.items() if self.policy.injection or not injection]

    def questions(self, item: Item, categories: Mapping[str, str] | Sequence[str] | None = None) -> list[Question]:
        """Every prompt it takes to judge `item`. Raises Unreadable for what cannot be judged, ValueError for nothing.

        Tool results and documents are asked about twice: in their place, for what they say, and alone, for orders.
        """
        said = turns(item.messages)
        if item.text is not None:
            said = [*said, *turns([{"role": item.role, "content": item.text}])]
        wanted = self._custom if categories is None else self._template.wanted(categories)
        codes = tuple(wanted or self.categories)
        found = [
            Question(self._prompt(one, item.role, wanted, codes))
            for one in windows(alternating(said, item.role), item.role, self._tokenizer, self._bounds)
        ]
        if item.role == "user" and self.policy.injection:
            found += [Question(prompt, injection=True) for prompt in self._orders(said)]
        if len(found) > 2 * self._bounds.most:
            raise Unreadable(f"the conversation takes {len(found)} prompts, {2 * self._bounds.most} are allowed")
        return found

    def result(self, item: Item, asked: Sequence[Question], scored: Sequence[Scored]) -> Result:
        """What the scores of all questions say together: the worst part counts; a part nobody judged is never safe."""
        scores: dict[str, float] = {}
        highest: float | None = None
        nameless, reason = False, ""
        for question, one in zip(asked, scored, strict=True):
            if one.margin is None:
                reason = reason or one.reason or "the guard gave no verdict"
                continue
            value = self.policy.probability(one.margin)
            highest = value if highest is None else max(highest, value)
            labels = _labels(question, one)
            for label in labels:
                scores[label] = max(value, scores.get(label, 0.0))
            if not labels and value > self.policy.threshold:
                nameless = True
        crossed = by_number(label for label, value in scores.items() if self.policy.crossed(label, value))
        if crossed or nameless:
            why = "" if crossed else "the guard named no category"
            return Result(item.id, True, highest, crossed, reason=why, scores=scores)
        return Result(item.id, False, highest, unavailable=bool(reason), reason=reason, scores=scores)

    def _orders(self, said: Sequence[Turn]) -> Iterator[Prompt]:
        for turn in said:
            if turn.who == "data":
                for one in windows([Turn("user", turn.text)], "user", self._tokenizer, self._bounds):
                    yield self._prompt(one, "user", INJECTION_CATEGORIES, (), injection=True)

    def _prompt(self, found: Sequence[Turn], role: str, categories: Mapping[str, str] | None, codes: tuple[str, ...],
                injection: bool = False) -> Prompt:  # fmt: skip
        ids = (*self._ids(self._template.render(found, categories)), *self._lead)
        if len(ids) + _VERDICT > self._context:
            raise Unreadable(f"a part of the text takes {len(ids)} of the guard's {self._context} tokens: not judged")
        head = self._heads[role, injection]
        return Prompt(ids, len(head) if ids[: len(head)] == head else 0, codes)

    def _head(self, role: str, injection: bool) -> tuple[int, ...]:
        """Where the conversation begins depends on its first letters, as tokens go: hence several."""
        who: tuple[Who, ...] = ("user",) if role == "user" else ("user", "assistant")
        return common_head([self._rendered([Turn(one, text) for one in who], injection) for text in _FIRST])

    def _rendered(self, found: Sequence[Turn], injection: bool) -> tuple[int, ...]:
        return self._ids(self._template.render(found, INJECTION_CATEGORIES if injection else self._custom))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def probability(margin: float, temperature: float) -> float:
    """P(unsafe), given that it is safe or unsafe, from the margin in nats: 1 / (1 + e^(−margin/T))."""
    return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, margin / temperature))))


def common_head(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The token ids that all rows begin with."""
    columns = enumerate(zip(*rows, strict=False))
    differ = next((place for place, column in columns if len(set(column)) > 1), min(map(len, rows)))
    return tuple(rows[0][:differ])


def _labels(question: Question, scored: Scored) -> tuple[str, ...]:
    """The categories this part is unsafe by, if it is."""
    if question.injection:
        return (INJECTION,)
    return parse(scored.written, question.prompt.codes).categories if scored.written is not None else ()


def _logit(probability: float) -> float:
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))
