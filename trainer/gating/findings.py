"""What one promotion rule found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class RuleVerdict(StrEnum):
    """Only `pass` lets a version through: what is not known is not good."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    NO_DATA = "no data"


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule with its numbers. `says`: one line for people."""

    rule: str
    verdict: RuleVerdict
    says: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gate:
    """Every rule, in order."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """True when there are rules and every one passed."""
        return bool(self.findings) and all(one.verdict is RuleVerdict.PASS for one in self.findings)

    @property
    def reason(self) -> str:
        """The rules that did not pass, in one line; empty when all did."""
        return "; ".join(f"{one.rule}: {one.says}" for one in self.findings if one.verdict is not RuleVerdict.PASS)


def passes(rule: str, says: str, **numbers: Any) -> Finding:
    """A rule that holds."""
    return Finding(rule, RuleVerdict.PASS, says, numbers)


def fails(rule: str, says: str, **numbers: Any) -> Finding:
    """A rule that is broken."""
    return Finding(rule, RuleVerdict.FAIL, says, numbers)


def unknown(rule: str, says: str, **numbers: Any) -> Finding:
    """A rule that cannot be judged."""
    return Finding(rule, RuleVerdict.NO_DATA, says, numbers)


def within(rule: str, value: float | None, most: float, says: str) -> Finding:
    """value ≤ most; None is no data."""
    if value is None:
        return unknown(rule, f"{says}: not measured", most=most)
    return (passes if value <= most else fails)(rule, f"{says} {value:.4g}, at most {most:.4g}", value=value, most=most)


def joined(findings: Sequence[Sequence[Finding]]) -> Gate:
    """All rules as one gate."""
    return Gate(tuple(one for group in findings for one in group))
