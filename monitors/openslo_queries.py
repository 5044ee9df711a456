"""OpenSLO's queries as indicators. OpenSLO has no word for the window of a rate: ours is Sloth's `{{.window}}`."""

from __future__ import annotations

import re
from typing import Literal

from adapters.errors import ConfigError
from monitors.indicators import custom
from monitors.promql import check_piece, without_strings
from monitors.slo import WINDOW, Events, Ratio, Slices

# A counter as it is stored, alone or summed: sum(name{…}). Braces in quoted values are none.
_SELECTOR = r"(?:[a-zA-Z_:][a-zA-Z0-9_:]*)?(?:\{(?:[^\"'{}]|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')*\})?"
_COUNTER = re.compile(rf"\s*(?:sum\s*\(\s*({_SELECTOR})\s*\)|({_SELECTOR}))\s*")
_RANGE = re.compile(r"\[[^\]]*\]")
_BAD = {"lte": ("max", ">"), "lt": ("max", ">="), "gte": ("min", "<"), "gt": ("min", "<=")}


def per_second(total: str, good: str, bad: str, *, counter: bool) -> Events:
    """Queries of events per second, or (`counter`) of counters, whose rate is taken. Raises ConfigError."""
    rates = {name: _rate(query, counter) for name, query in (("good", good), ("bad", bad)) if query}
    return custom(_rate(total, counter), **rates)


def raw_share(query: str, kind: Literal["success", "failure"]) -> Ratio:
    """A ratio that somebody else has computed: over the window by its own `{{.window}}`, else on average."""
    check_piece(query)
    if WINDOW not in query:
        _no_fixed_range(query)
        query = f"avg_over_time(({query})[{WINDOW}:])"
    return Ratio(f"1 - ({query})" if kind == "success" else query)


def bad_slice(query: str, op: Literal["lte", "gte", "lt", "gt"], value: float) -> Slices:
    """A value that should be `op` the given one at every evaluation; of several series the worst counts."""
    worst, against = _BAD[op]
    return Slices(f"{worst}({check_piece(query)}) {against} bool {value:.12g}")


def _rate(query: str, counter: bool) -> str:
    if WINDOW in query:
        return query
    _no_fixed_range(query)
    found = _COUNTER.fullmatch(query) if counter else None
    selector = (found[1] or found[2]) if found else None
    if not selector:
        raise ConfigError(
            f"the query {query!r} has no window: write sum(rate(…[{WINDOW}])), or the counter alone and counter: true"
        )
    return f"rate({selector}[{WINDOW}])"


def _no_fixed_range(query: str) -> None:
    if found := _RANGE.search(without_strings(query)):
        raise ConfigError(f"the query {query!r} looks at {found[0]} whatever the window: write [{WINDOW}] there")
