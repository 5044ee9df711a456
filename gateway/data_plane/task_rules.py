"""Task-type routing: which route takes a request for model "auto", by metadata, header, keyword or pattern."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.config import RouteSettings


@dataclass(frozen=True, slots=True)
class TaskRule:
    """One compiled rule of `[[route]].match`; all its conditions must hold."""

    route: str
    metadata: tuple[tuple[str, str], ...]
    header: tuple[tuple[bytes, bytes], ...]
    keyword: re.Pattern[str] | None
    regex: re.Pattern[str] | None

    def matches(self, fields: Mapping[str, Any], headers: Mapping[bytes, bytes], text: str) -> bool:
        """True when every condition holds."""
        metadata = fields.get("metadata")
        given = metadata if isinstance(metadata, dict) else {}
        return (
            all(given.get(key) == value for key, value in self.metadata)
            and all(headers.get(name) == value for name, value in self.header)
            and (self.keyword is None or self.keyword.search(text) is not None)
            and (self.regex is None or self.regex.search(text) is not None)
        )


def compile_rules(routes: tuple[RouteSettings, ...]) -> tuple[TaskRule, ...]:
    """Task-type rules in file order."""
    return tuple(
        TaskRule(
            route.name,
            tuple(rule.metadata.items()),
            tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in rule.header.items()),
            _any_word(rule.keyword),
            re.compile(rule.regex) if rule.regex else None,
        )
        for route in routes
        for rule in route.match
    )


def _any_word(words: tuple[str, ...]) -> re.Pattern[str] | None:
    if not words:
        return None
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", re.IGNORECASE)
