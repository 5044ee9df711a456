"""Verifiers of plain texts: exact, regex and length.

The completion is untrusted: patterns run in the `regex` library with a time limit, and only so much of a text is read.
"""

from __future__ import annotations

from typing import Any, Literal

import regex
from pydantic import Field, field_validator, model_validator

from adapters.errors import GraderError
from adapters.settings import Section
from monitors.rewards.base import OneByOne, texts_of
from monitors.rewards.types import Place, Sample

_PATTERN_SECONDS = 0.25      # a pattern that needs longer for one answer does not match it
_MAX_CHARS = 200_000         # a longer answer does not match: no pattern is meant for it


class ExactOptions(Section):
    """Options of "exact"."""

    column: str = Field("answer", description="the right answer, or a list of accepted ones")
    strip: bool = Field(False, description="ignore white space around both")
    casefold: bool = Field(False, description="ignore upper and lower case")


class Exact(OneByOne[ExactOptions]):
    """1 if the completion is the answer, to the character; else 0."""

    KIND = "exact"
    Options = ExactOptions

    def grade(self, sample: Sample) -> float | None:
        """Compare with every accepted answer."""
        answers = texts_of(self.name, sample, self.options.column)
        if answers is None:
            return None
        return float(self._plain(sample.completion) in map(self._plain, answers))

    def _plain(self, text: str) -> str:
        text = text.strip() if self.options.strip else text
        return text.casefold() if self.options.casefold else text


class RegexOptions(Section):
    """Options of "regex"."""

    pattern: str = Field(min_length=1, description="syntax of Python's re")
    mode: Literal["search", "fullmatch"] = Field("search", description="anywhere in the text, or all of it")
    group: int = Field(0, ge=0, description="with `column`: the group that holds the answer")
    column: str = Field("", description="the matched group must equal this column; empty = a match is enough")
    negate: bool = Field(False, description="1 where it does not match")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        compile_pattern(value)
        return value

    @model_validator(mode="after")
    def _fits(self) -> RegexOptions:
        if self.group > compile_pattern(self.pattern).groups:
            raise ValueError(f"the pattern has no group {self.group}")
        if self.negate and self.column:
            raise ValueError("negate and column exclude each other")
        return self


class Regex(OneByOne[RegexOptions]):
    """1 if the pattern matches (and its group equals the column); 0 if not, or if matching takes too long."""

    KIND = "regex"
    Options = RegexOptions

    def __init__(self, name: str, options: RegexOptions, place: Place) -> None:
        super().__init__(name, options, place)
        self._pattern = compile_pattern(options.pattern)

    def grade(self, sample: Sample) -> float | None:
        """Match within the time limit. A text that breaks it scores 0, also with `negate`."""
        column = self.options.column
        answers = texts_of(self.name, sample, column) if column else ()
        if answers is None:
            return None
        try:
            found = matched(self._pattern, sample.completion, self.options.mode)
        except TimeoutError:
            return 0.0
        if column:
            return float(found is not None and found[self.options.group] in answers)
        return float((found is None) if self.options.negate else (found is not None))


class LengthOptions(Section):
    """Options of "length"."""

    target: int = Field(ge=1, description="up to this length the score is 1")
    limit: int = Field(ge=2, description="from this length on it is 0; between them it falls in a straight line")
    minimum: int = Field(1, ge=0, description="below this length it is 0")
    unit: Literal["characters", "words"] = Field("words", description="what is counted")

    @model_validator(mode="after")
    def _ordered(self) -> LengthOptions:
        if not self.minimum <= self.target < self.limit:
            raise ValueError(f"minimum ≤ target < limit must hold, not {self.minimum}, {self.target}, {self.limit}")
        return self


class Length(OneByOne[LengthOptions]):
    """Bounded brevity: nothing is gained by being shorter than the target, and an empty answer gets nothing."""

    KIND = "length"
    Options = LengthOptions

    def grade(self, sample: Sample) -> float | None:
        """1 within [minimum, target], 0 below and from the limit on."""
        text, options = sample.completion, self.options
        count = len(text.strip()) if options.unit == "characters" else len(text.split())
        if count < options.minimum:
            return 0.0
        return min(1.0, max(0.0, (options.limit - count) / (options.limit - options.target)))


def compile_pattern(pattern: str) -> Any:
    """A compiled `regex` pattern. Raises ValueError with the reason."""
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"the pattern {pattern!r} does not compile: {error}") from None


def matched(pattern: Any, text: str, mode: str = "search") -> Any:
    """The match or None. Raises TimeoutError when it takes too long; an overlong text never matches."""
    if len(text) > _MAX_CHARS:
        return None
    find = pattern.fullmatch if mode == "fullmatch" else pattern.search
    try:
        return find(text, timeout=_PATTERN_SECONDS, concurrent=True)
    except (RecursionError, MemoryError):
        raise GraderError(f"the pattern {pattern.pattern!r} exhausts the machine: make it simpler") from None
