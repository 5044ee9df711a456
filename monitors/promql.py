"""The little of PromQL that must be known of a query before it becomes a part of another: that it is one piece."""

from __future__ import annotations

import json
import re

from adapters.errors import ConfigError

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|' r"'(?:[^'\\]|\\.)*'|`[^`]*`")
_PAIRS = {")": "(", "]": "[", "}": "{"}


def quoted(text: str) -> str:
    """A label value as PromQL writes it."""
    return json.dumps(text, ensure_ascii=False)


def without_strings(query: str) -> str:
    """The query with every quoted text empty."""
    return _STRING.sub('""', query)


def check_piece(query: str) -> str:
    """The query, if it can stand inside another. Raises ConfigError: brackets that do not match, a quote without its
    end, or a comment. Whether it is right otherwise, `promtool check rules` says."""
    rest, open_ = without_strings(query), ""
    if re.search(r"[\"'`]", rest.replace('""', "")):
        raise ConfigError(f"the query {query!r} has a quote without its end")
    if "#" in rest:
        raise ConfigError(f"the query {query!r} has a comment (#): leave it out")
    for char in rest.replace("{{.window}}", "1m"):
        if char in "([{":
            open_ += char
        elif char in _PAIRS:
            if open_[-1:] != _PAIRS[char]:
                raise ConfigError(f"the query {query!r} has a {char} too many")
            open_ = open_[:-1]
    if open_:
        raise ConfigError(f"the query {query!r} has a {open_[-1]} that is never closed")
    return query
