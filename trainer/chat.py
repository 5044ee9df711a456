"""From chat messages to token ids, exactly as the engine will see them, with the loss on the assistant's words only.

The prompt is what the engine is given (template with generation prompt); the completion is what it would have to say,
up to and including the end-of-sequence token. Templates that render a prompt differently once an answer follows, or
that write no end after an answer, are refused: training on them would not be training for what serves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import TrainingError
from trainer.data_rows import Message
from trainer.model import first_line

IGNORED = -100
"""The label of a token without loss (torch.nn.CrossEntropyLoss, ignore_index)."""

_CONTROL = re.compile(r"<\|[a-zA-Z0-9_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</s>")


@dataclass(frozen=True)
class Encoded:
    """One sequence: `input_ids` and, as long, `labels` (IGNORED where there is no loss)."""

    input_ids: list[int]
    labels: list[int]
    last_only: bool = False  # the template allowed only the last answer to be trained on

    @property
    def prompt_length(self) -> int:
        """Tokens before the first one with loss."""
        return next((i for i, label in enumerate(self.labels) if label != IGNORED), len(self.labels))

    @property
    def trained(self) -> int:
        """Tokens with loss."""
        return sum(label != IGNORED for label in self.labels)


class Chat:
    """The tokenizer and template of one base. Construction checks them; raises TrainingError."""

    def __init__(self, tokenizer: Any, base: Path, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self._base = base
        self.eos_ids = frozenset(end_tokens(tokenizer, base))
        special = sorted(map(str, tokenizer.get_added_vocab()), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None
        self._check(vocab_size)

    def prompt_ids(self, prompt: Sequence[Message]) -> list[int]:
        """What the engine is given for this prompt."""
        return self._ids(self._render(prompt, ask=True))

    def pair(self, prompt: Sequence[Message], completion: Sequence[Message]) -> tuple[list[int], list[int]]:
        """(prompt ids, completion ids with their end-of-sequence token). Raises TrainingError."""
        before, whole = self._render(prompt, ask=True), self._render([*prompt, *completion], ask=False)
        if not whole.startswith(before):
            raise TrainingError(
                f"base {self._base}: its chat template renders a prompt differently once an answer follows "
                f"({_difference(before, whole)}): training would see another context than serving"
            )
        asked, both = self._ids(before), self._ids(whole)
        if both[: len(asked)] == asked:
            return asked, self._to_the_end(both[len(asked) :])
        said = self._ids(whole[len(before) :])  # tokens merge across the boundary, as they never do when generated
        if self.tokenizer.decode([*asked, *said]) != self.tokenizer.decode(both):
            raise TrainingError(f"base {self._base}: its tokenizer cannot split prompt and answer")
        return asked, self._to_the_end(said)

    def encode(self, prompt: Sequence[Message], completion: Sequence[Message]) -> Encoded:
        """A prompt and its answer, with loss on the answer; on what the assistant says of it, if tools answer too."""
        if any(message["role"] != "assistant" for message in completion):
            return self.conversation([*prompt, *completion], since=len(prompt))
        asked, said = self.pair(prompt, completion)
        return Encoded(asked + said, [IGNORED] * len(asked) + said)

    def conversation(self, messages: Sequence[Message], since: int = 0) -> Encoded:
        """A whole conversation, with loss on every answer of the assistant from message `since` on.

        Where the template rewrites earlier turns (as those that drop reasoning do), only on the last answer.
        """
        last = len(messages) - 1
        whole = self.encode(messages[:last], messages[last:])
        labels = list(whole.labels)
        for i, message in enumerate(messages[:last]):
            if message["role"] != "assistant" or i < since:
                continue
            try:
                asked, said = self.pair(messages[:i], [message])
            except TrainingError:
                asked, said = [], []
            end = len(asked) + len(said)
            if not said or whole.input_ids[:end] != asked + said:
                return Encoded(whole.input_ids, whole.labels, last_only=True)
            labels[len(asked) : end] = said
        return Encoded(whole.input_ids, labels)

    def control_token(self, text: str) -> str | None:
        """A control token of this or another chat template that stands in a text, or None."""
        found = (self._special and self._special.search(text)) or _CONTROL.search(text)
        return found[0] if found else None

    def _render(self, messages: Sequence[Message], *, ask: bool) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)
        except Exception as error:  # Jinja and the templates' own raise_exception
            raise TrainingError(f"base {self._base}: its chat template refuses: {first_line(error)}") from error
        return str(rendered)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _to_the_end(self, said: list[int]) -> list[int]:
        """Without what templates write behind the last end-of-sequence token: the engine stops there."""
        ends = [i for i, token in enumerate(said) if token in self.eos_ids]
        return said[: ends[-1] + 1] if ends else said

    def _check(self, vocab_size: int) -> None:
        size = len(self.tokenizer)
        if size > vocab_size:
            raise TrainingError(
                f"base {self._base}: its tokenizer has {size} tokens, its model {vocab_size}: they do not fit together"
            )
        for mark in sorted(set(_CONTROL.findall(str(self.tokenizer.chat_template)))):
            if len(self._ids(mark)) != 1:
                raise TrainingError(
                    f"base {self._base}: its chat template writes {mark}, which its tokenizer splits into "
                    f"{len(self._ids(mark))} tokens: the template belongs to another model"
                )
        asked, said = self.pair([{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}])
        if not said or said[-1] not in self.eos_ids:
            raise TrainingError(
                f"base {self._base}: its chat template writes no end-of-sequence token after an answer: the adapter "
                "would never learn to stop; serve the base with a template that does"
            )
        bos = self.tokenizer.bos_token_id
        if bos is not None and asked[:2] == [bos, bos]:
            raise TrainingError(f"base {self._base}: its chat template writes the begin-of-sequence token twice")


def end_tokens(tokenizer: Any, base: Path) -> list[int]:
    """The tokens at which the engine stops: the tokenizer's, and those of generation_config.json."""
    ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    try:
        more = json.loads((base / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        more = None
    more = more if isinstance(more, list) else [more]
    return [*ends, *(token for token in more if type(token) is int and token not in ends)]


def _difference(before: str, whole: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole)))
    return f"{before[max(0, at - 10) : at + 10]!r} becomes {whole[max(0, at - 10) : at + 10]!r}"
