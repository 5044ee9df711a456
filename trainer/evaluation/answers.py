"""What is asked and what came back: the seam between a suite and whatever answers it (gateway or transformers)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.suite import Message, Row, Slice, Suite


@dataclass(frozen=True, slots=True)
class Ask:
    """One sample to take. `key` names it across processes: slice, row and number of the sample."""

    part: Slice
    row: Row
    row_index: int
    sample: int
    seed: int

    @property
    def key(self) -> str:
        """'slice/row/sample'."""
        return f"{self.part.name}/{self.row_index}/{self.sample}"

    @property
    def messages(self) -> list[Message]:
        """The prompt as chat messages."""
        return list(self.row.prompt)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `error`: why the version gave none, which counts as a wrong answer."""

    text: str = ""
    finish: str = ""                     # stop, length, …
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0                 # until the whole answer was there
    logprob: float | None = None         # sum over the answer's tokens, the end token included; nats
    logprob_tokens: int = 0
    error: str = ""

    def confidence(self, kind: str) -> float | None:
        """exp(sum of logprobs) for "sequence", exp(mean) for "token"; None where there are no logprobs."""
        if self.logprob is None or kind == "none" or not self.logprob_tokens:
            return None
        exponent = self.logprob if kind == "sequence" else self.logprob / self.logprob_tokens
        return min(1.0, math.exp(min(0.0, exponent)))


class Answering(Protocol):
    """Something that answers. `answered(ask, answer)` is called as each comes in, in any order."""

    def run(self, asks: Sequence[Ask], answered: Callable[[Ask, Answer], None]) -> None:
        """Answer all of `asks`. Raises UnderstudyError when that cannot be done: then nothing was concluded."""


def asks(suite: Suite) -> list[Ask]:
    """Every sample of a suite, prompt by prompt. Seeds are the same for every version."""
    return [
        Ask(part, row, index, sample, _seed(suite.settings.seed, part.name, row.id, sample))
        for part in suite
        for index, row in enumerate(part.rows)
        for sample in range(part.settings.n)
    ]


def storable(text: str) -> str:
    """The text without what files and databases cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _seed(suite: int, part: str, row: str, sample: int) -> int:
    """31 bits of sha256, so that neighbouring samples share nothing."""
    text = f"{suite}/{part}/{row}/{sample}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1
