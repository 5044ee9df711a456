"""Pieces of HTML that the sections of a report share. Everything from a run is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def badge(text: str, kind: str) -> str:
    """A small label; `kind`: good, bad, plain."""
    return f"<span class='badge {kind}'>{escape(text)}</span>"


def legend(entries: Sequence[tuple[int, str]]) -> str:
    """Which colour is which: (number of the series, label)."""
    inside = "".join(f"<span class='s{place}'><i></i>{escape(label)}</span>" for place, label in entries)
    return f"<div class='legend'>{inside}</div>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; values are escaped, numbers shortened."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<div class='table'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return f"<td>{'-' if value is None else str(value).lower()}</td>"
    if isinstance(value, float):
        return f"<td>{value:.4g}</td>"
    return f"<td class='text'>{escape(str(value))}</td>"


def pretty(value: Any) -> str:
    """Indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def words(key: str) -> str:
    """A key for people."""
    return str(key).replace("_", " ")


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one: files may hold anything."""
    return value if isinstance(value, Mapping) else {}
