"""The verifier of numbers: the boxed answer or the last number of the text, in exact decimal arithmetic.

Floats are never used: "1e400" is a number and not infinity, and 0.1 + 0.2 is 0.3.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal, DecimalException
from typing import Literal

from pydantic import Field

from adapters.errors import GraderError
from adapters.settings import Section
from monitors.rewards.base import OneByOne, texts_of
from monitors.rewards.types import Sample

_MAX_DIGITS = 200            # characters; a longer number is no answer
_MAX_CHARS = 200_000         # of the text, from its end
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-"})  # the minus sign, and the dash that stands in for it
# Possessive, so that no part of a longer number is taken for a number: 12e99999 is none, and not 1.
_PLAIN = r"(?:[0-9]{1,3}+(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?+|\.[0-9]++"
_EXPONENT = r"(?:[eE][-+]?[0-9]{1,4}+(?![0-9]))?+(?![eE][-+]?[0-9])"
# A sign belongs to the number unless it stands behind a word or a bracket: in "7-3" the last number is 3.
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>(?<![\w)\]}}])[-+])?(?P<digits>(?:{_PLAIN}){_EXPONENT})(?:\s?/\s?(?P<below>[0-9]{{1,30}}))?"
)
_FRACTION = re.compile(r"(?P<sign>[-+]?)\\[dt]?frac\{(?P<digits>[0-9]{1,30})\}\{(?P<below>[0-9]{1,30})\}")
_BOXED = "\\boxed{"


class NumberOptions(Section):
    """Options of "number"."""

    column: str = Field("answer", description="the right number, or a list of accepted ones")
    tolerance: float = Field(0.0, ge=0, allow_inf_nan=False, description="largest absolute difference")
    relative: float = Field(0.0, ge=0, lt=1, description="largest difference as a share of the right number")
    take: Literal["boxed_or_last", "boxed", "last", "only"] = Field(
        "boxed_or_last", description=r"which number counts: the last \boxed{…}, the last in the text, or the whole text"
    )


class Number(OneByOne[NumberOptions]):
    """1 if the completion's number is the answer's, within the tolerance; else 0."""

    KIND = "number"
    Options = NumberOptions

    def grade(self, sample: Sample) -> float | None:
        """Compare with every accepted number. Raises GraderError when the column holds no number."""
        answers = texts_of(self.name, sample, self.options.column)
        if answers is None:
            return None
        wanted = [whole_number(answer) for answer in answers]
        if None in wanted:
            raise GraderError(f"{self.name}: column {self.options.column!r} holds {answers!r}, which is no number")
        found = self._found(sample.completion)
        return float(found is not None and any(self._close(found, right) for right in wanted if right is not None))

    def _found(self, text: str) -> Decimal | None:
        take = self.options.take
        if take == "only":
            return whole_number(text)
        inside = boxed(text) if take != "last" else None
        if inside is not None:
            whole = whole_number(inside)
            return last_number(inside) if whole is None else whole
        return None if take == "boxed" else last_number(text)

    def _close(self, found: Decimal, right: Decimal) -> bool:
        context = _context()
        try:
            allowed = max(
                Decimal(repr(self.options.tolerance)),
                context.multiply(Decimal(repr(self.options.relative)), context.abs(right)),
            )
            return context.abs(context.subtract(found, right)) <= allowed
        except DecimalException:
            return False


def last_number(text: str) -> Decimal | None:
    """The last number in the text; None if there is none."""
    text = text[-_MAX_CHARS:].translate(_MINUS)
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    return _value(found) if found else None


def whole_number(text: str) -> Decimal | None:
    """The number that is all of the text, white space, $ signs and \\frac allowed; None for anything else."""
    text = text.strip().strip("$").strip().translate(_MINUS)
    if len(text) > 2 * _MAX_DIGITS:
        return None
    match = _FRACTION.fullmatch(text) or _NUMBER.fullmatch(text)
    return _value(match) if match else None


def boxed(text: str) -> str | None:
    """What the last \\boxed{…} holds, braces balanced; None if there is none or it never closes."""
    text = text[-_MAX_CHARS:]
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    start += len(_BOXED)
    depth = 1
    for place in range(start, min(len(text), start + 4 * _MAX_DIGITS)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None


def _value(match: re.Match[str]) -> Decimal | None:
    digits = match["digits"].replace(",", "")
    if len(digits) > _MAX_DIGITS:
        return None
    try:
        value = Decimal(digits)
        if match["below"] is not None:
            value = _context().divide(value, Decimal(match["below"]))
    except DecimalException:  # a division by zero
        return None
    return -value if match["sign"] == "-" else value


def _context() -> Context:
    """Twice the digits that are read, and exponents far beyond the four digits that are."""
    return Context(prec=2 * _MAX_DIGITS, Emax=999_999, Emin=-999_999)
