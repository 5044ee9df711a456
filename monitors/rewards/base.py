"""What graders share: a name, a fingerprint from kind, code version and options, and reading columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from adapters.errors import GraderError
from adapters.settings import Section
from monitors.rewards.types import Place, Sample, Scores, fingerprint

OptionsT = TypeVar("OptionsT", bound=Section)


class OneByOne(ABC, Generic[OptionsT]):
    """A deterministic grader that looks at one answer at a time. Safe in any number of threads."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1       # raised whenever a change of code may change a score
    Options: ClassVar[type[Section]]

    def __init__(self, name: str, options: OptionsT, place: Place) -> None:
        self.name = name
        self.options = options
        self.place = place

    @property
    def fingerprint(self) -> str:
        """Digest of kind, code version, options and whatever `parts` adds."""
        return fingerprint(self.KIND, self.VERSION, options=self.options.model_dump(mode="json"), **self.parts())

    def parts(self) -> dict[str, Any]:
        """What defines the grader besides its options, as plain JSON."""
        return {}

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One score per sample; see monitors.rewards.types.Grader."""
        return [self.grade(sample) for sample in samples]

    @abstractmethod
    def grade(self, sample: Sample) -> float | None:
        """The score of one answer."""


def texts_of(grader: str, sample: Sample, column: str) -> tuple[str, ...] | None:
    """The accepted texts of a column: a text, a number, or a list of them. None where the column is missing.

    Raises GraderError when it holds anything else.
    """
    value = sample.column(column)
    if value is None:
        return None
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in values):
        raise GraderError(f"{grader}: column {column!r} holds {shown(value)}: give a text, a number or a list of them")
    return tuple(str(one) for one in values)


def shown(value: Any) -> str:
    """A value for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
